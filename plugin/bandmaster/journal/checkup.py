"""Looks a journal over, beside its owner, and changes nothing."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bandmaster.core import Answer, BandmasterError, Decision, Outcome
from bandmaster.journal.codec import decode
from bandmaster.journal.keys import KEY_FILE, KEY_VARIABLE, Keys, read_keys
from bandmaster.journal.places import lease_file
from bandmaster.journal.reading import Reading
from bandmaster.journal.schema import BUSY_S, SCHEMA_VERSION
from bandmaster.journal.snapshots import unseal_snapshot
from bandmaster.journal.spool import SpoolError, SpoolReader, spool_folder, spools

LEAST_ROOM = 1 << 30
"""Bytes that should be free where a journal grows."""

PAGE = 500
"""Rows that are read at a time."""

Fetch = Callable[..., list[tuple[Any, ...]]]
"""Gives the rows of a query, whose values stand where it has ``?``."""

Health = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and in a sentence why; of a warning or problem, with what to do."""

    what: str
    health: Health
    text: str


def look_over(path: Path, elsewhere: Callable[[], Reading] | None = None) -> Iterator[Finding]:
    """What there is to say of the journal at ``path`` and of what lies beside it. Where the journal is ``elsewhere``,
    that opens it, and ``path`` is what stands for it here.
    """
    yield _room(path)
    yield from _key(path)
    yield _lease(path)
    if elsewhere is not None:
        try:
            with elsewhere() as database:
                yield from _contents(path, database.all)
        except BandmasterError as error:
            yield Finding("journal", "problem", str(error))
        return
    if not path.is_file():
        yield Finding("journal", "warning", f"{path} is not there yet; the learner makes it when it starts")
        return
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)) as database:
            yield from _database(path, database)
    except sqlite3.Error as error:
        yield Finding("journal", "problem", f"{path}: {error}; put it back from a copy, or move it away for a new one")


def _room(path: Path) -> Finding:
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    if not os.access(folder, os.W_OK):
        return Finding("disk", "problem", f"{folder} cannot be written; give its rights to whoever runs the service")
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if free < LEAST_ROOM:
        return Finding("disk", "warning", f"{free / 1e6:.0f} MB are free where the journal grows; make room")
    return Finding("disk", "ok", f"{free / 1e9:.1f} GB are free where the journal grows")


def _key(path: Path) -> Iterator[Finding]:
    if KEY_VARIABLE in os.environ:
        try:
            Keys.of(path.parent)
        except BandmasterError as problem:
            yield Finding("key", "problem", str(problem))
        else:
            yield Finding("key", "ok", f"given by {KEY_VARIABLE}")
        return
    file = path.parent / KEY_FILE
    if not file.exists():
        yield Finding("key", "warning", f"{file} is not there yet; the service makes it when it starts")
    elif (mode := stat.S_IMODE(file.stat().st_mode)) & 0o077:
        fix = "chmod 600, and `bandmaster rotate-key --drop`"
        yield Finding("key", "problem", f"{file} can be read by others (mode {mode:o}); {fix}")
    else:
        try:
            found = read_keys(file)
        except BandmasterError as problem:
            yield Finding("key", "problem", str(problem))
        else:
            older = f", and {len(found) - 1} before it" if len(found) > 1 else ""
            yield Finding("key", "ok", f"{file}, for nobody else's eyes{older}")


def _lease(path: Path) -> Finding:
    if is_owned(path):
        return Finding("learner", "ok", "is running")
    return Finding("learner", "ok", "is not running" if lease_file(path).exists() else "has never run here")


def is_owned(path: Path) -> bool:
    """Whether a learner runs that owns this journal."""
    try:
        with lease_file(path).open() as lease:
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is none
        return False
    return False


def _database(path: Path, database: sqlite3.Connection) -> Iterator[Finding]:
    ((version,),) = database.execute("PRAGMA user_version").fetchall()
    if version != SCHEMA_VERSION:
        newer = version > SCHEMA_VERSION
        what = "upgrade bandmaster" if newer else "start the service, which brings it up to date"
        yield Finding("schema", "problem" if newer else "warning", f"is {version}, not {SCHEMA_VERSION}; {what}")
        return
    said = [text for (text,) in database.execute("PRAGMA quick_check(5)")]
    if said != ["ok"]:
        yield Finding("pages", "problem", f"{path} is damaged ({said[0]}); `sqlite3 {path} .recover` saves what it can")
        return
    yield Finding("pages", "ok", f"{path}, {path.stat().st_size / 1e6:.1f} MB, schema {version}")
    yield from _contents(path, lambda query, *values: database.execute(query, values).fetchall())


