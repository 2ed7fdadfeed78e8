"""Peers that are played on recordings only: what they do cannot be served as a plan, or knows what nobody can know.

Each is a pure function of a drawn log. All they run is charged, by the figures that policies are charged by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bandmaster.contract import Contract
from bandmaster.core import NO_ANSWER, BandmasterError, BoolArray, Figures, FloatArray, IntArray
from bandmaster.estimators import Standardiser
from bandmaster.plans import all_members
from bandmaster.probes import ProbeShare, Probing
from bandmaster.recorded import RecordedLog
from bandmaster.table import NO_LABEL


@dataclass(frozen=True, slots=True)
class Course:
    """One seed's traffic as a reference meets it: the log in order of arrival, whose labels become known after which
    request, and what members take on each (N, M).
    """

    log: RecordedLog
    arrivals: Sequence[Sequence[int]]
    contract: Contract
    figures: Figures
    seed: int

    @property
    def said(self) -> IntArray:
        """Every member's class on each request, (N, M), ``NO_ANSWER`` where it abstained."""
        return said(self.log)


def said(log: RecordedLog) -> IntArray:
    """Every member's class on each request, (N, M), ``NO_ANSWER`` where it abstained."""
    return np.where(log.scores.max(axis=-1) > 0.0, log.scores.argmax(axis=-1), NO_ANSWER)[log.rows]


@dataclass(frozen=True, slots=True)
class Played:
    """What was done on each of N requests of R rows in all, by a policy or by a reference.

    ``plan`` (N,) is an index into the names ``plans``: whose members ran in which order, ``stages_run`` (R,) of its
    stages on each row. ``label`` (R,) is the answer as a class index, ``confidence`` (R,) its probability, ``weights``
    (N, M) what each member's say counted for, if it ran. ``probed`` (N,): all other members ran too, after the reply.
    ``values`` (R,) are the answers in regression, and there alone.
    """

    plans: tuple[str, ...]
    plan: IntArray
    stages_run: IntArray
    label: IntArray
    confidence: FloatArray
    weights: FloatArray
    probed: BoolArray
    propensity: FloatArray
    values: FloatArray | None = None


def require_judge(name: str, contract: Contract, log: RecordedLog) -> None:
    """Raise ``BandmasterError`` unless a reference can be played on this log and judged by this contract."""
    if log.bounds is not None:
        raise BandmasterError(f"{name}: answers one row a request, and this log has requests of several; leave it out")
    if log.ensemble.regression:
        raise BandmasterError(f"{name}: chooses among classes, and this is a regression; leave it out")
    if contract.own or contract.by_consensus:
        why = "has a metric of your own" if contract.own else "takes accuracy from consensus"
        raise BandmasterError(f"{name}: decides nothing and learns from labels, but the contract {why}; leave it out")
    if name == "knora-u" and not log.features.shape[1]:
        raise BandmasterError(f"{name}: asks the most similar requests, but the log has no x0 … xn; leave it out")


# ---- Dynamic weighted majority -------------------------------------------------------------------------------

BETA, THETA, PERIOD = 0.5, 0.01, 1
"""What a mistake leaves of a member's weight, the least weight, and the labels between two updates."""


def weighted_majority(course: Course) -> Played:
    """All members vote; each mistake halves a member's weight: Kolter & Maloof 2007, "Dynamic weighted majority: an
    ensemble method for drifting concepts", figure 1.

    There a member whose weight falls below θ is dropped and new ones are trained. Members are given here, so none is
    dropped: θ is the least weight, from which a member comes back as the others err.
    """
    log, votes = course.log, course.said
    right = votes == log.truth[:, None]
    weights = np.empty(votes.shape)
    now, seen = np.ones(votes.shape[1]), 0
    for i, arriving in enumerate(course.arrivals):
        weights[i] = now
        for j in arriving:
            seen += 1
            if seen % PERIOD == 0:
                now = np.where(right[j], now, BETA * now)
                now = np.maximum(now / now.max(), THETA)
    label, confidence = vote(votes, weights, len(log.ensemble.classes))
    n = len(log)
    return Played(
        plans=(all_members(log.ensemble).name,),
        plan=np.zeros(n, dtype=np.int64),
        stages_run=np.ones(n, dtype=np.int64),
        label=label,
        confidence=confidence,
        weights=weights,
        probed=np.zeros(n, dtype=np.bool_),
        propensity=np.ones(n),
    )


def vote(votes: IntArray, weights: FloatArray, classes: int) -> tuple[IntArray, FloatArray]:
    """The weighted vote of (N, M) classes: the class with the greatest weight, and its share of all, both (N,).

    An abstention votes for nothing; where all abstain, the answer is ``NO_ANSWER``.
    """
    for_class = np.zeros((len(votes), classes))
    row, member = np.nonzero(votes != NO_ANSWER)
    np.add.at(for_class, (row, votes[row, member]), weights[row, member])
    label, total = for_class.argmax(axis=1), for_class.sum(axis=1)
    share = for_class.max(axis=1) / np.where(total > 0.0, total, 1.0)
    return np.where(total > 0.0, label, NO_ANSWER), share


