"""Records to JSON bytes and back. Floats keep every bit; arrays keep their shape and their declared dtype.

After the JSON stand ``#`` and its CRC-32 in hex, so that a disk's mistake is not taken for what was recorded.
"""

from __future__ import annotations

import zlib
from typing import Any, TypeVar

import msgspec
import numpy as np

from bandmaster.core import (
    Answer,
    Array,
    BandmasterError,
    Decision,
    DriftEvent,
    FloatArray,
    IntArray,
    Outcome,
    Reward,
)

Record = Decision | Answer | Outcome | DriftEvent | Reward
R = TypeVar("R", bound=Record)

_DTYPES: dict[Any, tuple[np.dtype[Any], str]] = {
    FloatArray: (np.dtype(np.float64), "fiu"),
    IntArray: (np.dtype(np.int64), "i"),
}


def encode(record: Record) -> bytes:
    """Return the record's bytes. Raises ``BandmasterError`` for NaN, infinities and what JSON cannot hold."""
    try:
        raw = _ENCODER.encode(record)
    except (TypeError, ValueError, OverflowError) as error:
        raise BandmasterError(f"a {type(record).__name__} cannot be stored: {error}") from error
    # msgspec writes NaN and infinities as null. Looking at every array would double the time this takes, so we
    # count: only if there are more nulls than Nones does decoding, which refuses them by place, decide.
    nones = _nones(record)
    if raw.count(b"null") > nones and _nones(decode(raw, type(record))) > nones:
        raise BandmasterError(f"a {type(record).__name__} cannot be stored: a member's cost or explainability is NaN")
    return raw + _mark(raw)


def decode(raw: bytes, kind: type[R]) -> R:
    """Restore what ``encode`` gave. Raises ``BandmasterError`` on anything else.

    Bytes without a CRC, as versions before 0.1.0 wrote them, are taken as they are.
    """
    try:
        record: R = _DECODERS[kind].decode(_unmarked(raw))
    except (msgspec.DecodeError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise BandmasterError(f"these bytes are no {kind.__name__}: {error}") from error
    return record


def rows_answered(answer: bytes) -> int | None:
    """How many rows an answer is to, by its bytes, in a fraction of the time that decoding them takes; ``None`` where
    they are no answer's.
    """
    try:
        return len(_ROWS.decode(_unmarked(answer)).labels)
    except ValueError:
        return None


class _Rows(msgspec.Struct):
    labels: list[int]


def _unmarked(raw: bytes) -> bytes:
    """The JSON alone. Raises ``ValueError`` where the CRC after it is another's."""
    if raw[-_MARK : 1 - _MARK] != b"#":
        return raw
    raw, mark = raw[:-_MARK], raw[-_MARK:]
    if mark != _mark(raw):
        raise ValueError("their CRC is another, so that they were altered")
    return raw


def _mark(raw: bytes) -> bytes:
    return b"#%08x" % zlib.crc32(raw)


_MARK = 9


class _Empty(msgspec.Struct, forbid_unknown_fields=True):
    """Stands for an array without elements: a list of no rows does not say how many columns they would have."""

    shape: tuple[int, ...]


def _nones(record: Record) -> int:
    if isinstance(record, Decision):
        return record.exposure is None
    if isinstance(record, Answer):
        said = (*record.ran, *record.probes)
        return sum((v is None) for a in said for v in (a.scores, a.error, a.cost, a.explainability))
    return (record.labels is None) + (record.reward is None) if isinstance(record, Outcome) else 0


def _to_json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.ndim not in (1, 2):
            raise TypeError(f"an array has 1 or 2 axes, not {value.ndim}")
        return value.tolist() if value.size else _Empty(value.shape)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no part of a record")


def _to_array(kind: Any, value: Any) -> Array:
    dtype, accepted = _DTYPES[kind]
    if type(value) is dict:
        shape = msgspec.convert(value, _Empty).shape
        if len(shape) not in (1, 2) or 0 not in shape or min(shape) < 0:
            raise ValueError(f"{shape} is no shape of an empty array with 1 or 2 axes")
        return np.empty(shape, dtype=dtype)
    array = np.asarray(value)
    if array.dtype is dtype and 0 < array.ndim < 3:  # as nearly all are
        return array
    if not 1 <= array.ndim <= 2 or array.dtype.kind not in accepted:
        raise ValueError("Expected an array of finite numbers with 1 or 2 axes")
    return array.astype(dtype, copy=False)


_ROWS = msgspec.json.Decoder(_Rows)
_ENCODER = msgspec.json.Encoder(enc_hook=_to_json)
_DECODERS: dict[Any, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind, dec_hook=_to_array) for kind in (Decision, Answer, Outcome, DriftEvent, Reward)
}
