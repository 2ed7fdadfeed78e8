"""Handwritten digits, as BentoML's tutorial would serve them: one model, one method. Nothing here knows Bandmaster."""

from __future__ import annotations

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(traffic={"timeout": 10})
class Digits:
    """Reads handwritten digits."""

    model = bentoml.models.BentoModel("digits-mlp:latest")

    def __init__(self) -> None:
        self.session = onnxruntime.InferenceSession(self.model.path_of("model.onnx"))

    @bentoml.api
    def predict(self, images: np.ndarray) -> np.ndarray:
        """The digit on each image. An image is its 64 pixels, row by row, from 0 (paper) to 1 (ink)."""
        labels, _ = self.session.run(None, {"input": np.atleast_2d(images).astype(np.float32)})
        return np.asarray(labels)
