"""ModelRL: an ensemble's inference, simulated from a description of its members and of what arrives.

What it gives is a ``RecordedLog``: whatever plays recorded traffic plays simulated traffic, by the same code.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.special import betaincinv, ndtr, ndtri

from bandmaster.core import BoolArray, Ensemble, FloatArray, IntArray, Profile
from bandmaster.recorded import RecordedLog
from bandmaster.table import NO_LABEL, Scores

ALL = "all"
"""Stands for every class and region that is not named, and for the one region where there are none."""

SHARPEST = 1e-3
"""The least spread of a confidence: a smaller one would have no Beta distribution to speak of."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a member takes for a row: ``mean_s`` on average, log-normally around it by ``noise`` (the standard
    deviation of the logarithm), but never less than ``low_s`` nor more than ``high_s``. A share ``spikes`` of the calls
    takes ``spike`` times as long.
    """

    mean_s: float
    low_s: float = 0.0
    high_s: float = math.inf
    noise: float = 0.0
    spikes: float = 0.0
    spike: float = 10.0


@dataclass(frozen=True, slots=True)
class SimulatedMember:
    """One member: its ``accuracy``, how sure it says it is on average where it is ``right`` and where it is ``wrong``,
    all three (regions, classes), and the ``spread`` of that, a standard deviation; from what share of the requests that
    it would get wrong it ``abstains``; how long it takes, and the energy of a row of mean length on each kind of host
    that it can run on; how often it ``fails``, whatever is asked. One that is ``like`` another is the same model on
    another host: it answers as that one does.
    """

    name: str
    accuracy: FloatArray = field(hash=False)
    right: FloatArray = field(hash=False)
    wrong: FloatArray = field(hash=False)
    spread: float
    timing: Timing
    energy_j: Mapping[str, float] = field(hash=False)
    host: str
    cost: float = 0.0
    explainability: float = 0.0
    abstains: float = 0.0
    fails: float = 0.0
    like: str | None = None


@dataclass(frozen=True, slots=True)
class Phase:
    """From request ``start`` on, ``classes`` (C,) and ``regions`` (R,) arrive in these proportions; the phase before
    goes over into this one during ``over`` requests.
    """

    name: str
    start: int
    classes: FloatArray = field(hash=False)
    regions: FloatArray = field(hash=False)
    over: int = 0


@dataclass(frozen=True, slots=True)
class Simulation:
    """What is simulated. Members err together as far as ``overlap`` in [0, 1) says: the correlation of what makes an
    input hard for each. ``rate`` requests come a second, as a Poisson process; or with the ``gaps`` between those of a
    ``trace``, in s, from any of them on and over again. With ``queues`` a member that is asked before it is done lets
    wait. Labels come ``delay`` requests later, and for a share ``labelled`` of them.
    """

    classes: tuple[int | str, ...]
    regions: tuple[str, ...]
    members: tuple[SimulatedMember, ...]
    phases: tuple[Phase, ...]
    requests: int = 10_000
    overlap: float = 0.3
    rate: float = 100.0
    trace: Path | None = None
    gaps: FloatArray = field(default_factory=lambda: np.zeros(0), hash=False, repr=False)
    queues: bool = False
    delay: int = 0
    labelled: float = 1.0


class ModelRL:
    """Simulates inference. The same seed gives the same log, to the bit."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        members = simulation.members
        profiles = {m.name: _profile(m) for m in members}
        self.ensemble = Ensemble(tuple(profiles), simulation.classes, profiles)
        self._accuracy = np.stack([m.accuracy for m in members])  # (M, R, C)
        models = [m.like or m.name for m in members]
        self._answers_of = [models.index(model) for model in models]

    def log(self, seed: int, requests: int | None = None) -> RecordedLog:
        """So many requests, answered by all members; by default as many as are described."""
        of, rng = self.simulation, np.random.default_rng(seed)
        n = of.requests if requests is None else requests
        at = self._gaps(n, rng).cumsum()
        shares = [np.stack([getattr(p, kind) for p in of.phases]) for kind in ("classes", "regions")]
        weights = _weights(of.phases, n)  # (n, P)
        truth, region = (_drawn(weights @ (share / share.sum(axis=1, keepdims=True)), rng) for share in shares)
        accuracy = self._accuracy[:, region, truth].T  # (n, M)
        hard = self._hardness(n, rng)
        right = hard < accuracy
        said = self._said(truth, right, rng)
        # Where it stands among the requests that it gets right, or among those that it gets wrong: 0 the easiest.
        among = np.where(right, accuracy, 1.0 - accuracy)
        depth = (hard - np.where(right, 0.0, accuracy)) / among
        scores = self._scores(said, self._sure(truth, region, right, depth, rng))
        service = np.stack([_took(m.timing, n, rng) for m in of.members], axis=1)
        latency = service + (_waiting(at, service) if of.queues else 0.0)
        means = np.array([max(m.timing.mean_s, 1e-12) for m in of.members])
        energy = service / means * np.array([m.energy_j[m.host] for m in of.members])
        known = rng.random(n) < of.labelled
        return RecordedLog(
            ensemble=self.ensemble,
            truth=np.where(known, truth, NO_LABEL),
            delay=np.full(n, of.delay, dtype=np.int64),
            at=at,
            features=_features(region, len(of.regions), rng),
            tags=(),
            phases=tuple(of.phases[k].name for k in weights.argmax(axis=1)),
            scores=scores[:, self._answers_of],
            latency_s=latency,
            energy_j=energy,
            cost=np.tile([m.cost for m in of.members], (n, 1)),
            explainability=np.tile([m.explainability for m in of.members], (n, 1)),
            sha256=hashlib.sha256(f"{of!r} {seed} {n}".encode() + of.gaps.tobytes()).hexdigest(),
        )

    def _gaps(self, n: int, rng: np.random.Generator) -> FloatArray:
        """The time from each request to the next (n,), in s."""
        gaps = self.simulation.gaps
        if not len(gaps):
            return rng.exponential(1.0 / self.simulation.rate, n)
        return np.asarray(gaps[(rng.integers(len(gaps)) + np.arange(n)) % len(gaps)])

    def _hardness(self, n: int, rng: np.random.Generator) -> FloatArray:
        """How hard each of n inputs is for each member, as the share of all inputs that are easier for it, (n, M): it
        gets right as large a share as it is good, the easiest. Behind it are normal variables, whose part that all
        members share has the variance ``overlap`` (a one-factor Gaussian copula; Vasicek 2002, "The distribution of
        loan portfolio value").
        """
        shared = self.simulation.overlap
        hardness = math.sqrt(shared) * rng.standard_normal((n, 1))
        hardness = hardness + math.sqrt(1.0 - shared) * rng.standard_normal((n, len(self.simulation.members)))
        return np.asarray(ndtr(hardness))

    def _said(self, truth: IntArray, right: BoolArray, rng: np.random.Generator) -> IntArray:
        """The class that each member answers with, (n, M). Those that err together may fall for the same wrong one."""
        classes = len(self.simulation.classes)
        tempting = rng.integers(1, classes, (len(truth), 1))
        own = rng.integers(1, classes, right.shape)
        together = rng.random(right.shape) < self.simulation.overlap
        wrong = (truth[:, None] + np.where(together, tempting, own)) % classes
        return np.where(right, truth[:, None], wrong)

    def _sure(
        self, truth: IntArray, region: IntArray, right: BoolArray, depth: FloatArray, rng: np.random.Generator
    ) -> FloatArray:
        """The confidence of each member's answer (n, M), the less the deeper a request is among those that it gets
        right, or among those that it gets wrong; 0 where it abstains, as from the deepest of these, or fails.
        """
        classes, sure = len(self.simulation.classes), np.empty(right.shape)
        for m, member in enumerate(self.simulation.members):
            was = right[:, m]
            means = np.where(was, member.right[region, truth], member.wrong[region, truth])
            answered = np.where(was, 1.0, 1.0 - member.abstains)
            silent = (depth[:, m] > answered) | (rng.random(len(truth)) < member.fails)
            easier = 1.0 - depth[:, m] / np.maximum(answered, 1e-12)
            sure[:, m] = np.where(silent, 0.0, _confidence(means, member.spread, classes, np.maximum(easier, 0.0)))
        return sure

    def _scores(self, said: IntArray, sure: FloatArray) -> Scores:
        """Distributions over classes (n, M, C), zeros where a member fails. The class that is said has the confidence,
        the others what is left, evenly.
        """
        classes = len(self.simulation.classes)
        rest = np.where(sure > 0.0, (1.0 - sure) / (classes - 1), 0.0)
        scores = np.repeat(rest.astype(np.float32)[:, :, None], classes, axis=2)
        np.put_along_axis(scores, said[:, :, None], sure.astype(np.float32)[:, :, None], axis=2)
        return scores


