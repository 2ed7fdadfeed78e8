"""Values of the block to fields: each reader takes a place, or none, and refuses there what it cannot use."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from difflib import get_close_matches
from typing import TypeVar

from bandmaster.contract import METRICS
from bandmaster.core import BandmasterError
from bandmaster.yaml_reader import At, show

UNITS: Mapping[str, Mapping[str, Decimal]] = {
    "time": {u: Decimal(f) for u, f in {
        "ns": "1e-9", "us": "1e-6", "µs": "1e-6", "μs": "1e-6", "ms": "1e-3", "s": "1", "min": "60",
        "h": "3600", "d": "86400",
    }.items()},
    "energy": {u: Decimal(f) for u, f in {
        "uJ": "1e-6", "µJ": "1e-6", "μJ": "1e-6", "mJ": "1e-3", "J": "1", "kJ": "1e3", "Wh": "3600",
    }.items()},
}  # fmt: skip
"""Each unit's size in seconds or joules. Decimal, so that ``200 ms`` and ``0.2 s`` are the same float. µ has
two code points, and keyboards differ in which they write."""

PROFILE_FIELDS = {
    "latency": "latency_s", "energy": "energy_j", "cost": "cost", "explainability": "explainability",
    "accuracy": "accuracy", "calibration": "calibration",
}  # fmt: skip
"""What a member's profile may declare, and the field of ``Profile`` that keeps it."""

# Patterns of texts. They are read as ASCII, and have \w in brackets only, where a schema can have it too.
OBJECT = r"[A-Za-z_][\w.]*:[A-Za-z_][\w]*"
"""``module:Class`` or ``module:function``."""

METHOD = r"[A-Za-z][\w]*"
NAME = r"[A-Za-z][A-Za-z0-9_-]{0,63}"
"""Of a member or a profile: names become parts of plans' names, whose grammar uses + > @ ~."""

_TEXT = r"[^ \t\n\r\f\v?#]+"
JOURNAL = rf"(sqlite:///{_TEXT}|postgres(ql)?://{_TEXT}(\?{_TEXT})?(#{_TEXT})?)"

T = TypeVar("T", bound=str)
D = TypeVar("D", float, None)


def quantity(text: str, dimension: str) -> float:
    """``200 ms`` in seconds (``dimension="time"``), ``5 mJ`` in joules (``"energy"``): finite and ≥ 0.

    Raises ``BandmasterError`` saying what is wrong with ``text`` and what to write.
    """
    units, other = UNITS[dimension], UNITS["energy" if dimension == "time" else "time"]
    example = "200 ms or 0.2 s" if dimension == "time" else "5 mJ or 0.005 J"
    found = re.fullmatch(r"([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?) *([A-Za-zµμ]*)", text.strip())
    if not found:
        raise BandmasterError(f"is no figure with a unit; write one like {example}")
    number, unit = found.groups()
    if unit in other:
        wrong = "an energy" if dimension == "time" else "a time"
        right = "a time" if dimension == "time" else "an energy"
        raise BandmasterError(f"is {wrong}, but {right} is meant; write one like {example}")
    if unit not in units:
        why = f"has the unknown unit {unit}" if unit else "has no unit"
        raise BandmasterError(f"{why}; write one of {' '.join(u for u in units if 'μ' not in u)}, as in {example}")
    try:
        value = float(Decimal(number) * units[unit])
    except ArithmeticError:
        value = math.inf
    if not 0.0 <= value < math.inf:
        raise BandmasterError(f"must be finite and not below 0; write one like {example}")
    return value


def entries_of(at: At, fix: str) -> dict[str, At]:
    """A mapping's values by key, in the file's order; of anything else, none."""
    if not isinstance(at.value, Mapping):
        at.refuse(f"is not a mapping; {fix}")
        return {}
    for key in at.value:
        if not isinstance(key, str):
            at.book.refuse((*at.path, "?"), f"{show(key)} is no text; put the key in quotes")
    return {key: at.child(key, value) for key, value in at.value.items() if isinstance(key, str)}


def fields_of(at: At | None, known: Sequence[str], required: Mapping[str, str] | None = None) -> dict[str, At]:
    """The known keys' values. ``required`` gives for each key that must be there an example to write."""
    if at is None:
        return {}
    entries = entries_of(at, f"write {{{known[0]}: …}}")
    for key, value in entries.items():
        if key not in known:
            near = get_close_matches(key[:64], known, n=1)
            fix = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
            at.book.refuse(value.path, f"is an unknown key; {fix}")
    for key, example in (required or {}).items():
        if isinstance(at.value, Mapping) and key not in entries:
            at.book.refuse((*at.path, key), f"is missing; add {key}: {example}")
    return {key: value for key, value in entries.items() if key in known}


