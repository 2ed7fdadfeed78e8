"""The journal in PostgreSQL, for several replicas of a service: any of them settles, one of them learns.

All that a replica's workers read lies in files beside each other, as without PostgreSQL: the newest snapshots are
copied there, so that a replica goes on answering while the database is away.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from bandmaster.core import BandmasterError, Outcome, Settlement
from bandmaster.journal.keys import Keys
from bandmaster.journal.reading import Reading
from bandmaster.journal.relay import BATCH
from bandmaster.journal.schema import open_database
from bandmaster.journal.spool import spool_folder
from bandmaster.journal.sql import Complete, SqlJournal, Stored
from bandmaster.members.watchdog import WATCHDOG

T = TypeVar("T")

SCHEMA_VERSION = 1
LEASE_S = 2.0
"""For so long after it was last seen whoever learns is taken to be alive."""

RENEW_S = 0.5
"""How often it shows that, and how often others look whether it does."""

POLL_S = 1.0
"""How often is looked for what nobody gave notice of."""

TELLING_S = 0.2
"""For so long at a time whoever leads is told what others have recorded: there may be more than it keeps up with, and
it is to do the rest of its work all the same."""

PATIENCE_S = 3
"""How long a query, a lock, or a packet on its way may take; twice that what answers nothing at all."""

AGAIN_S = 1.0
"""How long after a failure another connection is tried."""

WRITING = 0x62616E646D
"""The lock that whoever writes holds for the length of a transaction, so that numbers are given out in order."""

# What a later version adds, an earlier one must be able to leave alone: replicas are upgraded one after the other.
# `completed` is a queue: decisions of which nothing more will be recorded, for the one who learns.
_CREATE = f"""
CREATE SCHEMA IF NOT EXISTS bandmaster;
CREATE TABLE IF NOT EXISTS bandmaster.about (one INTEGER PRIMARY KEY CHECK (one = 1), needs INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS bandmaster.decisions (
    id TEXT PRIMARY KEY, at DOUBLE PRECISION NOT NULL, waits BOOLEAN NOT NULL, decision BYTEA NOT NULL,
    answer BYTEA NOT NULL
);
CREATE INDEX IF NOT EXISTS decisions_at ON bandmaster.decisions (at, id);
CREATE TABLE IF NOT EXISTS bandmaster.outcomes (
    arrival BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id TEXT NOT NULL UNIQUE, at DOUBLE PRECISION NOT NULL,
    outcome BYTEA NOT NULL, status TEXT NOT NULL, seq BIGINT UNIQUE
);
CREATE INDEX IF NOT EXISTS outcomes_at ON bandmaster.outcomes (at);
CREATE INDEX IF NOT EXISTS outcomes_early ON bandmaster.outcomes (arrival) WHERE status = 'early';
CREATE TABLE IF NOT EXISTS bandmaster.rewards (id TEXT PRIMARY KEY, seq BIGINT NOT NULL, reward BYTEA NOT NULL);
CREATE TABLE IF NOT EXISTS bandmaster.events (
    n BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event BYTEA NOT NULL
);
CREATE TABLE IF NOT EXISTS bandmaster.snapshots (version BIGINT PRIMARY KEY, sealed BYTEA NOT NULL);
CREATE TABLE IF NOT EXISTS bandmaster.spools (name TEXT PRIMARY KEY, n BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS bandmaster.tally (name TEXT PRIMARY KEY, n BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS bandmaster.owner (
    one INTEGER PRIMARY KEY CHECK (one = 1), epoch BIGINT NOT NULL, holder TEXT NOT NULL, until TIMESTAMPTZ NOT NULL
);
CREATE TABLE IF NOT EXISTS bandmaster.forgotten (
    id TEXT PRIMARY KEY, at DOUBLE PRECISION NOT NULL, n BIGINT GENERATED ALWAYS AS IDENTITY
);
CREATE TABLE IF NOT EXISTS bandmaster.edits (version BIGINT PRIMARY KEY, edit BYTEA NOT NULL);
CREATE TABLE IF NOT EXISTS bandmaster.pin (one INTEGER PRIMARY KEY CHECK (one = 1), n BIGINT NOT NULL, why TEXT);
CREATE TABLE IF NOT EXISTS bandmaster.completed (
    n BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id TEXT NOT NULL
);
INSERT INTO bandmaster.about VALUES (1, {SCHEMA_VERSION}) ON CONFLICT DO NOTHING;
INSERT INTO bandmaster.owner VALUES (1, 0, '', '-infinity') ON CONFLICT DO NOTHING;
INSERT INTO bandmaster.pin VALUES (1, 0, NULL) ON CONFLICT DO NOTHING;
INSERT INTO bandmaster.tally VALUES
    ('decisions', 0), ('joined', 0), ('early', 0), ('late', 0), ('duplicate', 0), ('unknown', 0),
    ('removed_decisions', 0), ('removed_joined', 0), ('removed_late', 0)
ON CONFLICT DO NOTHING;
"""


class PostgresJournal(SqlJournal):
    """Implements ``Journal``: see ``SqlJournal``. Connects anew whenever the connection was lost."""

    def __init__(
        self, url: str, path: Path, keys: Keys, window_s: float = math.inf, complete: Complete | None = None
    ) -> None:
        """``url`` is a PostgreSQL connection URI; ``path`` a file of this machine, beside which its workers leave their
        spools and which holds copies of the newest snapshots. For the others see ``SqlJournal``; ``complete`` is called
        in the one journal that leads.
        """
        super().__init__(spool_folder(path), keys, window_s, complete)
        self.path, self.name, self._url = path, shown(url), url
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._epoch: int | None = None
        self._forgotten = 0
        self._renewed, self._lost, self._looked = -math.inf, -math.inf, -math.inf
        self._heeded = set[str]()
        self._behind = False
        self._why = ""
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._copies, self._copied = open_database(path), 0
        with self._lock, self._errors():
            self._connected()

    # Who learns.

    def lead(self) -> bool:
        """Whether this is the one that learns, for the next seconds; it becomes that where no other is alive. Others
        are refused what only the one may write.
        """
        with self._lock:
            now = time.monotonic()
            if now - self._renewed >= RENEW_S:
                self._epoch = self._held()
                self._renewed = now
            return self._epoch is not None

    def _held(self) -> int | None:
        row = self._one(
            "UPDATE owner SET epoch = epoch + CASE WHEN holder = ? THEN 0 ELSE 1 END, holder = ?,"
            " until = clock_timestamp() + make_interval(secs => ?)"
            " WHERE holder = ? OR until < clock_timestamp() RETURNING epoch",
            self._holder, self._holder, LEASE_S, self._holder,
        )  # fmt: skip
        return None if row is None else int(row[0])

    def close(self) -> None:
        """Let the lease go, so that another need not wait for its end, and the connection."""
        with self._lock:
            super().close()
            self._copies.close()
            if self._connection is not None and not self._connection.closed:
                try:
                    self._all("UPDATE owner SET until = '-infinity' WHERE holder = ? RETURNING 1", self._holder)
                finally:
                    self._drop()

    # What any of them has done.

    def settle_all(self, reported: Sequence[tuple[str, Outcome, float | None]]) -> list[Settlement]:
        """As ``SqlJournal``; where this one leads, it tells first what it has recorded to the end."""
        with self._lock:
            settled = super().settle_all(reported)
            self._tell_completed()
            return settled

    def drain(self) -> int:
        """As ``SqlJournal``; then, where this one leads, tell what any replica has recorded to the end; and copy the
        newest snapshot.
        """
        with self._lock:
            moved = super().drain()
            if self._has_news("drain") or self._behind:
                self._copy()
                self._tell_completed()
            return moved

    @property
    def behind(self) -> bool:
        """As ``SqlJournal``: there may be more than whoever leads keeps up with."""
        return self._behind

    def _has_news(self, who: str) -> bool:
        """Whether another has given notice since ``who`` asked last, or it is time to look without."""
        with self._errors():
            noticed = any(True for _ in self._connected().notifies(timeout=0))
        now = time.monotonic()
        if noticed or now - self._looked >= POLL_S:
            self._looked = now
            self._heeded.clear()
        if who in self._heeded:
            return False
        self._heeded.add(who)
        return True

    def forgotten(self) -> Sequence[str]:
        """As ``SqlJournal``; of whoever leads now, all that was ever to be forgotten, so that no snapshot brings it
        back.
        """
        if not self._has_news("forgotten"):
            return ()
        found = self._all("SELECT n, id FROM forgotten WHERE n > ? ORDER BY n", self._forgotten)
        self._forgotten = found[-1][0] if found else self._forgotten
        return [id_ for _, id_ in found]

    def _tell_completed(self) -> None:
        end = time.monotonic() + TELLING_S
        self._behind = self._epoch is not None
        while self._behind and time.monotonic() < end:
            self._behind = self._take_completed() == BATCH

    def _take_completed(self) -> int:
        query = (
            "SELECT c.n, d.id, d.at, d.waits, d.decision, d.answer FROM completed c LEFT JOIN decisions d USING (id)"
            " ORDER BY c.n LIMIT ?"
        )
        if not self._one("SELECT 1 FROM completed LIMIT 1"):
            return 0
        with self._transaction(owning=True):
            rows = self._all(query, BATCH)
            self._run("DELETE FROM completed WHERE n <= ?", [(rows[-1][0],)] if rows else [])
        self._tell([Stored(*row) for _, *row in rows if row[0] is not None])
        return len(rows)

    def _copy(self) -> None:
        """Have this machine's workers find the newest snapshot."""
        rows = self._all(
            "SELECT version, sealed FROM snapshots WHERE version > ? ORDER BY version DESC LIMIT 1", self._copied
        )
        for version, sealed in rows:
            # The new one first: whoever looks in between finds both.
            self._copies.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?)", (version, sealed))
            self._copies.execute("DELETE FROM snapshots WHERE version < ?", (version,))
            self._copied = version

    # The connection.

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, self._errors(), patient(self._connected()) as connection:
            return connection.execute(_placed(query), values).fetchall()

    def _run(self, query: str, rows: Iterable[Sequence[object]]) -> None:
        with self._errors(), patient(self._connected()) as connection, connection.cursor() as cursor:
            cursor.executemany(_placed(query), rows)

    def _do(self, *commands: str) -> None:
        with self._errors(), patient(self._connected()) as connection:
            connection.execute("; ".join(commands), prepare=False)  # together they cannot be prepared

    @contextmanager
    def _transaction(self, *, synced: bool = True, owning: bool = False) -> Iterator[None]:
        with self._lock:
            self._completed = []
            self._counted.clear()
            begin = ("BEGIN",) if synced else ("BEGIN", "SET LOCAL synchronous_commit TO off")
            try:
                self._do(*begin, f"SELECT pg_advisory_xact_lock({WRITING})")
                if owning and self._all("SELECT epoch FROM owner FOR SHARE") != [(self._epoch,)]:
                    self._epoch = None
                    raise BandmasterError(f"{self.name}: another replica learns by now; this one follows it")
                yield
                self._run("INSERT INTO completed (id) VALUES (?)", [(row.id,) for row in self._completed])
                self._finish()
                self._do("SELECT pg_notify('bandmaster', '')", "COMMIT")
            except BaseException:
                if self._connection is not None:  # else it was lost, and the transaction with it
                    self._do("ROLLBACK")
                raise

    def _connected(self) -> psycopg.Connection[tuple[Any, ...]]:
        """The connection; another where it was lost. Raises ``BandmasterError`` where just now there was none."""
        if self._connection is not None and not self._connection.closed:
            return self._connection
        if time.monotonic() - self._lost < AGAIN_S:
            raise BandmasterError(self._why)
        self._connection = _connect(self._url)
        self._looked = -math.inf
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:  # it is away, or takes too long
            self._drop()
            self._epoch, self._renewed, self._lost = None, -math.inf, time.monotonic()
            self._why = f"{self.name}: {_said(error)}; check that the database is there, and its URL"
            raise BandmasterError(self._why) from error
        except psycopg.Error as error:
            raise BandmasterError(f"{self.name}: {_said(error)}") from error


class PostgresReader(Reading):
    """Reads a journal in PostgreSQL."""

    def __init__(self, url: str) -> None:
        self.name = shown(url)
        with self._errors():
            options = f"-c default_transaction_read_only=on {_options()}"
            self._connection = psycopg.connect(url, autocommit=True, connect_timeout=PATIENCE_S, options=options)

    def close(self) -> None:
        self._connection.close()

    def all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._errors(), patient(self._connection) as connection:
            return connection.execute(_placed(query), values).fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise BandmasterError(f"{self.name}: cannot be read as a journal ({_said(error)})") from error


class Writing:
    """A transaction in which nobody else writes. Ended by ``commit``, or undone."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._connection = connection

    def all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a query, whose values stand where it has ``?``."""
        with patient(self._connection) as connection:
            return connection.execute(_placed(query), values).fetchall()

    def run(self, query: str, *values: object) -> None:
        """A query that gives none."""
        with patient(self._connection) as connection:
            connection.execute(_placed(query), values)

    def commit(self) -> None:
        self.run("COMMIT")


@contextmanager
def writing(url: str) -> Iterator[Writing]:
    """Write to a journal's database on a connection of its own. Raises ``BandmasterError`` where that fails."""
    try:
        with closing(_connect(url)) as connection:
            database = Writing(connection)
            database.run("BEGIN")
            database.all(f"SELECT pg_advisory_xact_lock({WRITING})")
            yield database
    except psycopg.Error as error:
        raise BandmasterError(f"{shown(url)}: {_said(error)}; check that the database is there, and its URL") from error


def _options() -> str:
    milliseconds = 1000 * PATIENCE_S
    return f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds} -c search_path=bandmaster"


def _connect(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection on which nothing can hang for long. Raises ``BandmasterError`` for a database that is no journal of
    this version.
    """
    connection = psycopg.connect(
        url, autocommit=True, connect_timeout=PATIENCE_S, options=_options(), application_name="bandmaster",
        keepalives_idle=PATIENCE_S, keepalives_interval=1, keepalives_count=3, tcp_user_timeout=1000 * PATIENCE_S,
    )  # fmt: skip
    try:
        with patient(connection), connection.transaction():
            # Two that create at once would get in each other's way.
            connection.execute(f"SELECT pg_advisory_xact_lock({WRITING})")
            connection.execute(_CREATE)
        ((needs,),) = connection.execute("SELECT needs FROM about").fetchall()
        if needs > SCHEMA_VERSION:
            raise BandmasterError(
                f"{shown(url)} is of a newer Bandmaster (schema {needs}, this one knows {SCHEMA_VERSION}); upgrade "
                "bandmaster, or name another database"
            )
        connection.execute("LISTEN bandmaster")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def patient(connection: psycopg.Connection[T]) -> Iterator[psycopg.Connection[T]]:
    """A connection that fails, as one that was lost, where it does not answer in time: of a database that stands still,
    and of a network that swallows all, nobody is told.
    """
    watching = WATCHDOG.watch(2.0 * PATIENCE_S, lambda: _sever(connection))
    try:
        yield connection
    finally:
        WATCHDOG.release(watching)


def _sever(connection: psycopg.Connection[Any]) -> None:
    # It may be closed already.
    with (
        suppress(OSError, psycopg.Error),
        socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as end,
    ):
        end.shutdown(socket.SHUT_RDWR)


def shown(url: str) -> str:
    """A connection URI as it may be shown: without the password.

    >>> shown("postgresql://ann:secret@db.internal/journal?password=secret")
    'postgresql://db.internal/journal'
    """
    try:
        given = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return "postgresql://…"
    port = f":{given['port']}" if "port" in given else ""
    return f"postgresql://{given.get('host', '')}{port}/{given.get('dbname', '')}"


@cache
def _placed(query: str) -> str:
    """The query with psycopg's placeholders."""
    return query.replace("?", "%s")


def _said(error: psycopg.Error) -> str:
    return " ".join(str(error).split()) or type(error).__name__
