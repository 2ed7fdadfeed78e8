"""A journal's settled decisions, read in pages."""

from __future__ import annotations

import logging
import math
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

from bandmaster.core import Answer, BandmasterError, Decision, DriftEvent, Joined, Outcome, Reward
from bandmaster.journal.codec import decode
from bandmaster.journal.schema import BUSY_S

_PAGE = 500
_FIRST_PAGE = 50
"""Whoever takes only the first few is to have no more than that read."""

_log = logging.getLogger(__name__)


def read_joined(path: Path) -> Iterator[Joined]:
    """Every joined decision of a journal, in order of the decisions' times.

    Raises ``BandmasterError`` when the file is no journal.
    """
    with JournalReader(path) as reader:
        yield from reader.joined()


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a journal holds of one decision: its answer, its outcome and what it earned, where these are known."""

    decision: Decision
    answer: Answer
    outcome: Outcome | None
    reward: Reward | None


class Reading(ABC):
    """Reads a journal; for one thread at a time. Every method raises ``BandmasterError`` when it is no journal.

    What workers have recorded and nobody has taken over yet it does not see.
    """

    name: str
    """The journal, in messages."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a query, whose values stand where it has ``?``."""

    def joined(self) -> Iterator[Joined]:
        """Every joined decision, in order of the decisions' times."""
        query = (
            "SELECT d.at, d.id, o.seq, d.decision, d.answer, o.outcome FROM decisions d JOIN outcomes o USING (id)"
            " WHERE o.seq IS NOT NULL AND (d.at, d.id) > (?, ?) ORDER BY d.at, d.id LIMIT ?"
        )
        yield from _paged(query, (-math.inf, ""), self.all)

    def since(self, seq: int) -> Iterator[Joined]:
        """Every joined decision after ``seq``, in order of settlement."""
        yield from joined_since(seq, self.all)

    def answered_after(self, at: float, id_: str) -> Iterator[tuple[Decision, Answer]]:
        """As ``answered_after``."""
        yield from answered_after(at, id_, self.all)

    def find(self, decision_id: str) -> Recorded | None:
        """What is recorded of a decision; ``None`` where nothing is."""
        found = self.all(f"{_RECORDED} WHERE d.id = ?", decision_id)
        return _recorded(*found[0]) if found else None

    def newest(self, limit: int, before: float = math.inf) -> Iterator[Recorded]:
        """The newest decisions made before Unix time ``before`` (s), so many at most, the newest first. Damaged ones
        are passed over.
        """
        for row in self.all(f"{_RECORDED} WHERE d.at < ? ORDER BY d.at DESC LIMIT ?", before, limit):
            try:
                yield _recorded(*row)
            except BandmasterError as error:
                _log.error("a decision is damaged and passed over: %s", error)

    def events(self, since: float = -math.inf) -> list[DriftEvent]:
        """The alarms since Unix time ``since`` (s), the oldest first; damaged ones are passed over."""
        return list(takewhile(lambda event: event.at >= since, newest_events(self.all)))[::-1]


class JournalReader(Reading):
    """Reads a journal's file."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise BandmasterError(f"{path}: no such journal; name its file")
        self.name = str(path)
        with self._errors():
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S, check_same_thread=False
            )

    def close(self) -> None:
        self._connection.close()

    def all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._errors():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise BandmasterError(f"{self.name}: cannot be read as a journal ({error})") from error


def newest_events(fetch: Callable[..., list[tuple[Any, ...]]], last: int = 2**62) -> Iterator[DriftEvent]:
    """The ``last`` so many alarms, the newest first; damaged ones among them are passed over."""
    query, before = "SELECT n, event FROM events WHERE n < ? ORDER BY n DESC LIMIT ?", 2**62
    while last > 0 and (page := fetch(query, before, min(last, _PAGE))):
        before, last = page[-1][0], last - len(page)
        for n, raw in page:
            try:
                yield decode(raw, DriftEvent)
            except BandmasterError as error:
                _log.error("alarm %s is passed over: %s", n, error)


_RECORDED = (
    "SELECT d.decision, d.answer, o.outcome, r.reward FROM decisions d LEFT JOIN outcomes o USING (id)"
    " LEFT JOIN rewards r USING (id)"
)


def _recorded(decision: bytes, answer: bytes, outcome: bytes | None, reward: bytes | None) -> Recorded:
    return Recorded(
        decode(decision, Decision),
        decode(answer, Answer),
        decode(outcome, Outcome) if outcome else None,
        decode(reward, Reward) if reward else None,
    )


def answered_after(
    at: float, id_: str, fetch: Callable[..., list[tuple[Any, ...]]]
) -> Iterator[tuple[Decision, Answer]]:
    """Decisions after a time (Unix s), or made then and with a greater id, in that order, that are recorded whole.
    Damaged ones are passed over.
    """
    query = (
        "SELECT at, id, decision, answer FROM decisions WHERE (at, id) > (?, ?) AND NOT waits ORDER BY at, id LIMIT ?"
    )
    for size in _page_sizes():
        if not (page := fetch(query, at, id_, size)):
            return
        at, id_, *_ = page[-1]
        for _, damaged, decision, answer in page:
            try:
                yield decode(decision, Decision), decode(answer, Answer)
            except BandmasterError as error:
                _log.error("decision %s is passed over: %s", damaged, error)


def _page_sizes() -> Iterator[int]:
    size = _FIRST_PAGE
    while True:
        yield size
        size = min(2 * size, _PAGE)


def joined_since(seq: int, fetch: Callable[..., list[tuple[Any, ...]]]) -> Iterator[Joined]:
    query = (
        "SELECT o.seq, o.seq, d.decision, d.answer, o.outcome FROM outcomes o JOIN decisions d USING (id)"
        " WHERE o.seq > ? ORDER BY o.seq LIMIT ?"
    )
    yield from _paged(query, (seq,), fetch)


def _paged(query: str, last: tuple[Any, ...], fetch: Callable[..., list[tuple[Any, ...]]]) -> Iterator[Joined]:
    """In pages, so that a slow reader holds up neither settlements nor the log's checkpoints. Rows begin with the key
    that they are in order of; those after ``last`` are read.
    """
    for size in _page_sizes():
        if not (page := fetch(query, *last, size)):
            return
        last = page[-1][: len(last)]
        for *_, seq, decision, answer, outcome in page:
            try:
                joined = Joined(seq, decode(decision, Decision), decode(answer, Answer), decode(outcome, Outcome))
            except BandmasterError as error:
                _log.error("settlement %s is damaged and passed over: %s", seq, error)
                continue
            yield joined
