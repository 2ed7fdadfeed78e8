"""Sealed bytes: what was not written with a key of ours is refused before anyone parses it."""

from __future__ import annotations

import hmac

from bandmaster.core import BandmasterError
from bandmaster.journal.keys import Keys

_LENGTH = 8
_MAC = 32


def mac(key: bytes, purpose: bytes, message: bytes) -> bytes:
    """HMAC-SHA256, 32 bytes. A ``purpose`` (without a zero byte) keeps one use from standing in for another."""
    return hmac.digest(key, purpose + b"\0" + message, "sha256")


def seal(keys: Keys, payload: bytes) -> bytes:
    """Return 32 bytes of MAC, 8 bytes of length, and the payload."""
    body = len(payload).to_bytes(_LENGTH, "big") + payload
    return mac(keys.first, b"bandmaster seal 1", body) + body


def unseal(keys: Keys, blob: bytes) -> bytes:
    """Return the payload. Raises ``BandmasterError`` unless ``seal`` made ``blob`` with one of these very keys."""
    body = blob[_MAC:]
    honest = keys.any(lambda key: hmac.compare_digest(blob[:_MAC], mac(key, b"bandmaster seal 1", body)))
    if not honest or int.from_bytes(body[:_LENGTH], "big") != len(body) - _LENGTH:
        raise BandmasterError("the seal is broken: the bytes were altered, cut, or sealed with another key")
    return body[_LENGTH:]
