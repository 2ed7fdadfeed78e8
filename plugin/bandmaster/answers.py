"""What members answer to streams and raw inputs, kept on disk so that they are asked once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from bandmaster.core import BandmasterError
from bandmaster.files import replacing


def default_cache(of: str) -> Path:
    """Where answers are kept unless told otherwise: below $XDG_CACHE_HOME, or ~/.cache where that is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bandmaster" / of


def key(code: str, *depends_on: str) -> str:
    """A name for what the file ``code`` makes of the rest: another one where any of it changes."""
    return hashlib.sha256("\n".join((*depends_on, Path(code).read_text("utf-8"))).encode()).hexdigest()


def keep(path: Path, what: str, write: Callable[[Path], object]) -> None:
    """Have ``write`` put ``what`` into a file, whole or not at all. Raises ``BandmasterError`` where that fails."""
    try:
        with replacing(path) as temporary:
            write(temporary)
    except OSError as problem:
        raise BandmasterError(
            f"{path.parent}: {what} cannot be kept there ({problem.strerror}); name another folder with --cache"
        ) from None