def _profile(member: SimulatedMember) -> Profile:
    return Profile(
        latency_s=member.timing.mean_s,
        energy_j=member.energy_j[member.host],
        cost=member.cost,
        explainability=member.explainability,
    )


def _weights(phases: Sequence[Phase], n: int) -> FloatArray:
    """How much of each phase there is in each of n requests, (n, P)."""
    i, weights = np.arange(n), np.zeros((n, len(phases)))
    weights[:, 0] = 1.0
    for k, phase in enumerate(phases[1:], start=1):
        share = np.clip((i - phase.start + 1) / max(phase.over, 1), 0.0, 1.0)
        weights *= 1.0 - share[:, None]
        weights[:, k] = share
    return weights


def _drawn(shares: FloatArray, rng: np.random.Generator) -> IntArray:
    """An index for each row of shares (n, K), by inversion."""
    above = (rng.random((len(shares), 1)) >= shares.cumsum(axis=1)).sum(axis=1)
    return np.asarray(np.minimum(above, shares.shape[1] - 1))


def _confidence(means: FloatArray, spread: float, classes: int, rank: FloatArray) -> FloatArray:
    """Confidences above chance with these ``means`` and, as near as they allow, this ``spread``: Beta-distributed. Of
    all that might be, that with this ``rank`` in [0, 1].
    """
    chance = 1.0 / classes
    mean = np.clip((means - chance) / (1.0 - chance), 1e-3, 1.0 - 1e-3)
    variance = np.minimum((max(spread, SHARPEST) / (1.0 - chance)) ** 2, 0.99 * mean * (1.0 - mean))
    size = mean * (1.0 - mean) / variance - 1.0
    drawn = np.clip(betaincinv(mean * size, (1.0 - mean) * size, rank), 1e-6, 1.0)
    return np.asarray(chance + (1.0 - chance) * drawn)


