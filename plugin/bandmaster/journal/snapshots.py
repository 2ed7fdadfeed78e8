"""Sealed snapshots, and how a worker follows them."""

from __future__ import annotations

import logging
import sqlite3
import struct
from pathlib import Path

from bandmaster.core import BandmasterError, Snapshot
from bandmaster.journal.keys import Keys
from bandmaster.journal.seal import seal, unseal

_HEADER = struct.Struct(">qqd")
_log = logging.getLogger(__name__)


def seal_snapshot(keys: Keys, snapshot: Snapshot) -> bytes:
    head = _HEADER.pack(snapshot.version, snapshot.cursor, snapshot.at)
    return seal(keys, head + snapshot.payload)


def unseal_snapshot(keys: Keys, version: int, sealed: object) -> Snapshot:
    """Raises ``BandmasterError`` unless ``sealed`` is snapshot ``version``, sealed with one of the ``keys``."""
    if not isinstance(sealed, bytes):  # a damaged database may hold anything
        raise BandmasterError(f"{type(sealed).__name__} is no sealed snapshot")
    body = unseal(keys, sealed)
    if len(body) < _HEADER.size or _HEADER.unpack_from(body)[0] != version:
        raise BandmasterError(f"what was sealed is not snapshot {version}")
    _, cursor, at = _HEADER.unpack_from(body)
    return Snapshot(version, cursor, at, body[_HEADER.size :])


class SnapshotReader:
    """Follows the snapshots in another process's journal, read-only. For one thread at a time."""

    def __init__(self, path: Path, keys: Keys) -> None:
        """``path`` is the journal's database; it may come into being later."""
        self._path = path
        self._keys = keys
        self._connection: sqlite3.Connection | None = None
        self._refused: set[int] = set()

    def latest_after(self, version: int) -> Snapshot | None:
        """The newest snapshot after ``version`` whose seal holds; ``None`` when there is none, or no journal yet.

        Cheap enough to ask many times a second. Raises ``BandmasterError`` when the file cannot be read.
        """
        try:
            rows = self._newer(version)
        except sqlite3.Error as error:
            self.close()
            raise BandmasterError(f"{self._path} cannot be read: {error}; is it the journal's database?") from error
        for found, sealed in rows:
            try:
                return unseal_snapshot(self._keys, found, sealed)
            except BandmasterError as error:
                if found not in self._refused:
                    self._refused.add(found)
                    _log.warning("%s: snapshot %s is passed over: %s", self._path, found, error)
        return None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _newer(self, version: int) -> list[tuple[int, bytes]]:
        if self._connection is None:
            if not self._path.exists():
                return []
            uri = f"{self._path.absolute().as_uri()}?mode=ro"
            self._connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        query = "SELECT version, sealed FROM snapshots WHERE version > ? ORDER BY version DESC"
        try:
            return self._connection.execute(query, (version,)).fetchall()
        except sqlite3.OperationalError:
            if self._connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                return []  # its owner is still making the tables
            raise
