"""Finished parts of a replay, kept in a folder: one that was cut off goes on from them, and finds the same bytes."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import joblib
import msgspec
import numpy as np

import bandmaster
from bandmaster.core import BandmasterError
from bandmaster.files import replacing

T = TypeVar("T")

LIBRARIES = ("numpy", "vowpalwabbit", "river", "scikit-learn")
"""Those whose versions may make a difference to what is found."""


class Kept:
    """A folder of findings. What is asked of it depends on everything that the findings do."""

    def __init__(self, folder: Path, *of: Any) -> None:
        """``of`` is all that they depend on besides this code. Raises ``BandmasterError`` for no possible folder."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise BandmasterError(f"{folder}: cannot be made ({problem.strerror}); name another folder") from None
        self._folder, self._of = folder, joblib.hash((_code(), *of))

    def path(self, *what: object) -> Path:
        """Where the finding about ``what`` is kept, once it is."""
        return self._folder / hashlib.sha256(repr((self._of, *what)).encode()).hexdigest()[:32]


def found_once(path: Path | None, kind: type[T], find: Callable[[], T], beside: Sequence[Path] = ()) -> T:
    """What was kept at ``path``; else what ``find`` finds, which is kept then.

    ``find`` writes what lies ``beside`` it, too: where one of these is missing, it is asked again.
    """
    if path is None:
        return find()
    if all(other.exists() for other in beside) and (kept := _read(path, kind)) is not None:
        return kept
    found = find()
    payload = _ENCODER.encode(found)
    with replacing(path) as temporary:
        temporary.write_bytes(hashlib.sha256(payload).digest() + payload)
    return found


def _read(path: Path, kind: type[T]) -> T | None:
    """``None`` where nothing was kept, or not the whole of it, as after a power cut."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, payload = raw[:32], raw[32:]
    if hashlib.sha256(payload).digest() != digest:
        return None
    found: T = msgspec.msgpack.decode(payload, type=kind, dec_hook=_to_array)
    return found


def _code() -> str:
    root = Path(bandmaster.__file__).parent
    files = "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(root.rglob("*.py")))
    return files + ",".join(importlib.metadata.version(name) for name in LIBRARIES)


def _to_bytes(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    raise TypeError(f"{type(value).__name__} is no part of a finding")


def _to_array(kind: Any, value: Any) -> Any:
    dtype, shape, raw = value
    return np.frombuffer(raw, dtype).reshape(shape)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_to_bytes)
