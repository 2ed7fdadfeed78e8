"""The chronicle: what happened, added up by time, in a file beside the journal that dashboards and reports draw from.

It follows from the journal, and may be removed at any time: whoever keeps it adds everything up again. The learner
keeps it while a service runs; readers need no lock, and see whole seconds.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bandmaster.core import BandmasterError, Decision, FloatArray, Joined
from bandmaster.files import naming
from bandmaster.visualizer.tallies import Tally

LEVELS = (10, 60, 600, 3600, 21600, 604800)
"""Seconds of which each is added up: for windows from minutes to years."""

POINTS = 400
"""So many points of time are read at most, by the finest of ``LEVELS`` that has no more."""

LONGEST_S = LEVELS[-1] * POINTS
"""No window is longer: seven years and a half."""

FORMAT = 1
LAG_S = 60.0
"""A decision that comes so long after it was made, in the second before a learner dies, may be left out."""

_CREATE = f"""
CREATE TABLE IF NOT EXISTS sums (
    level INTEGER NOT NULL, at INTEGER NOT NULL, series TEXT NOT NULL, name TEXT NOT NULL, policy TEXT NOT NULL,
    profile TEXT NOT NULL, n REAL NOT NULL, weight REAL NOT NULL, weight2 REAL NOT NULL, total REAL NOT NULL,
    total2 REAL NOT NULL, squares REAL NOT NULL,
    PRIMARY KEY (level, at, series, name, policy, profile)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counted (id TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reached (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, at REAL NOT NULL,
    id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS about (one INTEGER PRIMARY KEY CHECK (one = 1), about BLOB NOT NULL);
INSERT OR IGNORE INTO reached VALUES (1, 0, -1e300, '');
PRAGMA user_version = {FORMAT};
"""

_SUMS = "n, weight, weight2, total, total2, squares"
_ADD = (
    f"INSERT INTO sums (level, at, series, name, policy, profile, {_SUMS}) VALUES ({', '.join('?' * 12)})"
    " ON CONFLICT DO UPDATE SET " + ", ".join(f"{name} = {name} + excluded.{name}" for name in _SUMS.split(", "))
)

Key = tuple[int, str, str, str, str]
"""Of what is added up: a point of time at the finest level, series, name, policy and profile."""


def chronicle_file(journal: Path) -> Path:
    """The chronicle of a journal."""
    return journal.with_name(f"{journal.name}.chronicle")


class About(msgspec.Struct, frozen=True):
    """Whose chronicle it is: the ensemble's members and classes, its task, the contract, as it describes itself, and
    the guard's baseline, if there is one.
    """

    members: tuple[str, ...]
    classes: tuple[int | str, ...]
    task: str
    contract: dict[str, Any]
    baseline: str | None = None


class Chronicle:
    """Adds up, for the one who keeps it. What was added is there for readers, and for good, once it is flushed.

    Decisions are taken as they come, and those that the journal held before in order of their times: up to ``at`` (Unix
    s) and, at that time, ``id``. Outcomes are taken in the order of their settlement, ``seq`` being the last.
    """

    def __init__(self, journal: Path) -> None:
        """Raises ``BandmasterError`` where the file can be neither used nor made anew."""
        self.path = chronicle_file(journal)
        self._connection = _opened(self.path)
        ((self.seq, self.at, self.id),) = self._connection.execute("SELECT seq, at, id FROM reached").fetchall()
        self._counted: dict[str, float] = dict(self._connection.execute("SELECT id, at FROM counted").fetchall())
        self._new: list[tuple[str, float]] = []
        self._alike: dict[Key, list[float]] = {}  # of values that count once: how many, their sum, that of squares
        self._sums: dict[Key, list[float]] = {}  # of the others
        self._about: About | None = None

    def describe(self, about: About) -> None:
        """Say whose chronicle it is, where that is another than before."""
        if about != self._about:
            with _errors(self.path):
                self._connection.execute("INSERT OR REPLACE INTO about VALUES (1, ?)", (msgspec.json.encode(about),))
            self._about = about

    def decided(self, decision: Decision, tallies: Iterable[Tally]) -> None:
        """Add what a decision tells that has come just now."""
        if decision.id not in self._counted:
            self._counted[decision.id] = decision.at
            self._new.append((decision.id, decision.at))
            self._add(decision, tallies)

    def found(self, decision: Decision, tallies: Iterable[Tally]) -> None:
        """Add what a decision tells that the journal holds, the next in order; unless that was added as it came."""
        self.at, self.id = decision.at, decision.id
        if self._counted.pop(decision.id, None) is None:
            self._add(decision, tallies)

    def settled(self, joined: Joined, tallies: Iterable[Tally]) -> None:
        """Add what the next outcome tells, nothing where it teaches nothing."""
        assert joined.seq > self.seq, f"outcome {joined.seq} was added before"
        self.seq = joined.seq
        self._add(joined.decision, tallies)

    def _add(self, decision: Decision, tallies: Iterable[Tally]) -> None:
        finest = LEVELS[0]
        at, policy, profile = int(decision.at // finest) * finest, decision.policy, decision.profile
        for tally in tallies:
            series, name, value, weight = tally
            key = at, series, name, policy, profile
            if weight == 1.0:  # as almost all are
                if (alike := self._alike.get(key)) is None:
                    alike = self._alike[key] = [0.0] * 3
                alike[0] += 1.0
                alike[1] += value
                alike[2] += value * value
                continue
            if (sums := self._sums.get(key)) is None:
                sums = self._sums[key] = [0.0] * 6
            sums[0] += 1.0
            sums[1] += weight
            sums[2] += weight * weight
            sums[3] += weight * value
            sums[4] += weight * weight * value
            sums[5] += (weight * value) ** 2

    def flush(self, caught_up: float | None = None) -> None:
        """Let readers see what was added. Whoever has added all that the journal holds says when (Unix s) it had
        ``caught_up``: what is older by ``LAG_S`` needs no mark any more that it was counted.
        """
        if caught_up is not None and caught_up - LAG_S > self.at:
            self.at, self.id = caught_up - LAG_S, ""
            self._counted = {id_: at for id_, at in self._counted.items() if at > self.at}
        alike = ((key, (n, n, n, total, total, squares)) for key, (n, total, squares) in self._alike.items())
        rows = [
            (level, at // level * level, *names, *sums)
            for (at, *names), sums in (*alike, *self._sums.items())
            for level in LEVELS
        ]
        with _errors(self.path), self._connection as transaction:
            transaction.execute("BEGIN IMMEDIATE")
            transaction.executemany(_ADD, rows)
            transaction.executemany("INSERT OR IGNORE INTO counted VALUES (?, ?)", self._new)
            transaction.execute("DELETE FROM counted WHERE at <= ?", (self.at,))
            transaction.execute("UPDATE reached SET seq = ?, at = ?, id = ?", (self.seq, self.at, self.id))
        self._alike, self._sums, self._new = {}, {}, []

    def close(self) -> None:
        self._connection.close()


def _opened(path: Path) -> sqlite3.Connection:
    """Where the file is damaged, or another version's, it is made anew: all in it follows from the journal."""
    try:
        return _tried(path)
    except sqlite3.DatabaseError:
        with naming(path):
            for file in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
                file.unlink(missing_ok=True)
        with _errors(path):
            return _tried(path)


def _tried(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        ((version,),) = connection.execute("PRAGMA user_version").fetchall()
        if version not in (0, FORMAT):
            raise sqlite3.DatabaseError(f"a chronicle of format {version}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_CREATE)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as problem:
        raise BandmasterError(f"{path}: {problem}; check the disk, or remove the file: it is made anew") from problem


# ---- Reading -------------------------------------------------------------------------------------------------

DIGITS = 6
"""So many of a figure are told: more tell nothing, and take long to send."""

SURE = 1.96
"""Standard deviations to either side that hold 95 %."""


@dataclass(frozen=True, slots=True)
class Window:
    """From ``start`` to ``end`` (Unix s), of the requests of one policy, or profile, or of all."""

    start: float
    end: float
    policy: str | None = None
    profile: str | None = None

    @property
    def step(self) -> int:
        """Seconds from point to point."""
        return next((level for level in LEVELS if (self.end - self.start) / level <= POINTS), LEVELS[-1])


class Course(msgspec.Struct, frozen=True):
    """A series under one name: at each of T points how many values there were, and their mean, ``None`` where there
    were none; and over the ``whole`` window. The series ``WITH_INTERVALS`` have ``low`` and ``high``, (T,), too.
    """

    n: list[int]
    mean: list[float | None]
    whole: Mean
    low: list[float | None] | None = None
    high: list[float | None] | None = None


class Mean(msgspec.Struct, frozen=True):
    """Of so many values the mean, and the ends of its 95 % interval; ``None`` where too few tell."""

    n: int
    mean: float | None
    low: float | None
    high: float | None


class Courses(msgspec.Struct, frozen=True):
    """What a window shows: the points ``at`` (T,), Unix s, each the begin of ``step`` seconds, and by series and name
    how each went.
    """

    at: list[int]
    step: int
    series: dict[str, dict[str, Course]]


WITH_INTERVALS = ("reward", "alone", "ahead")
"""The series whose means have intervals at every point."""


def read_courses(journal: Path, window: Window) -> Courses:
    """What the chronicle of a journal tells of a window. Raises ``BandmasterError`` where there is none, and for a
    window that ends before it starts, or is longer than ``LONGEST_S``.
    """
    if not 0.0 < window.end - window.start <= LONGEST_S:
        span = f"from {window.start:.10g} to {window.end:.10g}"
        raise BandmasterError(f"{span} is no window; it ends after it starts, and within {LONGEST_S} s")
    step = window.step
    start, end = int(window.start // step) * step, math.ceil(window.end / step) * step
    query = (
        "SELECT at, series, name, sum(n), sum(weight), sum(weight2), sum(total), sum(total2), sum(squares) FROM sums"
        " WHERE level = ? AND at >= ? AND at < ? AND (?4 IS NULL OR policy = ?4) AND (?5 IS NULL OR profile = ?5)"
        " GROUP BY at, series, name"
    )
    with _reading(journal) as connection:
        rows = connection.execute(query, (step, start, end, window.policy, window.profile)).fetchall()
    at = list(range(start, end, step))
    found: dict[tuple[str, str], FloatArray] = {}
    for when, series, name, *sums in rows:
        if (series, name) not in found:
            found[series, name] = np.zeros((len(at), 6))
        found[series, name][(when - start) // step] = sums
    courses: dict[str, dict[str, Course]] = {}
    for (series, name), added in sorted(found.items()):
        courses.setdefault(series, {})[name] = _course(added, intervals=series in WITH_INTERVALS)
    return Courses(at, step, courses)


def _course(sums: FloatArray, *, intervals: bool) -> Course:
    n, mean, low, high = _means(sums)
    ends = (_listed(low), _listed(high)) if intervals else (None, None)
    whole = [_listed(column)[0] for column in _means(sums.sum(axis=0, keepdims=True))[1:]]
    return Course(n.astype(int).tolist(), _listed(mean), Mean(int(n.sum()), *whole), *ends)


def _means(sums: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """The number of values, their weighted mean and the ends of its interval, (T,) each, NaN where unknown.

    The interval is that of a ratio of sums (Hajek 1971), by the normal distribution.
    """
    n, weight, weight2, total, total2, squares = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / np.where(n > 0.0, weight, np.nan)
        variance = (squares - 2.0 * mean * total2 + mean**2 * weight2) / weight**2
        variance = variance * n / np.where(n > 1.0, n - 1.0, np.nan)
    half = SURE * np.sqrt(np.maximum(variance, 0.0))
    return n, mean, mean - half, mean + half


def _listed(values: FloatArray) -> list[float | None]:
    """To ``DIGITS`` digits, NaN as ``None``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 10.0 ** (DIGITS - 1 - np.floor(np.log10(np.abs(values))))
        rounded = np.where(np.isfinite(scale), np.round(values * scale) / scale, values)
    return [None if value != value else value for value in rounded.tolist()]


class Extent(msgspec.Struct, frozen=True):
    """From when to when (Unix s) there is anything, ``None`` while there is nothing; of which policies and profiles;
    and whose chronicle it is.
    """

    start: float | None
    end: float | None
    policies: list[str]
    profiles: list[str]
    about: About | None


def read_extent(journal: Path) -> Extent:
    """What a chronicle covers. Raises ``BandmasterError`` where there is none."""
    with _reading(journal) as connection:
        finest, coarsest = LEVELS[0], LEVELS[-1]
        start, end = (
            connection.execute(f"SELECT {which}(at) FROM sums WHERE level = ?", (finest,)).fetchone()[0]
            for which in ("min", "max")
        )
        named = connection.execute("SELECT DISTINCT policy, profile FROM sums WHERE level = ?", (coarsest,)).fetchall()
        about = connection.execute("SELECT about FROM about").fetchone()
    policies, profiles = (sorted({row[k] for row in named}) for k in (0, 1))
    described = msgspec.json.decode(about[0], type=About) if about else None
    return Extent(start, None if end is None else end + finest, policies, profiles, described)


@contextmanager
def _reading(journal: Path) -> Iterator[sqlite3.Connection]:
    path = chronicle_file(journal)
    if not path.is_file():
        raise BandmasterError(f"{path}: is not there; a service makes it, or `bandmaster dashboard` with --config")
    with _errors(path), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        yield connection
