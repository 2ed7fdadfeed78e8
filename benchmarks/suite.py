"""Runs a scenario through the engine that is under ``bandmaster replay``, and makes its record."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bandmaster import build
from bandmaster.config import Config
from bandmaster.core import BandmasterError, FloatArray
from bandmaster.recorded import RecordedLog
from bandmaster.references import REFERENCES, require_judge
from bandmaster.replay import Bench, Step, processes, replay
from bandmaster.table import NO_LABEL
from benchmarks import crossed, decision_cost, degraded, fitted, log_speed, page_cost, page_speed, stale, trained
from benchmarks.record import Curve, MemberFigures, Played, Record
from benchmarks.scenario import (
    UNAVAILABLE,
    Common,
    Crossed,
    DecisionCost,
    Degraded,
    Fitted,
    FleetSaturation,
    LogSpeed,
    PageCost,
    PageSpeed,
    Play,
    Replayed,
    Scenario,
    ServingCost,
    ServingScale,
    Stale,
    TrafficSpec,
    Trained,
)
from benchmarks.serving import cost, scale
from benchmarks.sources import Place, UnavailableError, logs_of

BINS = 50
"""Points of a course over time."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A scenario's record, and what each policy took: µs a request."""

    record: Record
    us_per_request: dict[str, float]


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears of progress: ``step`` of each replay's, ``line`` what is to be said."""

    step: Callable[[Step], None]
    line: Callable[[str], None]


def run(scenario: Scenario, place: Place, listener: Listener, *, seeds: int | None, jobs: int | None) -> Ran:
    """Run a scenario, with other ``seeds`` than its own if given. Its record is not judged yet.

    Raises ``UnavailableError`` where something is missing that it needs.
    """
    if isinstance(scenario, Replayed):
        return _replayed(scenario, place, listener, seeds or scenario.seeds, jobs)
    if isinstance(scenario, Degraded):
        config = scenario.read_config()
        (log, *_) = logs_of(scenario, config, place, seeds or scenario.seeds, listener.line)
        figures = degraded.measure(scenario, config, log, seeds or scenario.seeds, jobs, listener.line)
        return Ran(_record(scenario, seeds or scenario.seeds, members=_members(log, config), figures=figures), {})
    if isinstance(scenario, Fitted):
        config = scenario.read_config()
        (log, *_) = logs_of(scenario, config, place, seeds or scenario.seeds, listener.line)
        figures = fitted.measure(scenario, config, log, seeds or scenario.seeds, jobs, listener.step, listener.line)
        return Ran(_record(scenario, seeds or scenario.seeds, figures=figures), {})
    if isinstance(scenario, Trained):
        return _trained(scenario, place, listener, seeds or scenario.seeds, jobs)
    if isinstance(scenario, DecisionCost):
        config = scenario.read_config()
        (log, *_) = logs_of(scenario, config, place, 1, listener.line)
        return Ran(_record(scenario, 1, figures=decision_cost.measure_apart(scenario, config, log)), {})
    if isinstance(scenario, Crossed):
        return Ran(_record(scenario, 1, figures=crossed.measure(scenario, place, listener.line)), {})
    if isinstance(scenario, LogSpeed):
        return Ran(_record(scenario, 1, figures=log_speed.measure(scenario, listener.line)), {})
    if isinstance(scenario, PageSpeed):
        return Ran(_record(scenario, 1, figures=page_speed.measure(scenario, place, listener.line)), {})
    if isinstance(scenario, PageCost):
        return Ran(_record(scenario, 1, figures=page_cost.measure(scenario, place, listener.line)), {})
    if isinstance(scenario, Stale):
        config = scenario.read_config()
        logs = logs_of(scenario, config, place, seeds or scenario.seeds, listener.line)
        figures = stale.measure(scenario, config, logs, seeds or scenario.seeds, listener.line)
        return Ran(_record(scenario, seeds or scenario.seeds, figures=figures), {})
    if isinstance(scenario, ServingScale):
        return Ran(_record(scenario, 1, figures=scale.measure(scenario, listener.line)), {})
    if isinstance(scenario, FleetSaturation):
        try:
            from benchmarks.serving import fleet
        except ImportError as problem:
            raise UnavailableError(
                f"needs PostgreSQL's driver ({problem}); pip install 'bandmaster[postgres]'"
            ) from None
        return Ran(_record(scenario, 1, figures=fleet.measure(scenario, listener.line)), {})
    if isinstance(scenario, ServingCost):
        return Ran(_record(scenario, 1, figures=cost.measure(scenario, listener.line)), {})
    return Ran(_record(scenario, 0), {})


def _record(
    scenario: Common,
    seeds: int,
    *,
    plays: dict[str, Played] | None = None,
    members: tuple[MemberFigures, ...] = (),
    figures: dict[str, float | None] | None = None,
    missing: dict[str, str] | None = None,
) -> Record:
    return Record(
        id=scenario.id,
        why=scenario.why,
        seeds=seeds,
        plays=plays or {},
        members=members,
        figures=figures or {},
        missing=missing or {},
    )


