"""Ends calls that take too long: one thread for all of a process's calls."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable


class Watchdog:
    """Calls back when a call is overdue. Watching one costs a microsecond or two."""

    IDLE_S = 0.05
    """It looks that often by itself, so that only calls with less time than that need to wake it."""

    def __init__(self) -> None:
        """Nothing runs until the first call is watched."""
        self._calls: dict[int, tuple[float, Callable[[], None]]] = {}
        self._numbers = itertools.count()
        self._looks_at = 0.0
        self._bell = threading.Condition()
        self._thread: threading.Thread | None = None

    def watch(self, seconds: float, end: Callable[[], None]) -> int:
        """Have ``end`` called in so many seconds, unless the number that is returned is released before."""
        due, number = time.monotonic() + seconds, next(self._numbers)
        self._calls[number] = due, end
        if self._thread is None:
            self._begin()
        if due < self._looks_at:
            with self._bell:
                self._bell.notify()
        return number

    def release(self, number: int) -> bool:
        """The call is over; whether that was in time."""
        return self._calls.pop(number, None) is not None

    def _begin(self) -> None:
        with self._bell:
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="bandmaster-watchdog", daemon=True)
                self._thread.start()

    def _look(self) -> None:
        with self._bell:
            while True:
                self._looks_at = float("inf")  # from here on a new call rings, and is heard once this one waits
                now = time.monotonic()
                waiting = now + self.IDLE_S
                for number, (due, end) in self._calls.copy().items():
                    if due > now:
                        waiting = min(waiting, due)
                    elif self._calls.pop(number, None) is not None:
                        end()
                self._looks_at = waiting
                self._bell.wait(max(waiting - time.monotonic(), 0.0))


WATCHDOG = Watchdog()
"""This process's."""
