"""The planner: from requests on which every member's answer is known, it finds the plans worth offering.

It searches the space of cascades around the best it knows (a stage more or less, another member, another order),
sets each stage's threshold, and values every plan exactly on the probed requests it keeps: under today's belief, for
every class of request apart, so that a change of the classes' mix changes the plans' values at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from bandmaster.belief import Belief
from bandmaster.combine import posterior
from bandmaster.contract import Contract
from bandmaster.core import NO_ANSWER, BoolArray, Evidence, Figures, FloatArray, IntArray, Said, class_prior
from bandmaster.estimators import Repetition

Chain = tuple[tuple[int, ...], ...]
"""A plan's stages, as members' indices."""

NEVER = np.zeros(Repetition.LAGS)
"""Shares of repetition where no class repeats."""

THRESHOLDS = np.array([0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995])


@dataclass(frozen=True, slots=True)
class Known:
    """One row on which every member's answer is known: what each said, the label, what each took; ``odds`` (2, M),
    by how much its features speak for each (``belief.bent_odds``); and for how many rows it ``stands``. ``newest`` is
    the newest class that was known when it came, from ``since`` requests before. Where the label
    is only guessed, ``share`` is how likely it is that one.
    """

    label: IntArray
    bucket: IntArray
    truth: int
    figures: Figures
    odds: FloatArray
    stands: float
    newest: int = NO_ANSWER
    since: int = 1
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Valued:
    """A plan and its worth: ``rewards`` (n,) on the rows it was valued on, ``mean`` of them under today's mix."""

    chain: Chain
    stop_at: tuple[float, ...]
    mean: float
    rewards: FloatArray


@dataclass(frozen=True, slots=True)
class Proposal:
    """The plans to offer, best first, and what each is worth for every class: ``by_class`` (P, C) in [0, 1].

    ``doubt`` (P,) ≥ 0 is the standard error of a plan's difference to the one to beat.
    """

    plans: tuple[Valued, ...]
    by_class: FloatArray
    doubt: FloatArray


