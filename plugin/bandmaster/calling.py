"""How members are called: side by side where they are slow, each within its time, and only those in service."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from bandmaster.breaker import Breaker
from bandmaster.core import Array, IntArray, Member, MemberAnswer, Meter

GRACE_S = 0.005
"""The time that one other member is given where a request's has passed and nobody has answered."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What is done about members that fail: the ``breaker``, and the longest that a call of each may take (s). The
    ``clock`` gives seconds.
    """

    breaker: Breaker
    deadlines: Mapping[str, float] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic


class Caller:
    """Calls members through a ``meter``; two or more ``slow`` ones in the threads of ``executor``, all side by side.

    Without ``faults``, as in replay, where failures are as logged, a call takes what it takes and nobody is spared.
    """

    def __init__(
        self,
        members: Mapping[str, Member],
        meter: Meter,
        *,
        executor: Executor | None = None,
        slow: frozenset[str] = frozenset(),
        faults: Faults | None = None,
    ) -> None:
        self._members, self._meter, self._executor, self._slow = members, meter, executor, slow
        self.faults = faults

    def call(self, names: Sequence[str], rows: Array, index: IntArray, due: float = math.inf) -> list[MemberAnswer]:
        """Ask these members about ``rows[index]``, until the clock shows ``due``. Where they take turns, those for whom
        no time is left are not asked; the first one always is.
        """
        slow = self._slow if self.faults is None else self._slow | self.faults.breaker.failing
        if self._executor is not None and sum(name in slow for name in names) >= 2:
            return list(self._executor.map(lambda name: self._call(name, rows, index, due), names))
        replies: list[MemberAnswer] = []
        for name in names:
            if replies and self.is_over(due):
                break
            replies.append(self._call(name, rows, index, due))
        return replies

    def _call(self, name: str, rows: Array, index: IntArray, due: float) -> MemberAnswer:
        if self.faults is None:
            return self._meter.run(self._members[name], rows, index)
        own_s = self.faults.deadlines.get(name, math.inf)
        left_s = math.inf if due == math.inf else max(due - self.faults.clock(), GRACE_S)
        reply = self._meter.run(self._members[name], rows, index, min(own_s, left_s))
        # That a request was in a hurry is no fault of a member's: callers could put it out of service.
        if reply.error is None or left_s >= own_s or reply.latency_s < left_s:
            self.faults.breaker.saw(name, reply.error)
        return reply

    def due(self, deadline_s: float) -> float:
        """When an answer must be there that may take so many seconds from now: never, where faults are not minded."""
        return math.inf if self.faults is None or deadline_s == math.inf else self.faults.clock() + deadline_s

    def is_over(self, due: float) -> bool:
        return due < math.inf and self.faults is not None and self.faults.clock() >= due

    @property
    def out(self) -> tuple[bool, ...]:
        """Whether each member is out of service; empty where nobody is."""
        if self.faults is None or not any(self.faults.breaker.out):
            return ()
        return self.faults.breaker.out
