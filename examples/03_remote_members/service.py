"""One member here, two on a model server. `python train.py`, `python model_server.py`, and beside it
`bentoml serve . --host 127.0.0.1`.

curl -i 127.0.0.1:3000/classify --json '{"input_series": [[5.1, 3.5, 1.4, 0.2]]}'

Stop the model server and ask again: the members that are left answer, and `/orchestration/state` says who is out.
"""

import bentoml
import numpy as np


@bentoml.service
class Iris:
    @bentoml.api
    def classify(self, input_series: np.ndarray) -> np.ndarray:
        return np.zeros(len(input_series))
