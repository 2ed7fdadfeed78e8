"""The members of the example ensemble: five generalists of very different cost, five cheap specialists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy import ndimage
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC

from models.digits import PIXELS, SIDE, FloatArray, IntArray, corrupt

Factory = Callable[[int], Any]  # seed -> an unfitted scikit-learn classifier with predict_proba

# Fresh corruptions of every training image that a specialist sees: enough that it learns the corruption itself.
SPECIALIST_COPIES = 8


@dataclass(frozen=True)
class MemberSpec:
    """How one member is made, and what is declared about it.

    `corruption` names what its training images suffered (a key of digits.CORRUPTIONS; None: clean images only).
    `shifts` adds the eight one-pixel shifts of every training image. `explainability`, in [0, 1], is a judgement,
    not a measurement; `explainability_reason` says on what grounds.
    """

    name: str
    kind: str
    factory: Factory
    explainability: float
    explainability_reason: str
    corruption: str | None = None
    shifts: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.explainability <= 1:
            raise ValueError(f"{self.name}: explainability {self.explainability} is outside [0, 1]")

    @property
    def training_data(self) -> str:
        """The training images in words."""
        if self.corruption:
            return f"scikit-learn digits, train half, {SPECIALIST_COPIES} copies with {self.corruption}"
        return "scikit-learn digits, train half, clean" + (", with one-pixel shifts" if self.shifts else "")


def training_set(spec: MemberSpec, rows: FloatArray, labels: IntArray, seed: int) -> tuple[FloatArray, IntArray]:
    """The images this member trains on, from clean `rows` (n, 64) and `labels` (n,); same seed, same images."""
    if spec.corruption:
        rng = np.random.default_rng(seed)
        copies = [corrupt(rows, spec.corruption, rng) for _ in range(SPECIALIST_COPIES)]
        return np.concatenate(copies), np.tile(labels, SPECIALIST_COPIES)
    if spec.shifts:
        images = rows.reshape(-1, SIDE, SIDE)
        offsets = [(0, down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
        shifted = np.stack([ndimage.shift(images, offset, order=0) for offset in offsets], axis=1)
        # Copies of an image stay together, so that cross-validation does not part (and leak) them.
        return shifted.reshape(-1, PIXELS), np.repeat(labels, len(offsets))
    return rows, labels


def _linear(seed: int) -> Any:
    return LogisticRegression(max_iter=300, random_state=seed)


def _forest(seed: int) -> Any:
    return RandomForestClassifier(n_estimators=500, random_state=seed)


def _boost(seed: int) -> Any:
    # Half the rows and an eighth of the pixels per tree: as accurate here, and ten times faster to train.
    return GradientBoostingClassifier(n_estimators=200, subsample=0.5, max_features=8, random_state=seed)


def _mlp(seed: int) -> Any:
    return MLPClassifier((512, 256), max_iter=30, random_state=seed)


def _kernel(seed: int) -> Any:
    # SVC has no probabilities of its own that convert to ONNX exactly; calibrated outside, it does.
    # Its cross-validation is not shuffled, so nothing here is random and `seed` has no effect.
    return CalibratedClassifierCV(SVC(C=0.2, gamma=0.25), ensemble=False, cv=2)


def _specialist(seed: int) -> Any:
    return MLPClassifier((64,), learning_rate_init=0.004, max_iter=25, random_state=seed)


def _specialist_spec(corruption: str) -> MemberSpec:
    return MemberSpec(
        name=corruption,
        kind=f"small neural network for images with {corruption}",
        factory=_specialist,
        explainability=0.3,
        explainability_reason="hidden units are opaque, but its narrow remit is known",
        corruption=corruption,
    )


_GENERALISTS = (
    MemberSpec(
        name="linear",
        kind="logistic regression",
        factory=_linear,
        explainability=0.9,
        explainability_reason="one signed weight per pixel and class can be read as an image",
    ),
    MemberSpec(
        name="forest",
        kind="random forest of 500 trees",
        factory=_forest,
        explainability=0.5,
        explainability_reason="every tree is readable, 500 together only through importances",
    ),
    MemberSpec(
        name="boost",
        kind="gradient boosting, 200 rounds of 10 trees",
        factory=_boost,
        explainability=0.4,
        explainability_reason="additive in small trees, but 2,000 of them",
    ),
    MemberSpec(
        name="mlp",
        kind="neural network, hidden layers of 512 and 256",
        factory=_mlp,
        explainability=0.1,
        explainability_reason="two hidden layers; only after-the-fact attributions",
    ),
    MemberSpec(
        name="kernel",
        kind="support vector machine with radial kernel, calibrated",
        factory=_kernel,
        explainability=0.2,
        explainability_reason="decisions can be traced to similar training images, too many to read",
        shifts=True,
    ),
)
_SPECIALISTS = tuple(map(_specialist_spec, ("blur", "noise", "rotation", "inversion", "occlusion")))

MEMBERS: Mapping[str, MemberSpec] = MappingProxyType({spec.name: spec for spec in _GENERALISTS + _SPECIALISTS})
