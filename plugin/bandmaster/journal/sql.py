"""What a journal in a database does, whichever database that is: in SQL that both of ours understand.

What is reported or recorded many at a time is looked up in a few queries, decided here, and written in a few more: a
database at the other end of a network is waited for by the query.
"""

from __future__ import annotations

import logging
import math
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bandmaster.core import (
    Answer,
    BandmasterError,
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
from bandmaster.journal.codec import decode, encode, rows_answered
from bandmaster.journal.keys import Keys
from bandmaster.journal.reading import answered_after, joined_since, newest_events
from bandmaster.journal.relay import BATCH, Relay
from bandmaster.journal.rules import SNAPSHOTS_KEPT, awaits_probes, verdict
from bandmaster.journal.snapshots import seal_snapshot, unseal_snapshot
from bandmaster.journal.spool import Row

_log = logging.getLogger(__name__)

Complete = Callable[[Sequence[tuple[Decision, Answer]]], None]


@dataclass(frozen=True, slots=True)
class Stored:
    """A decision as a row: when it was made (Unix s), whether probes are to come, what was recorded."""

    id: str
    at: float
    waits: bool
    decision: bytes
    answer: bytes


class SqlJournal(ABC):
    """Implements ``Journal`` but for the connection; for one process and any of its threads.

    What ``settle`` and ``save_snapshot`` have returned from survives a power cut. Every method raises
    ``BandmasterError`` when the database cannot be read or written.
    """

    name: str
    """The database, in messages."""

    def __init__(self, folder: Path, keys: Keys, window_s: float, complete: Complete | None) -> None:
        """``folder`` is where this machine's workers leave their spools; the ``keys`` seal snapshots.

        An outcome more than ``window_s`` seconds after its decision is late. ``complete`` is told once of each
        decision, several at a time, after it was stored for good: with the probe that it announced, or, where none
        comes, when it is settled without. It must not raise.
        """
        self.spools = folder
        self._relay = Relay(folder, self)
        self._keys = keys
        self._window_s = window_s
        self._lock = threading.RLock()
        self._complete = complete
        self._completed: list[Stored] = []  # by the transaction under way
        self._counted: Counter[str] = Counter()  # likewise
        self._put_off: list[tuple[str, int, bytes]] | None = None  # rewards to be written together
        self._clock = -math.inf

    # What a database must give.

    @abstractmethod
    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a query, whose values stand where it has ``?``."""

    @abstractmethod
    def _run(self, query: str, rows: Iterable[Sequence[object]]) -> None:
        """Run a query that gives nothing, once for each row of values."""

    @abstractmethod
    def _transaction(self, *, synced: bool = True, owning: bool = False) -> AbstractContextManager[None]:
        """Write what is written within, or nothing; alone, for as long as it takes. It survives a power cut at once
        where it is ``synced``. What is ``owning`` is for the one who learns: refused to whoever is that no longer.
        Holds the lock, and ends with ``_finish``.
        """

    @abstractmethod
    def lead(self) -> bool:
        """Whether this is the one that learns, as far as it can know. To be asked again and again."""

    def _finish(self) -> None:
        """The last thing that a transaction does."""
        self._run("UPDATE tally SET n = n + ? WHERE name = ?", [(n, name) for name, n in self._counted.items() if n])
        self._counted.clear()

    # The protocol.

    def record(self, decision: Decision, answer: Answer) -> None:
        waits = awaits_probes(decision, answer)
        stored = Stored(decision.id, decision.at, waits, encode(decision), encode(answer))
        with self._transaction():
            self._store([stored])

    def settle(self, decision_id: str, outcome: Outcome, decided_at: float | None = None) -> Settlement:
        """As ``Journal.settle``; ``decided_at`` as for ``settle_all``."""
        return self.settle_all([(decision_id, outcome, decided_at)])[0]

    def settle_all(self, reported: Sequence[tuple[str, Outcome, float | None]]) -> list[Settlement]:
        """Settle outcomes in order, all or none: the disk is waited for once. Each comes with its decision's id, and
        when that was made (Unix s) as far as a signed id tells; so one is known to be late whose decision has been
        removed.
        """
        with self._lock:
            self._drain_for([id_ for id_, _, _ in reported])
            self._clock = max([self._clock, *(outcome.at for _, outcome, _ in reported)])
            with self._transaction():
                return self._settle(reported)

    def _drain_for(self, ids: Sequence[str]) -> None:
        """Drain, where a spool may hold what is lacking of these decisions."""
        complete = {id_ for (id_,) in self._of("SELECT id FROM decisions WHERE NOT waits AND id IN ({})", ids)}
        if complete != set(ids):
            self.drain()

    def due(self, now: float | None = None) -> Sequence[Joined]:
        """Join what has become ready. ``now`` (Unix s) defaults to the newest outcome's time."""
        with self._lock:
            self.drain()
            clock = self._clock if now is None else now
            waiting = self._all(
                "SELECT o.id, o.outcome, o.at, d.at, d.waits FROM outcomes o JOIN decisions d USING (id)"
                " WHERE o.status = 'early' ORDER BY o.arrival"
            )
            ready = [
                (id_, raw)
                for id_, raw, at, decided_at, waits in waiting
                if verdict(decided_at, waits, at, now=clock, window_s=self._window_s) is not Status.EARLY
            ]
            if not ready:
                return ()
            with self._transaction():
                placed = self._place_waiting(ready, clock)
            return [settlement.joined for settlement in placed if settlement.joined is not None]

    def save_reward(self, joined: Joined, reward: Reward) -> None:
        """Keep the verdict. Not synced: it can be computed again. A raw figure of NaN is unknown and left out."""
        known = {name: figure for name, figure in reward.raw.items() if not math.isnan(figure)}
        row = (joined.decision.id, joined.seq, encode(Reward(reward.value, known, reward.terms)))
        if self._put_off is None:
            self._save_rewards([row])
        else:
            self._put_off.append(row)

    @contextmanager
    def rewards_together(self) -> Iterator[None]:
        """Rewards that are saved meanwhile are written at the end, in one go. If that fails, they are lacking: they can
        be computed again, and what was settled stays settled.
        """
        rows = self._put_off = list[tuple[str, int, bytes]]()
        try:
            yield
        finally:
            self._put_off = None
            try:
                self._save_rewards(rows)
            except BandmasterError as error:
                _log.error("%d rewards are not kept: %s", len(rows), error)

    def _save_rewards(self, rows: Sequence[tuple[str, int, bytes]]) -> None:
        query = (
            "INSERT INTO rewards (id, seq, reward) VALUES (?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, reward = excluded.reward"
        )
        if rows:
            with self._transaction(synced=False, owning=True):
                self._run(query, rows)

    def since(self, seq: int) -> Iterator[Joined]:
        yield from joined_since(seq, self._all)

    def answered_after(self, at: float, id_: str) -> Iterator[tuple[Decision, Answer]]:
        """As ``reading.answered_after``."""
        yield from answered_after(at, id_, self._all)

    def reject(self) -> None:
        # Not synced: whoever sends forged ids would otherwise decide how often the disk does.
        with self._transaction(synced=False):
            self._count(unknown=1)

    def counts(self) -> Counts:
        tally = dict(self._all("SELECT name, n FROM tally"))
        return Counts(**{name: tally[name] for name in Counts.__slots__})

    def save_event(self, event: DriftEvent) -> None:
        with self._transaction(owning=True):
            self._run("INSERT INTO events (event) VALUES (?)", [(encode(event),)])

    def events(self, last: int = 2**62) -> Sequence[DriftEvent]:
        """The ``last`` so many, in order; damaged ones are passed over."""
        return tuple(newest_events(self._all, last))[::-1]

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """Seal and store. The newest five versions are kept."""
        query = (
            "INSERT INTO snapshots (version, sealed) VALUES (?, ?)"
            " ON CONFLICT (version) DO UPDATE SET sealed = excluded.sealed"
        )
        with self._transaction(owning=True):
            self._run(query, [(snapshot.version, seal_snapshot(self._keys, snapshot))])
            self._trim(SNAPSHOTS_KEPT)

    def last_snapshot_version(self) -> int:
        """The greatest version ever kept that is still there, readable or not; 0 when there is none."""
        return int(self._all("SELECT coalesce(max(version), 0) FROM snapshots")[0][0])

    def latest_snapshot(self) -> Snapshot | None:
        """The newest snapshot whose seal holds; a broken one is passed over with a warning."""
        for version, sealed in self._all("SELECT version, sealed FROM snapshots ORDER BY version DESC"):
            try:
                return unseal_snapshot(self._keys, version, sealed)
            except BandmasterError as error:
                _log.warning("%s: snapshot %s is passed over: %s", self.name, version, error)
        return None

    def close(self) -> None:
        self._relay.close()

    # Beyond the protocol: reading, removing, and the spools.

    def reward(self, decision_id: str) -> Reward | None:
        row = self._one("SELECT reward FROM rewards WHERE id = ?", decision_id)
        return None if row is None else decode(row[0], Reward)

    def decisions(self, limit: int, before: float = math.inf) -> list[tuple[Decision, Answer]]:
        """The newest ``limit`` decisions made before Unix time ``before`` (s), newest first."""
        query = "SELECT decision, answer FROM decisions WHERE at < ? ORDER BY at DESC LIMIT ?"
        return [(decode(d, Decision), decode(a, Answer)) for d, a in self._all(query, before, limit)]

    def find(self, decision_id: str) -> tuple[Decision, Answer, Outcome | None] | None:
        """A decision with its answer and, if one was reported, its outcome, joined or not."""
        query = "SELECT d.decision, d.answer, o.outcome FROM decisions d LEFT JOIN outcomes o USING (id) WHERE d.id = ?"
        row = self._one(query, decision_id)
        if row is None:
            self.drain()
            row = self._one(query, decision_id)
        if row is None:
            return None
        outcome = None if row[2] is None else decode(row[2], Outcome)
        return decode(row[0], Decision), decode(row[1], Answer), outcome

    def rows(self, ids: Sequence[str]) -> dict[str, int]:
        """How many rows each of these decisions answered; without those that are not there, or are damaged."""
        with self._lock:
            self._drain_for(ids)
            found = self._of("SELECT id, answer FROM decisions WHERE id IN ({})", ids)
        counted = ((id_, rows_answered(answer)) for id_, answer in found)
        return {id_: rows for id_, rows in counted if rows is not None}

    def unsettled(self, since: float) -> Iterator[Decision]:
        """Decisions of ``since`` (Unix s) or later of which no outcome has been reported, in order of their ids."""
        query = (
            "SELECT d.id, d.decision FROM decisions d LEFT JOIN outcomes o USING (id)"
            " WHERE d.at >= ? AND o.id IS NULL AND d.id > ? ORDER BY d.id LIMIT ?"
        )
        last = ""
        while rows := self._all(query, since, last, BATCH):
            for id_, raw in rows:
                try:
                    yield decode(raw, Decision)
                except BandmasterError as error:
                    _log.error("decision %s is passed over: %s", id_, error)
            last = rows[-1][0]

    def forget(self, decision_id: str, decided_at: float | None = None) -> bool:
        """Remove what was recorded of one decision, of its answer and of its outcome; whether there was anything. It
        stays counted, and nothing that comes later brings it back. ``scrub`` has it overwritten.

        One that is not there is marked only by its ``decided_at`` (Unix s), which a signed id tells. Its worker's spool
        holds it until that file is removed; what was learned from it stays learned.
        """
        with self._lock:
            self.drain()
            with self._transaction():
                stored_at = self._one("SELECT at FROM decisions WHERE id = ?", decision_id)
                at = decided_at if stored_at is None else stored_at[0]
                if at is None and not self._one("SELECT 1 FROM outcomes WHERE id = ?", decision_id):
                    return False
                row = (decision_id, self._clock if at is None else at)
                self._run("INSERT INTO forgotten (id, at) VALUES (?, ?) ON CONFLICT (id) DO NOTHING", [row])
                stored = self._all("DELETE FROM decisions WHERE id = ? RETURNING id", decision_id)
                self._all("DELETE FROM rewards WHERE id = ? RETURNING id", decision_id)
                early = "UPDATE outcomes SET status = 'late' WHERE id = ? AND status = 'early' RETURNING id"
                waited = len(self._all(early, decision_id))
                emptied = "UPDATE outcomes SET outcome = ? WHERE id = ? AND length(outcome) > 0 RETURNING id"
                told = self._all(emptied, b"", decision_id)
                self._count(early=-waited, late=waited, removed_decisions=len(stored))
            self._removed()
        return bool(stored or told)

    def forgotten(self) -> Sequence[str]:
        """What others were asked to forget since this was asked last."""
        return ()

    def keep_snapshots(self, count: int) -> None:
        """Remove all but the newest so many."""
        with self._transaction(owning=True):
            self._trim(count)
        self._removed()

    def _trim(self, count: int) -> None:
        query = (
            "DELETE FROM snapshots WHERE version NOT IN (SELECT version FROM snapshots ORDER BY version DESC LIMIT ?)"
        )
        self._run(query, [(count,)])

    def expire(self, before: float, limit: int = BATCH) -> int:
        """Remove up to ``limit`` decisions made before Unix time ``before`` (s) with all that belongs to them; or,
        where there are none any more, outcomes of then whose decisions never came. They stay counted. Returns how many.
        ``scrub`` has them overwritten.
        """
        with self._transaction(owning=True):
            old = self._all(
                "SELECT d.id, o.status FROM decisions d LEFT JOIN outcomes o USING (id) WHERE d.at < ? LIMIT ?",
                before, limit,
            )  # fmt: skip
            # With no old decision left there are few old outcomes, too, so that this looks at little.
            query = (
                "SELECT o.id, o.status FROM outcomes o LEFT JOIN decisions d USING (id)"
                " WHERE o.at < ? AND d.id IS NULL LIMIT ?"
            )
            alone = [] if old else self._all(query, before, limit)
            ids = [id_ for id_, _ in (*old, *alone)]
            for table in ("decisions", "rewards", "outcomes"):
                self._of(f"DELETE FROM {table} WHERE id IN ({{}}) RETURNING id", ids)
            self._run("DELETE FROM forgotten WHERE at < ?", [(before,)])
            found = Counter(status for _, status in (*old, *alone))
            late, early = found[Status.LATE] + found[Status.EARLY], found[Status.EARLY]
            self._count(early=-early, late=early, removed_joined=found[Status.JOINED], removed_late=late)
            self._count(removed_decisions=len(old))
        if old or alone:
            self._removed()
        return len(old) + len(alone)

    def _removed(self) -> None:  # noqa: B027 - there may be nothing to do
        """Something was removed that ``scrub`` is to overwrite."""

    def scrub(self) -> bool:
        """Have what was removed overwritten; whether that is done. Cheap where there is nothing to do."""
        return True

    def drain(self) -> int:
        """As ``Relay.drain``."""
        with self._lock:
            return self._relay.drain()

    @property
    def behind(self) -> bool:
        """Whether ``complete`` is yet to be called for decisions that others recorded before."""
        return False

    @property
    def whole(self) -> bool:
        """Whether ``drain`` could read every spool when it last looked."""
        return self._relay.whole

    def reached(self, spool: str) -> int:
        """As ``relay.Takes``."""
        done = self._one("SELECT n FROM spools WHERE name = ?", spool)
        return 0 if done is None else int(done[0])

    def take(self, spool: str, read: Callable[[int], list[Row]]) -> tuple[int, int]:
        """As ``relay.Takes``."""
        query = "INSERT INTO spools (name, n) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET n = excluded.n"
        with self._transaction():
            rows = read(reached := self.reached(spool))
            self._store([Stored(*spooled) for _, spooled in rows])
            if rows:
                reached = rows[-1][0]
                self._run(query, [(spool, reached)])
        return len(rows), reached

    # Inside a transaction.

    def _store(self, rows: Sequence[Stored]) -> None:
        ids = [row.id for row in rows]
        forgotten = {id_ for (id_,) in self._of("SELECT id FROM forgotten WHERE id IN ({})", ids)}
        settled = {id_ for (id_,) in self._of("SELECT id FROM outcomes WHERE status <> 'early' AND id IN ({})", ids)}
        waits: dict[str, bool] = {
            id_: bool(waits) for id_, waits in self._of("SELECT id, waits FROM decisions WHERE id IN ({})", ids)
        }
        kept: dict[str, Stored] = {}
        for row in rows:
            before = waits.get(row.id)
            # What is complete stays so: a first record that comes again takes no probe away.
            stays = before is not None and (row.id in settled or (row.waits and not before))
            if row.id in forgotten or stays:
                continue
            self._count(decisions=int(before is None))
            if not row.waits and before is not False:
                self._completed.append(row)
            kept[row.id], waits[row.id] = row, row.waits
        query = (
            "INSERT INTO decisions (id, at, waits, decision, answer) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE"
            " SET at = excluded.at, waits = excluded.waits, decision = excluded.decision, answer = excluded.answer"
        )
        self._run(query, [(row.id, row.at, row.waits, row.decision, row.answer) for row in kept.values()])

    def _settle(self, reported: Sequence[tuple[str, Outcome, float | None]]) -> list[Settlement]:
        ids = [id_ for id_, _, _ in reported]
        known = {id_ for (id_,) in self._of("SELECT id FROM outcomes WHERE id IN ({})", ids)}
        forgotten = {id_ for (id_,) in self._of("SELECT id FROM forgotten WHERE id IN ({})", ids)}
        stored, last = self._stored(ids), self._last()
        settlements = list[Settlement]()
        rows = list[tuple[object, ...]]()
        for id_, outcome, decided_at in reported:
            if id_ in known:
                settlements.append(Settlement(Status.DUPLICATE))
            elif id_ in forgotten or (id_ not in stored and self._is_late(outcome, decided_at)):
                settlements.append(Settlement(Status.LATE))  # of what has been removed, nothing is kept either
                rows.append((id_, outcome.at, b"", Status.LATE, None))
            else:
                settlements.append(self._placed(outcome, stored.get(id_), last, self._clock))
                joined = settlements[-1].joined
                last = joined.seq if joined else last
                rows.append((id_, outcome.at, encode(outcome), settlements[-1].status, joined and joined.seq))
            known.add(id_)
            self._count(**{settlements[-1].status: 1})
        self._run("INSERT INTO outcomes (id, at, outcome, status, seq) VALUES (?, ?, ?, ?, ?)", rows)
        return settlements

    def _is_late(self, outcome: Outcome, decided_at: float | None) -> bool:
        return decided_at is not None and outcome.at - decided_at > self._window_s

    def _place_waiting(self, waiting: Sequence[tuple[str, bytes]], now: float) -> list[Settlement]:
        """Give outcomes that wait the status that they have at ``now``; a damaged one teaches nothing."""
        stored, last = self._stored([id_ for id_, _ in waiting]), self._last()
        settlements, rows = [], []
        for id_, raw in waiting:
            try:
                settlement = self._placed(decode(raw, Outcome), stored.get(id_), last, now)
            except BandmasterError as error:
                _log.error("the outcome of decision %s is damaged: %s", id_, error)
                settlement = Settlement(Status.LATE)
            settlements.append(settlement)
            last = settlement.joined.seq if settlement.joined else last
            rows.append((settlement.status, settlement.joined and settlement.joined.seq, id_))
            self._count(early=-1)
            self._count(**{settlement.status: 1})
        self._run("UPDATE outcomes SET status = ?, seq = ? WHERE id = ?", rows)
        return settlements

    def _placed(self, outcome: Outcome, stored: Stored | None, last: int, now: float) -> Settlement:
        """What becomes at ``now`` of a decision's first outcome, after the ``last`` one that joined."""
        at, waits = (stored.at, stored.waits) if stored else (None, False)
        status = verdict(at, waits, outcome.at, now=now, window_s=self._window_s)
        if stored is None or status is Status.EARLY:
            return Settlement(status)
        if waits:
            self._completed.append(stored)
        if status is not Status.JOINED:
            return Settlement(status)
        try:
            joined = Joined(last + 1, decode(stored.decision, Decision), decode(stored.answer, Answer), outcome)
        except BandmasterError as error:
            _log.error("decision %s is damaged, so that its outcome teaches nothing: %s", stored.id, error)
            return Settlement(Status.LATE)
        return Settlement(status, joined)

    def _stored(self, ids: Sequence[str]) -> dict[str, Stored]:
        found = self._of("SELECT id, at, waits, decision, answer FROM decisions WHERE id IN ({})", ids)
        return {row[0]: _as_stored(row) for row in found}

    def _last(self) -> int:
        """The number of the last outcome that joined: counted, not looked for, as of what was removed no number is
        given out again.
        """
        ((last,),) = self._all("SELECT n FROM tally WHERE name = 'joined'")
        return int(last)

    def _count(self, **changes: int) -> None:
        self._counted.update(changes)

    # The connection.

    def _tell(self, completed: Sequence[Stored]) -> None:
        """Let whoever waits for it know what has become complete. To be called once that is stored."""
        if self._complete is None:
            return
        told = []
        for row in completed:
            try:
                told.append((decode(row.decision, Decision), decode(row.answer, Answer)))
            except BandmasterError as error:  # what a spool held; the rows after it are told all the same
                _log.error("%s: %s", self.name, error)
        if told:
            self._complete(told)

    def _of(self, query: str, ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """The rows of a query of these ids, for which it has ``({})``."""
        found = []
        for first in range(0, len(ids), BATCH):
            some = ids[first : first + BATCH]
            found += self._all(query.format(", ".join("?" * len(some))), *some)
        return found

    def _one(self, query: str, *values: object) -> tuple[Any, ...] | None:
        rows = self._all(query, *values)
        return rows[0] if rows else None


def _as_stored(row: tuple[Any, ...]) -> Stored:
    id_, at, waits, decision, answer = row
    return Stored(id_, at, bool(waits), decision, answer)
