"""Where a worker leaves its decisions: append-only files of its own, which the journal's owner empties.

A record is handed to the kernel in one ``write`` before it is acknowledged, so that it survives the death of the
process at once, at a tenth of the price of a database's transaction. Only the worker writes to its files and only the
owner removes them, whole, after their worker has let go of them.

A file begins with ``HEADER``. Each record follows as its length and CRC-32 (both little-endian, 4 bytes) and so many
bytes of MessagePack. One that is not whole at the end of a file was never acknowledged.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bandmaster.core import Answer, BandmasterError, Decision
from bandmaster.files import sync
from bandmaster.journal.codec import encode
from bandmaster.journal.rules import awaits_probes

Spooled = tuple[str, float, bool, bytes, bytes]
"""A spooled decision: its id, time, whether probes are to come, decision and answer."""

Row = tuple[int, Spooled]
"""Where in its file the next one begins, and a spooled decision."""

HEADER = b"bandmaster spool 1\n"

SEGMENT_BYTES = 16 * 1024 * 1024
"""A worker starts another file after this much, so that the owner can remove the last one."""

SEGMENT_S = 3600.0
"""Or after so long."""

SUFFIX = ".log"

_FRAME = struct.Struct("<II")
_USUAL = 8192
"""More bytes than a record usually has."""


def spool_folder(database: Path) -> Path:
    """The folder in which the workers of the journal at ``database`` leave their spools."""
    return database.with_name(database.name + ".spools")


class Spool:
    """Implements ``Recorder``: every record is safe against ``kill -9`` once it is stored; for any thread.

    With ``synced`` a record survives a power cut at once; otherwise as soon as the journal's owner has taken it over.
    """

    def __init__(self, folder: Path, worker: str, *, synced: bool = False) -> None:
        """Raises ``BandmasterError`` when ``folder`` cannot be written or ``worker`` is no plain name."""
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", worker):
            raise BandmasterError(f"{worker!r} is no worker's name; use up to 64 letters, digits, _ and -")
        self._folder = folder
        self._worker, self._synced = worker, synced
        self._guard = threading.Lock()
        self._segment = _Segment(folder, worker, synced)

    @property
    def path(self) -> Path:
        """The file being written to."""
        return self._segment.path

    def record(self, decision: Decision, answer: Answer) -> None:
        """Store durably. Raises ``BandmasterError`` when the record is not finite or cannot be written."""
        row = (decision.id, decision.at, awaits_probes(decision, answer), encode(decision), encode(answer))
        with self._guard:
            if self._segment.size > SEGMENT_BYTES:
                self._begin_another()
            self._segment.append(row)

    def renew(self) -> None:
        """Begin another file where this one has been written to for long, so that the owner can remove it."""
        with self._guard:
            if self._segment.size > len(HEADER) and time.monotonic() - self._segment.begun > SEGMENT_S:
                self._begin_another()

    def _begin_another(self) -> None:
        full, self._segment = self._segment, _Segment(self._folder, self._worker, self._synced)
        full.close()

    def close(self) -> None:
        """Let go of the file; the journal's owner drains and removes it."""
        with self._guard:
            self._segment.close()


