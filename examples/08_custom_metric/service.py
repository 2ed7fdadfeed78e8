"""A reward with a metric of one's own: what a wrong answer costs depends on which one it is.

`python train.py`, then `bentoml serve . --host 127.0.0.1`. `my_metrics.py` says what an answer is worth, and
`bentofile.yaml` by how much that counts.

    curl -i 127.0.0.1:3000/classify --json '{"rows": [[5.1, 3.5, 1.4, 0.2]]}'
    curl 127.0.0.1:3000/feedback --json '{"decision_id": "<the x-orchestration-decision header>", "label": "setosa"}'
"""

import bentoml
import numpy as np


@bentoml.service
class Irises:
    @bentoml.api
    def classify(self, rows: np.ndarray) -> list[str]:
        return ["unknown"] * len(rows)
