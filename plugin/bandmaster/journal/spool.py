"""Where a worker leaves its decisions: append-only SQLite files of its own, which the journal's owner empties.

Only the worker writes to its files and only the owner removes them, whole, after their worker has let go of
them. Nobody ever writes to a file that another process writes to: before 3.51.3, SQLite can lose a
write-ahead log when two processes reset it at the same instant, and many Pythons link an older one.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bandmaster.core import Answer, BandmasterError, Decision
from bandmaster.files import sync
from bandmaster.journal.codec import encode
from bandmaster.journal.rules import awaits_probes

Row = tuple[int, str, float, bool, bytes, bytes]
"""A spooled decision: its number in the file, id, time, whether probes are to come, decision and answer."""

SCHEMA_VERSION = 1
BUSY_S = 30.0
"""How long a connection waits for another's lock on the same file."""

SEGMENT_BYTES = 16 * 1024 * 1024
"""A worker starts another file after this much, so that the owner can remove the last one."""

SEGMENT_S = 3600.0
"""Or after so long."""

_CREATE = """
PRAGMA synchronous = OFF;
PRAGMA journal_mode = WAL;
BEGIN;
CREATE TABLE records (
    n INTEGER PRIMARY KEY, id TEXT NOT NULL, at REAL NOT NULL, waits INTEGER NOT NULL,
    decision BLOB NOT NULL, answer BLOB NOT NULL
);
PRAGMA user_version = 1;
COMMIT;
"""


def spool_folder(database: Path) -> Path:
    """The folder in which the workers of the journal at ``database`` leave their spools."""
    return database.with_name(database.name + ".spools")


class SqliteSpool:
    """Implements ``Recorder``: one durable transaction a record, safe against ``kill -9``; for any thread.

    With ``synced`` a record survives a power cut at once; otherwise as soon as the journal's owner has taken it over.
    """

    def __init__(self, folder: Path, worker: str, *, synced: bool = False) -> None:
        """Raises ``BandmasterError`` when ``folder`` cannot be written or ``worker`` is no plain name."""
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", worker):
            raise BandmasterError(f"{worker!r} is no worker's name; use up to 64 letters, digits, _ and -")
        self._folder = folder
        self._worker, self._synced = worker, synced
        self._guard = threading.Lock()
        self._segment = _Segment(folder, worker, synced)

    @property
    def path(self) -> Path:
        """The file being written to."""
        return self._segment.path

    def record(self, decision: Decision, answer: Answer) -> None:
        """Store durably. Raises ``BandmasterError`` when the record is not finite or cannot be written."""
        row = (decision.id, decision.at, awaits_probes(decision, answer), encode(decision), encode(answer))
        with self._guard:
            if self._segment.written > SEGMENT_BYTES:
                self._begin_another()
            self._segment.append(row)

    def renew(self) -> None:
        """Begin another file where this one has been written to for long, so that the owner can remove it."""
        with self._guard:
            if self._segment.written and time.monotonic() - self._segment.begun > SEGMENT_S:
                self._begin_another()

    def _begin_another(self) -> None:
        full, self._segment = self._segment, _Segment(self._folder, self._worker, self._synced)
        full.close()

    def close(self) -> None:
        """Let go of the file; the journal's owner drains and removes it."""
        with self._guard:
            self._segment.close()


class _Segment:
    """One file of a spool, under a name that no other process or segment ever has."""

    def __init__(self, folder: Path, worker: str, synced: bool) -> None:
        self.path = folder / f"spool-{worker}-{os.getpid()}-{secrets.token_hex(6)}.db"
        self.written, self.begun = 0, time.monotonic()
        self._lock: int | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Locked before the database appears, so that nobody takes it for one whose worker is gone.
            self._lock = _lock(self.path.with_suffix(".lock"))
            self._connection = _create(self.path, synced)
        except (OSError, sqlite3.Error) as error:
            if self._lock is not None:
                os.close(self._lock)
            raise BandmasterError(f"{self.path}: {error}; give a journal in a folder that can be written") from error

    def append(self, row: tuple[str, float, bool, bytes, bytes]) -> None:
        query = "INSERT INTO records (id, at, waits, decision, answer) VALUES (?, ?, ?, ?, ?)"
        try:
            self._connection.execute(query, row)
        except sqlite3.Error as error:
            raise BandmasterError(f"{self.path}: {error}; check the disk and the folder's rights") from error
        self.written += len(row[3]) + len(row[4])

    def close(self) -> None:
        self._connection.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lock(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # the owner took the file for a dead worker's before we had locked it


def _create(path: Path, synced: bool) -> sqlite3.Connection:
    """Make the database under another name first: half of one could not be opened read-only."""
    draft = path.with_suffix(".new")
    connection = sqlite3.connect(draft, isolation_level=None)
    try:
        connection.executescript(_CREATE)
    finally:
        connection.close()
    # After a power cut the file is empty or not there, but never half of a database that nobody can read.
    sync(draft)
    draft.rename(path)
    for folder in (path.parent, path.parent.parent):  # the spools' folder may be new, too
        sync(folder)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
    return connection


class SpoolError(BandmasterError):
    """A spool cannot be read."""


class SpoolReader:
    """Reads one spool, and never writes to it. Raises ``SpoolError``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with self._errors():
            self._connection = sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_S
            )

    def after(self, n: int, limit: int) -> list[Row]:
        """Up to ``limit`` records after number ``n``, in order."""
        query = "SELECT n, id, at, waits, decision, answer FROM records WHERE n > ? ORDER BY n LIMIT ?"
        with self._errors():
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise SpoolError(f"{self._path}: a newer Bandmaster wrote it (schema {version}); upgrade the learner")
            return self._connection.execute(query, (n, limit)).fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise SpoolError(f"{self._path}: {error}") from error

    def close(self) -> None:
        self._connection.close()


@contextmanager
def abandoned(path: Path) -> Iterator[bool]:
    """Whether the spool's worker has let go of it; while that is so, it is locked against another owner."""
    try:
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR)
    except FileNotFoundError:  # nobody can tell: keep the file
        yield False
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        yield free
    finally:
        os.close(lock)


def spools(folder: Path) -> list[Path]:
    """The spools in ``folder``, and those of which a crash left only other files: their databases are missing."""
    return sorted({path.with_suffix(".db") for path in folder.glob("spool-*")})


def remove(path: Path) -> None:
    """Remove an abandoned spool. The lock goes last: until then a crash leaves what the next call removes."""
    for suffix in (".new-journal", ".new-wal", ".new-shm", ".new", ".db-wal", ".db-shm", ".db", ".lock"):
        path.with_suffix(suffix).unlink(missing_ok=True)
