"""``limits:``: a deadline, and budgets per time."""

from __future__ import annotations

from dataclasses import replace

from bandmaster.config.values import duration_of, fields_of, figure_of, quantity_of
from bandmaster.limits import Budget, Limits
from bandmaster.yaml_reader import At


def read_limits(at: At | None) -> Limits:
    get = fields_of(at, ("deadline", "energy", "cost")).get
    return Limits(
        duration_of(get("deadline"), None, "200 ms"),
        _budget(get("energy"), "energy", "5 J / 1 min"),
        _budget(get("cost"), "cost", "0.02 / 1 h"),
    )


def _budget(at: At | None, metric: str, example: str) -> Budget | None:
    """An amount and a period, ``5 J / 1 min``; ``None`` where there is none or it was refused."""
    if at is None:
        return None
    amount, slash, period = (part.strip() for part in (at.value if isinstance(at.value, str) else "").partition("/"))
    if not slash:
        at.refuse(f"is no budget; write an amount and a period, as in {example}")
        return None
    spent = figure_of(replace(at, value=_as_float(amount) if metric == "cost" else amount), metric)
    per_s = quantity_of(replace(at, value=period), "time", ("s", "min"))
    if spent == 0.0 or per_s == 0.0:
        at.refuse(f"lets nothing be spent; write an amount and a period above 0, as in {example}")
    return Budget(spent, per_s) if spent and per_s else None


def _as_float(text: str) -> float | str:
    """The number that a text stands for, or the text."""
    try:
        return float(text)
    except ValueError:
        return text
