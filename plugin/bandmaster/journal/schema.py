"""The tables of a journal in SQLite, and how its file is opened."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from bandmaster.core import BandmasterError
from bandmaster.files import alone_in

SCHEMA_VERSION = 2

BUSY_S = 30.0
"""How long a connection waits for another's lock on the same file."""

# Every statement makes what is missing, and so brings files of earlier versions up to date, too.
# `tally` is kept beside the rows so that counts() costs the same after ten million of them; duplicates and
# outcomes with forged ids leave no row at all. `spools` says up to which byte each spool has been taken over,
# and keeps saying so: another owner may still have a removed spool open. `owner` counts those who have taken the
# journal over. `forgotten` keeps what is removed on request from coming back, with a probe or an outcome.
_CREATE = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS decisions (
    id TEXT PRIMARY KEY, at REAL NOT NULL, waits INTEGER NOT NULL, decision BLOB NOT NULL, answer BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS decisions_at ON decisions (at);
CREATE TABLE IF NOT EXISTS outcomes (
    arrival INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, at REAL NOT NULL, outcome BLOB NOT NULL,
    status TEXT NOT NULL, seq INTEGER UNIQUE
);
CREATE INDEX IF NOT EXISTS outcomes_at ON outcomes (at);
CREATE INDEX IF NOT EXISTS outcomes_early ON outcomes (arrival) WHERE status = 'early';
CREATE TABLE IF NOT EXISTS rewards (id TEXT PRIMARY KEY, seq INTEGER NOT NULL, reward BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS events (n INTEGER PRIMARY KEY, event BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS snapshots (version INTEGER PRIMARY KEY, sealed BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS spools (name TEXT PRIMARY KEY, n INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS tally (name TEXT PRIMARY KEY, n INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS owner (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS forgotten (id TEXT PRIMARY KEY, at REAL NOT NULL);
INSERT OR IGNORE INTO owner VALUES (1, 0);
INSERT OR IGNORE INTO tally VALUES
    ('decisions', 0), ('joined', 0), ('early', 0), ('late', 0), ('duplicate', 0), ('unknown', 0),
    ('removed_decisions', 0), ('removed_joined', 0), ('removed_late', 0);
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


def open_database(path: Path) -> sqlite3.Connection:
    if path.is_dir():
        raise BandmasterError(f"{path} is a folder; name a file in it, such as {path / 'orchestration.db'}")
    connection = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone_in(path.parent):  # SQLite fails at once where two set the journal mode
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_S)
            _check_schema(path, connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA secure_delete = ON")  # what is removed is gone from the disk
            connection.executescript(_CREATE)
    except (OSError, sqlite3.Error, BandmasterError) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, BandmasterError):
            raise
        fix = "give it a file that can be written, of its own"
        raise BandmasterError(f"{path} cannot serve as the journal: {error}; {fix}") from error
    return connection


def _check_schema(path: Path, connection: sqlite3.Connection) -> None:
    query = "SELECT (SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_master)"
    version, tables = connection.execute(query).fetchone()
    if version > SCHEMA_VERSION:
        raise BandmasterError(
            f"{path} was written by a newer Bandmaster (schema {version}, this one knows {SCHEMA_VERSION});"
            " upgrade bandmaster, or name another file"
        )
    if version == 0 and tables:
        raise BandmasterError(f"{path} is another program's database; name another file")