def _replayed(scenario: Replayed, place: Place, listener: Listener, seeds: int, jobs: int | None) -> Ran:
    logs = logs_of(scenario, scenario.read_config(), place, seeds, listener.line)
    plays: dict[str, Played] = {}
    missing: dict[str, str] = {}
    spent: dict[str, list[float]] = {}
    for name, play in scenario.all_plays().items():
        listener.line(f"{scenario.id}: {name}")
        config = scenario.config_of(play)
        available, lacking = _available(play.policies, config, logs[0])
        missing |= lacking
        bench = build.bench(config, logs, (play.traffic or TrafficSpec()).traffic())
        found, times = _play(bench, play, available, seeds, jobs, scenario.over_time, listener)
        plays |= found
        for policy, us in times.items():
            spent.setdefault(policy, []).append(us)
    figures = {policy: float(np.mean(us)) for policy, us in spent.items()}
    return Ran(
        _record(scenario, seeds, plays=plays, members=_members(logs[0], scenario.read_config()), missing=missing),
        figures,
    )


def _trained(scenario: Trained, place: Place, listener: Listener, seeds: int, jobs: int | None) -> Ran:
    config = scenario.read_config()
    (log, *_) = logs_of(scenario, config, place, seeds, listener.line)
    taught, judged = trained.split(scenario, log, config)
    specs = trained.policies(scenario, taught, judged, config, place, seeds, jobs, listener.line)
    bench = build.bench(config, [judged], scenario.traffic.traffic())
    play = Play(windows={"replay": scenario.traffic.last})
    once = [*scenario.policies, *dict.fromkeys(specs.values())]  # what is best beforehand may be best in hindsight, too
    found, times = _play(bench, play, once, seeds, jobs, scenario.over_time, listener)
    names = {spec: tuple(name for name, other in specs.items() if other == spec) for spec in specs.values()}
    plays = {name: _renamed(played, names) for name, played in found.items()}
    return Ran(
        _record(scenario, seeds, plays=plays, members=_members(judged, config)),
        {name: us for policy, us in times.items() for name in names.get(policy, (policy,))},
    )


def _renamed(played: Played, names: Mapping[str, tuple[str, ...]]) -> Played:
    """What was played with policies under other names, each under all that it has."""

    def named(found: Any) -> Any:
        if isinstance(found, dict):
            return {name: named(value) for key, value in found.items() for name in names.get(key, (key,))}
        return found

    curves = tuple(Curve(name, c.rewards) for c in played.curves for name in names.get(c.policy, (c.policy,)))
    return Played(played.requests, named(played.results), played.at, curves)


def _play(
    bench: Bench,
    play: Play,
    policies: Sequence[str],
    seeds: int,
    jobs: int | None,
    over_time: bool,
    listener: Listener,
) -> tuple[dict[str, Played], dict[str, float]]:
    """One replay, judged over each of its windows, and each policy's µs a request. The first has the course."""
    with tempfile.TemporaryDirectory(prefix="bandmaster-") as folder:
        trace = Path(folder) / "trace.parquet" if over_time else None
        lasts = tuple(play.windows.values())
        found = replay(bench, policies, seeds, lasts=lasts, spread=processes(jobs), progress=listener.step, trace=trace)
        requests = bench.traffic.length(bench.logs[0])
        curves = () if trace is None else _curves(trace, requests)
    plays = {
        window: Played(requests, results.as_json(), play.at, curves if k == 0 else ())
        for k, (window, results) in enumerate(zip(play.windows, found, strict=True))
    }
    return plays, found[0].timing["us_per_request"]


def _curves(trace: Path, requests: int) -> tuple[Curve, ...]:
    """Each policy's mean reward in each of ``BINS`` equal parts of the run."""
    part = (pl.col("position") * BINS // requests).alias("part")
    means = pl.scan_parquet(trace).group_by("policy", part).agg(pl.col("reward").mean()).collect().sort("part")
    policies = pl.scan_parquet(trace).select(pl.col("policy").unique(maintain_order=True)).collect()["policy"]
    return tuple(Curve(p, tuple(means.filter(pl.col("policy") == p)["reward"])) for p in policies)


def _members(log: RecordedLog, config: Config) -> tuple[MemberFigures, ...]:
    """Every member alone, over the whole log. An abstention is wrong."""
    labelled = log.truth != NO_LABEL
    if log.values is not None:
        right = config.contract.closeness(log.scores[log.rows, :, 0] - log.values[:, None])
    else:
        said = np.where(log.scores.max(axis=-1) > 0.0, log.scores.argmax(axis=-1), NO_LABEL - 1)[log.rows]
        right = (said == log.truth[:, None]).astype(np.float64)
    accuracy = right[labelled].mean(axis=0)

    def figure(values: FloatArray, m: int) -> float | None:
        found = float(values[:, m].mean())
        return None if np.isnan(found) else found

    return tuple(
        MemberFigures(name, float(accuracy[m]), figure(log.latency_s, m), figure(log.energy_j, m), figure(log.cost, m))
        for m, name in enumerate(log.ensemble.names)
    )


# ---- Policies that can be played -------------------------------------------------------------------------------


def _available(policies: Sequence[str], config: Config, log: RecordedLog) -> tuple[list[str], dict[str, str]]:
    """The policies that can be made here, and why the others cannot."""
    make = build.ReplayFactory(config)
    lacking = {name: UNAVAILABLE[name] for name in policies if name in UNAVAILABLE}
    for name in policies:
        try:
            if name in REFERENCES:
                require_judge(name, config.contract, log)
            elif name not in lacking:
                make(name, log, 0)
        except BandmasterError as problem:
            lacking[name] = str(problem)
    return [p for p in policies if p not in lacking], lacking