class Planner:
    """Keeps the last ``KEEP`` rows of probes, and proposes plans from them."""

    KEEP = 1500
    ENOUGH = 10
    """Rows without which nothing is proposed."""

    STAGES, TOGETHER = 4, 3
    """The most stages of a proposed plan, and the most members in one of them."""

    AROUND, AT_ONCE = 8, 40
    """How many of the best plans are varied in a round, and how many variations are tried."""

    def __init__(self, members: int, classes: int) -> None:
        self.members, self.classes = members, classes
        self._rows: deque[Known] = deque(maxlen=self.KEEP)
        self._unread: Callable[[], Iterator[Known]] | None = None
        self._before = np.zeros(members)  # rows, from the oldest, in which the member was another

    @property
    def rows(self) -> deque[Known]:
        """The rows kept, the oldest first. What was loaded is made into rows when they are first asked for: a worker
        loads a planner several times a second, and never asks.
        """
        if self._unread is not None:
            self._rows, self._unread = deque(self._unread(), self.KEEP), None
        return self._rows

    def learn(
        self,
        said: Said,
        truth: IntArray,
        figures: Figures,
        odds: FloatArray | None = None,
        stands: float = 1.0,
        newest: int = NO_ANSWER,
        since: int = 1,
    ) -> None:
        """Keep one probed request: what all members said (n, M), the labels (n,), what each member took, and for how
        many requests it stands: the inverse of how likely it was to be probed.
        """
        # As precise as they are dumped, so that who is restored values plans alike.
        figures = as_dumped(figures)
        odds = np.zeros((2, self.members)) if odds is None else odds
        for i, true in enumerate(truth.tolist()):
            if len(self.rows) == self.KEEP:
                self._before = np.maximum(self._before - 1, 0)
            self.rows.append(Known(said.label[i], said.bucket[i], true, figures, odds, stands, newest, since))

    def forget(self, which: BoolArray) -> None:
        """What ``which`` members (M,) said until now tells no more what they will say."""
        self._before = np.where(which, len(self.rows), self._before)

    def propose(
        self,
        belief: Belief,
        mix: FloatArray,
        contract: Contract,
        known: Sequence[Chain],
        standing: Sequence[Chain],
        guessed: Sequence[Known] = (),
        *,
        repeats: FloatArray = NEVER,
        limit: int,
        tries: int,
        rng: np.random.Generator,
    ) -> Proposal | None:
        """The ``limit`` best plans found among ``known`` and up to about ``tries`` variations of the best of them.

        Those ``standing`` are always among them; others' doubt is against the first. Plans are valued on ``guessed``
        rows, too, whose labels have not come. ``None`` while there are too few rows.
        """
        if len(self.rows) + sum(row.share for row in guessed) < self.ENOUGH:
            return None
        bench = self._bench(belief, mix, contract, guessed, rng, repeats)
        found = bench.values(list(dict.fromkeys([*standing, *known])))
        tried = 0
        while tried < tries:
            best = sorted(found.values(), key=lambda v: -v.mean)[: self.AROUND]
            new = list(dict.fromkeys(d for v in best for d in self._varied(v.chain) if d not in found))
            if not new:
                break
            picked = rng.choice(len(new), size=min(self.AT_ONCE, len(new)), replace=False)
            found |= bench.values([new[i] for i in picked])
            tried += len(picked)
        plans = sorted(found.values(), key=lambda v: (v.chain not in standing, -v.mean))[:limit]
        plans.sort(key=lambda v: -v.mean)
        rewards = np.stack([v.rewards for v in plans])
        return Proposal(tuple(plans), bench.by_class(rewards), bench.errors(rewards - found[standing[0]].rewards))

    def dump(self) -> bytes:
        rows = self.rows
        figures = [getattr(r.figures, f) for r in rows for f in FIGURES]
        return msgspec.msgpack.encode(
            _Dump(
                _bytes([r.label for r in rows], np.int16),
                _bytes([r.bucket for r in rows], np.int8),
                [r.truth for r in rows],
                _bytes(figures, np.float32),
                self._before.tolist(),
                _bytes([r.odds for r in rows], np.float64),
                [r.stands for r in rows],
                [(r.newest, r.since) for r in rows],
            )
        )

    def load(self, dumped: bytes) -> None:
        """Restore what ``dump`` gave. Raises ``ValueError`` on anything else."""
        try:
            found = msgspec.msgpack.decode(dumped, type=_Dump)
            newest = np.array(found.newest, dtype=np.int64).reshape(-1, 2)
        except (msgspec.DecodeError, OverflowError) as problem:
            raise ValueError(f"no planner: {problem}") from None
        n = len(found.truth)
        label = np.frombuffer(found.label, np.int16).astype(np.int64).reshape(n, self.members)
        bucket = np.frombuffer(found.bucket, np.int8).astype(np.int64).reshape(n, self.members)
        figures = np.frombuffer(found.figures, np.float32).astype(np.float64).reshape(n, len(FIGURES), self.members)
        odds = np.frombuffer(found.odds).reshape(n, 2, self.members)
        stands = np.array(found.stands, dtype=np.float64)
        known = n == 0 or (0 <= label.min() <= label.max() <= self.classes and max(found.truth) < self.classes)
        known &= bool(((stands > 0.0) & (stands < np.inf)).all() and (newest >= (NO_ANSWER, 1)).all())
        known &= bool((newest[:, 0] < self.classes).all()) and len(stands) == len(newest) == n
        if not known or len(found.before) != self.members:
            raise ValueError("a planner's rows of other members or classes")

        def rows() -> Iterator[Known]:
            took = (Figures(*row) for row in figures)
            columns = zip(label, bucket, found.truth, took, odds, found.stands, found.newest, strict=True)
            return (Known(*row, *newest) for *row, newest in columns)

        self._unread, self._before = rows, np.array(found.before)

    def _bench(
        self,
        belief: Belief,
        mix: FloatArray,
        contract: Contract,
        guessed: Sequence[Known],
        rng: np.random.Generator,
        repeats: FloatArray = NEVER,
    ) -> _Bench:
        rows, labelled = [*self.rows, *guessed], len(self.rows)
        label, bucket = np.stack([r.label for r in rows]), np.stack([r.bucket for r in rows])
        truth = np.array([r.truth for r in rows])
        for m in np.flatnonzero(self._before):
            old = slice(0, int(self._before[m]))
            label[old, m], bucket[old, m] = belief.resample(int(m), truth[old], rng)
        said = Said(label, bucket)
        likely = belief.log_likelihood(said, np.stack([r.odds for r in rows]))
        # What was only guessed, the belief has not learned.
        own = Said(label[:labelled], bucket[:labelled])
        likely[:labelled] = belief.leave_out(likely[:labelled], own, truth[:labelled])
        again = repeats[Repetition.lag(np.array([r.since for r in rows]))]
        prior = class_prior(mix, again, np.array([r.newest for r in rows]))
        evidence = Evidence(likely, np.log(prior)[:, None], belief.overlap)
        # Rows of classes that are rarer today than when they were kept count for less.
        share = np.array([r.share for r in rows])
        stands = np.array([r.stands for r in rows]) * share
        stands = stands / (stands.sum() / share.sum())
        kept = np.bincount(truth, stands, minlength=self.classes) + 1.0
        weight = (mix / kept)[truth] * stands
        figures = _stacked([r.figures for r in rows])
        return _Bench(evidence, truth, label < self.classes, stands, weight / weight.sum(), figures, contract)

    def _varied(self, chain: Chain) -> Iterator[Chain]:
        """Every plan one step away: a member more, less or another, stages swapped or joined."""
        used = {m for stage in chain for m in stage}
        for m in (m for m in range(self.members) if m not in used):
            if len(chain) < self.STAGES:
                yield from ((*chain[:i], (m,), *chain[i:]) for i in range(len(chain) + 1))
            for i, stage in enumerate(chain):
                if len(stage) < self.TOGETHER:
                    yield _with(chain, i, (*stage, m))
                yield from (_with(chain, i, (*(z for z in stage if z != x), m)) for x in stage)
        for i, stage in enumerate(chain):
            if len(used) > 1:
                yield from (_with(chain, i, tuple(z for z in stage if z != x)) for x in stage)
        for i in range(len(chain) - 1):
            yield (*chain[:i], chain[i + 1], chain[i], *chain[i + 2 :])
            if len(chain[i] + chain[i + 1]) <= self.TOGETHER:
                yield (*chain[:i], tuple(sorted(chain[i] + chain[i + 1])), *chain[i + 2 :])


