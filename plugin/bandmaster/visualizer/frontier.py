"""The report of a sweep: what accuracy costs under each policy, one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bandmaster.results import Measures, Point, Results
from bandmaster.visualizer.page import figure, legend_beside, require_drawing, table, wheel, write_page
from bandmaster.visualizer.units import MEASURED, measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PRICES = {"energy_j": "energy a request", "cost": "cost a request", "latency_s": "latency"}
"""What accuracy may be drawn over, in words."""

UNITS = {"energy_j": "J", "cost": "", "latency_s": "s"}


def prices(every: Sequence[Measures]) -> list[str]:
    """The prices, the ``PRICES`` fields, that all have."""
    return [price for price in PRICES if all(getattr(m, price) > 0.0 for m in every)]


def write_frontier(path: Path, metric: str, points: Sequence[Point]) -> None:
    """Write the report of a sweep over the weight of ``metric``.

    Raises ``BandmasterError`` when the file cannot be written or nothing can be drawn.
    """
    require_drawing("a report")
    every = [p.measures for point in points for p in point.results.policies.values()]
    alone = points[0].results.plans
    parts = ["<h1>What accuracy costs</h1>"]
    for price in prices([*every, *alone]) or ["members_per_request"]:
        parts.append(_picture(price, metric, points))
    write_page(path, "Sweep", [*parts, "<h2>Figures</h2>", _table(metric, points)])


def _picture(price: str, metric: str, points: Sequence[Point]) -> str:
    words = PRICES.get(price, "members a request")
    told = (
        f"Every policy, one point for each weight of {metric}; grey: every plan of the catalogue alone, single members "
        "by name. Up and to the left is better."
    )
    return figure(f"Accuracy over {words}", told, 4.4, lambda axes: _paint(axes, price, points))


def _paint(axes: Axes, price: str, points: Sequence[Point]) -> None:
    first = points[0].results
    paint_plans(axes, price, first)
    names = list(first.policies)
    for name, colour in zip(names, wheel(len(names)), strict=True):
        played = [point.results.policies[name].measures for point in points]
        at = [getattr(m, price) for m in played]
        axes.plot(at, [m.accuracy for m in played], "o-", color=colour, markersize=4, linewidth=1.0, label=name)
    finish_frontier(axes, price)


def paint_plans(axes: Axes, price: str, results: Results) -> None:
    """Every plan alone in grey, single members by name."""
    plans, setting = results.plans, results.setting
    axes.plot([getattr(m, price) for m in plans], [m.accuracy for m in plans], ".", color="lightgrey", markersize=4)
    for k in setting.singles:
        place = getattr(plans[k], price), plans[k].accuracy
        axes.plot(*place, "x", color="grey")
        axes.annotate(setting.plans[k], place, xytext=(4, 3), textcoords="offset points", fontsize=7)


def finish_frontier(axes: Axes, price: str) -> None:
    if price in PRICES:
        from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(EngFormatter(UNITS[price]))
        axes.xaxis.set_minor_formatter(NullFormatter())  # others would run into each other
    axes.set_xlabel(PRICES.get(price, "members a request"))
    axes.set_ylabel("accuracy")
    legend_beside(axes, "both")


def _table(metric: str, points: Sequence[Point]) -> str:
    rows = [
        [f"{point.weight:g}", name, *measured(policy.measures)]
        for point in points
        for name, policy in point.results.policies.items()
    ]
    return table([metric, "policy", *MEASURED], rows)