# ---- KNORA-U -------------------------------------------------------------------------------------------------


def knora_union(course: Course) -> Played:
    """Every member that was right on any of the nearest requests known votes, once for each: KNORA-Union (Ko et al.
    2008, "From dynamic classifier selection to dynamic ensemble selection", section 3.2).

    Neighbours are as ``knora-e`` has them: by standardised features, the 7 nearest of the last 2,000 probed requests
    whose label is known; probes are as many as policies make by default. Where nobody was right on any, all vote.
    """
    log, votes = course.log, course.said
    correct = votes == log.truth[:, None]
    standard, share = Standardiser(log.features.shape[1]), ProbeShare(Probing())
    probed, weights = np.zeros(len(log), dtype=np.bool_), np.empty(votes.shape)
    chance = np.random.default_rng([course.seed, 2]).random(len(log))
    known: list[int] = []
    for i, arriving in enumerate(course.arrivals):
        weights[i] = _union(standard, log.features[i], log.features[known], correct[known])
        probed[i] = chance[i] < share.value
        if probed[i]:
            share.learn()
        for j in arriving:
            standard.learn(log.features[j])
            if probed[j]:
                known = [*known[1 - KEPT :], j]
    label, confidence = vote(votes, weights, len(log.ensemble.classes))
    plans: dict[str, int] = {}
    names = log.ensemble.names
    ran = ["+".join(n for n, w in zip(names, row, strict=True) if w > 0.0) for row in weights]
    n = len(log)
    return Played(
        plan=np.array([plans.setdefault(name, len(plans)) for name in ran]),
        plans=tuple(plans),
        stages_run=np.ones(n, dtype=np.int64),
        label=label,
        confidence=confidence,
        weights=weights,
        probed=probed,
        propensity=np.ones(n),
    )


NEIGHBOURS, KEPT = 7, 2000


def _union(standard: Standardiser, features: FloatArray, known: FloatArray, correct: BoolArray) -> FloatArray:
    """Each member's votes, (M,): on how many of the nearest it was right."""
    far = ((standard(known) - standard(features)) ** 2).sum(axis=-1)
    nearest = np.argsort(far, kind="stable")[:NEIGHBOURS]
    votes = correct[nearest].sum(axis=0).astype(np.float64)
    return votes if votes.any() else np.ones(correct.shape[1])


# ---- FrugalML ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Strategy:
    """Ask the ``base``; where it says class ``k`` (the last entry: nothing) less surely than ``below[k]``, ask
    ``add_on[k]`` too, and take its answer. Both (C + 1,).
    """

    base: int
    below: FloatArray
    add_on: IntArray


def frugalml(course: Course) -> Played:
    """A base member and an add-on for each of its answers, given below a confidence that is that answer's own: the
    strategies of Chen, Zaharia & Zou 2020, "FrugalML: how to use ML prediction APIs more accurately and cheaply",
    section 3, made to earn the most reward instead of the most accuracy within a budget.

    Fitted offline, on all members' answers and labels of half of the traffic, for the other half, and the other way
    round: hindsight. What the answers fitted on cost is not charged.
    """
    log, half = course.log, len(course.log) // 2
    base, second = np.zeros(len(log), dtype=np.int64), np.full(len(log), NO_ANSWER)
    for part, other in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
        strategy = fit(course, np.arange(len(log))[other])
        base[part] = strategy.base
        second[part] = _add_ons(strategy, course, np.arange(len(log))[part])
    last, every = np.where(second == NO_ANSWER, base, second), np.arange(len(log))
    names = log.ensemble.names
    plans: dict[str, int] = {}
    ran = [names[b] if a < 0 else f"{names[b]}>{names[a]}@1" for b, a in zip(base, second, strict=True)]
    weights = np.zeros((len(log), len(names)))
    weights[every, last] = 1.0
    return Played(
        plan=np.array([plans.setdefault(name, len(plans)) for name in ran], dtype=np.int64),
        plans=tuple(plans),
        stages_run=np.where(second == NO_ANSWER, 1, 2),
        label=course.said[every, last],
        confidence=log.scores.max(axis=-1)[log.rows].astype(np.float64)[every, last],
        weights=weights,
        probed=np.zeros(len(log), dtype=np.bool_),
        propensity=np.ones(len(log)),
    )


