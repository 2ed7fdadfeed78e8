"""Moves what workers have left in their spools into the journal, each row once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bandmaster.journal.spool import Row, SpoolError, SpoolReader, abandoned, remove, spools

BATCH = 500
"""Rows that are moved at a time."""

_log = logging.getLogger(__name__)


class Takes(Protocol):
    """A journal, as far as spools are emptied into it."""

    def reached(self, spool: str) -> int:
        """Up to which byte a spool has been taken."""
        ...

    def take(self, spool: str, read: Callable[[int], list[Row]]) -> tuple[int, int]:
        """Take the rows that ``read`` gives from the place ``reached`` on, and note how far: both, or neither, so that
        no crash moves a row twice. Returns how many, and what is ``reached`` then.
        """
        ...


class Relay:
    """Empties the spools of one machine. For one thread at a time."""

    def __init__(self, folder: Path, journal: Takes) -> None:
        self._folder, self._journal = folder, journal
        self._readers: dict[Path, SpoolReader] = {}
        self._reached: dict[Path, int] = {}  # at least: another owner may have taken more
        self._unreadable: set[Path] = set()
        self.whole = True
        """Whether every spool could be read when it was last looked."""

    def drain(self) -> int:
        """Take over what the spools hold, and remove those whose worker is gone. Returns the number of rows.

        A spool that cannot be read is passed over: see ``whole``.
        """
        moved = 0
        self.whole = True
        paths = spools(self._folder)
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
            moved = self.move(path) if path.exists() else 0
            if gone:
                if (reader := self._readers.pop(path, None)) is not None:
                    if rest := reader.rest(self._reached[path]):
                        _log.warning(
                            "%s: its last %d bytes, half of a record, are given up: nobody was told of it", path, rest
                        )
                    reader.close()
                remove(path)
        return moved

    def move(self, path: Path) -> int:
        """Move the rows of one spool, and leave its file. Raises ``SpoolError``."""
        if path not in self._readers:
            self._readers[path] = SpoolReader(path)
            self._reached[path] = self._journal.reached(path.name)
        reader, moved = self._readers[path], 0
        while reader.after(self._reached[path], 1):
            taken, self._reached[path] = self._journal.take(path.name, lambda place: reader.after(place, BATCH))
            moved += taken
        return moved

    def _complain(self, path: Path, error: SpoolError | OSError) -> None:
        """Once a file. It stays where it is, and the other spools go on."""
        if (reader := self._readers.pop(path, None)) is not None:
            reader.close()
        if path.exists() and path not in self._unreadable:
            self._unreadable.add(path)
            _log.error("a spool cannot be drained and is left in place: %s", error)

    def close(self) -> None:
        while self._readers:
            self._readers.popitem()[1].close()
