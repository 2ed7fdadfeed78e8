"""What replicas share beside their journal: edits of the configuration, and the switch that has the baseline answer.

Each replica has copies of both in its own files, where its workers find them whether the database is there or not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bandmaster.core import BandmasterError
from bandmaster.edits import Edit, Edits
from bandmaster.journal.postgres import PostgresReader, Writing, writing
from bandmaster.pin import Pin

EVERY_S = 0.25
"""How often is looked for what other replicas did."""


class SharedEdits(Edits):
    """The edits of replicas that share a journal: those of the database, of which the files here are copies."""

    def __init__(self, path: Path, url: str) -> None:
        """``path`` is the journal's file of this machine, ``url`` the database's."""
        super().__init__(path)
        self._url = url
        self._writing: Writing | None = None

    @contextmanager
    def editing(self) -> Iterator[Edit]:
        """As ``Edits.editing``, with what others have edited. Raises ``BandmasterError`` without the database."""
        with writing(self._url) as database, super().editing() as last:
            for (raw,) in database.all("SELECT edit FROM edits WHERE version > ? ORDER BY version", last.version):
                last = msgspec.json.decode(raw, type=Edit)
                super().commit(last)
            self._writing = database
            try:
                yield last
            finally:
                self._writing = None

    def commit(self, edit: Edit) -> None:
        """As ``Edits.commit``; for all replicas first, and then here."""
        assert self._writing is not None  # to be called while editing
        self._writing.run("INSERT INTO edits (version, edit) VALUES (?, ?)", edit.version, msgspec.json.encode(edit))
        self._writing.commit()
        super().commit(edit)


class SharedPin(Pin):
    """The switch of all replicas that share a journal."""

    def __init__(self, path: Path, url: str) -> None:
        """``path`` is the journal's file of this machine, ``url`` the database's."""
        super().__init__(path)
        self._url = url

    def set(self, why: str) -> None:
        """Here at once, and then everywhere. Raises ``BandmasterError`` where others cannot be told."""
        super().set(why)
        self._tell(why)

    def clear(self) -> bool:
        """As ``set``."""
        was = super().clear()
        self._tell(None)
        return was

    def copy(self, why: str | None) -> None:
        """Have it be here as it is for all."""
        if why is None:
            super().clear()
        else:
            super().set(why)

    def _tell(self, why: str | None) -> None:
        try:
            with writing(self._url) as database:
                database.run("UPDATE pin SET n = n + 1, why = ?", why)
                database.commit()
        except BandmasterError as problem:
            raise BandmasterError(f"so it is on this machine alone, say it again there or later: {problem}") from None


class Shares:
    """Brings to one replica's files what others have edited and pinned."""

    def __init__(self, path: Path, url: str) -> None:
        self._edits, self._pin, self._url = SharedEdits(path, url), SharedPin(path, url), url
        self._reader: PostgresReader | None = None
        self._version, self._pinned, self._next = 0, 0, 0.0

    def follow(self) -> None:
        """Look, now and then. Raises ``BandmasterError`` without the database."""
        if (now := time.monotonic()) < self._next:
            return
        self._next = now + EVERY_S
        try:
            self._reader = self._reader or PostgresReader(self._url)
            ((version, pinned, why),) = self._reader.all(
                "SELECT (SELECT coalesce(max(version), 0) FROM edits), pin.n, pin.why FROM pin"
            )
        except BandmasterError:
            self.close()
            raise
        if version > self._version:
            with self._edits.editing():  # which fetches them
                self._version = version
        if pinned > self._pinned:
            self._pin.copy(why)
            self._pinned = pinned

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = None
