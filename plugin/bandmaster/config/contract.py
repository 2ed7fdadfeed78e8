"""``contract:`` and ``profiles:``: what a request is judged by."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from bandmaster.config.values import (
    NAME,
    OBJECT,
    choice_of,
    entries_of,
    fields_of,
    figure_of,
    items_of,
    number_of,
    text_of,
)
from bandmaster.contract import METRICS, Goal, Metric, Scale
from bandmaster.core import DEFAULT_PROFILE
from bandmaster.metrics import ImportedFunction
from bandmaster.yaml_reader import At, show

OF_METRIC: Mapping[str, tuple[Literal["live", "profile", "consensus"], ...]] = {
    "accuracy": ("live", "consensus"),
    **dict.fromkeys(("latency", "energy", "cost", "explainability"), ("live", "profile")),
}
"""Where a metric's figure may come from; those not named have one source."""

TAKEN = {
    "policy", "seed", "log", "request", "position", "phase", "profile", "plan", "propensity", "over_limits", "ran",
    "probed", "label", "truth", "reward", "latency_s", "energy_j", "members_per_request", "calibration",
}  # fmt: skip
"""Names that a metric of the user's own may not have: a trace's columns, and what members' profiles hold besides."""

OWN_NAME = r"[a-z][a-z0-9_]{0,63}"

_RANGE = {"latency": "[1 ms, 200 ms]", "energy": "[1 mJ, 5 J]", "cost": "[0, 0.01]"}

ERRORS = "error: [0, 50]"
IN_UNIT = "the absolute errors that are worth all and nothing, in the label's unit"
"""An example, and what it means, wherever one is missing or wrong."""


def read_metrics(at: At | None, root: Path) -> list[Metric]:
    """The contract's metrics, without those that were refused."""
    if at is None:
        return []
    entries = entries_of(at, "write {accuracy: {weight: 1}}")
    if at.value == {}:
        at.book.refuse((*at.path, "accuracy"), "is missing; add accuracy: {weight: 1}")
    found = [_metric(name, entry, root) for name, entry in entries.items()]
    metrics = [metric for metric in found if metric]
    if metrics and len(metrics) == len(found) and not any(m.weight for m in metrics):
        at.refuse("has weights that sum to 0; give at least one metric a weight above 0")
    return metrics


def _metric(name: str, at: At, root: Path) -> Metric | None:
    if name not in METRICS and not _is_own(name, at):
        return None
    spent, own = name in _RANGE, name not in METRICS
    required = {"weight": "0.5"} | ({"range": _RANGE[name]} if spent else {})
    known = (
        *("weight", "goal", "range", "scale", *(("from",) if name in OF_METRIC else ())),
        *(("use",) if own else ("error",) if name == "accuracy" else ()),
    )
    get = fields_of(at, known, required).get
    weight = number_of(get("weight"), math.nan, 0.0, 1e6)
    goal: Goal = choice_of(get("goal"), "min" if spent else "max", ("max", "min"))
    scale: Scale = choice_of(get("scale"), "linear", ("linear", "log"))
    figures = choice_of(get("from"), "live", OF_METRIC.get(name, ()))
    use = text_of(get("use"), OBJECT, "module:function, as in my_metrics:fairness")
    span = get("range")
    if span is None and scale == "log" and not spent:
        at.book.refuse((*at.path, "range"), "is missing, and a log scale cannot begin at 0; add range: [0.01, 1]")
    ends = _range(span, name, scale) if span else None if spent or scale == "log" else (0.0, 1.0)
    if ends is None or math.isnan(weight) or (own and use is None):
        return None
    function = ImportedFunction(use, root) if use else None
    return Metric(name, weight, goal, *ends, scale, figures, function, _errors(get("error")))


def _is_own(name: str, at: At) -> bool:
    """Whether this is a metric of the user's own, which ``use`` measures; if not, it is refused."""
    if not isinstance(at.value, Mapping) or "use" not in at.value:
        near = get_close_matches(name[:64], METRICS, n=1)
        fix = f"did you mean {near[0]}?" if near else f"use one of {', '.join(METRICS)}, or add use: module:function"
        at.book.refuse(at.path, f"is an unknown key; {fix}")
        return False
    if not re.fullmatch(OWN_NAME, name) or name in TAKEN or name.endswith("_term"):
        fix = "write small letters, digits and _, and no name that traces use for something else"
        at.book.refuse(at.path, f"{show(name)} cannot be a metric's name; {fix}")
        return False
    return True


def _range(at: At, metric: str, scale: str) -> tuple[float, float] | None:
    """The range's two ends, or ``None`` where it was refused."""
    example = _RANGE.get(metric, "[0, 1]")
    ends = items_of(at, f"write the least and the greatest, as in {example}")
    if not ends:
        return None
    if len(ends) != 2:
        at.refuse(f"is not two figures; write the least and the greatest, as in {example}")
        return None
    low, high = (figure_of(end, metric) for end in ends)
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return None
    if scale == "log" and min(low, high) <= 0.0:
        at.refuse("touches 0, which has no logarithm; begin above 0 or write scale: linear")
    elif low > high:
        at.refuse(f"goes down; write [{show(ends[1].value)}, {show(ends[0].value)}]")
    elif low == high or (scale == "log" and math.log(low) == math.log(high)):
        at.refuse(f"has no width; write two different figures, as in {example}")
    else:
        return low, high
    return None


def _errors(at: At | None) -> tuple[float, float] | None:
    """Two absolute errors of a regression, the smaller first; ``None`` where there are none or they were refused."""
    ends = [number_of(end, math.nan, 0.0, 1e30) for end in items_of(at, f"write {ERRORS}, {IN_UNIT}")]
    if at and ends and not (len(ends) == 2 and ends[0] < ends[1]):
        if not any(map(math.isnan, ends)):
            at.refuse(f"is not a small and a larger error; write {ERRORS}, {IN_UNIT}")
        return None
    return (ends[0], ends[1]) if ends else None


def read_profiles(at: At | None, metrics: Sequence[Metric]) -> dict[str, dict[str, float]]:
    """Each profile's weights by metric, without the profiles that were refused."""
    if at is None:
        return {}
    known = tuple(m.name for m in metrics) or tuple(METRICS)  # that there are none has been noted already
    profiles = {}
    for name, entry in entries_of(at, "write {fast: {latency: 0.6, accuracy: 0.4}}").items():
        if not re.fullmatch(NAME, name) or name == DEFAULT_PROFILE:
            fix = (
                f"write a letter, then up to 63 letters, digits, _ or -, and not {DEFAULT_PROFILE}, the contract's own"
            )
            entry.book.refuse(entry.path, f"{show(name)} is no profile's name; {fix}")
        weights = {metric: number_of(w, math.nan, 0.0, 1e6) for metric, w in fields_of(entry, known).items()}
        if isinstance(entry.value, Mapping) and not sum(weights.values()):
            entry.refuse("has weights that sum to 0; give at least one of the contract's metrics a weight above 0")
        profiles[name] = weights
    return profiles
