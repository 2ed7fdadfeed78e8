"""Which members are in service: a circuit breaker for each (Nygard 2018, "Release It!", section 5.5)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Breaking:
    """A member is taken out of service when its last ``after`` ≥ 1 calls failed, and tried again ``cooldown_s`` > 0
    seconds later; twice as long after each trial that fails, up to ``LONGEST_S`` where it was not longer at once. At
    most the share ``at_most`` in [0, 1] of the members is out at a time, and never the last one.
    """

    LONGEST_S = 600.0

    after: int = 5
    cooldown_s: float = 10.0
    at_most: float = 0.5


@dataclass(slots=True)
class _Circuit:
    """One member's: how many calls failed one after the other, and how the last did; how long it is out, until when,
    and whether somebody is trying it.
    """

    failures: int = 0
    error: str = ""
    cooldown_s: float = 0.0
    until: float = 0.0
    trying: bool = False


@dataclass(frozen=True, slots=True)
class Absence:
    """Why a member is out of service, and in how many seconds it is tried again."""

    error: str
    trial_in_s: float


class Breaker:
    """Keeps book of members' failures. Any thread may ask and tell.

    >>> breaker = Breaker(["a", "b"], Breaking(after=2, cooldown_s=10.0), clock=lambda: 0.0)
    >>> for _ in range(2):
    ...     breaker.saw("b", "it broke")
    >>> breaker.out
    (False, True)
    """

    WARY_S = 60.0
    """For how long after a failure a member is called in threads."""

    def __init__(
        self,
        names: Sequence[str],
        breaking: Breaking,
        clock: Callable[[], float] = time.monotonic,
        told: Callable[[str, Absence | None], None] = lambda name, absence: None,
    ) -> None:
        """``clock`` gives seconds; ``told`` hears of every member that goes, and (``None``) that comes back."""
        self.breaking, self._clock, self._told = breaking, clock, told
        self._circuits = {name: _Circuit() for name in names}
        self._most = min(int(breaking.at_most * len(self._circuits)), len(self._circuits) - 1)
        self._lock = threading.Lock()
        self.out: tuple[bool, ...] = (False,) * len(self._circuits)
        """Whether each member is out of service, in the ensemble's order."""
        self._wary: dict[str, float] = {}

    def saw(self, name: str, error: str | None) -> None:
        """Note how a call of a member went: well, or with this ``error``."""
        circuit = self._circuits[name]
        if error is None and not circuit.failures:
            return  # as nearly always, and without the lock
        with self._lock:
            was_out = circuit.cooldown_s > 0.0
            circuit.trying = False
            if error is None:
                circuit.failures, circuit.cooldown_s = 0, 0.0
            else:
                circuit.failures, circuit.error = circuit.failures + 1, error
                if was_out and self._clock() >= circuit.until:  # of others that were under way nothing follows
                    longest_s = max(self.breaking.LONGEST_S, self.breaking.cooldown_s)
                    self._open(circuit, min(2.0 * circuit.cooldown_s, longest_s))
                elif not was_out and circuit.failures >= self.breaking.after and sum(self.out) < self._most:
                    self._open(circuit, self.breaking.cooldown_s)
            is_out = circuit.cooldown_s > 0.0
            if is_out != was_out:
                self.out = tuple(c.cooldown_s > 0.0 for c in self._circuits.values())
        if is_out != was_out:
            self._told(name, self.absent().get(name))

    def take_over(self, before: Breaker) -> None:
        """Go on with what another knows of the members that both have, and share it from now on."""
        with self._lock:
            for name in self._circuits.keys() & before._circuits.keys():
                self._circuits[name] = before._circuits[name]
            self.out = tuple(c.cooldown_s > 0.0 for c in self._circuits.values())
            self._wary = {name: until for name, until in before._wary.items() if name in self._circuits}

    def beware(self, name: str) -> None:
        """A call of it failed, whoever's fault that was: for a while it is not called where others would wait."""
        self._wary[name] = self._clock() + self.WARY_S

    @property
    def wary(self) -> frozenset[str]:
        """Those of whom a call failed of late: they may hang next time, or have slow ones stand in."""
        if not self._wary:
            return frozenset()
        now = self._clock()
        return frozenset(name for name, until in self._wary.copy().items() if until > now)

    def _open(self, circuit: _Circuit, cooldown_s: float) -> None:
        circuit.cooldown_s, circuit.until = cooldown_s, self._clock() + cooldown_s

    def due(self) -> str | None:
        """A member whose cooldown is over, given to one caller only, who is to try it and to tell ``saw``."""
        if not any(self.out):
            return None
        with self._lock:
            now = self._clock()
            for name, circuit in self._circuits.items():
                if circuit.cooldown_s > 0.0 and now >= circuit.until and not circuit.trying:
                    circuit.trying = True
                    return name
        return None

    def absent(self) -> dict[str, Absence]:
        """The members that are out of service."""
        with self._lock:
            now = self._clock()
            return {
                name: Absence(circuit.error, max(circuit.until - now, 0.0))
                for name, circuit in self._circuits.items()
                if circuit.cooldown_s > 0.0
            }
