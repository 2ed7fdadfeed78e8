"""What is kept of a scenario that ran: ``results/<id>.json``, and its timings beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bandmaster.core import BandmasterError
from bandmaster.files import write_text

DIGITS = 6
"""Significant digits of figures beside the engine's own."""


class Curve(msgspec.Struct, frozen=True):
    """A policy's mean reward over time: one figure for each of as many equal parts of the run, seeds averaged."""

    policy: str
    rewards: tuple[float | None, ...]


class Played(msgspec.Struct, frozen=True):
    """One play: the engine's ``results`` as in ``results.json``, of ``requests`` a seed; ``at`` is the swept weight."""

    requests: int
    results: dict[str, Any]
    at: float | None = None
    curves: tuple[Curve, ...] = ()


class MemberFigures(msgspec.Struct, frozen=True):
    """A member alone, over the whole log: means, ``None`` where unknown."""

    name: str
    accuracy: float
    latency_s: float | None
    energy_j: float | None
    cost: float | None


class Verdict(msgspec.Struct, frozen=True):
    """What a check found; ``passed`` is ``None`` where nothing was demanded."""

    name: str
    figure: float | None
    at_least: float | None
    at_most: float | None
    passed: bool | None


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario's results. ``figures`` are by name; ``missing`` maps a policy that could not play to the reason."""

    id: str
    why: str
    seeds: int
    plays: dict[str, Played] = {}
    members: tuple[MemberFigures, ...] = ()
    figures: dict[str, float | None] = {}
    missing: dict[str, str] = {}
    verdicts: tuple[Verdict, ...] = ()


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """What differs from one run to the next, and is never judged. ``seconds`` is the whole scenario's."""

    date: str
    machine: str
    versions: dict[str, str]
    seconds: float
    us_per_request: dict[str, float] = {}


def write(folder: Path, record: Record, timing: Timing) -> None:
    """Write ``<id>.json`` and ``<id>.timing.json``."""
    for name, value in ((record.id, record), (f"{record.id}.timing", timing)):
        plain = _rounded(msgspec.to_builtins(value))
        write_text(folder / f"{name}.json", json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read(folder: Path, identity: str) -> tuple[Record, Timing] | None:
    """What ``write`` left; ``None`` where there is none. Raises ``BandmasterError`` when it cannot be read."""
    path, timing = folder / f"{identity}.json", folder / f"{identity}.timing.json"
    if not (path.is_file() and timing.is_file()):
        return None
    try:
        return (
            msgspec.json.decode(path.read_bytes(), type=Record),
            msgspec.json.decode(timing.read_bytes(), type=Timing),
        )
    except msgspec.DecodeError as problem:
        raise BandmasterError(f"{path}: is no benchmark's result ({problem}); delete it, and run it anew") from None


def read_all(folder: Path, identities: Sequence[str]) -> dict[str, tuple[Record, Timing]]:
    found = {identity: read(folder, identity) for identity in identities}
    return {identity: both for identity, both in found.items() if both is not None}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if abs(value) < float("inf") else None
    return value
