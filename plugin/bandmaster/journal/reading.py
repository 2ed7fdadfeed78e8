"""A journal's settled decisions, read in pages."""

from __future__ import annotations

import logging
import math
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from bandmaster.core import Answer, BandmasterError, Decision, Joined, Outcome
from bandmaster.journal.codec import decode
from bandmaster.journal.spool import BUSY_S

_PAGE = 500
_log = logging.getLogger(__name__)


def read_joined(path: Path) -> Iterator[Joined]:
    """Every joined decision of a journal, in order of the decisions' times, beside its owner, who may go on meanwhile.

    Raises ``BandmasterError`` when the file is no journal.
    """
    if not path.is_file():
        raise BandmasterError(f"{path}: no such journal; name its file")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)) as connection:
            yield from _joined_by_decision_time(lambda query, *values: connection.execute(query, values).fetchall())
    except sqlite3.Error as error:
        raise BandmasterError(f"{path}: cannot be read as a journal ({error})") from error


def _joined_by_decision_time(fetch: Callable[..., list[tuple[Any, ...]]]) -> Iterator[Joined]:
    query = (
        "SELECT d.at, d.id, o.seq, d.decision, d.answer, o.outcome FROM decisions d JOIN outcomes o USING (id)"
        " WHERE o.seq IS NOT NULL AND (d.at, d.id) > (?, ?) ORDER BY d.at, d.id LIMIT ?"
    )
    yield from _paged(query, (-math.inf, ""), fetch)


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
    while page := fetch(query, *last, _PAGE):
        last = page[-1][: len(last)]
        for *_, seq, decision, answer, outcome in page:
            try:
                joined = Joined(seq, decode(decision, Decision), decode(answer, Answer), decode(outcome, Outcome))
            except BandmasterError as error:
                _log.error("settlement %s is damaged and passed over: %s", seq, error)
                continue
            yield joined
