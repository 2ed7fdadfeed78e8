"""RLManager: runs the policy, checks its distribution, samples from it, and runs the agent that decides who is in the
ensemble, with its shadows. Nothing else chooses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandmaster.conductor import Conductor
from bandmaster.core import (
    BandmasterError,
    Decision,
    Experience,
    Figures,
    FloatArray,
    Noticing,
    Offer,
    Policy,
    Said,
    State,
)
from bandmaster.limits import masked
from bandmaster.rehearsal import Rehearsal
from bandmaster.shadows import Shadows


def checked_distribution(probabilities: FloatArray, size: int, who: str) -> FloatArray:
    """Return ``probabilities`` as a read-only float64 (size,) that sums to 1. Raises ``BandmasterError`` if it
    is no distribution: VW's own explorers have been seen to return ties of 1.0 and −2.0.
    """
    p = np.array(probabilities, dtype=np.float64)
    total = p.sum()
    if p.shape != (size,) or not p.min() >= 0.0 or not abs(total - 1.0) <= 1e-4:  # NaN fails both
        raise BandmasterError(f"policy {who} gave no distribution over {size} plans: {np.array2string(p, threshold=8)}")
    p /= total
    p.setflags(write=False)
    return p


def sample(probabilities: FloatArray, rng: np.random.Generator) -> int:
    """Draw an index by inversion: one uniform number a decision, so that a seed replays."""
    index = int(probabilities.cumsum().searchsorted(rng.random(), side="right"))
    # Rounding may leave the last cumulative sum just under the drawn number; and p = 0 is never drawn.
    return index if index < len(probabilities) else int(np.flatnonzero(probabilities)[-1])


def either(first: tuple[bool, ...], second: tuple[bool, ...]) -> tuple[bool, ...]:
    """Who is out by one of the two, (M,), each empty where nobody is."""
    return tuple(a or b for a, b in zip(first, second, strict=True)) if first and second else first or second


class RLManager:
    """Holds what decides for one orchestrator: the policy per request, a ``conductor`` per window, if there is one,
    and its shadows.
    """

    def __init__(
        self,
        policy: Policy,
        rng: np.random.Generator,
        conductor: Conductor | None = None,
        benched: tuple[bool, ...] = (),
        shadows: Shadows | None = None,
        compares: bool = False,
    ) -> None:
        """``benched`` (M,; empty: nobody) are out of the ensemble whatever is decided. ``compares`` says whether
        ensembles are compared, here or where learning goes on: then probes ask those, too, who are out of the ensemble.
        """
        self.policy, self._rng, self.conductor, self._benched = policy, rng, conductor, benched
        self.shadows, self.compares = shadows, compares
        self.rehearsal: Rehearsal | None = None
        """What compares ensembles here."""

    @property
    def out(self) -> tuple[bool, ...]:
        """Who is not in the ensemble, (M,); empty where all are."""
        return either(self._benched, self.conductor.out if self.conductor else ())

    @property
    def probes(self) -> bool:
        """Whether anybody learns from probes."""
        return self.policy.probes or self.compares

    def choose(self, states: Sequence[State]) -> tuple[Offer, list[FloatArray], list[int]]:
        """The plans on offer, and for each of the states the distribution over them and the index sampled from it."""
        every = self.distributions(states)
        return self.policy.catalogue, every, [sample(p, self._rng) for p in every]

    def distribution(self, state: State) -> FloatArray:
        """The probabilities of the plans on offer, (P,); 0 for those that may not be chosen, whatever the policy says.

        A pure function of what was learned and the state, so that any decision's can be computed again from its record.
        """
        return self._checked(self.policy.probabilities(state), state)

    def distributions(self, states: Sequence[State]) -> list[FloatArray]:
        """``distribution`` in each of several states: at once, where the policy can, which takes it little longer."""
        at_once = getattr(self.policy, "probabilities_each", None) if len(states) > 1 else None
        every = map(self.policy.probabilities, states) if at_once is None else at_once(states)
        return [self._checked(p, state) for p, state in zip(every, states, strict=True)]

    def _checked(self, p: FloatArray, state: State) -> FloatArray:
        size = len(self.policy.catalogue)
        p = checked_distribution(p, size, self.policy.name)
        return checked_distribution(masked(p, np.array(state.fits)), size, self.policy.name) if state.fits else p

    def lot(self) -> float:
        """A number in [0, 1), for what happens with a probability that is known later: a probe."""
        return float(self._rng.random())

    def notice(self, decision: Decision, said: Said, figures: Figures) -> None:
        """Tell the policy of a probe before its outcome is known, if it ever is."""
        if isinstance(self.policy, Noticing):
            self.policy.notice(decision, said, figures)

    def forget(self, decision_id: str) -> bool:
        """Have the policy keep no single probe of this decision; whether it did."""
        if self.rehearsal is not None:
            self.rehearsal.forget(decision_id)
        return isinstance(self.policy, Noticing) and self.policy.forget(decision_id)

    def learn(self, experience: Experience) -> None:
        if self.rehearsal is not None:
            self.rehearsal.learn(experience)
            if self.shadows is not None:
                self.shadows.learn(experience, self.rehearsal)
        self.policy.learn(experience)
        if self.conductor is not None:
            self.conductor.learn(experience)
