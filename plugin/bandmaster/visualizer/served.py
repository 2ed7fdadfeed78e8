"""The report of served traffic: one HTML file that needs nothing else, for whoever was not there."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bandmaster.core import DriftEvent, FloatArray
from bandmaster.edits import Edit
from bandmaster.visualizer.chronicle import Course, Courses, Extent, Mean
from bandmaster.visualizer.page import figure, legend_beside, require_drawing, save_figure, table, wheel, write_page
from bandmaster.visualizer.summary import summary
from bandmaster.visualizer.tallies import POLICY
from bandmaster.visualizer.units import joules, number, seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LISTED = 200
"""So many alarms, and edits, the newest, are listed."""


@dataclass(frozen=True, slots=True)
class Served:
    """What there is to report: what the chronicle tells, of whom, what alarms there were, and what was edited."""

    courses: Courses
    extent: Extent
    events: Sequence[DriftEvent]
    edits: Sequence[Edit]


def write_served(path: Path, served: Served, plots: Path | None = None) -> None:
    """Write the report at ``path``; and each plot as PNG and SVG into the folder ``plots``.

    Raises ``BandmasterError`` where something cannot be written, or nothing can be drawn.
    """
    require_drawing("a report")
    told = [f"<p>{escape(sentence)}</p>" for sentence in summary(served.courses)]
    parts = ["<h1>What was served</h1>", *told, _table(served.courses)]
    for picture in _pictures(served.courses):
        parts.append(figure(picture.title, picture.told, HEIGHT, partial(_painted, picture, served)))
        if plots is not None:
            for kind in ("png", "svg"):
                save_figure(plots / f"{picture.name}.{kind}", HEIGHT, partial(_painted, picture, served))
    write_page(path, "Bandmaster", [*parts, _alarms(served), _edits(served), _whose(served)])


HEIGHT = 3.8
"""Of a picture, in inches."""


def _painted(picture: _Picture, served: Served, axes: Axes) -> None:
    picture.paint(axes, served)


# ---- Pictures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Picture:
    """``told`` says how to read it."""

    name: str
    title: str
    told: str
    paint: Callable[[Axes, Served], None]


def _pictures(courses: Courses) -> list[_Picture]:
    """Those of which there is anything."""
    lines = (
        ("reward", "Reward", "a request", "What requests earned, by who answered. Triangles are alarms."),
        ("alone", "What others would have earned", "a request",
         "Had they answered all requests, by themselves: known where everybody was asked."),
        ("right", "Members' accuracy", "share right", "How often each was right, where that is known."),
        ("weight", "Members' weights", "weight", "What each counts for where members are weighed by recent accuracy."),
        ("delay", "Feedback's delay", "s", "How long after its decision an outcome came."),
    )  # fmt: skip
    found = [_Picture(s, title, told, _lines(s, unit)) for s, title, unit, told in lines if s in courses.series]
    others = (
        ("term", _Picture("terms", "What the reward is made of", "The weight of each metric times its term.", _terms)),
        ("ran", _Picture("members", "Members", "How many of the requests each member ran for.", _members)),
        ("alone accuracy", _Picture("frontier", "Accuracy and its price", "Up and to the left is better.", _frontier)),
    )
    return [*found, *(picture for series, picture in others if series in courses.series)]


def _times(courses: Courses) -> Any:
    return _utc(courses.at)


def _utc(at: Sequence[float]) -> Any:
    """Unix times (s) as Matplotlib has them."""
    return np.array(at, dtype="float64").astype("datetime64[s]")


def _values(values: Sequence[float | None]) -> FloatArray:
    return np.array([np.nan if value is None else value for value in values])


def _lines(series: str, unit: str) -> Callable[[Axes, Served], None]:
    def paint(axes: Axes, served: Served) -> None:
        courses = served.courses
        named = courses.series[series]
        for (name, course), colour in zip(named.items(), wheel(len(named)), strict=True):
            width = 2 if name == POLICY else 1
            axes.plot(_times(courses), _values(course.mean), color=colour, label=name, linewidth=width)
        if series == "reward" and served.events:
            marks = _utc([event.at for event in served.events])
            axes.plot(marks, np.full(len(marks), 0.01), "^", color="black", markersize=4, clip_on=False,
                      transform=axes.get_xaxis_transform(), label="alarm")  # fmt: skip
        axes.set_ylabel(unit)
        legend_beside(axes, "both")

    return paint


def _terms(axes: Axes, served: Served) -> None:
    named = served.courses.series["term"]
    stacked = [np.nan_to_num(_values(course.mean)) for course in named.values()]
    axes.stackplot(_times(served.courses), *stacked, labels=list(named), colors=wheel(len(named)))
    axes.set_ylabel("a request")
    legend_beside(axes, "y")


def _members(axes: Axes, served: Served) -> None:
    courses = served.courses
    answered = np.array(courses.series["rows"][""].n)
    named = courses.series["ran"]
    for (name, course), colour in zip(named.items(), wheel(len(named)), strict=True):
        with np.errstate(invalid="ignore", divide="ignore"):
            axes.plot(_times(courses), np.array(course.n) / answered, color=colour, label=name)
    axes.set_ylabel("share of requests")
    legend_beside(axes, "both")


def _frontier(axes: Axes, served: Served) -> None:
    series = served.courses.series
    price = "energy" if "alone energy" in series else "latency"
    for name, course in series["alone accuracy"].items():
        priced = series.get(f"alone {price}", {}).get(name)
        if priced is None or priced.whole.mean is None or course.whole.mean is None:
            continue
        place = priced.whole.mean, course.whole.mean
        axes.plot(*place, "D" if name == POLICY else "o", color="black" if name == POLICY else "grey")
        axes.annotate(name, place, xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("energy, J" if price == "energy" else "latency, s")
    axes.set_ylabel("accuracy")
    axes.grid(alpha=0.3)


# ---- Words and tables --------------------------------------------------------------------------------------------


def _table(courses: Courses) -> str:
    """What was earned, and what others would have earned, by the best first."""
    rows = [[name, *_interval(c.whole), "", "", ""] for name, c in courses.series.get("reward", {}).items()]
    alone = sorted(courses.series.get("alone", {}).items(), key=lambda each: -(each[1].whole.mean or 0.0))
    for name, course in alone:
        accuracy, latency, energy = (_whole(courses, f"alone {f}", name) for f in ("accuracy", "latency", "energy"))
        rows.append([f"{name}, alone" if name != POLICY else name, *_interval(course.whole),
                     "" if accuracy is None else f"{accuracy:.4f}", seconds(latency), joules(energy)])  # fmt: skip
    return table(["who", "reward", "95 % interval", "requests", "accuracy", "latency", "energy"], rows)


def _whole(courses: Courses, series: str, name: str) -> float | None:
    course: Course | None = courses.series.get(series, {}).get(name)
    return course.whole.mean if course else None


def _interval(mean: Mean) -> list[str]:
    value = np.nan if mean.mean is None else mean.mean
    ends = "" if mean.low is None or mean.high is None else f"[{mean.low:.4f}, {mean.high:.4f}]"
    return [number(value), ends, str(mean.n)]


def _when(at: float) -> str:
    return f"{datetime.datetime.fromtimestamp(at, datetime.UTC):%Y-%m-%d %H:%M:%S}"


def _alarms(served: Served) -> str:
    rows = [[_when(e.at), e.name, e.cause] for e in served.events[::-1][:LISTED]]
    return "<h2>Alarms</h2>" + (table(["when (UTC)", "what", "why"], rows) if rows else "<p>None.</p>")


def _edits(served: Served) -> str:
    rows = []
    for edit in served.edits[::-1][:LISTED]:
        what = "; ".join(f"{change.path}: {change.before} → {change.after}" for change in edit.changes)
        rows.append([str(edit.version), _when(edit.at), edit.author, edit.reason, what])
    head = ["version", "when (UTC)", "who", "why", "what"]
    return "<h2>Changes of the configuration</h2>" + (table(head, rows) if rows else "<p>None.</p>")


def _whose(served: Served) -> str:
    about = served.extent.about
    if about is None:
        return ""
    weights = ", ".join(f"{name} {metric['weight']:.3g}" for name, metric in about.contract.items())
    told = [f"Members: {', '.join(about.members)}", f"Weights: {weights}", f"Baseline: {about.baseline or 'none'}"]
    return "<h2>Who was judged, and by what</h2>" + "".join(f"<p>{escape(line)}</p>" for line in told)
