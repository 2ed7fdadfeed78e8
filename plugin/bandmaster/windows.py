"""An ensemble played a window of requests at a time: what an agent sees that changes the ensemble itself.

All members of the ensemble run side by side and are pooled alike: the plan ``a+b+c``. Rewards are computed by the very
functions that judge plans in hindsight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bandmaster.contract import Contract
from bandmaster.core import BoolArray, Figures, FloatArray, IntArray
from bandmaster.counterfactual import evaluate, spend
from bandmaster.plans import Catalogue, compiled
from bandmaster.recorded import RecordedLog
from bandmaster.replay import figures_of

NAIVE = 0.5
"""What is taken for a member's accuracy, confidence and agreement before it has run."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known after a window: of each member (M,) whether it is ``active``, its ``accuracy``, ``confidence`` and
    ``agreement`` with the answer when it last ran, what of latency and energy it was worth, in [0, 1], and how many
    windows ago it last ran; the shares of the ``classes`` (C,) among the answers, and the window's ``reward``.
    """

    active: BoolArray
    accuracy: FloatArray
    confidence: FloatArray
    agreement: FloatArray
    thrift: FloatArray
    age: FloatArray
    classes: FloatArray
    reward: float

    def vector(self) -> FloatArray:
        """All of it as one vector (6 M + C + 1,) in [0, 1], float32."""
        freshness = 1.0 / (1.0 + self.age)
        parts = (self.active, self.accuracy, self.confidence, self.agreement, self.thrift, freshness, self.classes)
        whole = np.concatenate([*(np.asarray(part, dtype=np.float64) for part in parts), [self.reward]])
        return np.asarray(np.clip(whole, 0.0, 1.0), dtype=np.float32)

    @staticmethod
    def size(members: int, classes: int) -> int:
        return 6 * members + classes + 1


class Windows:
    """Plays a log with whatever ensemble it is told, ``size`` requests at a time."""

    def __init__(self, log: RecordedLog, contract: Contract, size: int) -> None:
        self.log, self.contract, self.size = log, contract, size
        self.at = 0
        members, classes = len(log.ensemble.names), len(log.ensemble.classes)
        self._active = np.ones(members, dtype=np.bool_)
        self._known = {name: np.full(members, NAIVE) for name in ("accuracy", "confidence", "agreement", "thrift")}
        self._age = np.full(members, np.inf)
        self._classes, self._reward = np.full(classes, 1.0 / classes), NAIVE
        weighed = contract.weight("latency") + contract.weight("energy")
        self._shares = {n: contract.weight(n) / weighed if weighed else 0.0 for n in ("latency", "energy")}

    def __len__(self) -> int:
        """How many windows there are in all."""
        return len(self.log) // self.size

    @property
    def over(self) -> bool:
        return self.at >= len(self)

    def seen(self) -> Seen:
        return Seen(
            active=self._active.copy(),
            age=self._age.copy(),
            classes=self._classes.copy(),
            reward=self._reward,
            **{name: values.copy() for name, values in self._known.items()},
        )

    def play(self, active: BoolArray) -> float:
        """The mean reward a request of the next window, answered by the ``active`` members (M,), one at least."""
        part = self.log.part(slice(self.at * self.size, (self.at + 1) * self.size))
        plan = self._plan(active)
        scores = self.log.scores[part.rows].astype(np.float64)
        weights = np.ones(scores.shape[:2])
        answer = evaluate(plan, scores, np.ones(scores.shape[:2], dtype=np.bool_), weights)
        figures = figures_of(part, self.contract)
        raw = {
            "accuracy": (answer.labels[:, 0] == part.truth).astype(np.float64),
            "confidence": answer.confidence[:, 0],
            **{name: values[:, 0] for name, values in spend(plan, answer.stop + 1, figures, weights).items()},
        }
        rewards = self.contract.rewards(raw)[part.labelled]
        self._reward = float(rewards.mean()) if len(rewards) else self._reward
        self._learn(active, scores, part, answer.labels[:, 0], figures)
        self.at += 1
        return self._reward

    def _plan(self, active: BoolArray) -> Catalogue:
        ensemble = self.log.ensemble
        return compiled(("+".join(n for n, on in zip(ensemble.names, active, strict=True) if on),), ensemble)

    def _learn(
        self, active: BoolArray, scores: FloatArray, part: RecordedLog, labels: IntArray, figures: Figures
    ) -> None:
        """See how those that ran did; of the others nothing new is known."""
        said, sure = scores.argmax(axis=2), scores.max(axis=2)
        heard, labelled = sure > 0.0, part.labelled
        found = {
            "accuracy": (heard & (said == part.truth[:, None]))[labelled].mean(axis=0) if labelled.any() else NAIVE,
            "confidence": sure.mean(axis=0),
            "agreement": (heard & (said == labels[:, None])).mean(axis=0),
            "thrift": self._thrift({"latency": figures.latency_s, "energy": figures.energy_j}),
        }
        for name, values in found.items():
            self._known[name] = np.where(active, values, self._known[name])
        self._age = np.where(active, 0.0, self._age + 1.0)
        self._active = active.copy()
        counts = np.bincount(labels[labels >= 0].astype(np.int64), minlength=len(self._classes))
        self._classes = counts / max(counts.sum(), 1)

    def _thrift(self, taken: Mapping[str, FloatArray]) -> FloatArray:
        """What each member's latency and energy (B, M) are worth by the contract's weights of the two, (M,); 0 where it
        weighs neither.
        """
        worth = np.zeros(len(self.log.ensemble.names))
        for name, share in self._shares.items():
            metric = self.contract.metric(name)
            if share and metric is not None:
                worth = worth + share * metric.normalise(taken[name]).mean(axis=0)
        return worth
