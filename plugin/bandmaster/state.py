"""StateManager: the streaming state that policies see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bandmaster.belief import Belief, Said, bent_odds
from bandmaster.combine import posterior
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
    State,
)
from bandmaster.drift import Changes
from bandmaster.errors import ErrorBelief
from bandmaster.estimators import LabelMix, WindowedMean
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

    def update(self, correct: FloatArray) -> None:
        """Learn one outcome, ``correct`` (M,) in [0, 1] and NaN where unknown."""
        self._mean.update(correct)
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
        self._confidence = WindowedMean(size, window=window, prior=share, prior_weight=PRIOR_WEIGHT)
        self._agreement = WindowedMean(size, window=window, prior=share, prior_weight=PRIOR_WEIGHT)
        self._latency = WindowedMean(size, window=window, prior=latency)
        self._energy = WindowedMean(size, window=window, prior=energy)
        self._label_mix = LabelMix(classes)
        self._reward = WindowedMean(1, window=window, prior=0.5)
        self._probes = ProbeShare(probing or Probing(0.0), size)
        self.belief = Belief(size, classes)
        self.errors = ErrorBelief(size)
        self._competence: Competence | None = None  # the first outcome tells how many features there are
        self._regimes = (
            Regimes(ensemble, self.belief, delta=tracking.delta, relearn=tracking.forget)
            if tracking.delta > 0.0
            else None
        )
        self._ensemble = ensemble
        self.version = 0
        self._members = self._statistics()

    def get_state(self, request: Request) -> State:
        """What is known as ``request`` arrives. Reads only."""
        expected, usual = self._competences(request.features)
        return State(
            version=self.version,
            expected=expected,
            usual=usual,
            features=request.features,
            tags=request.tags,
            members=self._members,
            label_mix=self.label_mix,
            reward=self.recent_reward,
            probe_share=self._probes.value,
            profile=request.profile,
        )

    def statistics(self) -> MemberStatistics:
        return self._members

    @property
    def label_mix(self) -> FloatArray:
        """The recent share of each class, (C,)."""
        return self._label_mix.value

    @property
    def recent_reward(self) -> float:
        """The windowed mean reward, in [0, 1]."""
        return float(self._reward.value[0])

    def _competences(self, features: FloatArray) -> tuple[FloatArray, FloatArray]:
        """How often each member is right on such requests, and on those of late, (M,) each; empty where unknown."""
        if self._competence is None or not len(features) or self._competence.features != len(features):
            return np.zeros(0), np.zeros(0)
        return self._competence.expected(features), self._competence.usual

    def evidence(self, scores: FloatArray, state: State, *, now: bool = False) -> Evidence:
        """What distributions (n, M, C) for a request that found ``state`` speak for, under the mix of classes of then,
        or of ``now``.
        """
        mix = self.label_mix if now else state.label_mix
        if self._ensemble.regression:
            return Evidence(np.zeros(scores.shape), np.log(mix), 0.0, self.errors.now)
        return self.belief.evidence(scores, mix, bent_odds(state.expected, state.usual))

    def notice(self, scores: FloatArray, known: BoolArray, probed: bool) -> None:
        """Learn what an answered request tells before its outcome is known, if it ever is: which class it may be."""
        self._label_mix.learn(self._guess(self.belief.log_likelihood(Said.of(scores)), known))
        if probed:
            self._probes.learn()

    def _guess(self, log_likelihood: FloatArray, known: BoolArray) -> FloatArray:
        """The rows' classes as the members see them, (C,). Under the steady mix, or the mix would confirm itself."""
        evidence = Evidence(log_likelihood, np.log(self._label_mix.steady), self.belief.overlap)
        return np.asarray(posterior(evidence, known[:, None])[:, 0].mean(axis=0))

    def observe(self, experience: Experience) -> tuple[DriftEvent, ...]:
        """Learn one settled request; return the alarms that it raised, the reaction to them done."""
        answer = experience.joined.answer
        size = len(self._ensemble.names)
        confidence, agreement, latency, energy = (np.full(size, np.nan) for _ in range(4))
        for said in (*answer.ran, *answer.probes):
            i = self._ensemble.index(said.name)
            latency[i], energy[i] = said.latency_s, said.energy_j
            if said.scores is not None and len(said.scores) and not self._ensemble.regression:
                confidence[i] = said.scores.max(axis=1).mean()
                agreement[i] = (said.scores.argmax(axis=1) == answer.labels[said.rows]).mean()
        self._confidence.update(confidence)
        self._agreement.update(agreement)
        self._latency.update(latency)
        self._energy.update(energy)
        self._accuracy.update(experience.correct)
        features = experience.joined.decision.state.features
        if self._competence is None or self._competence.features != len(features):  # other inputs than before
            self._competence = Competence(size, len(features))
        self._competence.learn(features, experience.correct)
        self._reward.update(np.array([experience.reward.value]))
        if experience.truth is not None:
            self._learn_classes(experience, experience.truth)
        if experience.values is not None:
            self.errors.learn(experience.scores[..., 0] - experience.values[:, None])
        alarms = self._regimes.observe(experience) if self._regimes else ()
        if alarms:
            self._probes.doubt()
            self.errors.forget()
        self._members = self._statistics()
        self.version += 1
        return alarms

    def _learn_classes(self, experience: Experience, truth: IntArray) -> None:
        scores, known = experience.scores, experience.known
        guessed = self._guess(experience.evidence.log_likelihood, known)
        was = np.bincount(truth, minlength=len(guessed)) / len(truth)
        self._label_mix.correct(was - guessed)
        self.belief.learn(Said.of(scores), known, truth)

    def _statistics(self) -> MemberStatistics:
        return MemberStatistics(
            accuracy=_frozen(self._accuracy.value),
            confidence=_frozen(self._confidence.value),
            agreement=_frozen(self._agreement.value),
            latency_s=_frozen(self._latency.value),
            energy_j=_frozen(self._energy.value),
            labelled=_frozen(self._accuracy.labelled),
        )

    def dump(self) -> dict[str, Any]:
        """Everything but the drift detectors, which start anew with a new learner."""
        parts = {name: getattr(self, f"_{name}").dump() for name in _PARTS}
        competence = self._competence.dump() if self._competence else None
        learned = {"belief": self.belief.dump(), "errors": self.errors.dump(), "competence": competence}
        return parts | learned | {"probes": self._probes.made, "version": self.version}

    def load(self, state: dict[str, Any]) -> None:
        for name in _PARTS:
            getattr(self, f"_{name}").load(state[name])
        self.belief.load(state["belief"])
        self.errors.load(state["errors"])
        dumped = state["competence"]
        self._competence = None if dumped is None else Competence.of(dumped, len(self._ensemble.names))
        self._probes.made = float(state["probes"])
        self.version = int(state["version"])
        self._members = self._statistics()


_PARTS = ("accuracy", "confidence", "agreement", "latency", "energy", "label_mix", "reward")


def _frozen(values: FloatArray) -> FloatArray:
    values.setflags(write=False)
    return values
