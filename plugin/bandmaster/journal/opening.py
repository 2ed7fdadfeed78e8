"""Which journal a URL names, opened by whoever learns, whoever answers and whoever looks; and what goes with it."""

from __future__ import annotations

import importlib
import math
import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from bandmaster.core import BandmasterError
from bandmaster.edits import Edits
from bandmaster.journal.keys import KEY_VARIABLE, Keys
from bandmaster.journal.places import elsewhere, locate
from bandmaster.journal.reading import JournalReader, Reading
from bandmaster.journal.spool import Spool, spool_folder
from bandmaster.journal.sql import Complete, SqlJournal
from bandmaster.journal.sqlite import SqliteJournal
from bandmaster.pin import Pin

if TYPE_CHECKING:  # it needs a driver
    from bandmaster.replicas import Shares


def open_journal(
    url: str, root: Path, keys: Keys, window_s: float = math.inf, complete: Complete | None = None
) -> SqlJournal:
    """Open the journal that ``url`` names (see ``places.locate``), as the one process of its service that writes to it.

    Raises ``BandmasterError`` where that cannot be done.
    """
    path, database = locate(url, root), elsewhere(url)
    if database is None:
        return SqliteJournal(path, keys, window_s, complete)
    if KEY_VARIABLE not in os.environ:
        raise BandmasterError(
            f"{KEY_VARIABLE} is not set; replicas that share a journal share the key that signs: give each the same "
            "output of `openssl rand -hex 32`"
        )
    return cast(SqlJournal, _postgres().PostgresJournal(database, path, keys, window_s, complete))


def open_spool(url: str, root: Path, worker: str, *, synced: bool = False) -> Spool:
    """Open a spool of the journal that ``url`` names, as one of its workers on this machine."""
    return Spool(spool_folder(locate(url, root)), worker, synced=synced)


def open_reader(url: str, root: Path) -> Reading:
    """Open the journal that ``url`` names to look at it. Raises ``BandmasterError`` where there is none."""
    database = elsewhere(url)
    return JournalReader(locate(url, root)) if database is None else cast(Reading, _postgres().PostgresReader(database))


def edits_of(url: str, root: Path) -> Edits:
    """The edits of the configuration that go with the journal that ``url`` names."""
    path, database = locate(url, root), elsewhere(url)
    return Edits(path) if database is None else cast(Edits, _replicas().SharedEdits(path, database))


def pin_of(url: str, root: Path) -> Pin:
    """The switch that goes with the journal that ``url`` names."""
    path, database = locate(url, root), elsewhere(url)
    return Pin(path) if database is None else cast(Pin, _replicas().SharedPin(path, database))


def shares_of(url: str, root: Path) -> Shares | None:
    """What brings the edits of other replicas here; ``None`` where the journal that ``url`` names has but one."""
    path, database = locate(url, root), elsewhere(url)
    return None if database is None else cast("Shares", _replicas().Shares(path, database))


def _postgres() -> ModuleType:
    return _driven("bandmaster.journal.postgres")


def _replicas() -> ModuleType:
    return _driven("bandmaster.replicas")


def _driven(module: str) -> ModuleType:
    """A module that needs PostgreSQL's driver, an optional extra."""
    try:
        return importlib.import_module(module)
    except ImportError as problem:
        raise BandmasterError(
            f"journal: postgresql:// needs a driver ({problem}); pip install 'bandmaster[postgres]'"
        ) from None