FIGURES = ("latency_s", "energy_j", "cost", "explainability")
"""The fields of ``Figures``, in the order in which planners keep them."""


def as_dumped(figures: Figures) -> Figures:
    """As precise as planners dump them."""
    return Figures(*(getattr(figures, name).astype(np.float32).astype(np.float64) for name in FIGURES))


class _Dump(msgspec.Struct, frozen=True):
    label: bytes
    bucket: bytes
    truth: list[int]
    figures: bytes
    before: list[float]
    odds: bytes
    stands: list[float]
    newest: list[tuple[int, int]]


def _bytes(arrays: Sequence[FloatArray | IntArray], dtype: type) -> bytes:
    return np.array(arrays, dtype=dtype).tobytes()


def _with(chain: Chain, i: int, stage: tuple[int, ...]) -> Chain:
    return (*chain[:i], *((tuple(sorted(stage)),) if stage else ()), *chain[i + 1 :])


def _stacked(figures: Sequence[Figures]) -> Figures:
    """Figures (n, M), or (1, M) where every row has the same, as declared ones do."""
    columns = [np.stack([getattr(f, name) for f in figures]) for name in FIGURES]
    if all(np.array_equal(c, np.broadcast_to(c[:1], c.shape), equal_nan=True) for c in columns):
        columns = [c[:1] for c in columns]
    return Figures(*columns)