def _took(timing: Timing, n: int, rng: np.random.Generator) -> FloatArray:
    """How long n calls take, in s."""
    around = np.exp(timing.noise * rng.standard_normal(n) - timing.noise**2 / 2.0)
    spiked = np.where(rng.random(n) < timing.spikes, timing.spike, 1.0)
    return np.clip(timing.mean_s * around * spiked, timing.low_s, timing.high_s)


def _waiting(at: FloatArray, service: FloatArray) -> FloatArray:
    """How long each of n requests waits for each member (n, M) that takes them one after the other, in s.

    Lindley 1952, "The theory of queues with a single server": ``W' = max(W + service - gap, 0)``, unrolled.
    """
    steps = service[:-1] - np.diff(at)[:, None]
    walked = np.vstack([np.zeros(service.shape[1]), steps.cumsum(axis=0)])
    return np.asarray(walked - np.minimum.accumulate(walked, axis=0))


def _features(region: IntArray, regions: int, rng: np.random.Generator) -> FloatArray:
    """What a policy sees of a region, (n, R): one figure for each, near 1 where a request is of it. Of a single one
    there is nothing to see.
    """
    if regions == 1:
        return np.zeros((len(region), 0))
    return np.asarray(np.eye(regions)[region] + 0.2 * rng.standard_normal((len(region), regions)))


