"""Where a journal lies, and what beside it."""

from __future__ import annotations

import os
from pathlib import Path

from bandmaster.core import BandmasterError

JOURNAL_VARIABLE = "BANDMASTER_JOURNAL"
"""An environment variable whose URL stands for the block's ``journal``."""

_SCHEME = "sqlite:///"


def journal_url(declared: str) -> str:
    """The journal's URL: what the environment says goes before what the block declares."""
    return os.environ.get(JOURNAL_VARIABLE) or declared


def journal_file(given: Path | None, declared: str, root: Path) -> Path:
    """The journal's file that a command is about: the one it was ``given``, or else that of the URL in force."""
    return given or locate(journal_url(declared), root)


def lease_file(journal: Path) -> Path:
    """The file that the one learner of a journal holds a lock on."""
    return journal.with_name(f"{journal.name}.lease")


def locate(url: str, root: Path) -> Path:
    """The file that ``sqlite:///relative.db`` (to ``root``) or ``sqlite:////absolute.db`` names.

    Raises ``BandmasterError`` for any other URL.
    """
    name = url.removeprefix(_SCHEME)
    if not url.startswith(_SCHEME) or not name or "?" in name or "#" in name:
        raise BandmasterError(
            f"journal: {url!r} names no journal; sqlite:/// is supported: sqlite:///relative.db or"
            " sqlite:////absolute/path.db"
        )
    return root / name
