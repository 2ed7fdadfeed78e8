"""Figures as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bandmaster.results import Measures


def seconds(value: float | None) -> str:
    return _scaled(value, (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)))


def joules(value: float | None) -> str:
    return _scaled(value, (("J", 1.0), ("mJ", 1e-3), ("µJ", 1e-6)))


def number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"


MEASURED = ("reward", "accuracy", "latency", "energy", "cost", "members")
"""The heads of what ``measured`` gives."""


def measured(m: Measures) -> list[str]:
    return [f"{m.reward:.4f}", f"{m.accuracy:.4f}", seconds(m.latency_s), joules(m.energy_j), number(m.cost),
            f"{m.members_per_request:.2f}"]  # fmt: skip


def _scaled(value: float | None, units: Sequence[tuple[str, float]]) -> str:
    if value is None or math.isnan(value):
        return "–"
    unit, size = next(((u, s) for u, s in units if value >= s), units[-1])
    return f"{value / size:.3g} {unit}"
