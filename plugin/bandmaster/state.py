"""StateManager: the streaming state that policies see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bandmaster.belief import Belief, bent_odds
from bandmaster.combine import pooled, shares
from bandmaster.competence import Competence
from bandmaster.core import (
    BoolArray,
    DriftEvent,
    Ensemble,
    Evidence,
    Experience,
    FloatArray,
    IntArray,
    MemberStatistics,
    Profile,
    Request,
    Said,
    State,
    class_prior,
)
from bandmaster.drift import Changes
from bandmaster.errors import ErrorBelief
from bandmaster.estimators import LabelMix, Repetition, WindowedMean
from bandmaster.probes import ProbeShare, Probing
from bandmaster.regimes import Regimes

PRIOR_WEIGHT = 4.0
"""How many observations a prior counts for."""


@dataclass(frozen=True, slots=True)
class Tracking:
    """How the past is kept: ``window`` observations' worth; ``delta`` of the drift detectors, 0 for none; and whether
    an alarm makes the statistics it concerns ``forget``.
    """

    window: float = 200.0
    delta: float = 0.002
    forget: bool = True


def prior_share(classes: int) -> float:
    """Half way between chance and certainty: enough to be tried, soon overtaken by what was seen to work.

    A single class is a regression's, where nobody is right by chance.
    """
    return (1.0 + (1.0 / classes if classes > 1 else 0.0)) / 2.0


@dataclass(frozen=True, slots=True)
class Heard:
    """What is known of an answered request before its outcome: what members ``said`` to its rows, of whom it is
    ``known`` (n, M), how much ``doubt`` the answer left, and whether it was ``probed``.
    """

    said: Said
    known: BoolArray
    doubt: float
    probed: bool


class RecentAccuracy:
    """Every member's recent accuracy, over a window that shrinks where the accuracy has changed."""

    def __init__(self, ensemble: Ensemble, tracking: Tracking) -> None:
        size, share = len(ensemble.names), prior_share(len(ensemble.classes))
        declared = [(ensemble.profiles.get(n) or Profile()).accuracy for n in ensemble.names]
        prior = np.array([share if accuracy is None else accuracy for accuracy in declared])
        self._mean = WindowedMean(size, window=tracking.window, prior=prior, prior_weight=PRIOR_WEIGHT)
        watch = tracking.delta > 0.0 and tracking.forget
        self._changes = Changes(size, delta=tracking.delta) if watch else None

    @property
    def value(self) -> FloatArray:
        return self._mean.value

    @property
    def labelled(self) -> FloatArray:
        return self._mean.seen.copy()

    def update(self, correct: FloatArray, weights: FloatArray | None = None) -> None:
        """Learn one outcome, ``correct`` (M,) in [0, 1] and NaN where unknown; of each as of ``weights`` (M,) (1)."""
        self._mean.update(correct, weights)
        if self._changes is not None and (changed := self._changes.update(correct)).any():
            # What was seen before speaks of another world: from here on the next few outcomes decide.
            self._mean.shrink(changed, PRIOR_WEIGHT)

    def dump(self) -> list[list[float]]:
        return self._mean.dump()

    def load(self, state: list[list[float]]) -> None:
        self._mean.load(state)


