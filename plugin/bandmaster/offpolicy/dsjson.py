"""DSJSON, the format of logged decisions that Vowpal Wabbit's own driver reads: one JSON object a line.

Costs are −reward, as its users have them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from bandmaster.core import BandmasterError
from bandmaster.files import write_text
from bandmaster.offpolicy.examples import Example, examples, safe
from bandmaster.offpolicy.log import BanditLog, require
from bandmaster.offpolicy.model import features_in


def write_dsjson(log: BanditLog, path: Path, features: Sequence[str] | None = None) -> int:
    """Write a log's decisions that have a reward, with the columns ``features`` (default: x0 … xn and ctx_*) as what is
    shared by all actions; returns how many. Whole or not at all.

    Raises ``BandmasterError`` where the log holds something that is no action, propensity or reward.
    """
    there = log.frame.collect_schema().names()
    features = features_in(there) if features is None else features
    require(log.path, log.frame, tuple(features))
    rows, actions = log.loaded(features), log.actions
    multi = [{"a": {safe(name): 1}} for name in actions]
    lines = [_line(k, e, multi) for k, e in enumerate(examples(rows, features, actions))]
    write_text(path, "".join(lines))
    return len(lines)


def _line(number: int, example: Example, multi: Sequence[Any]) -> str:
    event = {
        "_label_cost": -example.reward,
        "_label_probability": example.propensity,
        "_label_Action": example.taken + 1,
        "_labelIndex": example.taken,
        "Version": "1",
        "EventId": str(number),
        "a": [example.taken + 1],
        "c": {"s": dict(example.shared), "_multi": multi},
        "p": [example.propensity],
    }
    return msgspec.json.encode(event).decode() + "\n"


class _Event(msgspec.Struct):
    """What is read of an event. ``a`` are actions from 1, the one taken first, ``p`` their probabilities."""

    cost: float = msgspec.field(name="_label_cost")
    probability: float = msgspec.field(name="_label_probability")
    a: list[int]
    c: dict[str, Any]


def read_dsjson(path: Path) -> pl.DataFrame:
    """The decisions of a file as a log's columns: ``action`` (from 1, as there), ``propensity``, ``reward`` and, as
    ``ctx_…``, the features that all actions share; the actions' own are left out.

    Raises ``BandmasterError`` naming the line, from 1, that is none.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as problem:
        raise BandmasterError(f"{path}: cannot be read ({problem.strerror})") from None
    rows = list(_rows(path, lines))
    if not rows:
        raise BandmasterError(f"{path}: holds no decision")
    columns = dict.fromkeys(name for row in rows for name in row)
    return pl.DataFrame({name: [row.get(name) for row in rows] for name in columns}, strict=False)


def _rows(path: Path, lines: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            event = msgspec.json.decode(line, type=_Event)
        except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
            raise BandmasterError(f"{path}: line {number} is no decision in DSJSON ({problem})") from None
        if not event.a:
            raise BandmasterError(f"{path}: line {number}: 'a' names no action; the one taken comes first")
        if not 0.0 < event.probability <= 1.0:
            raise BandmasterError(
                f"{path}: line {number}: '_label_probability' is {event.probability:g}; it must be above 0, at most 1"
            )
        yield {
            "action": event.a[0],
            "propensity": event.probability,
            "reward": -event.cost,
            **{f"ctx_{name}": value for name, value in _flat(event.c)},
        }


def _flat(context: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The features that are shared, by names with dots. What begins with an underscore is not a feature."""
    for name, value in context.items():
        if name.startswith("_"):
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        elif isinstance(value, (int, float, str)):
            yield f"{above}{name}", value
