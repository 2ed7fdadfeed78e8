"""Files that are there whole or not at all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bandmaster.core import BandmasterError

Stamp = tuple[int, int, int]
"""What tells that a file has been written or replaced: when that was (ns), its size, its number on the disk."""


def stamp(path: Path) -> Stamp | None:
    """A file's; ``None`` where it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write, which then takes its place; gone where that fails. Raises ``OSError``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    finally:
        if temporary.is_file():
            temporary.unlink()


def write(path: Path, put: Callable[[Path], object]) -> None:
    """Have ``put`` write a file atomically. Raises ``BandmasterError`` naming it when that cannot be done."""
    with naming(path), replacing(path) as temporary:
        put(temporary)


def write_text(path: Path, text: str) -> None:
    """Write a file atomically, as ``write`` does."""
    write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def sync(path: Path) -> None:
    """Have the disk hold what was written to a file, or the names that were made in a folder. Raises ``OSError``."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Processes that want to change something in a folder do so one after the other. Raises ``OSError``."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def require_writable(path: Path) -> None:
    """Find out before hours of work, not after, that ``write_text`` would fail."""
    if path.is_dir():
        raise BandmasterError(f"{path}: is a folder; name a file in it")
    probe = path.with_name(f".{path.name}.probe")
    with naming(path), replacing(probe) as temporary:
        temporary.touch()
    probe.unlink()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn what goes wrong in writing ``path`` into a ``BandmasterError`` that names it."""
    try:
        yield
    except OSError as problem:
        raise BandmasterError(f"{path}: cannot be written ({problem.strerror}); name a file that can") from None
