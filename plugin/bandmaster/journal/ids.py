"""Signed decision ids, which any replica verifies without a look-up, and the key that signs them."""

from __future__ import annotations

import base64
import hmac
import os
import secrets
from pathlib import Path

import numpy as np

from bandmaster.core import BandmasterError
from bandmaster.files import sync
from bandmaster.journal.seal import mac

KEY_BYTES = 32
KEY_VARIABLE, KEY_FILE = "BANDMASTER_KEY", "bandmaster.key"
_TIME, _RANDOM, _MAC = 6, 9, 9
_CHARS = (_TIME + _RANDOM + _MAC) * 4 // 3


class DecisionIds:
    """Makes and verifies ids: 6 bytes of ms since 1970, 9 random bytes and 9 of HMAC, 32 URL-safe characters.

    >>> ids = DecisionIds(b"k" * 32)
    >>> ids.verify(ids.new(1700000000.25))
    1700000000.25
    """

    def __init__(self, key: bytes) -> None:
        """Raises ``BandmasterError`` for a ``key`` shorter than 32 bytes."""
        if len(key) < KEY_BYTES:
            raise BandmasterError(f"a key has at least {KEY_BYTES} bytes, this one {len(key)}")
        self._key = key

    def new(self, at: float, rng: np.random.Generator | None = None) -> str:
        """Return a fresh id of a decision made at Unix time ``at`` (s). ``rng`` makes a replay repeatable."""
        milliseconds = round(at * 1000)
        if not 0 <= milliseconds < 1 << 8 * _TIME:
            raise ValueError(f"a decision's time is seconds since 1970, not {at!r}")
        noise = os.urandom(_RANDOM) if rng is None else rng.bytes(_RANDOM)
        body = milliseconds.to_bytes(_TIME, "big") + noise
        return base64.urlsafe_b64encode(body + self._sign(body)).decode("ascii")

    def verify(self, id: str) -> float | None:  # noqa: A002 - that is what it is
        """Return the decision's Unix time in s, to the ms, or ``None`` when ``id`` is malformed or forged."""
        if len(id) != _CHARS or not id.isascii():
            return None
        try:
            raw = base64.urlsafe_b64decode(id)
        except ValueError:
            return None
        # The decoder skips characters outside its alphabet; only one text may stand for an id.
        if base64.urlsafe_b64encode(raw).decode("ascii") != id:
            return None
        body, signature = raw[:-_MAC], raw[-_MAC:]
        if not hmac.compare_digest(signature, self._sign(body)):
            return None
        return int.from_bytes(body[:_TIME], "big") / 1000

    def _sign(self, body: bytes) -> bytes:
        return mac(self._key, b"bandmaster id 1", body)[:_MAC]


def load_key(folder: Path) -> bytes:
    """Return the key from ``BANDMASTER_KEY`` (hex), or from ``folder/bandmaster.key``, made on first use.

    Raises ``BandmasterError`` when it is no hex of at least 32 bytes, or cannot be read or made.
    """
    given = os.environ.get(KEY_VARIABLE)
    if given is not None:
        return _parse(given, KEY_VARIABLE, "set it to the output of `openssl rand -hex 32`, or unset it")
    path = folder / KEY_FILE
    try:
        if not path.exists():
            _create(path)
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise BandmasterError(f"{path}: {error.strerror}; make its folder writable or set BANDMASTER_KEY") from error
    return _parse(text.strip(), str(path), "put the key back from a copy, or move the file away for a new one")


def _parse(text: str, place: str, fix: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) < KEY_BYTES:
        # The text itself stays out of the message: messages end up in logs.
        raise BandmasterError(f"{place} is no key of at least {KEY_BYTES} bytes in hex; {fix}")
    return key


def _create(path: Path) -> None:
    """Write a new key, whole or not at all. If another process was faster, its key stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        sync(path.parent)
    finally:
        draft.unlink()
