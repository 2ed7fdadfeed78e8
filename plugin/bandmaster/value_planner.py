"""The planner of a regression: from requests on which every member's value is known, it finds the plans worth offering.

Every set of members with learned weights is valued exactly on the probed rows it keeps: by the errors that were left
when what was then believed of the members' biases had been taken off, under today's covariance of them. What a set
answers is a mean, so there are neither stages nor thresholds, and the search needs only to add members to good sets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from bandmaster.contract import Contract
from bandmaster.core import BoolArray, Errors, Figures, FloatArray
from bandmaster.drift import Changes
from bandmaster.estimators import WindowedMean
from bandmaster.planner import FIGURES, Chain, Proposal, Valued

_Dump = tuple[int, bytes, list[list[float]]]


@dataclass(frozen=True, slots=True)
class _Row:
    """What each member's value was off by (M,) beyond its bias of then, NaN where it gave none; what each took, (4, M)
    in the order of ``FIGURES``; and for how much it counts.
    """

    left: FloatArray
    took: FloatArray
    weight: float = 1.0


class ValuePlanner:
    """Keeps the last ``KEEP`` rows of probes, and proposes sets of members from them."""

    KEEP = 500
    MEMORY = 200.0
    """Rows looked back on: older ones count for less."""

    CHANGED = 4.0
    """Outcomes that a member's recent accuracy is worth once it has changed."""

    STALE = 0.1
    """What rows from before an alarm count for."""

    ENOUGH = 5
    """Rows without which nothing is proposed."""

    TOGETHER, AROUND = 4, 8
    """The most members of a set, and how many of the best sets of each size get another member."""

    def __init__(self, members: int) -> None:
        self.members = members
        self.rows: deque[_Row] = deque(maxlen=self.KEEP)
        self._recent = WindowedMean(members, window=self.MEMORY, prior=0.5)
        self._changes = Changes(members, delta=0.002)

    def hear(self, corrected: FloatArray) -> None:
        """Learn how right members were on a request once corrected, (M,), NaN where unknown, whether probed or not."""
        self._recent.update(corrected)
        if (changed := self._changes.update(corrected)).any():
            self._recent.shrink(changed, self.CHANGED)

    def learn(self, errors: FloatArray, then: Errors, figures: Figures) -> None:
        """Keep one probed request: all members' errors (n, M), NaN where one gave no value; what was believed of them
        before they were known; and what each member took for all the rows.
        """
        took = np.stack([getattr(figures, name) for name in FIGURES])
        self.rows.extend(_Row(row - then.bias, took) for row in errors)

    def forget(self) -> None:
        """The world has changed: what was seen until now counts for little."""
        self.rows = deque((replace(row, weight=row.weight * self.STALE) for row in self.rows), self.KEEP)

    def propose(self, errors: Errors, contract: Contract, *, limit: int) -> Proposal | None:
        """The ``limit`` best sets that were found, what is doubted taken off: several members have to be better than
        the best single one by more than the difference's standard error. ``None`` while there are too few rows.
        """
        if len(self.rows) < self.ENOUGH:
            return None
        bench = _Bench(self.rows, self.MEMORY, errors, contract)
        # Probes tell by how much plans differ; how right a member is of late, all requests tell that it ran on.
        bench.since = self._recent.value - bench.accuracy
        best = found = bench.value(np.eye(self.members, dtype=np.bool_))
        for _ in range(1, min(self.TOGETHER, self.members)):
            wider = {_with(v.chain, m) for v in _best(best)[: self.AROUND] for m in range(self.members)}
            best = bench.value(_sets(sorted(wider - {v.chain for v in found}), self.members))
            found = found + best
        plans = sorted(found, key=lambda v: -v.mean)
        alone = next(v for v in plans if len(v.chain[0]) == 1)
        # Of a few members the best is the best; of hundreds of sets it is the luckiest.
        doubt = {v.chain: bench.error(v, alone) if len(v.chain[0]) > 1 else 0.0 for v in plans}
        plans = sorted(plans, key=lambda v: doubt[v.chain] - v.mean)[:limit]
        return Proposal(tuple(plans), np.array([[v.mean] for v in plans]), np.array([doubt[v.chain] for v in plans]))

    def dump(self) -> bytes:
        rows = [np.vstack([row.left, row.took, np.full(self.members, row.weight)]) for row in self.rows]
        return msgspec.msgpack.encode([len(rows), np.array(rows, dtype=np.float64).tobytes(), self._recent.dump()])

    def load(self, dumped: bytes) -> None:
        """Restore what ``dump`` gave. Raises ``ValueError`` on anything else."""
        try:
            n, held, recent = msgspec.msgpack.decode(dumped, type=_Dump)
        except msgspec.DecodeError as problem:
            raise ValueError(f"no planner of values: {problem}") from None
        rows = np.frombuffer(held).reshape(n, 2 + len(FIGURES), self.members)
        self._recent.load(recent)
        self.rows = deque((_Row(row[0].copy(), row[1:-1].copy(), float(row[-1, 0])) for row in rows), self.KEEP)


class _Bench:
    """Values sets of members on the rows kept, the newest of which count for most."""

    def __init__(self, rows: Sequence[_Row] | deque[_Row], memory: float, errors: Errors, contract: Contract) -> None:
        self._left = np.stack([row.left for row in rows])
        self._took = dict(zip(FIGURES, np.stack([row.took for row in rows], axis=1), strict=True))
        weight = np.array([row.weight for row in rows]) * np.exp((np.arange(len(rows)) - len(rows)) / memory)
        self.weight = weight / weight.sum()
        self._errors, self._contract = errors, contract
        self.accuracy = self.weight @ contract.closeness(self._left)
        self.since = np.zeros_like(self.accuracy)  # by how much members are better now than on these rows

    def value(self, sets: BoolArray) -> list[Valued]:
        """Every set (U, M), valued."""
        if not len(sets):
            return []
        weights = self._errors.weights(sets)
        gave = ~np.isnan(self._left)
        total = gave @ weights.T
        off = np.divide(np.nan_to_num(self._left) @ weights.T, total, out=np.full(total.shape, np.nan), where=total > 0)
        took = {name: np.nan_to_num(values) for name, values in self._took.items()}
        of = sets.T.astype(np.float64)
        slowest = np.where(sets, took["latency_s"][:, None], 0.0).max(axis=2)
        rewards = self._contract.foreseen(
            {
                "accuracy": self._contract.closeness(off),
                "latency": slowest,
                "energy": took["energy_j"] @ of,
                "cost": took["cost"] @ of,
                "explainability": took["explainability"] @ of / of.sum(axis=0),
            }
        )
        means = self.weight @ rewards + self._contract.weight("accuracy") * weights @ self.since
        chains = [(tuple(np.flatnonzero(members).tolist()),) for members in sets]
        return [Valued(c, (), float(means[u]), rewards[:, u]) for u, c in enumerate(chains)]

    def error(self, one: Valued, other: Valued) -> float:
        """The standard error of the difference of two plans' means."""
        apart = one.rewards - other.rewards
        return float(np.sqrt(self.weight**2 @ (apart - self.weight @ apart) ** 2))


def _best(plans: Sequence[Valued]) -> list[Valued]:
    return sorted(plans, key=lambda v: -v.mean)


def _with(chain: Chain, member: int) -> Chain:
    return (tuple(sorted({*chain[0], member})),)


def _sets(chains: Sequence[Chain], members: int) -> BoolArray:
    sets = np.zeros((len(chains), members), dtype=np.bool_)
    for row, chain in zip(sets, chains, strict=True):
        row[list(chain[0])] = True
    return sets
