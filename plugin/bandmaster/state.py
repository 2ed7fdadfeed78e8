"""StateManager: the streaming state that policies see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bandmaster.core import DriftEvent, Ensemble, Experience, FloatArray, MemberStatistics, Profile, Request, State
from bandmaster.drift import DriftMonitor
from bandmaster.estimators import WindowedMean

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
    """Half way between chance and certainty: enough to be tried, soon overtaken by what was seen to work."""
    return (1.0 + 1.0 / max(classes, 1)) / 2.0


class RecentAccuracy:
    """Every member's recent accuracy, forgotten when its drift alarm rings."""

    def __init__(self, ensemble: Ensemble, tracking: Tracking) -> None:
        names = [f"accuracy:{n}" for n in ensemble.names]
        share = prior_share(len(ensemble.classes))
        declared = [(ensemble.profiles.get(n) or Profile()).accuracy for n in ensemble.names]
        prior = np.array([share if accuracy is None else accuracy for accuracy in declared])
        self._mean = WindowedMean(len(names), window=tracking.window, prior=prior, prior_weight=PRIOR_WEIGHT)
        self._monitor = DriftMonitor(names, delta=tracking.delta) if tracking.delta > 0.0 else None
        self._names, self._forget = names, tracking.forget

    @property
    def value(self) -> FloatArray:
        return self._mean.value

    @property
    def labelled(self) -> FloatArray:
        return self._mean.seen.copy()

    def update(self, correct: FloatArray, at: float) -> tuple[DriftEvent, ...]:
        """Learn one outcome, ``correct`` (M,) in [0, 1] and NaN where unknown; return the alarms it raised."""
        self._mean.update(correct)
        alarms = self._monitor.update(correct, at) if self._monitor else ()
        if alarms and self._forget:
            rang = {a.name for a in alarms}
            # What was seen before speaks of another world: from here on the next few outcomes decide.
            self._mean.shrink(np.array([n in rang for n in self._names]), PRIOR_WEIGHT)
        return alarms

    def dump(self) -> list[list[float]]:
        return self._mean.dump()

    def load(self, state: list[list[float]]) -> None:
        self._mean.load(state)


class StateManager:
    """Keeps windowed statistics of every member, the label mix and drift alarms; gives the current state.

    Configured from the block by ``build``. ``observe`` belongs to the learner alone; ``get_state`` only reads.
    """

    def __init__(self, ensemble: Ensemble, tracking: Tracking | None = None) -> None:
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
        self._label_mix = WindowedMean(classes, window=window, prior=1.0 / classes, prior_weight=PRIOR_WEIGHT)
        self._reward = WindowedMean(1, window=window, prior=0.5)
        self._drift = DriftMonitor(["reward"], delta=tracking.delta) if tracking.delta > 0.0 else None
        self._ensemble = ensemble
        self.version = 0
        self._members = self._statistics()

    def get_state(self, request: Request) -> State:
        """What is known as ``request`` arrives. Reads only."""
        return State(
            version=self.version,
            features=request.features,
            tags=request.tags,
            members=self._members,
            label_mix=self.label_mix,
            reward=self.recent_reward,
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

    def observe(self, experience: Experience) -> tuple[DriftEvent, ...]:
        """Learn one settled request; return the alarms that it raised, the reaction to them done."""
        answer, outcome = experience.joined.answer, experience.joined.outcome
        size = len(self._ensemble.names)
        confidence, agreement, latency, energy = (np.full(size, np.nan) for _ in range(4))
        for said in (*answer.ran, *answer.probes):
            i = self._ensemble.index(said.name)
            latency[i], energy[i] = said.latency_s, said.energy_j
            if said.scores is not None and len(said.scores):
                confidence[i] = said.scores.max(axis=1).mean()
                agreement[i] = (said.scores.argmax(axis=1) == answer.labels[said.rows]).mean()
        self._confidence.update(confidence)
        self._agreement.update(agreement)
        self._latency.update(latency)
        self._energy.update(energy)
        for label in outcome.labels or ():
            self._label_mix.update(np.eye(1, len(self._ensemble.classes), label)[0])
        alarms = self._accuracy.update(experience.correct, outcome.at)
        reward = np.array([experience.reward.value])
        self._reward.update(reward)
        if self._drift:
            alarms += self._drift.update(reward, outcome.at)
        self._members = self._statistics()
        self.version += 1
        return alarms

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
        return {name: getattr(self, f"_{name}").dump() for name in _PARTS} | {"version": self.version}

    def load(self, state: dict[str, Any]) -> None:
        for name in _PARTS:
            getattr(self, f"_{name}").load(state[name])
        self.version = int(state["version"])
        self._members = self._statistics()


_PARTS = ("accuracy", "confidence", "agreement", "latency", "energy", "label_mix", "reward")


def _frozen(values: FloatArray) -> FloatArray:
    values.setflags(write=False)
    return values