class _Segment:
    """One file of a spool, under a name that no other process or segment ever has."""

    def __init__(self, folder: Path, worker: str, synced: bool) -> None:
        self.path = folder / f"spool-{worker}-{os.getpid()}-{secrets.token_hex(6)}{SUFFIX}"
        self.size, self.begun, self._synced = len(HEADER), time.monotonic(), synced
        self._lock: int | None = None
        self._file: int | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Locked before the file appears, so that nobody takes it for one whose worker is gone.
            self._lock = _lock(self.path.with_suffix(".lock"))
            self._file = _create(self.path)
        except OSError as error:
            self.close()
            raise BandmasterError(f"{self.path}: {error}; give a journal in a folder that can be written") from error

    def append(self, row: Spooled) -> None:
        """Raises ``BandmasterError``, the file as it was before, where the record cannot be stored whole."""
        if self._file is None:
            raise BandmasterError(f"{self.path}: is closed")
        record = msgspec.msgpack.encode(row)
        frame = _FRAME.pack(len(record), zlib.crc32(record)) + record
        try:
            if os.write(self._file, frame) < len(frame):
                raise OSError("no room for the whole record")
            if self._synced:
                os.fdatasync(self._file)
        except OSError as error:
            self._cut()
            raise BandmasterError(f"{self.path}: {error}; check the disk and the folder's rights") from error
        self.size += len(frame)

    def _cut(self) -> None:
        """Take half a record away, which nothing may follow."""
        assert self._file is not None
        try:
            os.ftruncate(self._file, self.size)
        except OSError:
            self.size = SEGMENT_BYTES + 1  # the next record begins another file

    def close(self) -> None:
        for descriptor in (self._file, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._file = self._lock = None


def _lock(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # the owner took the file for a dead worker's before we had locked it


def _create(path: Path) -> int:
    """Make the file under another name first: after a power cut it is not there, or has its header."""
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, HEADER)
        os.fsync(descriptor)
        draft.rename(path)
        for folder in (path.parent, path.parent.parent):  # the spools' folder may be new, too
            sync(folder)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class SpoolError(BandmasterError):
    """A spool cannot be read."""


class SpoolReader:
    """Reads one spool, and never writes to it. Raises ``SpoolError``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._errors():
            self._file = os.open(path, os.O_RDONLY)
            header = os.pread(self._file, len(HEADER), 0)
        if header != HEADER:
            os.close(self._file)
            raise SpoolError(f"{path}: is no spool, or a newer Bandmaster's: upgrade the learner")

    def after(self, place: int, limit: int) -> list[Row]:
        """Up to ``limit`` records from a ``place`` in the file, 0 for its beginning, in order. Those before a damaged
        one are given first.
        """
        rows, at = list[Row](), max(place, len(HEADER))
        with self._errors():
            left = self.rest(at)
            read = os.pread(self._file, min(limit * _USUAL, left), at)
            if len(read) > _FRAME.size and _FRAME.size + _FRAME.unpack_from(read)[0] > len(read):
                read = os.pread(self._file, left, at)
        begin = 0
        while len(rows) < limit and begin + _FRAME.size < len(read):
            length, mark = _FRAME.unpack_from(read, begin)
            end = begin + _FRAME.size + length
            if end > len(read):
                break
            record = read[begin + _FRAME.size : end]
            try:
                if zlib.crc32(record) != mark:
                    raise ValueError("its CRC is another")
                rows.append((at + end, _DECODER.decode(record)))
            except ValueError as problem:
                if rows:
                    break
                raise SpoolError(f"{self._path}: damaged at byte {at + begin}: {problem}") from None
            begin = end
        return rows

    def rest(self, place: int) -> int:
        """How many bytes there are from a ``place`` on; of a file whose worker is gone, after its last whole record,
        they are what was being written when that died.
        """
        with self._errors():  # a power cut may have taken what the journal has already
            return max(os.fstat(self._file).st_size - max(place, len(HEADER)), 0)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SpoolError(f"{self._path}: {error}") from error

    def close(self) -> None:
        os.close(self._file)


_DECODER = msgspec.msgpack.Decoder(Spooled)


@contextmanager
def abandoned(path: Path) -> Iterator[bool]:
    """Whether the spool's worker has let go of it; while that is so, it is locked against another owner."""
    try:
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR)
    except FileNotFoundError:  # nobody can tell: keep the file
        yield False
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        yield free
    finally:
        os.close(lock)


def spools(folder: Path) -> list[Path]:
    """The spools in ``folder``, and those of which a crash left only other files."""
    return sorted({path.with_suffix(SUFFIX) for path in folder.glob("spool-*")})


def remove(path: Path) -> None:
    """Remove an abandoned spool. The lock goes last: until then a crash leaves what the next call removes."""
    for suffix in (".new", SUFFIX, ".lock"):
        path.with_suffix(suffix).unlink(missing_ok=True)
