"""A member whose calls, while one is under way, wait and then run as one: rows of several requests in one call.

Adaptive batching without a timer (as in Clipper, Crankshaw et al. 2017, section 4.3, with a delay of 0): a lone call
waits for nobody, and the longer calls take, the more of them run together.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field

import numpy as np

from bandmaster.core import Array, FloatArray, Interruptible, MemberFailure


@dataclass(slots=True, eq=False)
class _Call:
    """One call that waits: ``told`` is set once it has its ``scores`` or ``failure``, or is to lead the next batch."""

    rows: Array
    until: float
    told: threading.Event = field(default_factory=threading.Event)
    leads: bool = False
    scores: FloatArray | None = None
    failure: Exception | None = None
    busy_s: float = 0.0


class BatchedMember:
    """Runs the calls of another member that wait for it together, at most ``most`` rows. To be called in threads.

    What fails together is tried alone, so that nobody fails of another's rows. CPU time is shared by rows.
    """

    def __init__(self, member: Interruptible, most: int) -> None:
        self.name, self._member, self._most = member.name, member, most
        self._guard = threading.Lock()
        self._waiting: list[_Call] = []
        self._running = False

    def predict(self, rows: Array) -> FloatArray:
        """As the member's own."""
        return self.predict_within(rows, math.inf)[0]

    def predict_within(self, rows: Array, seconds: float) -> tuple[FloatArray, float]:
        """As the member's own. Raises ``MemberFailure`` once the time is over, waiting for others included."""
        call = _Call(rows, time.monotonic() + seconds)
        with self._guard:
            self._waiting.append(call)
            call.leads, self._running = not self._running, True
        if not call.leads:
            self._wait(call, seconds)
        own_s = time.thread_time()
        if call.leads:
            self._lead()
        if call.failure is not None:
            raise call.failure
        assert call.scores is not None  # its batch has run
        # Whoever leads has spent everybody's time, and is charged its own share like others.
        return call.scores, call.busy_s - (time.thread_time() - own_s)

    def _wait(self, call: _Call, seconds: float) -> None:
        if call.told.wait(None if seconds == math.inf else seconds):
            return
        with self._guard:
            if call.told.is_set():
                return
            no_turn = call in self._waiting
            if no_turn:
                self._waiting.remove(call)
        raise MemberFailure(f"did not answer within {seconds:.3g} s", no_turn=no_turn)

    def _lead(self) -> None:
        """Run the first of those that wait, and whoever fits with it; then have the next one lead."""
        with self._guard:
            batch = self._taken()
        try:
            self._run(batch)
        finally:
            with self._guard:
                for done in batch:
                    done.told.set()
                self._running = bool(self._waiting)
                if self._waiting:
                    self._waiting[0].leads = True
                    self._waiting[0].told.set()

    def _taken(self) -> list[_Call]:
        """The first that waits, and those after it whose rows are alike, as many as there is room for."""
        first, room = self._waiting[0], self._most - len(self._waiting[0].rows)
        batch, left = [first], list[_Call]()
        for call in self._waiting[1:]:
            alike = call.rows.shape[1:] == first.rows.shape[1:] and call.rows.dtype == first.rows.dtype
            if alike and len(call.rows) <= room:
                batch.append(call)
                room -= len(call.rows)
            else:
                left.append(call)
        self._waiting = left
        return batch

    def _run(self, batch: list[_Call]) -> None:
        began, now = time.thread_time(), time.monotonic()
        # Who is in more of a hurry than others has waited to the end by then.
        seconds = max(call.until for call in batch) - now
        rows = batch[0].rows if len(batch) == 1 else np.concatenate([call.rows for call in batch])
        try:
            scores, elsewhere = self._member.predict_within(rows, seconds)
            if len(scores) != len(rows):
                raise ValueError(f"answered {len(scores)} rows of {len(rows)}")
        except Exception as failure:  # of whatever kind: it is its callers', each of whom is to see it
            if len(batch) > 1:
                for call in batch:
                    self._run([call])
            else:
                batch[0].failure, batch[0].busy_s = failure, time.thread_time() - began
            return
        busy_s, end = time.thread_time() - began + elsewhere, 0
        for call in batch:
            begin, end = end, end + len(call.rows)
            call.scores, call.busy_s = scores[begin:end], busy_s * len(call.rows) / len(rows)
