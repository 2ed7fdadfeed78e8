"""Where a journal lies, and what beside it."""

from __future__ import annotations

import os
from pathlib import Path

from bandmaster.core import BandmasterError

JOURNAL_VARIABLE = "BANDMASTER_JOURNAL"
"""An environment variable whose URL stands for the block's ``journal``."""

_SQLITE, _POSTGRES = "sqlite:///", ("postgresql://", "postgres://")

REPLICA = "replica.db"
"""The file that stands for a database elsewhere, where its URL names none."""


def journal_url(declared: str, given: str | None = None) -> str:
    """The URL of the journal that a command is about: the one it was ``given``, if any; and else what the environment
    says goes before what the block declares.
    """
    return url_of(given) if given else os.environ.get(JOURNAL_VARIABLE) or declared


def url_of(named: str) -> str:
    """The URL of a journal that somebody named: by its URL, or by its file.

    >>> url_of("/var/lib/journal.db"), url_of("postgresql://db.internal/journal")
    ('sqlite:////var/lib/journal.db', 'postgresql://db.internal/journal')
    """
    return named if named.startswith((_SQLITE, *_POSTGRES)) else f"{_SQLITE}{Path(named).absolute()}"


def lease_file(journal: Path) -> Path:
    """The file that the one learner of a journal holds a lock on."""
    return journal.with_name(f"{journal.name}.lease")


def locate(url: str, root: Path) -> Path:
    """The file of this machine, beside which all else lies, that a journal's URL names: the database itself with
    ``sqlite:///relative.db`` (to ``root``) or ``sqlite:////absolute.db``; what stands for it here with
    ``postgresql://host/database#relative.db``, where ``#`` and the file may be left out.

    Raises ``BandmasterError`` for any other URL.
    """
    if url.startswith(_POSTGRES):
        return root / (url.partition("#")[2] or REPLICA)
    name = url.removeprefix(_SQLITE)
    if not url.startswith(_SQLITE) or not name or "?" in name or "#" in name:
        raise BandmasterError(
            f"journal: {url!r} names no journal; write sqlite:///relative.db, sqlite:////absolute/path.db or"
            " postgresql://user@host/database"
        )
    return root / name


def elsewhere(url: str) -> str | None:
    """The connection URI of the database that a journal's URL names; ``None`` where that is a file of this machine."""
    return url.partition("#")[0] if url.startswith(_POSTGRES) else None


def anchored(url: str, root: Path) -> str:
    """The URL with its file's absolute path. Raises ``BandmasterError`` as ``locate`` does."""
    path = locate(url, root).absolute()
    return f"{_SQLITE}{path}" if elsewhere(url) is None else f"{elsewhere(url)}#{path}"
