"""What every plan on offer may be expected to earn: the planner's figures, bent by the request's features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from bandmaster.competence import CHANCE
from bandmaster.contract import Contract
from bandmaster.core import BoolArray, FloatArray, IntArray, State
from bandmaster.estimators import ForgettingRegression, Slope, Standardiser, of_each
from bandmaster.plans import Catalogue


@dataclass(frozen=True, slots=True)
class Foreseen:
    """Of a request, or of each of several: its standardised features ``z`` (…, d), what each plan is ``expected`` to
    earn by what is known of its members, and what it is regressed to earn ``beyond`` that, both (…, P).
    """

    z: FloatArray
    expected: FloatArray
    beyond: FloatArray


class PlanScores:
    """A plan's worth under today's mix of classes, and by how much this request's features change it.

    A plan gains α·(by how much its members are expected to be better here than usual). What it earns beyond that, by
    combining them, by stopping early, is regressed on the features, from every reward that an experience reveals, each
    weighted by how unlikely it was to be seen.
    """

    MEMORY = 500.0
    RAREST = 0.02
    """Rewards revealed with a smaller probability count no more than those of this one."""

    def __init__(self, catalogue: Catalogue, contract: Contract, prior: FloatArray, features: int) -> None:
        """``prior`` (P,) is what each plan is worth before anything was seen."""
        self._alpha, self._regression = contract.weight("accuracy"), catalogue.ensemble.regression
        self.standard = Standardiser(features)
        self._plans = ForgettingRegression(np.zeros(len(prior)), features, memory=self.MEMORY, ridge=10.0)
        self._slope = Slope(window=self.MEMORY)
        worth = prior[:, None] * np.ones(len(catalogue.ensemble.classes))
        self._take(catalogue, worth, np.zeros(len(prior)), np.zeros(len(prior), dtype=np.bool_))

    def offer(
        self, catalogue: Catalogue, worth: FloatArray, doubt: FloatArray, valued: BoolArray, source: IntArray
    ) -> None:
        """Score other plans from now on: worth (P, C) on each class, ``doubt`` (P,) taken off.

        Where a plan is not ``valued`` (P,), its worth is that of members who are right every other time. The k-th plan
        was the ``source[k]``-th until now, or is new where -1.
        """
        self._plans.rearrange(source, np.zeros(len(source)))
        self._take(catalogue, worth, doubt, valued)

    def _take(self, catalogue: Catalogue, worth: FloatArray, doubt: FloatArray, valued: BoolArray) -> None:
        ran = catalogue.stage_members.any(axis=1).astype(np.float64)
        self._share = ran / ran.sum(axis=1, keepdims=True) * self._alpha
        self.worth, self.doubt, self.valued = worth, doubt, valued

    def foresee(self, state: State) -> Foreseen:
        """What is known of a request before it is answered; good until the next ``learn`` or ``offer``."""
        return self._foresee(state.features, state.prior, state.expected, state.usual)

    def foresee_each(self, states: Sequence[State]) -> Foreseen:
        """The same of several requests at once, all of which tell of as much."""
        features, prior = np.array([s.features for s in states]), np.array([s.prior for s in states])
        return self._foresee(
            features, prior, np.array([s.expected for s in states]), np.array([s.usual for s in states])
        )

    def _foresee(self, features: FloatArray, prior: FloatArray, expected: FloatArray, usual: FloatArray) -> Foreseen:
        z = self.standard(features)
        return Foreseen(z, self._expected(prior, expected, usual), self._plans.predict(z))

    def rewards(self, foreseen: Foreseen) -> FloatArray:
        """Expected rewards (…, P) of what was foreseen."""
        mean = foreseen.beyond.mean(axis=-1, keepdims=True)
        # That plans differ is believed as far as it comes true.
        expected = foreseen.expected + (mean + self._slope.value * (foreseen.beyond - mean))
        if self._regression:
            # Plans differ by less than one value is off: the planner, which compares them row by row, knows better.
            expected = np.where(self.valued, self.worth[:, 0], expected)
        return np.asarray(expected - self.doubt)

    def reward(self, foreseen: Foreseen, plan: int) -> float:
        """The ``plan``-th of ``rewards``."""
        if self._regression and self.valued[plan]:
            expected = float(self.worth[plan, 0])
        else:
            mean = _mean(foreseen.beyond)
            expected = float(foreseen.expected[plan]) + (
                mean + self._slope.value * (float(foreseen.beyond[plan]) - mean)
            )
        return expected - float(self.doubt[plan])

    def _believe(self, foretold: FloatArray, came: FloatArray) -> None:
        """Learn how far what plans (P,) were foretold to differ by comes true; NaN where it is unknown what came."""
        seen = ~np.isnan(came)
        if seen.any():
            # How hard the request was, all plans share: known from what others earned, or else as it was foretold.
            several = seen.sum() > 1
            level = came[seen].mean() if several else foretold.mean()
            middle = foretold[seen].mean() if several else level
            self._slope.update(foretold[seen] - middle, came[seen] - level)

    def _expected(self, prior: FloatArray, expected: FloatArray, usual: FloatArray) -> FloatArray:
        worth = of_each(self.worth, prior)
        if not expected.shape[-1]:
            return worth
        taken = np.where(self.valued, of_each(self._share, usual), CHANCE * self._alpha)
        return np.asarray(worth + of_each(self._share, expected) - taken)

    def learn(self, state: State, foreseen: Foreseen, rewards: FloatArray, observed_p: FloatArray) -> None:
        """Learn plans' rewards (P,), NaN where unknown, of a request that was ``foreseen`` since the last one."""
        surplus = rewards - foreseen.expected
        self._believe(foreseen.beyond, surplus)
        self._plans.learn(foreseen.z, surplus, 1.0 / np.maximum(observed_p, self.RAREST))
        self.standard.learn(state.features)

    def learn_one(self, state: State, foreseen: Foreseen, plan: int | None, reward: float, observed_p: float) -> None:
        """As ``learn``, where only the reward of the ``plan``-th is known, or of none of today's."""
        if plan is not None:
            surplus = reward - float(foreseen.expected[plan])
            level = _mean(foreseen.beyond)
            self._slope.update_one(float(foreseen.beyond[plan]) - level, surplus - level)
            self._plans.learn_one(plan, foreseen.z, surplus, 1.0 / max(observed_p, self.RAREST))
        self.standard.learn(state.features)

    def dump(self) -> bytes:
        parts = [self.standard.dump(), self._plans.dump()]
        return msgspec.msgpack.encode(
            _Dump(parts, self._slope.dump(), self.worth.tolist(), self.doubt.tolist(), self.valued.tolist())
        )

    @classmethod
    def of(cls, dumped: bytes, catalogue: Catalogue, contract: Contract) -> PlanScores:
        """Restore what ``dump`` gave while ``catalogue`` was on offer. Raises ``ValueError`` on anything else."""
        try:
            found = msgspec.msgpack.decode(dumped, type=_Dump)
        except msgspec.DecodeError as problem:
            raise ValueError(f"no scores: {problem}") from None
        worth, doubt, valued = np.array(found.worth), np.array(found.doubt), np.array(found.valued, dtype=np.bool_)
        shape = (len(catalogue), len(catalogue.ensemble.classes))
        if len(found.parts) != 2 or worth.shape != shape or not doubt.shape == valued.shape == shape[:1]:
            raise ValueError(f"scores of {len(doubt)} plans, not of {shape[0]}")
        standard = Standardiser.of(found.parts[0])
        scores = cls(catalogue, contract, doubt, standard.size)
        scores.standard = standard
        scores._plans.load(found.parts[1])
        scores._slope.load(found.slope)
        scores._take(catalogue, worth, doubt, valued)
        return scores


def _mean(values: FloatArray) -> float:
    """``values.mean()`` of (n,), in a third of the time."""
    return float(np.add.reduce(values)) / len(values)


class _Dump(msgspec.Struct, frozen=True):
    parts: list[bytes]
    slope: list[float]
    worth: list[list[float]]
    doubt: list[float]
    valued: list[bool]
