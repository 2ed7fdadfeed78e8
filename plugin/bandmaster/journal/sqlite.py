"""The journal in one SQLite file, owned by the learner; workers reach it through their spools."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bandmaster.core import BandmasterError
from bandmaster.journal.keys import Keys
from bandmaster.journal.schema import BUSY_S, open_database
from bandmaster.journal.spool import spool_folder
from bandmaster.journal.sql import Complete, SqlJournal


class SqliteJournal(SqlJournal):
    """Implements ``Journal``: see ``SqlJournal``."""

    def __init__(self, path: Path, keys: Keys, window_s: float = math.inf, complete: Complete | None = None) -> None:
        """``path`` is the database, made if missing; for the others see ``SqlJournal``."""
        super().__init__(spool_folder(path), keys, window_s, complete)
        self.path, self.name = path, str(path)
        self._epoch: int | None = None
        self._unscrubbed = True  # a predecessor may not have come to it
        self._connection = open_database(path)
        if (last := self._one("SELECT at FROM outcomes ORDER BY arrival DESC LIMIT 1")) is not None:
            self._clock = last[0]

    def lead(self) -> bool:
        """Whether this is the one that learns: once it has been asked, it is, and the only one who writes. Whoever took
        the file over before is refused whatever it still tries, as one that was stopped for a while and does not know
        that its lease is gone.
        """
        if self._epoch is None:
            self.take_over()
        return True

    def take_over(self) -> None:
        """Be the only one who writes from now on."""
        self._epoch = None
        with self._transaction():
            self._connection.execute("UPDATE owner SET epoch = epoch + 1")
            epoch = self._epoch_now()
        self._epoch = epoch

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

    def _removed(self) -> None:
        self._unscrubbed = True

    def close(self) -> None:
        with self._lock:
            super().close()
            self._connection.close()

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, self._errors():
            return self._connection.execute(query, values).fetchall()

    def _run(self, query: str, rows: Iterable[Sequence[object]]) -> None:
        with self._errors():
            self._connection.executemany(query, rows)

    @contextmanager
    def _transaction(self, *, synced: bool = True, owning: bool = False) -> Iterator[None]:
        """As ``SqlJournal``; whoever took the file over is the only one who writes anything."""
        with self._lock:
            self._completed = []
            self._counted.clear()
            with self._errors():
                try:
                    self._connection.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
                    self._connection.execute("BEGIN IMMEDIATE")
                    if self._epoch is not None and self._epoch != self._epoch_now():
                        raise BandmasterError(
                            f"{self.path}: another learner has taken this journal over; stop one of the services"
                        )
                    yield
                    self._finish()
                    self._connection.execute("COMMIT")
                finally:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
            self._tell(self._completed)

    def _epoch_now(self) -> int:
        ((epoch,),) = self._connection.execute("SELECT epoch FROM owner").fetchall()
        return int(epoch)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise BandmasterError(f"{self.path}: {error}; check the disk and the file's rights") from error
