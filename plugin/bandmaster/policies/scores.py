"""What every plan on offer may be expected to earn: the planner's figures, bent by the request's features."""

from __future__ import annotations

import msgspec
import numpy as np

from bandmaster.contract import Contract
from bandmaster.core import FloatArray, IntArray, State
from bandmaster.estimators import ForgettingRegression, RandomFourierFeatures, Standardiser, WindowedMean
from bandmaster.plans import Catalogue
from bandmaster.policies.examples import CHANCE


class PlanScores:
    """A plan's worth under today's mix of classes, and by how much this request's features change it.

    Where a member is good is regressed on the features and random Fourier features of them, with a long memory, as it
    changes slowly; a plan gains α·(by how much its members are better here than usual). What it earns beyond that, by
    combining them, by stopping early, is regressed on the features with a short memory. Both learn from every reward
    that an experience reveals, each weighted by how unlikely it was to be seen.
    """

    MEMORY = 2000.0
    PLAN_MEMORY = 500.0
    FOURIER = 40
    RAREST = 0.02
    """Rewards revealed with a smaller probability count no more than those of this one."""

    def __init__(self, catalogue: Catalogue, contract: Contract, prior: FloatArray, features: int) -> None:
        """``prior`` (P,) is what each plan is worth before anything was seen."""
        self._alpha = contract.weight("accuracy")
        self.standard = Standardiser(features)
        self._fourier = RandomFourierFeatures(features, self.FOURIER if features else 0)
        members = len(catalogue.ensemble.names)
        self._members = ForgettingRegression(
            np.full(members, CHANCE), features + self._fourier.size, memory=self.MEMORY, ridge=3.0
        )
        self._usual = WindowedMean(members, window=self.MEMORY, prior=CHANCE)
        self._plans = ForgettingRegression(np.zeros(len(prior)), features, memory=self.PLAN_MEMORY, ridge=10.0)
        self._take(catalogue, prior[:, None] * np.ones(len(catalogue.ensemble.classes)), np.zeros(len(prior)))

    def offer(self, catalogue: Catalogue, worth: FloatArray, doubt: FloatArray, source: IntArray) -> None:
        """Score other plans from now on: worth (P, C) on each class, ``doubt`` (P,) taken off; the k-th plan was the
        ``source[k]``-th until now, or is new where -1.
        """
        self._plans.rearrange(source, np.zeros(len(source)))
        self._take(catalogue, worth, doubt)

    def _take(self, catalogue: Catalogue, worth: FloatArray, doubt: FloatArray) -> None:
        ran = catalogue.stage_members.any(axis=1).astype(np.float64)
        self._share = ran / ran.sum(axis=1, keepdims=True) * self._alpha
        self.worth, self.doubt = worth, doubt

    def __call__(self, state: State) -> FloatArray:
        """Expected rewards (P,) of a request that finds this state."""
        z = self.standard(state.features)
        return self._expected(z, state.label_mix) + self._plans.predict(z) - self.doubt

    def _expected(self, z: FloatArray, mix: FloatArray) -> FloatArray:
        here = np.clip(self._members.predict(self._fourier(z)), 0.0, 1.0)
        return np.asarray(self.worth @ mix + self._share @ (here - self._usual.value))

    def learn(self, state: State, correct: FloatArray, rewards: FloatArray, observed_p: FloatArray) -> None:
        """Learn members' accuracies (M,) and plans' rewards (P,), NaN where unknown."""
        z = self.standard(state.features)
        weights = 1.0 / np.maximum(observed_p, self.RAREST)
        self._plans.learn(z, rewards - self._expected(z, state.label_mix), weights)
        bent = self._fourier(z)
        self._members.learn(bent, correct)
        self._usual.update(np.clip(self._members.predict(bent), 0.0, 1.0))
        self.standard.learn(state.features)

    def dump(self) -> bytes:
        parts = [self.standard.dump(), self._members.dump(), self._plans.dump()]
        return msgspec.msgpack.encode(_Dump(parts, self._usual.dump(), self.worth.tolist(), self.doubt.tolist()))

    @classmethod
    def of(cls, dumped: bytes, catalogue: Catalogue, contract: Contract) -> PlanScores:
        """Restore what ``dump`` gave while ``catalogue`` was on offer. Raises ``ValueError`` on anything else."""
        try:
            found = msgspec.msgpack.decode(dumped, type=_Dump)
        except msgspec.DecodeError as problem:
            raise ValueError(f"no scores: {problem}") from None
        worth, doubt = np.array(found.worth), np.array(found.doubt)
        shape = (len(catalogue), len(catalogue.ensemble.classes))
        if len(found.parts) != 3 or worth.shape != shape or doubt.shape != shape[:1]:
            raise ValueError(f"scores of {len(doubt)} plans, not of {shape[0]}")
        standard = Standardiser.of(found.parts[0])
        scores = cls(catalogue, contract, doubt, standard.size)
        scores.standard = standard
        scores._members.load(found.parts[1])
        scores._plans.load(found.parts[2])
        scores._usual.load(found.usual)
        scores._take(catalogue, worth, doubt)
        return scores


class _Dump(msgspec.Struct, frozen=True):
    parts: list[bytes]
    usual: list[list[float]]
    worth: list[list[float]]
    doubt: list[float]
