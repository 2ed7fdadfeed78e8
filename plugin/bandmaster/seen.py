"""What is seen of an ensemble, window by window, by who decides on its members: an RL agent, in training and live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bandmaster.contract import Contract
from bandmaster.core import BoolArray, Ensemble, FloatArray, IntArray

NAIVE = 0.5
"""What is taken for a member's accuracy, confidence, agreement and thrift before it has run, and for the reward."""

KNOWN = ("accuracy", "confidence", "agreement", "thrift")
"""What is known of each member."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known after a window: of each member (M,) what it counts for, in [0, 1], 0 where it is not in the
    ensemble, its ``accuracy``, ``confidence`` and ``agreement`` with the answer when it last ran, what of latency and
    energy it was worth, in [0, 1], and how many windows ago it last ran; the shares of the ``classes`` (C,) among the
    answers, and the window's ``reward``.
    """

    weights: FloatArray
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
        parts = (self.weights, self.accuracy, self.confidence, self.agreement, self.thrift, freshness, self.classes)
        whole = np.concatenate([*(np.asarray(part, dtype=np.float64) for part in parts), [self.reward]])
        return np.asarray(np.clip(whole, 0.0, 1.0), dtype=np.float32)

    @staticmethod
    def size(members: int, classes: int) -> int:
        return 6 * members + classes + 1


@dataclass(frozen=True, slots=True)
class Answered:
    """Rows that were answered: what each member ``said``, how ``sure`` it was, 0 where it abstained or failed, and
    whether that is ``known``, (n, M); the answers' ``labels`` (n,) and the ``truth`` (n,), both below 0 where there is
    none; what members took in s and J, (n, M) or (1, M).
    """

    said: IntArray
    sure: FloatArray
    known: BoolArray
    labels: IntArray
    truth: IntArray
    latency_s: FloatArray
    energy_j: FloatArray


class Watch:
    """Adds up what happens in a window; what a member was like when it last ran stays known."""

    def __init__(self, ensemble: Ensemble, contract: Contract) -> None:
        size, self._contract = len(ensemble.names), contract
        self._weights = np.ones(size)
        self._known = np.full((len(KNOWN), size), NAIVE)
        self._age = np.full(size, np.inf)
        self._classes, self._reward = np.full(len(ensemble.classes), 1.0 / len(ensemble.classes)), NAIVE
        weighed = contract.weight("latency") + contract.weight("energy")
        self._shares = {n: contract.weight(n) / weighed if weighed else 0.0 for n in ("latency", "energy")}
        self._begin()

    def _begin(self) -> None:
        self._sums, self._counts = np.zeros_like(self._known), np.zeros_like(self._known)
        self._answers, self._earned, self.rewarded = np.zeros(len(self._classes)), 0.0, 0

    def add(self, rows: Answered, earned: float, rewarded: int) -> None:
        """Count rows, and what so many of their requests that had a reward have ``earned`` in all."""
        heard = rows.known & (rows.sure > 0.0)
        labelled = rows.known & (rows.truth >= 0)[:, None]
        counted = np.stack([labelled, rows.known, rows.known, rows.known])
        values = np.stack(
            [
                heard & (rows.said == rows.truth[:, None]),
                rows.sure,
                heard & (rows.said == rows.labels[:, None]),
                np.broadcast_to(self._thrift(rows), rows.sure.shape),
            ]
        )
        self._sums += np.where(counted, values, 0.0).sum(axis=1)
        self._counts += counted.sum(axis=1)
        answered = rows.labels[rows.labels >= 0].astype(np.int64)
        self._answers += np.bincount(answered, minlength=len(self._answers))
        self._earned += earned
        self.rewarded += rewarded

    def close(self, weights: FloatArray) -> None:
        """End a window in which members have counted for these ``weights`` (M,), and begin the next."""
        self._known = np.where(self._counts > 0.0, self._sums / np.maximum(self._counts, 1.0), self._known)
        self._age = np.where(self._counts[1] > 0.0, 0.0, self._age + 1.0)
        self._weights = weights.copy()
        self._classes = self._answers / max(self._answers.sum(), 1.0)
        self._reward = self._earned / self.rewarded if self.rewarded else self._reward
        self._begin()

    def seen(self) -> Seen:
        known = {name: values.copy() for name, values in zip(KNOWN, self._known, strict=True)}
        return Seen(weights=self._weights, age=self._age, classes=self._classes, reward=self._reward, **known)

    def _thrift(self, rows: Answered) -> FloatArray:
        """What members' latency and energy are worth by the contract's weights of the two, of the rows' shape; 0 where
        it weighs neither.
        """
        worth = np.zeros(())
        for name, taken in (("latency", rows.latency_s), ("energy", rows.energy_j)):
            metric = self._contract.metric(name)
            if self._shares[name] and metric is not None:
                worth = worth + self._shares[name] * np.nan_to_num(metric.normalise(taken))
        return worth

    _ARRAYS = ("_weights", "_known", "_age", "_classes", "_sums", "_counts", "_answers")

    def dump(self) -> dict[str, Any]:
        """Everything seen, as plain values."""
        arrays = {name.strip("_"): getattr(self, name).tolist() for name in self._ARRAYS}
        return arrays | {"reward": self._reward, "earned": self._earned, "rewarded": self.rewarded}

    def load(self, dumped: Mapping[str, Any]) -> None:
        """Restore what ``dump`` gave. Raises ``KeyError`` or ``ValueError`` on anything else."""
        for name in self._ARRAYS:
            now = getattr(self, name)
            setattr(self, name, np.array(dumped[name.strip("_")], dtype=now.dtype).reshape(now.shape))
        self._reward, self._earned = float(dumped["reward"]), float(dumped["earned"])
        self.rewarded = int(dumped["rewarded"])
