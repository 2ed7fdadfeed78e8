"""The journal in one SQLite file, owned by the learner; workers reach it through their spools."""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

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
from bandmaster.journal.codec import decode, encode
from bandmaster.journal.keys import Keys
from bandmaster.journal.places import locate
from bandmaster.journal.reading import answered_after, joined_since, newest_events
from bandmaster.journal.rules import SNAPSHOTS_KEPT, awaits_probes, verdict
from bandmaster.journal.schema import BUSY_S, open_database
from bandmaster.journal.snapshots import seal_snapshot, unseal_snapshot
from bandmaster.journal.spool import (
    Row,
    Spool,
    SpoolError,
    SpoolReader,
    abandoned,
    remove,
    spool_folder,
    spools,
)

_BATCH = 500
_log = logging.getLogger(__name__)

Complete = Callable[[Decision, Answer], None]


class SqliteJournal:
    """Implements ``Journal``, for one process and any of its threads.

    What ``settle`` and ``save_snapshot`` have returned from survives a power cut. Every method raises
    ``BandmasterError`` when the file cannot be read or written.
    """

    def __init__(self, path: Path, keys: Keys, window_s: float = math.inf, complete: Complete | None = None) -> None:
        """``path`` is the database, made if missing; the ``keys`` seal snapshots.

        An outcome more than ``window_s`` seconds after its decision is late. ``complete`` is called once for each
        decision, after it was stored for good: with the probe that it announced, or, where none comes, when it is
        settled without. It must not raise.
        """
        self.path = path
        self.spools = spool_folder(path)
        self._keys = keys
        self._window_s = window_s
        self._lock = threading.RLock()
        self._readers: dict[Path, SpoolReader] = {}
        self._unreadable: set[Path] = set()
        self._complete = complete
        self._completed: list[tuple[bytes, bytes]] = []  # by the transaction under way
        self._epoch: int | None = None
        self._put_off: list[tuple[str, int, bytes]] | None = None
        self.whole = True
        """Whether ``drain`` could read every spool when it last looked."""
        self._unscrubbed = True  # a predecessor may not have come to it
        self._connection = open_database(path)
        last = self._one("SELECT at FROM outcomes ORDER BY arrival DESC LIMIT 1")
        self._clock: float = -math.inf if last is None else last[0]

    def take_over(self) -> None:
        """Be the only one who writes from now on: whoever took it over before is refused whatever it still tries, as
        one that was stopped for a while and does not know that its lease is gone.
        """
        self._epoch = None
        with self._transaction():
            self._connection.execute("UPDATE owner SET epoch = epoch + 1")
            ((epoch,),) = self._connection.execute("SELECT epoch FROM owner").fetchall()
        self._epoch = epoch

    def record(self, decision: Decision, answer: Answer) -> None:
        waits = awaits_probes(decision, answer)
        with self._transaction():
            self._store(decision.id, decision.at, waits, encode(decision), encode(answer))

    def settle(self, decision_id: str, outcome: Outcome, decided_at: float | None = None) -> Settlement:
        """As ``Journal.settle``; ``decided_at`` as for ``settle_all``."""
        return self.settle_all([(decision_id, outcome, decided_at)])[0]

    def settle_all(self, reported: Sequence[tuple[str, Outcome, float | None]]) -> list[Settlement]:
        """Settle outcomes in order, all or none: the disk is waited for once. Each comes with its decision's id, and
        when that was made (Unix s) as far as a signed id tells; so one is known to be late whose decision has been
        removed.
        """
        with self._lock:
            if any(self._awaited(id_) for id_, _, _ in reported):
                self.drain()
            self._clock = max([self._clock, *(outcome.at for _, outcome, _ in reported)])
            with self._transaction():
                return [self._settle(*each) for each in reported]

    def _awaited(self, decision_id: str) -> bool:
        """Whether a spool may hold what is lacking of a decision."""
        stored = self._one("SELECT waits FROM decisions WHERE id = ?", decision_id)
        return stored is None or bool(stored[0])

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
                placed = [self._place_stored(id_, raw, clock) for id_, raw in ready]
            return [settlement.joined for settlement in placed if settlement.joined is not None]

    def save_reward(self, joined: Joined, reward: Reward) -> None:
        """Keep the verdict. Not synced: it can be computed again. A raw figure of NaN is unknown and left out."""
        known = {name: figure for name, figure in reward.raw.items() if not math.isnan(figure)}
        row = (joined.decision.id, joined.seq, encode(replace(reward, raw=known)))
        if self._put_off is None:
            self._save_rewards([row])
        else:
            self._put_off.append(row)

    @contextmanager
    def rewards_together(self) -> Iterator[None]:
        """Rewards that are saved meanwhile are written at the end, in one go. If that fails, they are lacking: they can
        be computed again, and what was settled stays settled.
        """
        rows: list[tuple[str, int, bytes]] = []
        self._put_off = rows
        try:
            yield
        finally:
            self._put_off = None
            try:
                self._save_rewards(rows)
            except BandmasterError as error:
                _log.error("%d rewards are not kept: %s", len(rows), error)

    def _save_rewards(self, rows: Sequence[tuple[str, int, bytes]]) -> None:
        if not rows:
            return
        with self._transaction("NORMAL"):
            self._connection.executemany("INSERT OR REPLACE INTO rewards VALUES (?, ?, ?)", rows)

    def since(self, seq: int) -> Iterator[Joined]:
        yield from joined_since(seq, self._all)

    def answered_after(self, at: float, id_: str) -> Iterator[tuple[Decision, Answer]]:
        """As ``reading.answered_after``."""
        yield from answered_after(at, id_, self._all)

    def reject(self) -> None:
        # Not synced: whoever sends forged ids would otherwise decide how often the disk does.
        with self._transaction("NORMAL"):
            self._count(unknown=1)

    def counts(self) -> Counts:
        tally = dict(self._all("SELECT name, n FROM tally"))
        return Counts(**{name: tally[name] for name in Counts.__slots__})

    def save_event(self, event: DriftEvent) -> None:
        with self._transaction():
            self._connection.execute("INSERT INTO events (event) VALUES (?)", (encode(event),))

    def events(self, last: int = 2**62) -> Sequence[DriftEvent]:
        """The ``last`` so many, in order; damaged ones are passed over."""
        return tuple(newest_events(self._all, last))[::-1]

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """Seal and store. The newest five versions are kept."""
        sealed = seal_snapshot(self._keys, snapshot)
        with self._transaction():
            self._connection.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?)", (snapshot.version, sealed))
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
                _log.warning("%s: snapshot %s is passed over: %s", self.path, version, error)
        return None

    def close(self) -> None:
        with self._lock:
            while self._readers:
                self._readers.popitem()[1].close()
            self._connection.close()

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

    def unsettled(self, since: float) -> Iterator[Decision]:
        """Decisions of ``since`` (Unix s) or later of which no outcome has been reported, in order of their ids."""
        query = (
            "SELECT d.id, d.decision FROM decisions d LEFT JOIN outcomes o USING (id)"
            " WHERE d.at >= ? AND o.id IS NULL AND d.id > ? ORDER BY d.id LIMIT ?"
        )
        last = ""
        while rows := self._all(query, since, last, _BATCH):
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
                self._connection.execute("INSERT OR IGNORE INTO forgotten VALUES (?, ?)", row)
                stored = self._connection.execute("DELETE FROM decisions WHERE id = ?", (decision_id,)).rowcount
                self._connection.execute("DELETE FROM rewards WHERE id = ?", (decision_id,))
                early = self._connection.execute(
                    "UPDATE outcomes SET status = 'late' WHERE id = ? AND status = 'early'", (decision_id,)
                ).rowcount
                emptied = "UPDATE outcomes SET outcome = x'' WHERE id = ? AND length(outcome) > 0"
                told = self._connection.execute(emptied, (decision_id,)).rowcount
                self._count(early=-early, late=early, removed_decisions=stored)
            self._unscrubbed = True
        return bool(stored or told)

    def keep_snapshots(self, count: int) -> None:
        """Remove all but the newest so many."""
        with self._transaction():
            self._trim(count)
        self._unscrubbed = True

    def _trim(self, count: int) -> None:
        self._connection.execute(
            "DELETE FROM snapshots WHERE version NOT IN (SELECT version FROM snapshots ORDER BY version DESC LIMIT ?)",
            (count,),
        )

    def scrub(self) -> bool:
        """Have what was removed overwritten, in the database and in its log; whether that is done. It cannot be while
        somebody else reads: ask again. Cheap where there is nothing to do.
        """
        if not self._unscrubbed:
            return True
        with self._lock, self._errors():
            self._connection.execute("PRAGMA busy_timeout = 0")
            try:
                ((busy, *_),) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                self._connection.execute(f"PRAGMA busy_timeout = {round(BUSY_S * 1000)}")
            self._unscrubbed = bool(busy)
        return not self._unscrubbed

    def _is_gone(self, decision_id: str, outcome_at: float, decided_at: float | None) -> bool:
        """Whether nothing is to come of its outcome: it is forgotten; or it would be late, and is not there."""
        if self._is_forgotten(decision_id):
            return True
        late = decided_at is not None and outcome_at - decided_at > self._window_s
        return late and self._one("SELECT 1 FROM decisions WHERE id = ?", decision_id) is None

    def _is_forgotten(self, decision_id: str) -> bool:
        return self._one("SELECT 1 FROM forgotten WHERE id = ?", decision_id) is not None

    def expire(self, before: float, limit: int = _BATCH) -> int:
        """Remove up to ``limit`` decisions made before Unix time ``before`` (s) with all that belongs to them; or,
        where there are none any more, outcomes of then whose decisions never came. They stay counted. Returns how many.
        ``scrub`` has them overwritten.
        """
        with self._lock, self._transaction():
            old = self._connection.execute(
                "SELECT d.id, o.status FROM decisions d LEFT JOIN outcomes o USING (id) WHERE d.at < ? LIMIT ?",
                (before, limit),
            ).fetchall()
            # With no old decision left there are few old outcomes, too, so that this looks at little.
            alone = (
                []
                if old
                else self._connection.execute(
                    "SELECT o.id, o.status FROM outcomes o LEFT JOIN decisions d USING (id)"
                    " WHERE o.at < ? AND d.id IS NULL LIMIT ?",
                    (before, limit),
                ).fetchall()
            )
            for table in ("decisions", "rewards", "outcomes"):
                gone = [(id_,) for id_, _ in (*old, *alone)]
                self._connection.executemany(f"DELETE FROM {table} WHERE id = ?", gone)
            self._connection.execute("DELETE FROM forgotten WHERE at < ?", (before,))
            found = Counter(status for _, status in (*old, *alone))
            late, early = found[Status.LATE] + found[Status.EARLY], found[Status.EARLY]
            self._count(early=-early, late=early, removed_joined=found[Status.JOINED], removed_late=late)
            self._count(removed_decisions=len(old))
            self._unscrubbed |= bool(old or alone)
        return len(old) + len(alone)

    def drain(self) -> int:
        """Take over what the spools hold, and remove those whose worker is gone. Returns the number of rows.

        A spool that cannot be read is passed over: see ``whole``.
        """
        moved = 0
        self.whole = True
        with self._lock:
            paths = spools(self.spools)
            for path in self._readers.keys() - set(paths):  # another owner has removed it
                self._readers.pop(path).close()
            for path in paths:
                try:
                    moved += self._take(path)
                except (SpoolError, OSError) as error:
                    self.whole = False
                    self._complain(path, error)
        return moved

    def _take(self, path: Path) -> int:
        with abandoned(path) as gone:
            moved = self._move(path) if path.exists() else 0
            if gone:
                if (reader := self._readers.pop(path, None)) is not None:
                    if rest := reader.rest(self._reached(path)):
                        _log.warning(
                            "%s: its last %d bytes, half of a record, are given up: nobody was told of it", path, rest
                        )
                    reader.close()
                remove(path)
        return moved

    def _move(self, path: Path) -> int:
        """Copy new rows. Rows and the place reached are committed as one: no crash moves a row twice."""
        moved = 0
        while self._unread(path, 1):
            with self._transaction():
                rows = self._unread(path, _BATCH)
                for _, row in rows:
                    self._store(*row)
                if rows:
                    self._connection.execute("INSERT OR REPLACE INTO spools VALUES (?, ?)", (path.name, rows[-1][0]))
            moved += len(rows)
        return moved

    def _unread(self, path: Path, limit: int) -> list[Row]:
        if path not in self._readers:
            self._readers[path] = SpoolReader(path)
        return self._readers[path].after(self._reached(path), limit)

    def _reached(self, path: Path) -> int:
        """Up to which byte it has been taken over."""
        done = self._one("SELECT n FROM spools WHERE name = ?", path.name)
        return 0 if done is None else int(done[0])

    def _complain(self, path: Path, error: SpoolError | OSError) -> None:
        """Once a file. It stays where it is, and the other spools go on."""
        if (reader := self._readers.pop(path, None)) is not None:
            reader.close()
        if path.exists() and path not in self._unreadable:
            self._unreadable.add(path)
            _log.error("a spool cannot be drained and is left in place: %s", error)

    # Inside a transaction.

    def _settle(self, id_: str, outcome: Outcome, decided_at: float | None) -> Settlement:
        if self._one("SELECT 1 FROM outcomes WHERE id = ?", id_):
            self._count(duplicate=1)
            return Settlement(Status.DUPLICATE)
        insert = "INSERT INTO outcomes (id, at, outcome, status) VALUES (?, ?, ?, ?)"
        if self._is_gone(id_, outcome.at, decided_at):
            self._connection.execute(insert, (id_, outcome.at, b"", Status.LATE))
            self._count(late=1)
            return Settlement(Status.LATE)
        self._connection.execute(insert, (id_, outcome.at, encode(outcome), Status.EARLY))
        self._count(early=1)
        return self._place(id_, outcome, self._clock)

    def _store(self, id_: str, at: float, waits: bool, decision: bytes, answer: bytes) -> None:
        if self._is_forgotten(id_):
            return
        row = (at, waits, decision, answer, id_)
        before = self._one("SELECT waits FROM decisions WHERE id = ?", id_)
        if before is None:
            query = "INSERT INTO decisions (at, waits, decision, answer, id) VALUES (?, ?, ?, ?, ?)"
            self._count(decisions=1)
        else:
            query = (
                # What is complete stays so: a first record that comes again takes no probe away.
                "UPDATE decisions SET at = ?1, waits = ?2, decision = ?3, answer = ?4 WHERE id = ?5 AND waits >= ?2"
                " AND NOT EXISTS (SELECT 1 FROM outcomes o WHERE o.id = decisions.id AND o.status <> 'early')"
            )
        stored = self._connection.execute(query, row).rowcount
        if stored and not waits and (before is None or before[0]):
            self._completed.append((decision, answer))

    def _place_stored(self, id_: str, raw: bytes, now: float) -> Settlement:
        """``_place`` an outcome that has been stored; a damaged one teaches nothing."""
        try:
            return self._place(id_, decode(raw, Outcome), now)
        except BandmasterError as error:
            _log.error("the outcome of decision %s is damaged: %s", id_, error)
        self._connection.execute("UPDATE outcomes SET status = ? WHERE id = ?", (Status.LATE, id_))
        self._count(early=-1, late=1)
        return Settlement(Status.LATE)

    def _place(self, id_: str, outcome: Outcome, now: float) -> Settlement:
        """Give an outcome that waits the status it has at ``now``."""
        stored = self._one("SELECT at, waits, decision, answer FROM decisions WHERE id = ?", id_)
        at, waits, decision, answer = stored or (None, False, b"", b"")
        status = verdict(at, waits, outcome.at, now=now, window_s=self._window_s)
        if status is Status.EARLY:
            return Settlement(status)
        joined = None
        if status is Status.JOINED:
            # Counted, not looked for: of what was removed no number is given out again.
            ((last,),) = self._all("SELECT n FROM tally WHERE name = 'joined'")
            try:
                joined = Joined(last + 1, decode(decision, Decision), decode(answer, Answer), outcome)
            except BandmasterError as error:
                _log.error("decision %s is damaged, so that its outcome teaches nothing: %s", id_, error)
                status = Status.LATE
        self._connection.execute(
            "UPDATE outcomes SET status = ?, seq = ? WHERE id = ?", (status, joined and joined.seq, id_)
        )
        self._count(early=-1, **{status: 1})
        if waits:
            self._completed.append((decision, answer))
        return Settlement(status, joined)

    def _count(self, **changes: int) -> None:
        for name, change in changes.items():
            self._connection.execute("UPDATE tally SET n = n + ? WHERE name = ?", (change, name))

    # The connection.

    @contextmanager
    def _transaction(self, synchronous: Literal["NORMAL", "FULL"] = "FULL") -> Iterator[None]:
        with self._lock:
            self._completed = []
            with self._errors():
                try:
                    self._connection.execute(f"PRAGMA synchronous = {synchronous}")
                    self._connection.execute("BEGIN IMMEDIATE")
                    self._require_ownership()
                    yield
                    self._connection.execute("COMMIT")
                finally:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
            if self._complete is not None:
                for decision, answer in self._completed:
                    self._tell(self._complete, decision, answer)

    def _require_ownership(self) -> None:
        if self._epoch is None:
            return
        ((epoch,),) = self._connection.execute("SELECT epoch FROM owner").fetchall()
        if epoch != self._epoch:
            raise BandmasterError(f"{self.path}: another learner has taken this journal over; stop one of the services")

    def _tell(self, complete: Complete, decision: bytes, answer: bytes) -> None:
        try:
            complete(decode(decision, Decision), decode(answer, Answer))
        except BandmasterError as error:  # what a spool held; the rows after it are told all the same
            _log.error("%s: %s", self.path, error)

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, self._errors():
            return self._connection.execute(query, values).fetchall()

    def _one(self, query: str, *values: object) -> tuple[Any, ...] | None:
        rows = self._all(query, *values)
        return rows[0] if rows else None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise BandmasterError(f"{self.path}: {error}; check the disk and the file's rights") from error


def open_journal(
    url: str, root: Path, keys: Keys, window_s: float = math.inf, complete: Complete | None = None
) -> SqliteJournal:
    """Open the journal that ``url`` names (see ``locate``), as its owner."""
    return SqliteJournal(locate(url, root), keys, window_s, complete)


def open_spool(url: str, root: Path, worker: str, *, synced: bool = False) -> Spool:
    """Open a spool of the journal that ``url`` names (see ``locate``), as one of its workers."""
    return Spool(spool_folder(locate(url, root)), worker, synced=synced)