def overlap_of(wrong: FloatArray, fails: FloatArray) -> float:
    """How far members err together, as ``Simulation.overlap`` means it, from who was ``wrong`` when (n, M), a share
    ``fails`` (M,) of all requests by mere failure: the correlation at which as many pairs err at once as did, on
    average, found by bisection.
    """
    rates = np.clip((wrong.mean(axis=0) - fails) / np.maximum(1.0 - fails, 1e-12), 0.0, 1.0)
    pairs = [(i, j) for i in range(len(rates)) for j in range(i) if 0.0 < rates[i] < 1.0 and 0.0 < rates[j] < 1.0]
    if not pairs:
        return 0.0
    seen = float(np.mean([(wrong[:, i] * wrong[:, j]).mean() for i, j in pairs]))

    def expected(overlap: float) -> float:
        found = []
        for i, j in pairs:
            alone = fails[i] * (rates[j] + (1.0 - rates[j]) * fails[j]) + (1.0 - fails[i]) * fails[j] * rates[i]
            found.append(alone + (1.0 - fails[i]) * (1.0 - fails[j]) * _both(rates[i], rates[j], overlap))
        return float(np.mean(found))

    low, high = 0.0, 0.99
    for _ in range(30):
        middle = (low + high) / 2.0
        low, high = (middle, high) if expected(middle) < seen else (low, middle)
    return low


_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(40)


def _both(first: float, second: float, overlap: float) -> float:
    """How probable it is that two err at once whose hardness has this correlation: a mean over the part they share."""
    depth = math.sqrt(overlap) * _NODES
    each = [ndtr((ndtri(rate) + depth) / math.sqrt(1.0 - overlap)) for rate in (first, second)]
    return float((each[0] * each[1]) @ _NODE_WEIGHTS / _NODE_WEIGHTS.sum())


# ---- Describing what was recorded ---------------------------------------------------------------------------

SMOOTHING = 5.0
"""A class counts as if so many more of it had been seen, answered as well as all are."""

TOLD_APART = 4.0
"""Standard errors by which two means differ that are taken for different."""

WINDOWS = 10
"""Where a log names no phases, it is taken for so many, each with the classes that came in it."""


def fitted(log: RecordedLog) -> Simulation:
    """What simulates traffic and members like those of a log, which has a label for each request that it learns from.

    Members' accuracy and confidence are described by class, their time and energy as measured; they err together as far
    as they did. Where a member is silent it abstains or fails: see ``_failures``. Regions are not looked for.
    """
    labelled = log.labelled
    truth, rows = log.truth[labelled], log.rows[labelled]
    scores = log.scores[rows].astype(np.float64)  # (n, M, C)
    said, sure = scores.argmax(axis=2), scores.max(axis=2)
    heard = sure > 0.0
    right = heard & (said == truth[:, None])
    fails = _failures(heard, right)
    abstains = _abstentions(heard, right, fails)
    names, classes = log.ensemble.names, log.ensemble.classes
    span = float(log.at[-1] - log.at[0]) if len(log) > 1 else 0.0
    return Simulation(
        classes=classes,
        regions=(ALL,),
        members=tuple(
            SimulatedMember(
                name=name,
                accuracy=_accuracy_of(right[:, m], fails[m], truth, len(classes))[None],
                right=_confidence_of(sure[:, m], right[:, m], truth, len(classes), 0.9),
                wrong=_confidence_of(sure[:, m], heard[:, m] & ~right[:, m], truth, len(classes), 0.6),
                spread=_spread(sure[:, m], right[:, m], heard[:, m]),
                timing=_timing_of(log.latency_s[log.rows, m]),
                energy_j={"cpu": _mean(log.energy_j[log.rows, m], 0.0)},
                host="cpu",
                cost=_mean(log.cost[log.rows, m], 0.0),
                explainability=_mean(log.explainability[log.rows, m], 0.0),
                abstains=float(abstains[m]),
                fails=float(fails[m]),
            )
            for m, name in enumerate(names)
        ),
        phases=_phases_of(log, truth, np.flatnonzero(labelled)),
        requests=len(log),
        overlap=overlap_of((~right).astype(np.float64), fails),
        rate=(len(log) - 1) / span if span > 0.0 else 100.0,
        delay=int(np.median(log.delay)),
        labelled=float(labelled.mean()),
    )


def _mean(values: FloatArray, otherwise: float) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else otherwise


