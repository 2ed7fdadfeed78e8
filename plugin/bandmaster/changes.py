"""What an RL agent can do to an ensemble: actions, each a change of who its members are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from bandmaster.core import BandmasterError, BoolArray, IntArray


@dataclass(frozen=True, slots=True)
class Steps:
    """One change a window, of M members: 0 keeps the ensemble; 1 … M add a member; M + 1 … 2 M remove one, but never
    the last; then, for each pair, one takes another's place. What cannot be done keeps the ensemble.
    """

    members: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many choices each part of an action has."""
        return (1 + 2 * self.members + self.members * (self.members - 1),)

    def after(self, active: BoolArray, action: IntArray) -> BoolArray:
        """The ensemble (M,) after an action (1,)."""
        size, chosen, after = self.members, int(action[0]), active.copy()
        if 1 <= chosen <= size:
            after[chosen - 1] = True
        elif size < chosen <= 2 * size:
            after[chosen - 1 - size] = False
        elif chosen > 2 * size:
            out, other = divmod(chosen - 1 - 2 * size, size - 1)
            in_ = other + (other >= out)
            if active[out] and not active[in_]:
                after[out], after[in_] = False, True
        return after if after.any() else active


@dataclass(frozen=True, slots=True)
class Picks:
    """All at once: of each of M members, whether it is in. Where none is picked the ensemble stays as it is."""

    members: int

    @property
    def sizes(self) -> tuple[int, ...]:
        return (2,) * self.members

    def after(self, active: BoolArray, action: IntArray) -> BoolArray:
        """The ensemble (M,) after an action (M,)."""
        picked = np.asarray(action) > 0
        return picked if picked.any() else active


Changes = Steps | Picks

CHANGES: Mapping[str, Callable[[int], Changes]] = {"steps": Steps, "picks": Picks}
"""The ways to change an ensemble, by name."""


def changes(name: str, members: int) -> Changes:
    """Raises ``BandmasterError`` for a way that is none."""
    if name not in CHANGES:
        raise BandmasterError(f"no way {name!r} to change an ensemble; there are {', '.join(CHANGES)}")
    return CHANGES[name](members)