class _Bench:
    """Values plans on n rows, many at once; what each set of members says is computed once."""

    AT_ONCE = 1 << 16
    """Figures in the largest array of posteriors."""

    def __init__(
        self,
        evidence: Evidence,
        truth: IntArray,
        answered: BoolArray,
        stands: FloatArray,
        weight: FloatArray,
        figures: Figures,
        contract: Contract,
    ) -> None:
        self.evidence, self.truth, self.weight = evidence, truth, weight
        self._answered, self._stands = answered, stands
        self._figures, self._contract = figures, contract
        self._heard: dict[tuple[int, ...], _Heard] = {}

    def values(self, chains: Sequence[Chain]) -> dict[Chain, Valued]:
        """The plans with the thresholds that earn most."""
        self._hear(chains)
        by_length: dict[int, list[Chain]] = {}
        for chain in chains:
            by_length.setdefault(len(chain), []).append(chain)
        return {v.chain: v for group in by_length.values() for v in self._values(group)}

    def _values(self, chains: Sequence[Chain]) -> Iterator[Valued]:
        """Of K plans of as many stages, each threshold the best given the others', from the last stage to the first."""
        stages = range(len(chains[0]))
        earned = [self._earned([c[: j + 1] for c in chains]) for j in stages]
        passed = [np.stack([self._heard[_members(c[: j + 1])].passed for c in chains]) for j in stages]
        never = len(THRESHOLDS)
        stop = np.full((len(stages), len(chains), 1), never)
        for _ in range(2 if len(stages) > 2 else 1):
            later = earned[-1]
            for j in reversed(stages[:-1]):
                reached = np.all([passed[i] <= stop[i] for i in range(j)], axis=0)
                # What each threshold gains over never stopping here: sums over the rows that it lets stop.
                gain = self.weight * reached * (earned[j] - later)
                row = np.arange(len(chains))[:, None] * (never + 1)
                by_passed = np.bincount((row + passed[j]).ravel(), gain.ravel(), minlength=len(chains) * (never + 1))
                upto = by_passed.reshape(len(chains), never + 1)[:, ::-1].cumsum(axis=1)[:, ::-1]
                stop[j] = upto[:, 1:].argmax(axis=1)[:, None]
                later = np.where(passed[j] > stop[j], earned[j], later)
        rewards = earned[-1]
        for j in reversed(stages[:-1]):
            rewards = np.where(passed[j] > stop[j], earned[j], rewards)
        at = THRESHOLDS[np.minimum(stop[:-1, :, 0], never - 1)].T.tolist()
        for chain, thresholds, mean, own in zip(chains, at, (rewards @ self.weight).tolist(), rewards, strict=True):
            yield Valued(chain, tuple(thresholds), mean, own)

    def by_class(self, rewards: FloatArray) -> FloatArray:
        """Mean rewards (P, C) of those (P, n) on the rows of each class, drawn towards the plan's mean where there are
        few.
        """
        classes = np.eye(self.evidence.log_prior.shape[-1])[self.truth] * self._stands[:, None]
        few = 3.0
        mean = (rewards @ self.weight)[:, None]
        return np.asarray((rewards @ classes + few * mean) / (classes.sum(axis=0) + few))

    def errors(self, apart: FloatArray) -> FloatArray:
        """The standard errors (P,) of the means of (P, n)."""
        mean = (apart @ self.weight)[:, None]
        return np.asarray(np.sqrt((apart - mean) ** 2 @ self.weight**2))

    def _hear(self, chains: Sequence[Chain]) -> None:
        """What each set of members that has run after a stage says, as far as it is new."""
        sets = dict.fromkeys(_members(c[: j + 1]) for c in chains for j in range(len(c)))
        new = [members for members in sets if members not in self._heard]
        n, size, classes = self.evidence.log_likelihood.shape
        step = max(1, self.AT_ONCE // (n * classes))
        for start in range(0, len(new), step):
            part = new[start : start + step]
            ran = np.zeros((len(part), size), dtype=np.bool_)
            for row, members in zip(ran, part, strict=True):
                row[list(members)] = True
            likely = posterior(self.evidence, ran)
            somebody = self._answered @ ran.T
            sure = likely.max(axis=2) * somebody
            right = (likely.argmax(axis=2) == self.truth[:, None]) * somebody
            passed = np.searchsorted(THRESHOLDS, sure, side="right")
            for k, members in enumerate(part):
                self._heard[members] = _Heard(sure[:, k], right[:, k].astype(np.float64), passed[:, k])

    def _earned(self, runs: Sequence[Chain]) -> FloatArray:
        """What each row would have earned, had it stopped after these stages, (K, n)."""
        heard, took = [self._heard[_members(run)] for run in runs], self._figures
        stages = np.zeros((len(runs[0]), len(runs), 1, took.cost.shape[1]), dtype=np.bool_)
        for k, run in enumerate(runs):
            for j, stage in enumerate(run):
                stages[j, k, 0, list(stage)] = True
        ran = stages.any(axis=0)
        raw: Mapping[str, Callable[[], FloatArray]] = {
            "accuracy": lambda: np.stack([h.right for h in heard]),
            "confidence": lambda: np.stack([h.sure for h in heard]),
            "latency": lambda: np.where(stages, took.latency_s, 0.0).max(axis=-1).sum(axis=0),
            "energy": lambda: np.where(ran, took.energy_j, 0.0).sum(axis=-1),
            "cost": lambda: np.where(ran, took.cost, 0.0).sum(axis=-1),
            "explainability": lambda: np.where(ran, took.explainability, 0.0).sum(axis=-1) / ran.sum(axis=-1),
        }
        weighed = [m.name for m in self._contract.metrics if m.weight and not m.use]
        rewards = self._contract.foreseen({name: raw[name]() for name in weighed})
        # Where the contract weighs nothing that differs between rows, they have one reward.
        return np.broadcast_to(rewards, (len(runs), len(self.truth)))


@dataclass(frozen=True, slots=True)
class _Heard:
    """What a set of members says to n rows: how ``sure``, whether ``right`` (1 or 0), and how many of the thresholds
    that passes.
    """

    sure: FloatArray
    right: FloatArray
    passed: IntArray


def _members(run: Chain) -> tuple[int, ...]:
    return tuple(sorted(m for stage in run for m in stage))
