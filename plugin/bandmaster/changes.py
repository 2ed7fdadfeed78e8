"""What an RL agent can do to an ensemble: actions, each a change of what its members count for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from bandmaster.core import BandmasterError, FloatArray, IntArray

LEVELS = (0.0, 0.25, 0.5, 1.0)
"""What a member can count for, where that is decided; 0: it is not in the ensemble."""


@dataclass(frozen=True, slots=True)
class Steps:
    """One change a window, of M members: 0 keeps the ensemble; 1 … M add a member; M + 1 … 2 M remove one, but never
    the last; then, for each pair, one takes another's place. What cannot be done keeps the ensemble.
    """

    members: int
    weighs = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many choices each part of an action has."""
        return (1 + 2 * self.members + self.members * (self.members - 1),)

    def after(self, weights: FloatArray, action: IntArray) -> FloatArray:
        """What members count for (M,), 1 or 0, after an action (1,)."""
        size, chosen, after = self.members, int(action[0]), weights.copy()
        if 1 <= chosen <= size:
            after[chosen - 1] = 1.0
        elif size < chosen <= 2 * size:
            after[chosen - 1 - size] = 0.0
        elif chosen > 2 * size:
            out, other = divmod(chosen - 1 - 2 * size, size - 1)
            in_ = other + (other >= out)
            if weights[out] and not weights[in_]:
                after[out], after[in_] = 0.0, 1.0
        return after if after.any() else weights


@dataclass(frozen=True, slots=True)
class Picks:
    """All at once: of each of M members, whether it is in. Where none is picked the ensemble stays as it is."""

    members: int
    weighs = False

    @property
    def sizes(self) -> tuple[int, ...]:
        return (2,) * self.members

    def after(self, weights: FloatArray, action: IntArray) -> FloatArray:
        """What members count for (M,), 1 or 0, after an action (M,)."""
        picked = np.asarray(action) > 0
        return picked.astype(np.float64) if picked.any() else weights


@dataclass(frozen=True, slots=True)
class Weights:
    """All at once: of each of M members, which of ``LEVELS`` it counts for, all raised so that the greatest is 1. Where
    all are 0 the ensemble stays as it is.
    """

    members: int
    weighs = True

    @property
    def sizes(self) -> tuple[int, ...]:
        return (len(LEVELS),) * self.members

    def after(self, weights: FloatArray, action: IntArray) -> FloatArray:
        """What members count for (M,), in [0, 1], after an action (M,)."""
        chosen = np.array(LEVELS)[np.asarray(action)]
        return np.asarray(chosen / chosen.max()) if chosen.any() else weights


Changes = Steps | Picks | Weights

CHANGES: Mapping[str, Callable[[int], Changes]] = {"steps": Steps, "picks": Picks, "weights": Weights}
"""The ways to change an ensemble, by name."""


def changes(name: str, members: int) -> Changes:
    """Raises ``BandmasterError`` for a way that is none."""
    if name not in CHANGES:
        raise BandmasterError(f"no way {name!r} to change an ensemble; there are {', '.join(CHANGES)}")
    return CHANGES[name](members)