def fit(course: Course, requests: IntArray) -> Strategy:
    """The strategy that earns most on these requests, as far as they are labelled.

    Exact: given a base, what one of its answers does is independent of what the others do, and only confidences that
    occur can be told apart.
    """
    log = course.log
    requests = requests[log.truth[requests] != NO_LABEL]
    answers, sure = course.said[requests], log.scores.max(axis=-1)[log.rows[requests]].astype(np.float64)
    alone = _rewards(course, requests, answers, sure)
    best: tuple[float, Strategy] | None = None
    for base in range(len(log.ensemble.names)):
        more = _rewards(course, requests, answers, sure, base) - alone[:, [base]]
        found, gained = _thresholds(answers[:, base], sure[:, base], more, base, len(log.ensemble.classes))
        earned = float(alone[:, base].sum()) + gained
        if best is None or earned > best[0]:
            best = earned, found
    assert best is not None  # an ensemble has a member
    return best[1]


def _rewards(
    course: Course, requests: IntArray, answers: IntArray, sure: FloatArray, base: int | None = None
) -> FloatArray:
    """What each member's answer (n, M) would have earned: alone, or as the add-on of ``base``."""
    own, none = course.figures, np.zeros((len(requests), 1))

    def before(figures: FloatArray) -> FloatArray:
        return none if base is None else figures[requests][:, [base]]

    return course.contract.rewards(
        {
            "accuracy": (answers == course.log.truth[requests, None]).astype(np.float64),
            "confidence": sure,
            "latency": own.latency_s[requests] + before(own.latency_s),
            "energy": own.energy_j[requests] + before(own.energy_j),
            "cost": own.cost[requests] + before(own.cost),
            "explainability": own.explainability[requests],
        }
    )


def _thresholds(
    answers: IntArray, sure: FloatArray, more: FloatArray, base: int, classes: int
) -> tuple[Strategy, float]:
    """For each answer (n,) of the base, given ``sure`` (n,): the best add-on and below which confidence, where
    ``more`` (n, M) is what each add-on would gain. And what that gains in all.
    """
    below, add_on, gained = np.zeros(classes + 1), np.zeros(classes + 1, dtype=np.int64), 0.0
    for k in np.unique(answers):
        which = np.flatnonzero(answers == k)
        which = which[np.argsort(sure[which], kind="stable")]
        confidence = sure[which]
        gain = np.cumsum(more[which], axis=0)
        gain[:, base] = 0.0
        # A threshold lies between two different confidences, or above all of them.
        gain[np.flatnonzero(np.diff(confidence) == 0.0)] = -np.inf
        at, member = np.unravel_index(int(gain.argmax()), gain.shape)
        if gain[at, member] > 0.0:
            below[k] = np.inf if at == len(which) - 1 else confidence[at + 1]
            add_on[k], gained = member, gained + float(gain[at, member])
    return Strategy(base, below, add_on), gained


def _add_ons(strategy: Strategy, course: Course, requests: IntArray) -> IntArray:
    """Which member is added on each request, ``NO_ANSWER`` where none is."""
    answers = course.said[requests, strategy.base]
    sure = course.log.scores[course.log.rows[requests], strategy.base].max(axis=-1)
    return np.where(sure < strategy.below[answers], strategy.add_on[answers], NO_ANSWER)


# ---- Previous label ------------------------------------------------------------------------------------------


def previous_label(log: RecordedLog, arrivals: Sequence[Sequence[int]], contract: Contract, first: int = 0) -> float:
    """The accuracy, from the ``first`` request that counts on, of answering with the newest label that is known.

    It costs nothing and looks at nothing: where it scores high, labels come in runs, and whatever follows them seems
    good. Before the first label is known it is wrong. NaN where no request that counts is labelled.
    """
    # What arrives at a request is settled after it was answered: it is known from the next one on.
    newest = np.array([-1, *(max(arriving, default=-1) for arriving in arrivals[:-1])])
    known = np.maximum.accumulate(newest)
    starts = log.starts
    last = np.r_[starts[1:], len(log.truth)] - 1  # of a request of several rows, the last one's label
    shown = np.repeat(last[known], last - starts + 1)
    near = log.by_request((log.truth[shown] == log.truth).astype(np.float64))
    if log.values is not None:
        near = log.by_request(contract.closeness(log.values[shown] - log.values))
    counted = np.where(known >= 0, near, 0.0)[first:][log.labelled[first:]]
    return float(counted.mean()) if len(counted) else float("nan")


REFERENCES: Mapping[str, Callable[[Course], Played]] = {
    "dynamic-weighted-majority": weighted_majority,
    "knora-u": knora_union,
    "frugalml-offline": frugalml,
}
"""The peers by name, as ``replay --policies`` takes them."""

SEEDLESS = frozenset({"dynamic-weighted-majority", "frugalml-offline"})
"""Those that draw nothing: on one traffic, every seed's run is the same."""

IN_HINDSIGHT = frozenset({"frugalml-offline"})
"""Those that know what nobody could have known."""
