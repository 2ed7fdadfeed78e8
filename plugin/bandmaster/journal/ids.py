"""Signed decision ids, which any replica verifies without a look-up."""

from __future__ import annotations

import base64
import hmac
import os

import numpy as np

from bandmaster.journal.keys import Keys
from bandmaster.journal.seal import mac

_TIME, _RANDOM, _MAC = 6, 9, 9
_CHARS = (_TIME + _RANDOM + _MAC) * 4 // 3


class DecisionIds:
    """Makes and verifies ids: 6 bytes of ms since 1970, 9 random bytes and 9 of HMAC, 32 URL-safe characters.

    >>> ids = DecisionIds(Keys(b"k" * 32))
    >>> ids.verify(ids.new(1700000000.25))
    1700000000.25
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def new(self, at: float, rng: np.random.Generator | None = None) -> str:
        """Return a fresh id of a decision made at Unix time ``at`` (s). ``rng`` makes a replay repeatable."""
        milliseconds = round(at * 1000)
        if not 0 <= milliseconds < 1 << 8 * _TIME:
            raise ValueError(f"a decision's time is seconds since 1970, not {at!r}")
        noise = os.urandom(_RANDOM) if rng is None else rng.bytes(_RANDOM)
        body = milliseconds.to_bytes(_TIME, "big") + noise
        return base64.urlsafe_b64encode(body + _sign(self._keys.first, body)).decode("ascii")

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
        if not self._keys.any(lambda key: hmac.compare_digest(signature, _sign(key, body))):
            return None
        return int.from_bytes(body[:_TIME], "big") / 1000


def _sign(key: bytes, body: bytes) -> bytes:
    return mac(key, b"bandmaster id 1", body)[:_MAC]
