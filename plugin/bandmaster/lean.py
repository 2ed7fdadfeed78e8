"""Learning for a policy that reads nothing of the state, in replays: what nobody reads is not learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bandmaster.contract import Contract
from bandmaster.core import (
    Answer,
    Decision,
    DriftEvent,
    Ensemble,
    Evidence,
    Experience,
    Policy,
    Request,
    Said,
    State,
)
from bandmaster.learner import Learner
from bandmaster.limits import Limits
from bandmaster.rl_manager import RLManager
from bandmaster.state import RecentAccuracy, StateManager, Tracking


def suffices(policy: Policy, contract: Contract, limits: Limits) -> bool:
    """Whether ``LeanLearner`` leads to the same run: neither the policy, nor its plans, nor anybody else reads more."""
    return not (
        reads_state(policy)
        or policy.probes  # their share follows from what they taught, and from drift
        or limits != Limits()  # kept by members' recent latency and energy
        or contract.own  # their functions are shown the whole state
        or contract.by_consensus
        or any(plan.weights == "learned" for plan in policy.catalogue.plans)
    )


def reads_state(policy: Policy) -> bool:
    """What a policy declares of itself; one that declares nothing may read anything."""
    return getattr(policy, "reads_state", True)


class LeanState(StateManager):
    """Keeps members' recent accuracy, by which plans weigh members; all else stays as it was before anything was seen.

    It looks for no drift.
    """

    def __init__(self, ensemble: Ensemble, tracking: Tracking) -> None:
        super().__init__(ensemble, tracking)
        self._recent = RecentAccuracy(ensemble, tracking)
        (self._state,) = super().get_states([Request(np.zeros((0, 1)), np.zeros(0), 0.0)])
        self._evidence = Evidence(np.zeros((0, len(ensemble.names), 0)), np.zeros(0), 0.0)

    def get_states(self, requests: Sequence[Request]) -> list[State]:
        return [replace(self._state, features=r.features, tags=r.tags, profile=r.profile) for r in requests]

    def evidence(self, said: Said, state: State, *, now: bool = False) -> Evidence:
        """Nothing: no plan asks for any."""
        return self._evidence

    def observe(self, experience: Experience) -> tuple[DriftEvent, ...]:
        self._recent.update(experience.correct)
        self.version += 1
        accuracy, labelled = self._recent.value, self._recent.labelled
        self._counted = replace(self._members, accuracy=accuracy, labelled=labelled)
        self._state = replace(self._state, version=self.version, members=self._members)
        return ()


class LeanLearner(Learner):
    """A ``Learner`` whose policy is told all that it is told elsewhere, and whose state is a ``LeanState``."""

    def __init__(self, ensemble: Ensemble, contract: Contract, tracking: Tracking, manager: RLManager) -> None:
        super().__init__(ensemble, contract, LeanState(ensemble, tracking), manager)

    def notice(self, decision: Decision, answer: Answer) -> DriftEvent | None:
        """Nothing: before its outcome is known, a request tells of its class alone."""