def _spread(sure: FloatArray, right: BoolArray, heard: BoolArray) -> float:
    """The standard deviation of confidence around its mean where right, and where wrong."""
    parts = [sure[right], sure[heard & ~right]]
    off = np.concatenate([part - part.mean() for part in parts if len(part)] or [np.zeros(1)])
    return float(off.std())


def _failures(heard: BoolArray, right: BoolArray) -> FloatArray:
    """For what share of all requests each member failed (M,), of those where it was not ``heard``, (n, M).

    A failure strikes any request alike, but a member abstains from what it would get wrong. So where others do as well
    as ever when it is silent it fails, and where they do as badly as when it errs, or worse, it abstains; between the
    two it does both, in proportion, with rather too few failures, as what it abstains from is the hardest. What cannot
    be told apart, as of one member alone or of members that have nothing in common, is taken for failures.
    """
    silent, members = 1.0 - heard.mean(axis=0), heard.shape[1]
    shares = np.ones(members)
    for m in range(members):
        others = np.delete(right, m, axis=1).mean(axis=1) if members > 1 else np.zeros(len(right))
        mute, wrong = others[~heard[:, m]], others[heard[:, m] & ~right[:, m]]
        worst = wrong if len(wrong) else mute  # who never errs aloud abstains from all of it
        ever, erring = float(others.mean()), _mean(worst, 0.0)
        if len(mute) and ever - erring > TOLD_APART * float(others.std()) / math.sqrt(len(worst)):
            shares[m] = np.clip((mute.mean() - erring) / (ever - erring), 0.0, 1.0)
    return np.asarray(silent * shares)


def _abstentions(heard: BoolArray, right: BoolArray, fails: FloatArray) -> FloatArray:
    """From what share of the requests that it would get wrong each member abstains (M,)."""
    abstained = 1.0 - heard.mean(axis=0) - fails
    wrong = (heard & ~right).mean(axis=0)
    return np.asarray(abstained / np.maximum(abstained + wrong, 1e-12))


def _accuracy_of(right: BoolArray, fails: float, truth: IntArray, classes: int) -> FloatArray:
    """How often it is right where it does not fail, by class (C,)."""
    overall = float(right.mean())
    seen, good = np.bincount(truth, minlength=classes), np.bincount(truth[right], minlength=classes)
    return np.asarray(np.minimum((good + SMOOTHING * overall) / (seen + SMOOTHING) / max(1.0 - fails, 1e-12), 1.0))


def _confidence_of(sure: FloatArray, among: BoolArray, truth: IntArray, classes: int, otherwise: float) -> FloatArray:
    """How sure it is on average ``among`` some requests, by class, (1, C)."""
    overall = _mean(sure[among], otherwise)
    seen = np.bincount(truth[among], minlength=classes)
    total = np.bincount(truth[among], weights=sure[among], minlength=classes)
    return np.asarray((total + SMOOTHING * overall) / (seen + SMOOTHING))[None]


def _timing_of(took: FloatArray) -> Timing:
    known = took[~np.isnan(took) & (took > 0.0)]
    if not len(known):
        return Timing(0.0)
    noise = float(np.log(known).std())
    varies = noise > 1e-6
    low, high = (float(known.min()), float(known.max())) if varies else (0.0, math.inf)
    return Timing(float(known.mean()), low, high, noise=min(noise, 3.0) if varies else 0.0)


def _phases_of(log: RecordedLog, truth: IntArray, at: IntArray) -> tuple[Phase, ...]:
    """The stretches of a log, each with the classes that came in it; of those named alike that follow, one."""
    n, classes = len(log), len(log.ensemble.classes)
    if log.phases is not None:
        starts = [0, *(i for i in range(1, n) if log.phases[i] != log.phases[i - 1])]
        names = [log.phases[i] for i in starts]
    else:
        starts = sorted({n * k // WINDOWS for k in range(WINDOWS)})
        names = [f"window {k}" for k in range(len(starts))]
    found = []
    for start, end, name in zip(starts, [*starts[1:], n], names, strict=True):
        inside = truth[(at >= start) & (at < end)]
        shares = np.bincount(inside, minlength=classes) if len(inside) else np.ones(classes)
        found.append(Phase(name, start, shares.astype(np.float64), np.ones(1)))
    return tuple(found)
