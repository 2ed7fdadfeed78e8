"""How members are called: side by side where they are slow, each within its time, and only those in service."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace

from bandmaster.breaker import Breaker
from bandmaster.core import Array, IntArray, Member, MemberAnswer, Meter
from bandmaster.members.deadline import Deadline

GRACE_S = 0.005
"""The least time that a call is given, where its request's has nearly passed."""

OWN_FAULT = 0.9
"""A call that was given this share of its member's time, and did not end in it, is the member's failure."""

ERROR_LENGTH = 200
"""Members' errors are cut to so many characters: they may quote whole rows."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What is done about members that fail: the ``breaker``, and how long a call of each may take. The ``clock`` gives
    seconds.
    """

    breaker: Breaker
    deadlines: Mapping[str, Deadline] = field(default_factory=dict)
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
        slow = self._slow if self.faults is None else self._slow | self.faults.breaker.wary
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
        own_s = self.faults.deadlines[name].seconds(len(index)) if name in self.faults.deadlines else math.inf
        left_s = math.inf if due == math.inf else max(due - self.faults.clock(), GRACE_S)
        reply = self._meter.run(self._members[name], rows, index, min(own_s, left_s))
        if reply.error is None:
            return reply
        self.faults.breaker.beware(name)
        # Of one that was cut short for want of the request's time nobody knows what it would have said; and callers in
        # a hurry could put it out of service.
        cut = reply.latency_s >= left_s and left_s < OWN_FAULT * own_s
        error = " ".join(reply.error.split())
        error = error if len(error) <= ERROR_LENGTH else f"{error[:ERROR_LENGTH]}…"
        return replace(reply, error=error, teaches=reply.teaches and not cut)

    def report(self, replies: Sequence[MemberAnswer]) -> None:
        """Let the breaker know how calls went."""
        if self.faults is not None:
            for reply in replies:
                if reply.error is None or reply.teaches:
                    self.faults.breaker.saw(reply.name, reply.error)

    def due(self, deadline_s: float) -> float:
        """When an answer must be there that may take so many seconds from now: never, where faults are not minded."""
        return math.inf if self.faults is None or deadline_s == math.inf else self.faults.clock() + deadline_s

    def later(self, due: float, seconds: float) -> float:
        """That, or so many seconds from now, whichever is later."""
        return due if self.faults is None else max(due, self.faults.clock() + seconds)

    def is_over(self, due: float) -> bool:
        return due < math.inf and self.faults is not None and self.faults.clock() >= due

    @property
    def out(self) -> tuple[bool, ...]:
        """Whether each member is out of service; empty where nobody is."""
        if self.faults is None or not any(self.faults.breaker.out):
            return ()
        return self.faults.breaker.out
