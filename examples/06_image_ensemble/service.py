"""Handwritten digits as pictures: members take 8 × 8 pixels, callers send PNG or JPEG files.

`python train.py`, then `bentoml serve . --host 127.0.0.1`; train.py leaves seven.png to try it with.

    curl 127.0.0.1:3000/read -F image=@seven.png
"""

from __future__ import annotations

import bentoml
import numpy as np
import PIL.Image


@bentoml.service
class Reader:
    @bentoml.api
    def read(self, image: PIL.Image.Image) -> dict:
        """The digit, how sure that is, and what else it may be."""
        return {}

    def to_rows(self, image: PIL.Image.Image) -> np.ndarray:
        """One row: the picture in 8 × 8 greys, 0 for paper and 1 for ink."""
        grey = np.asarray(image.convert("L").resize((8, 8)), dtype=np.float32) / 255
        return 1 - grey.reshape(1, 64)

    def from_answer(self, answer, classes) -> dict:  # type: ignore[no-untyped-def]
        scores = answer.scores[0]
        others = [int(classes[i]) for i in np.argsort(-scores)[1:3] if scores[i] > 0.05]
        return {"digit": int(classes[answer.labels[0]]), "sure": round(float(answer.confidence[0]), 3), "or": others}