def _contents(path: Path, fetch: Fetch) -> Iterator[Finding]:
    yield _rows(fetch)
    yield _ledger(fetch)
    yield _snapshots(path, fetch)
    yield from _spools(path, fetch)


def _rows(fetch: Fetch) -> Finding:
    unreadable, rows, last = [], 0, ""
    query = (
        "SELECT d.id, d.decision, d.answer, o.outcome FROM decisions d LEFT JOIN outcomes o USING (id)"
        " WHERE d.id > ? ORDER BY d.id LIMIT ?"
    )
    while page := fetch(query, last, PAGE):
        rows, last = rows + len(page), page[-1][0]
        for id_, decision, answer, outcome in page:
            try:
                decode(decision, Decision)
                decode(answer, Answer)
                if outcome is not None:
                    decode(outcome, Outcome)
            except BandmasterError:
                unreadable.append(id_)
    if unreadable:
        why = f"{len(unreadable)} of {rows} decisions cannot be read, {unreadable[0]} among them; they teach nothing"
        return Finding("rows", "problem", f"{why}: put the journal back from a copy if you need them")
    return Finding("rows", "ok", f"all of {rows} decisions can be read")


_STORED = ("decisions", "joined", "early", "late")
"""What is counted and leaves rows."""


def _ledger(fetch: Fetch) -> Finding:
    found = fetch(  # in one look, beside a learner that goes on
        "SELECT 'tally', name, n FROM tally UNION ALL SELECT 'stored', status, count(*) FROM outcomes GROUP BY status"
        " UNION ALL SELECT 'stored', 'decisions', count(*) FROM decisions"
    )
    tally, stored = ({name: n for of, name, n in found if of == what} for what in ("tally", "stored"))
    here = {name: tally.get(name, 0) - tally.get(f"removed_{name}", 0) for name in _STORED}
    off = {name: (here[name], stored.get(name, 0)) for name in _STORED if here[name] != stored.get(name, 0)}
    if off:
        name, (counted, there) = next(iter(off.items()))
        return Finding("ledger", "problem", f"counts {counted} {name}, and holds {there}; report this as a bug")
    counts = ", ".join(f"{tally[name]} {name}" for name in (*_STORED, "duplicate"))
    return Finding("ledger", "ok", f"balances: {counts}")


def _snapshots(path: Path, fetch: Fetch) -> Finding:
    try:
        keys = Keys.of(path.parent, make=False)
    except BandmasterError:
        return Finding("snapshots", "problem", "cannot be opened without the key")
    found = fetch("SELECT version, sealed FROM snapshots ORDER BY version DESC")
    broken, newest = [], None
    for version, sealed in found:
        try:
            snapshot = unseal_snapshot(keys, version, sealed)
        except BandmasterError as problem:
            broken.append(f"{version} ({problem})")
        else:
            newest = newest or snapshot
    if broken:
        return Finding("snapshots", "problem", f"{broken[0]}: it is passed over; find out who wrote to {path}")
    if newest is None:
        return Finding("snapshots", "ok", "none yet")
    age = max(time.time() - newest.at, 0.0)
    return Finding("snapshots", "ok", f"{len(found)}, the newest {newest.version}, {age:.0f} s old")


def _spools(path: Path, fetch: Fetch) -> Iterator[Finding]:
    taken: dict[str, int] = dict(fetch("SELECT name, n FROM spools"))
    waiting, files = 0, spools(spool_folder(path))
    for file in files:
        if not file.exists():
            continue
        try:
            with closing(SpoolReader(file)) as reader:
                place = taken.get(file.name, 0)
                while rows := reader.after(place, 1000):
                    waiting, place = waiting + len(rows), rows[-1][0]
        except SpoolError as problem:
            yield Finding("spools", "problem", f"{problem}; it is left in place: move it away once you have a copy")
            return
    yield Finding("spools", "ok", f"{len(files)}, {waiting} decisions waiting for the learner")
