"""Who chooses is a class of one's own, `my_policy.py`, named in `bentofile.yaml`.

`python train.py`, then `bandmaster check bentofile.yaml`, which puts it through the contract suite of policies, and
`bentoml serve . --host 127.0.0.1`.

    curl 127.0.0.1:3000/classify --json '{"rows": [[5.1, 3.5, 1.4, 0.2]]}'
"""

import bentoml
import numpy as np


@bentoml.service
class Irises:
    @bentoml.api
    def classify(self, rows: np.ndarray) -> list[str]:
        return ["unknown"] * len(rows)
