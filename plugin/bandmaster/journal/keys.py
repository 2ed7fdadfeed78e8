"""The keys of one service: the first signs and seals, every one of them verifies."""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

from bandmaster.core import BandmasterError
from bandmaster.files import alone_in, sync
from bandmaster.seldom import Seldom

_log = logging.getLogger(__name__)

KEY_BYTES = 32
KEYS_KEPT = 3
"""As many are kept in the file: what the two before the present one have signed is still taken."""

KEY_VARIABLE, KEY_FILE = "BANDMASTER_KEY", "bandmaster.key"


class Keys:
    """One key or several, the one in force first.

    Those of a file are read anew once it has changed, so that another can be put first while the service runs.

    >>> keys = Keys(b"n" * 32, b"o" * 32)
    >>> keys.first == b"n" * 32, keys.any(lambda key: key == b"o" * 32)
    (True, True)
    """

    def __init__(self, *keys: bytes, file: Path | None = None, read: tuple[int, int] | None = None) -> None:
        """``file`` is where they were ``read`` from, when it bore this stamp. Raises ``BandmasterError`` for a key
        shorter than 32 bytes.
        """
        for key in keys:
            if len(key) < KEY_BYTES:
                raise BandmasterError(f"a key has at least {KEY_BYTES} bytes, this one {len(key)}")
        self._keys, self._file, self._read = keys, file, read
        self._seldom = Seldom(_log)

    @classmethod
    def of(cls, folder: Path, *, make: bool = True) -> Keys:
        """The keys from ``BANDMASTER_KEY`` (hex, with commas between), or from ``folder/bandmaster.key``, one a line,
        made on first use unless that is not to be.

        Raises ``BandmasterError`` when one is no hex of at least 32 bytes, or cannot be read or made.
        """
        given = os.environ.get(KEY_VARIABLE)
        if given is not None:
            return cls(*_parse(given, KEY_VARIABLE, "set it to the output of `openssl rand -hex 32`, or unset it"))
        path = folder / KEY_FILE
        try:
            if make and not path.exists():
                _create(path)
        except OSError as error:
            raise BandmasterError(
                f"{path}: {error.strerror}; make its folder writable or set BANDMASTER_KEY"
            ) from error
        stamp = _stamp(path)  # before they are read: whoever changes them meanwhile is noticed
        return cls(*read_keys(path), file=path, read=stamp)

    @property
    def first(self) -> bytes:
        """The key that signs."""
        return self._keys[0]

    def any(self, holds: Callable[[bytes], bool]) -> bool:
        """Whether that holds for one of the keys; for one, too, that another process has put into the file by now."""
        return any(map(holds, self._keys)) or (self.refresh() and any(map(holds, self._keys)))

    def refresh(self) -> bool:
        """Read the file anew if it has changed; whether it has. One that cannot be read changes nothing but the log."""
        stamp = _stamp(self._file)
        if self._file is None or stamp is None or stamp == self._read:
            return False
        try:
            self._keys = read_keys(self._file)
        except BandmasterError as problem:
            self._seldom.error("the keys of before stay in force: %s", problem)
            return False
        self._read = stamp
        return True


def read_keys(path: Path) -> tuple[bytes, ...]:
    """The keys in a file. Raises ``BandmasterError``."""
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise BandmasterError(
            f"{path}: {error.strerror}; give whoever runs the service the right to read it"
        ) from error
    return _parse(text, str(path), "put the key back from a copy, or move the file away for a new one")


def rotate(folder: Path, *, drop: bool = False) -> Path:
    """Put a new key before those in ``folder``'s file, whole or not at all; ``drop`` those. Returns the file.

    Raises ``BandmasterError`` where the environment gives the key, or the file cannot be read or written.
    """
    if KEY_VARIABLE in os.environ:
        raise BandmasterError(
            f"{KEY_VARIABLE} gives the key: put a new one behind it there, after a comma; once every replica has that, "
            "put it first; and once the feedback window has passed, leave the old one out"
        )
    path = folder / KEY_FILE
    if not path.exists():
        raise BandmasterError(f"{path} is not there yet; the service makes it when it starts")
    try:
        with alone_in(folder):  # of two that rotate at once none loses the other's key
            before, owner = () if drop else read_keys(path), path.stat()
            draft = _draft(path, (secrets.token_bytes(KEY_BYTES), *before)[:KEYS_KEPT])
            try:
                os.chown(draft, owner.st_uid, owner.st_gid)  # whoever runs the service must be able to read it
                os.replace(draft, path)
            finally:
                draft.unlink(missing_ok=True)
            sync(folder)
    except OSError as error:
        raise BandmasterError(f"{path}: {error.strerror}; do this as whoever runs the service") from error
    return path


def _stamp(file: Path | None) -> tuple[int, int] | None:
    """What changes whenever the file is replaced."""
    try:
        found = os.stat(file) if file is not None else None
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_ino)


def _parse(text: str, place: str, fix: str) -> tuple[bytes, ...]:
    keys = []
    for part in re.split(r"[,\s]+", text.strip()):
        try:
            keys.append(bytes.fromhex(part))
        except ValueError:
            keys.append(b"")
        if len(keys[-1]) < KEY_BYTES:
            # The text itself stays out of the message: messages end up in logs.
            raise BandmasterError(f"{place} is no key of at least {KEY_BYTES} bytes in hex; {fix}")
    return tuple(keys)


def _create(path: Path) -> None:
    """Write a new key, whole or not at all. If another process was faster, its key stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(path, (secrets.token_bytes(KEY_BYTES),))
    try:
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        sync(path.parent)
    finally:
        draft.unlink()


def _draft(path: Path, keys: tuple[bytes, ...]) -> Path:
    """A file beside ``path`` that holds the keys, on the disk, for its owner only."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write("".join(f"{key.hex()}\n" for key in keys))
        file.flush()
        os.fsync(file.fileno())
    return draft
