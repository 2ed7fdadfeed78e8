"""A journal in dicts: for replay, simulation and tests. One thread at a time; nothing survives the process."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from bandmaster.core import (
    Answer,
    Counts,
    Decision,
    DriftEvent,
    Joined,
    Outcome,
    Reward,
    Settlement,
    Snapshot,
    Status,
)
from bandmaster.journal.rules import SNAPSHOTS_KEPT, awaits_probes, verdict


class MemoryJournal:
    """Implements ``Journal``. An outcome more than ``window_s`` seconds after its decision is late.

    With ``keep=False`` a decision is forgotten, all but its id, once it has settled or could only settle late: for long
    runs that read nothing back. ``since`` and ``reward`` then know of none; counts, events and snapshots stay.
    """

    def __init__(self, window_s: float = math.inf, *, keep: bool = True) -> None:
        self._window_s, self._keep = window_s, keep
        self._stored: dict[str, tuple[Decision, Answer]] = {}
        self._waiting: dict[str, Outcome] = {}
        self._settled: set[str] = set()
        self._expired: set[str] = set()
        self._joined: list[Joined] = []
        self._rewards: dict[str, Reward] = {}
        self._decisions = self._joins = self._late = self._duplicate = self._unknown = 0
        self._newest = -math.inf
        self._clock = -math.inf
        self._events: list[DriftEvent] = []
        self._snapshots: dict[int, Snapshot] = {}

    def record(self, decision: Decision, answer: Answer) -> None:
        if decision.id in self._settled or decision.id in self._expired:
            return
        self._decisions += decision.id not in self._stored
        self._stored[decision.id] = decision, answer
        if not self._keep:
            self._newest = max(self._newest, decision.at)
            self._expire()

    def settle(self, decision_id: str, outcome: Outcome) -> Settlement:
        if decision_id in self._settled or decision_id in self._waiting:
            self._duplicate += 1
            return Settlement(Status.DUPLICATE)
        self._clock = max(self._clock, outcome.at)
        return self._place(decision_id, outcome, self._clock)

    def due(self, now: float | None = None) -> Sequence[Joined]:
        """Join what has become ready. ``now`` (Unix s) defaults to the newest outcome's time."""
        if not self._waiting:
            return ()
        clock = self._clock if now is None else now
        ready = [(id_, outcome) for id_, outcome in self._waiting.items() if id_ in self._stored]
        placed = [self._place(id_, outcome, clock) for id_, outcome in ready]
        return [settlement.joined for settlement in placed if settlement.joined is not None]

    def save_reward(self, joined: Joined, reward: Reward) -> None:
        if self._keep:
            self._rewards[joined.decision.id] = reward

    def reward(self, decision_id: str) -> Reward | None:
        return self._rewards.get(decision_id)

    def since(self, seq: int) -> Iterator[Joined]:
        for index in range(max(seq, 0), len(self._joined)):
            yield self._joined[index]

    def reject(self) -> None:
        self._unknown += 1

    def counts(self) -> Counts:
        return Counts(
            decisions=self._decisions,
            joined=self._joins,
            early=len(self._waiting),
            late=self._late,
            duplicate=self._duplicate,
            unknown=self._unknown,
        )

    def save_event(self, event: DriftEvent) -> None:
        self._events.append(event)

    def events(self) -> Sequence[DriftEvent]:
        return tuple(self._events)

    def save_snapshot(self, snapshot: Snapshot) -> None:
        self._snapshots[snapshot.version] = snapshot
        if len(self._snapshots) > SNAPSHOTS_KEPT:
            del self._snapshots[min(self._snapshots)]

    def latest_snapshot(self) -> Snapshot | None:
        return self._snapshots[max(self._snapshots)] if self._snapshots else None

    def close(self) -> None:
        """Nothing to let go of; the records stay readable."""

    def _place(self, id_: str, outcome: Outcome, now: float) -> Settlement:
        if id_ in self._expired:
            self._settled.add(id_)
            self._late += 1
            return Settlement(Status.LATE)
        decision, answer = self._stored.get(id_, (None, None))
        if decision is None or answer is None:
            self._waiting[id_] = outcome
            return Settlement(Status.EARLY)
        waits = awaits_probes(decision, answer)
        status = verdict(decision.at, waits, outcome.at, now=now, window_s=self._window_s)
        if status is Status.EARLY:
            self._waiting[id_] = outcome
            return Settlement(status)
        self._waiting.pop(id_, None)
        self._settled.add(id_)
        if not self._keep:
            del self._stored[id_]
        if status is Status.LATE:
            self._late += 1
            return Settlement(status)
        self._joins += 1
        joined = Joined(self._joins, decision, answer, outcome)
        if self._keep:
            self._joined.append(joined)
        return Settlement(status, joined)

    def _expire(self) -> None:
        """Forget the oldest decisions, as far as nothing can join them any more."""
        while self._stored:
            id_, (decision, _) = next(iter(self._stored.items()))
            if self._newest - decision.at <= self._window_s or id_ in self._waiting:
                return
            del self._stored[id_]
            self._expired.add(id_)