class StateManager:
    """Keeps what is believed of the members, windowed statistics, the label mix and alarms; gives the current state.

    Configured from the block by ``build``. ``notice`` and ``observe`` belong to the learner alone; ``get_state`` only
    reads.
    """

    def __init__(self, ensemble: Ensemble, tracking: Tracking | None = None, probing: Probing | None = None) -> None:
        tracking = tracking or Tracking()
        size, classes, window = len(ensemble.names), len(ensemble.classes), tracking.window
        profiles = [ensemble.profiles.get(n) for n in ensemble.names]
        latency = np.array([(p.latency_s if p else None) or 0.0 for p in profiles])
        energy = np.array([(p.energy_j if p else None) or 0.0 for p in profiles])
        share = prior_share(classes)
        self._accuracy = RecentAccuracy(ensemble, tracking)
        # Of every member its confidence, then the agreement of every member, latencies, energies: (4·M,).
        self._habits = WindowedMean(
            4 * size,
            window=window,
            prior=np.concatenate([np.full(2 * size, share), latency, energy]),
            prior_weight=np.repeat([PRIOR_WEIGHT, 1.0], 2 * size),
        )
        self._label_mix = LabelMix(classes)
        self._repetition = Repetition(classes)
        self._reward = WindowedMean(1, window=window, prior=0.5)
        self._probes = ProbeShare(probing or Probing(0.0))
        self.belief = Belief(size, classes)
        self.errors = ErrorBelief(size)
        self._competence: Competence | None = None  # the first outcome that tells who was right makes it
        self._regimes = (
            Regimes(ensemble, self.belief, delta=tracking.delta, relearn=tracking.forget)
            if tracking.delta > 0.0
            else None
        )
        self._ensemble = ensemble
        self.version = 0
        self._counted: MemberStatistics | None = None  # worked out when they are asked for

    @property
    def _members(self) -> MemberStatistics:
        if self._counted is None:
            self._counted = self._statistics()
        return self._counted

    def get_state(self, request: Request) -> State:
        """What is known as ``request`` arrives. Reads only."""
        return self.get_states([request])[0]

    def get_states(self, requests: Sequence[Request]) -> list[State]:
        """What is known as each of them arrives, all at the same time."""
        label_mix, reward, repetition = self.label_mix, self.recent_reward, self._repetition
        share, doubt, since, repeats = self._probes.value, self._probes.usual_doubt, repetition.since, repetition.share
        expected, usual = self._competences(requests)
        return [
            State(
                version=self.version,
                expected=here,
                usual=usual if len(here) else here,
                features=request.features,
                tags=request.tags,
                members=self._members,
                label_mix=label_mix,
                reward=reward,
                probe_share=share,
                doubt=doubt,
                profile=request.profile,
                requests=repetition.requests,
                newest=repetition.newest,
                since=since,
                repeats=repeats,
            )
            for request, here in zip(requests, expected, strict=True)
        ]

    def statistics(self) -> MemberStatistics:
        return self._members

    @property
    def label_mix(self) -> FloatArray:
        """The recent share of each class, (C,)."""
        return self._label_mix.value

    @property
    def repeats(self) -> FloatArray:
        """How far classes repeat, for each lag, as ``Repetition`` has it."""
        return self._repetition.shares.copy()

    @property
    def repeats_now(self) -> float:
        """By how much oftener than its share in the mix the newest known class is met again now, in [0, 1]."""
        return self._repetition.share

    @property
    def recent_reward(self) -> float:
        """The windowed mean reward, in [0, 1]."""
        return float(self._reward.value[0])

    def _competences(self, requests: Sequence[Request]) -> tuple[Sequence[FloatArray], FloatArray]:
        """How often each member is right on each such request, (M,) each, empty where that is unknown; and how often on
        those of late.
        """
        known, nothing = self._competence, np.zeros(0)
        if known is None:
            return [nothing] * len(requests), nothing
        if len(requests) == 1 and len(requests[0].features) == known.features:
            return [known.expected(requests[0].features)], known.usual
        fits = [len(request.features) == known.features for request in requests]
        fitting = [request.features for request, fit in zip(requests, fits, strict=True) if fit]
        found = iter(known.expected(np.array(fitting)) if fitting else ())
        return [next(found) if fit else nothing for fit in fits], known.usual

    def evidence(self, said: Said, state: State, *, now: bool = False) -> Evidence:
        """What was said of a request that found ``state`` speaks for, under the mix of classes then, or ``now``."""
        repeats = self.repeats[Repetition.lag(state.since)]
        prior = class_prior(self.label_mix, repeats, state.newest) if now else state.prior
        if self._ensemble.regression:
            return Evidence(np.zeros((*said.label.shape, 1)), np.log(prior), 0.0, self.errors.now)
        return self.belief.evidence(said, prior, bent_odds(state.expected, state.usual))

    def notice(self, requests: Sequence[Heard]) -> None:
        """Learn what answered requests, in their order, tell before their outcomes are known, if they ever are: which
        classes they may be, and how much doubt their answers left.
        """
        if not requests:
            return
        label, bucket, known = (
            np.concatenate(rows)
            for rows in zip(*((r.said.label, r.said.bucket, r.known) for r in requests), strict=True)
        )
        # None of this moves what is believed of members, so that all rows are looked at together.
        speaks, first = pooled(self.belief.log_likelihood(Said(label, bucket)), known[:, None], self.belief.overlap), 0
        for request in requests:
            rows, first = speaks[first : first + len(request.known), 0], first + len(request.known)
            self._repetition.noticed()
            self._label_mix.learn(self._guess(rows))
            self._probes.answered(request.doubt)
            if request.probed:
                self._probes.learn()

    def _guess(self, speaks: FloatArray) -> FloatArray:
        """Rows' classes as the members see them, (C,), who together speak for each class by that, (n, C). Under the
        steady mix, or the mix would confirm itself.
        """
        likely = shares(speaks + np.log(self._label_mix.steady))
        return np.asarray(likely[0] if len(likely) == 1 else likely.mean(axis=0))

    def observe(self, experience: Experience) -> tuple[DriftEvent, ...]:
        """Learn one settled request; return the alarms that it raised, the reaction to them done."""
        stands = self._stand_for(experience)
        self._habits.update(experience.habits.ravel(), None if stands is None else np.tile(stands, 4))
        judged = experience.joined.outcome.reward is None
        if judged:
            self._accuracy.update(experience.correct, stands)
        self._learn_competence(experience.joined.decision.state.features, experience.correct if judged else None)
        self._reward.update_one(experience.reward.value)
        if experience.truth is not None:
            self._learn_classes(experience, experience.truth, stands)
        if experience.values is not None:
            self.errors.learn(experience.scores[..., 0] - experience.values[:, None])
        if experience.joined.answer.probes and experience.own_raw is not None:
            self._probes.pay(experience.own - experience.reward.value)
        alarms = self._regimes.observe(experience) if self._regimes else ()
        if alarms:
            self._probes.doubt()
            self.errors.forget()
        self._counted = None
        self.version += 1
        return alarms

    def _learn_competence(self, features: FloatArray, correct: FloatArray | None) -> None:
        """Learn who was ``correct`` (M,) on such ``features`` (d,); ``None`` where nobody said."""
        known, size = self._competence, len(features)
        if not size:
            known = None
        elif correct is not None and (known is None or known.features != size):  # other inputs than before
            known = Competence(len(self._ensemble.names), size)
        if known is not None and known.features == size:
            known.learn(features, correct)
        self._competence = known

    def _learn_classes(self, experience: Experience, truth: IntArray, stands: FloatArray | None) -> None:
        known = experience.known
        evidence = experience.evidence
        guessed = self._guess(pooled(evidence.log_likelihood, known[:, None], evidence.overlap)[:, 0])
        was = np.bincount(truth, minlength=len(guessed)) / len(truth)
        self._label_mix.correct(was - guessed)
        decision = experience.joined.decision
        then = decision.state
        self._repetition.learn(truth, then.label_mix, then.newest, then.since, then.requests, decision.at)
        self.belief.learn(experience.said, known, truth, stands)

    def _stand_for(self, experience: Experience) -> FloatArray | None:
        """For how many requests each member's answers stand (M,): those of the plan for this one, probes for others;
        ``None`` where all stand for this one alone.
        """
        joined, names = experience.joined, self._ensemble.names
        if not joined.decision.probed:
            return None
        stands = np.full(len(names), joined.decision.stands_for)
        stands[[names.index(said.name) for said in joined.answer.ran]] = 1.0
        return stands

    def _statistics(self) -> MemberStatistics:
        confidence, agreement, latency_s, energy_j = _frozen(self._habits.value.reshape(4, -1))
        return MemberStatistics(
            accuracy=_frozen(self._accuracy.value),
            confidence=confidence,
            agreement=agreement,
            latency_s=latency_s,
            energy_j=energy_j,
            labelled=_frozen(self._accuracy.labelled),
        )

    def dump(self) -> dict[str, Any]:
        """Everything but the drift detectors, which start anew with a new learner."""
        parts = {name: getattr(self, f"_{name}").dump() for name in _PARTS}
        competence = self._competence.dump() if self._competence else None
        learned = {"belief": self.belief.dump(), "errors": self.errors.dump(), "competence": competence}
        return parts | learned | {"version": self.version}

    def load(self, state: dict[str, Any]) -> None:
        for name in _PARTS:
            getattr(self, f"_{name}").load(state[name])
        self.belief.load(state["belief"])
        self.errors.load(state["errors"])
        dumped = state["competence"]
        self._competence = None if dumped is None else Competence.of(dumped, len(self._ensemble.names))
        self.version = int(state["version"])
        self._counted = None


_PARTS = ("accuracy", "habits", "label_mix", "repetition", "reward", "probes")


def _frozen(values: FloatArray) -> FloatArray:
    values.setflags(write=False)
    return values