def items_of(at: At | None, fix: str) -> list[At]:
    """A list's values; of anything else, and of an empty list, none."""
    if at is None:
        return []
    if not isinstance(at.value, list | tuple) or not at.value:
        at.refuse(f"is not a list of at least one; {fix}")
        return []
    return [at.child(i, value) for i, value in enumerate(at.value)]


def number_of(at: At | None, default: float, low: float, high: float, *, above: bool = False) -> float:
    """A number in [low, high], or in (low, high] with ``above``; the default where there is none."""
    if at is None:
        return default
    value, allowed = at.value, f"{'(' if above else '['}{low:g}, {high:g}]"
    if isinstance(value, str):
        at.refuse(f"is text, not a number; write {_as_number(value) or f'a number in {allowed}'}")
    elif isinstance(value, bool) or not isinstance(value, int | float):
        at.refuse(f"is not a number; write one in {allowed}")
    elif not low <= value <= high or (above and value == low):  # NaN is refused here too
        at.refuse(f"is outside {allowed}; write a number inside")
    else:
        return float(value)
    return default


def _as_number(text: str) -> str | None:
    """The YAML number that a text was meant to be: YAML 1.1 takes ``1e-3`` and ``"0.5"`` for text."""
    try:
        value = float(text)
    except ValueError:
        return None
    return f"{Decimal(repr(value)):f}" if 1e-9 < abs(value) < 1e15 else None


def flag_of(at: At | None, default: bool) -> bool:
    """True or false; the default where there is none."""
    if at is None:
        return default
    if not isinstance(at.value, bool):
        at.refuse("is neither true nor false; write one of them")
        return default
    return at.value


def integer_of(at: At | None, default: int, low: int, high: int) -> int:
    """A whole number in [low, high]; the default where there is none."""
    if at is None:
        return default
    if isinstance(at.value, bool) or not isinstance(at.value, int):
        at.refuse(f"is not a whole number; write one from {low} to {high}")
    elif not low <= at.value <= high:
        at.refuse(f"is outside [{low}, {high}]; write a whole number inside")
    else:
        return at.value
    return default


def choice_of(at: At | None, default: T, options: Sequence[T]) -> T:
    if at is None:
        return default
    for option in options:
        if at.value == option:
            return option
    at.refuse(f"is no choice here; write {' or '.join(options)}")
    return default


def text_of(at: At | None, pattern: str, fix: str) -> str | None:
    """A text that ``pattern`` matches as a whole."""
    if at is None:
        return None
    if isinstance(at.value, str) and re.fullmatch(pattern, at.value, re.ASCII):
        return at.value
    at.refuse(f"cannot be used; write {fix}")
    return None


def quantity_of(at: At, dimension: str, units: tuple[str, str]) -> float:
    """Seconds or joules, NaN where refused. ``units``, a small and a large one, serve for the fix."""
    if isinstance(at.value, str):
        try:
            return quantity(at.value, dimension)
        except BandmasterError as error:
            at.refuse(str(error))
            return math.nan
    small, large = units
    value = at.value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        at.refuse(f"is no figure with a unit; write one like 200 {small}")
        return math.nan
    ratio = float(UNITS[dimension][large] / UNITS[dimension][small])
    in_large = value if value < 1 else value / ratio
    at.refuse(f"has no unit; write {in_large * ratio:g} {small} or {in_large:g} {large}")
    return math.nan


_OFFERED = {"ms": ("ms", "s"), "s": ("s", "min"), "min": ("s", "min"), "d": ("d", "h")}
"""The units that are offered where an example has the key."""


def duration_of(at: At | None, default: D, example: str) -> float | D:
    """Seconds above 0; the default where there are none. ``example`` serves for the fix."""
    if at is None:
        return default
    seconds = quantity_of(at, "time", _OFFERED[example.split()[1]])
    if seconds == 0.0:
        at.refuse(f"leaves no time; write {example}")
    return seconds


def figure_of(at: At | None, metric: str) -> float | None:
    """A metric's figure in the contract's unit: seconds, joules, a price, a share. NaN where refused."""
    if at is None:
        return None
    if metric == "latency":
        return quantity_of(at, "time", ("ms", "s"))
    if metric == "energy":
        return quantity_of(at, "energy", ("mJ", "J"))
    if metric not in METRICS and metric not in PROFILE_FIELDS:  # the user's own, in a unit of its own
        return number_of(at, math.nan, -1e12, 1e12)
    return number_of(at, math.nan, 0.0, 1e12 if metric == "cost" else 1.0)
