"""Figures as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def seconds(value: float | None) -> str:
    return _scaled(value, (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)))


def joules(value: float | None) -> str:
    return _scaled(value, (("J", 1.0), ("mJ", 1e-3), ("µJ", 1e-6)))


def number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"


def _scaled(value: float | None, units: Sequence[tuple[str, float]]) -> str:
    if value is None or math.isnan(value):
        return "–"
    unit, size = next(((u, s) for u, s in units if value >= s), units[-1])
    return f"{value / size:.3g} {unit}"
