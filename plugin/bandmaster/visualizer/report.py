"""The report of a replay: one HTML file that needs nothing else, no network either."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from bandmaster.core import DEFAULT_PROFILE, FloatArray
from bandmaster.results import BEST_PLAN, PARTS, Results, first_that_counts
from bandmaster.visualizer.frontier import finish_frontier, paint_plans, prices
from bandmaster.visualizer.page import figure, legend_beside, require_drawing, table, wheel, write_page
from bandmaster.visualizer.units import MEASURED, measured
from bandmaster.visualizer.verdict import leader, verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

YARDSTICKS = {"best_constant": ":", BEST_PLAN: "--", "oracle": "-"}
"""How the lines of what only hindsight knows are drawn."""

PLANS_SHOWN = 10


def write_report(path: Path, results: Results, trace: Path) -> None:
    """Write the report of ``results`` at ``path``, with the course of things from the ``trace`` of the same replay.

    Raises ``BandmasterError`` when the file cannot be written or nothing can be drawn.
    """
    require_drawing("a report")
    seen = _Seen(results, pl.scan_parquet(trace), leader(results)[0])
    parts = [_head(results), _table(results)]
    parts += [_figure(picture, seen) for picture in _pictures(seen.lead)]
    parts += [_plans(seen), _alarms(seen), _setting(results)]
    write_page(path, "Replay", parts)


# ---- What there is to see ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Seen:
    """The results, the trace, and the ``lead``: the policy that is looked at closely."""

    results: Results
    trace: pl.LazyFrame
    lead: str

    @cached_property
    def rewards(self) -> dict[str, FloatArray]:
        """Every policy's mean reward in each part of the run (PARTS,)."""
        return self.by_part(pl.col("reward"))

    @cached_property
    def requests(self) -> int:
        """Of a run, those that warm up included."""
        return int(self.trace.select(pl.col("position").max()).collect().item()) + 1

    @property
    def first(self) -> int:
        """The first request that counts."""
        return first_that_counts(self.requests, self.results.setting.last)

    @cached_property
    def rung(self) -> list[tuple[int, int, str]]:
        """The lead's alarms: the request, the seed and the detector."""
        ours = self.trace.filter((pl.col("policy") == self.lead) & (pl.col("alarms").list.len() > 0))
        found = _collected(ours.select("position", "seed", "alarms").explode("alarms"))
        return list(found.sort("seed", "position", "alarms").iter_rows())

    def counted(self) -> pl.LazyFrame:
        """The requests that count, and in which ``part`` of the run each is."""
        first, counts = self.first, self.requests - self.first
        part = ((pl.col("position") - first) * PARTS // counts).alias("part")
        return self.trace.filter(pl.col("position") >= first).with_columns(part)

    def by_part(self, what: pl.Expr, *, of: pl.Expr | None = None) -> dict[str, FloatArray]:
        """The mean of ``what`` in each part of the run (PARTS,), over all seeds, by policy; NaN where there is none."""
        chosen = self.counted() if of is None else self.counted().filter(of)
        found = _collected(chosen.group_by("policy", "part").agg(what.mean().alias("value")))
        courses = {name: np.full(PARTS, np.nan) for name in self.results.policies}
        for policy, part, value in found.iter_rows():
            courses[policy][part] = np.nan if value is None else value
        return courses


def _collected(frame: pl.LazyFrame) -> pl.DataFrame:
    """Streamed: a trace may be larger than memory."""
    return frame.collect(engine="streaming")


@dataclass(frozen=True, slots=True)
class _Picture:
    """``told`` says how to read it; ``height`` is in inches, besides what a row for each policy takes where there are
    ``rows``.
    """

    title: str
    told: str
    paint: Callable[[Axes, _Seen], None]
    height: float = 3.8
    rows: bool = False


def _pictures(lead: str) -> tuple[_Picture, ...]:
    return (
        _Picture("Reward", "A policy's mean reward a request, probes and exploration charged, with its 95 % interval. "
                 "The lines are what only hindsight knows.", _rewards, 1.4, rows=True),
        _Picture("Over time", "The mean reward in each hundredth of the run. Triangles: drift alarms of any seed of "
                 f"{lead}.", _over_time),
        _Picture("Cumulative reward", "What has been earned up to each request, less what the best constant plan in "
                 "hindsight would have: above 0 a policy is ahead.", _cumulative),
        _Picture("Regret to the oracle", "What the oracle, the best single member of every request, has earned more up "
                 "to each request. A line that flattens has learned; one that falls shows that combining members beats "
                 "choosing one.", _regret),
        _Picture("What the reward is made of", "The weight of each metric times its mean term; a policy's bar is its "
                 "reward.", _terms, 1.4, rows=True),
        _Picture(f"Members over time: {lead}", "How many members ran for a reply on average, and which.", _members),
        _Picture("Accuracy and its price", "Every plan of the catalogue alone (grey; single members by name) and every "
                 "policy. Up and to the left is better.", _frontier, 4.4),
    )  # fmt: skip


# ---- Pictures ----------------------------------------------------------------------------------------------------


def _figure(picture: _Picture, seen: _Seen) -> str:
    height = picture.height + picture.rows * 0.32 * len(seen.results.policies)
    return figure(picture.title, picture.told, height, lambda axes: picture.paint(axes, seen))


def _colours(seen: _Seen) -> dict[str, Any]:
    """The lead is black, everybody else has a colour."""
    others = [name for name in seen.results.policies if name != seen.lead]
    return {seen.lead: "black"} | dict(zip(others, wheel(len(others)), strict=True))


def _rewards(axes: Axes, seen: _Seen) -> None:
    policies = sorted(seen.results.policies.items(), key=lambda item: item[1].measures.reward)
    colours = _colours(seen)
    for row, (name, policy) in enumerate(policies):
        axes.plot(policy.interval, [row, row], color=colours[name], linewidth=3)
        axes.plot(policy.measures.reward, row, "o", color=colours[name])
    axes.set_yticks(range(len(policies)), [name for name, _ in policies])
    results = seen.results
    for name, at in (
        ("best_constant", results.best_constant.measures.reward),
        (BEST_PLAN, results.best_constant_plan.measures.reward),
        ("oracle", results.oracle),
    ):
        axes.axvline(at, color="grey", linestyle=YARDSTICKS[name], label=_words(name))
    axes.set_xlabel("reward a request")
    _finish(axes, "x")


def _over_time(axes: Axes, seen: _Seen) -> None:
    at = _places(seen)
    for name, colour in _colours(seen).items():
        axes.plot(at, seen.rewards[name], color=colour, linewidth=2.0 if name == seen.lead else 1.0, label=name)
    for name, course in seen.results.courses.items():
        axes.plot(at, course, color="grey", linestyle=YARDSTICKS[name], linewidth=1.0, label=_words(name))
    if marks := [place for place, _, _ in seen.rung]:
        axes.plot(marks, np.full(len(marks), 0.01), "^", color="black", markersize=4, clip_on=False,
                  transform=axes.get_xaxis_transform(), label="drift alarm")  # fmt: skip
    axes.set_ylabel("reward")
    _finish(axes, "both", seen)


def _cumulative(axes: Axes, seen: _Seen) -> None:
    plan = seen.results.courses[BEST_PLAN]
    for name, colour in _colours(seen).items():
        axes.plot(_places(seen), _summed(seen.rewards[name] - plan, seen), color=colour, label=name)
    axes.axhline(0.0, color="grey", linestyle=YARDSTICKS[BEST_PLAN], label=_words(BEST_PLAN))
    axes.set_ylabel("rewards ahead")
    _finish(axes, "both", seen)


def _regret(axes: Axes, seen: _Seen) -> None:
    oracle = seen.results.courses["oracle"]
    for name, colour in _colours(seen).items():
        axes.plot(_places(seen), _summed(oracle - seen.rewards[name], seen), color=colour, label=name)
    axes.axhline(0.0, color="grey", linewidth=1.0, label="oracle")
    axes.set_ylabel("rewards behind")
    _finish(axes, "both", seen)


def _terms(axes: Axes, seen: _Seen) -> None:
    contract = seen.results.setting.contract
    terms = [name for name in contract if contract[name]["weight"]]
    weights = {name: _weight(contract[name]) for name in terms}
    known = pl.col("reward").is_not_null()
    asked = [(pl.col(f"{name}_term") * weights[name]).mean().alias(name) for name in terms]
    found = _collected(seen.counted().filter(known).group_by("policy").agg(asked)).sort("policy")
    order = sorted(found["policy"].to_list(), key=lambda name: seen.results.policies[name].measures.reward)
    place, left = {name: row for row, name in enumerate(order)}, np.zeros(len(order))
    rows = [place[name] for name in found["policy"]]
    for name in terms:
        width = np.array([0.0 if v is None else v for v in found[name]])
        axes.barh(rows, width, left=left, label=f"{name} (× {contract[name]['weight']:g})")
        left += width
    axes.set_yticks(range(len(order)), order)
    axes.set_xlabel("reward a request")
    _finish(axes, "x")


def _weight(metric: dict[str, Any]) -> pl.Expr:
    """The metric's weight for each request, by its profile."""
    weights = metric.get("profiles", {}) | {DEFAULT_PROFILE: metric["weight"]}
    return pl.col("profile").replace_strict(weights, return_dtype=pl.Float64)


def _members(axes: Axes, seen: _Seen) -> None:
    ours = pl.col("policy") == seen.lead
    names = _collected(seen.counted().filter(ours).select(pl.col("ran").explode().drop_nulls().unique()))["ran"]
    shares = [seen.by_part(pl.col("ran").list.contains(name), of=ours)[seen.lead] for name in sorted(names)]
    axes.stackplot(_places(seen), *shares, labels=sorted(names), colors=wheel(len(names)))
    axes.set_ylabel("members a request")
    _finish(axes, "y", seen)


def _frontier(axes: Axes, seen: _Seen) -> None:
    """Accuracy over the first price that everything has."""
    results = seen.results
    every = [*results.plans, *(p.measures for p in results.policies.values())]
    price = next(iter(prices(every)), "members_per_request")
    paint_plans(axes, price, results)
    for name, colour in _colours(seen).items():
        measures = results.policies[name].measures
        axes.plot(getattr(measures, price), measures.accuracy, "o", color=colour, label=name)
    finish_frontier(axes, price)


def _places(seen: _Seen) -> FloatArray:
    """The middle of each part, as a place in the run."""
    return seen.first + (np.arange(PARTS) + 0.5) * (seen.requests - seen.first) / PARTS


def _summed(course: FloatArray, seen: _Seen) -> FloatArray:
    """The sum up to each part, of a course of means; what is unknown adds nothing."""
    return np.cumsum(np.nan_to_num(course)) * (seen.requests - seen.first) / PARTS


def _finish(axes: Axes, grid: Any, over: _Seen | None = None) -> None:
    if over is not None:
        axes.set_xlabel("request")
        axes.set_xlim(over.first, over.requests)
    legend_beside(axes, grid)


def _words(name: str) -> str:
    return name.replace("_", " ")


# ---- Words and tables --------------------------------------------------------------------------------------------


def _head(results: Results) -> str:
    return "<h1>What each policy would have earned</h1>" + "".join(f"<p>{escape(s)}</p>" for s in verdict(results))


def _table(results: Results) -> str:
    rows = []
    for name, r in sorted(results.policies.items(), key=lambda item: -item[1].measures.reward):
        gap = "" if r.gap_closed is None else f"{r.gap_closed:.0%}"
        shown = f"{name} (in hindsight)" if r.hindsight else name
        rows.append([shown, *measured(r.measures), f"[{r.interval[0]:.4f}, {r.interval[1]:.4f}]", gap,
                     f"{r.probe_share:.1%}", "" if r.drift_events is None else f"{r.drift_events:.1f}"])  # fmt: skip
    for name, constant in (
        ("best single member in hindsight", results.best_constant),
        ("best constant plan in hindsight", results.best_constant_plan),
        ("all members at once", results.all_members),
    ):
        label = name if constant is results.all_members else f"{name}: {constant.plan}"
        rows.append([label, *measured(constant.measures), "", "", "", ""])
    rows.append(["oracle: best single member, request by request", f"{results.oracle:.4f}", *[""] * 9])
    rows.append(["previous label (costs nothing)", "", f"{results.previous_label:.4f}", *[""] * 8])
    return table(["policy", *MEASURED, "95 % interval", "gap closed", "probed", "drift alarms"], rows)


def _plans(seen: _Seen) -> str:
    ours = seen.counted().filter(pl.col("policy") == seen.lead)
    found = _collected(ours.group_by("plan").agg(pl.len().alias("n"), pl.col("reward").mean()))
    found = found.sort(["n", "plan"], descending=[True, False])
    total = found["n"].sum()
    rows = [[p, f"{n / total:.1%}", "" if r is None else f"{r:.4f}"] for p, n, r in found.head(PLANS_SHOWN).iter_rows()]
    more = f"<p>{len(found) - PLANS_SHOWN} more plans were played.</p>" if len(found) > PLANS_SHOWN else ""
    return f"<h2>Plans that {escape(seen.lead)} played most</h2>" + table(["plan", "requests", "reward"], rows) + more


def _alarms(seen: _Seen) -> str:
    rung = seen.rung
    if not rung:
        return f"<h2>Drift alarms</h2><p>None of {escape(seen.lead)}.</p>"
    rows = [[str(seed), str(place), name] for place, seed, name in rung[:200]]
    more = f"<p>{len(rung) - 200} more.</p>" if len(rung) > 200 else ""
    return f"<h2>Drift alarms of {escape(seen.lead)}</h2>" + table(["seed", "request", "detector"], rows) + more


def _setting(results: Results) -> str:
    told = {name: value for name, value in results.as_json().items() if name in ("log", "seeds", "traffic", "last")}
    told["contract"] = dict(results.setting.contract)
    return f"<h2>What was replayed</h2><pre>{escape(json.dumps(told, indent=1, ensure_ascii=False))}</pre>"
