"""A service whose labels never come: members are held against each other, so that one that breaks is noticed.

`python train.py`, then `bentoml serve . --host 127.0.0.1`. One of the four models was trained on labels that were mixed
up. Send requests, and see its accuracy fall, and its plans with it, at /orchestration/state; nobody reports anything.

    curl 127.0.0.1:3000/classify --json '{"rows": [[5.1, 3.5, 1.4, 0.2]]}'
"""

import bentoml
import numpy as np


@bentoml.service
class Unlabelled:
    @bentoml.api
    def classify(self, rows: np.ndarray) -> list[str]:
        return ["unknown"] * len(rows)
