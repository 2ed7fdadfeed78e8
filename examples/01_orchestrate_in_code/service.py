"""A service that orchestrates itself in code. `python train.py`, then `bentoml serve service:Iris --host 127.0.0.1`.

curl -i 127.0.0.1:3000/classify --json '{"input_series": [[5.1, 3.5, 1.4, 0.2]]}'
curl 127.0.0.1:3000/feedback --json '{"decision_id": "<the x-orchestration-decision header>", "label": "setosa"}'
"""

import bentoml
import numpy as np
import onnxruntime

from bandmaster.serving import orchestrate


@orchestrate(config="orchestration.yaml")
@bentoml.service
class Iris:
    """Remove the line @orchestrate, and the one model below answers again."""

    def __init__(self) -> None:
        self.session = onnxruntime.InferenceSession("linear.onnx")

    @bentoml.api
    def classify(self, input_series: np.ndarray) -> np.ndarray:
        return np.asarray(self.session.run(None, {"X": np.float32(input_series)})[0])
