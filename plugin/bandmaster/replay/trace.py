"""What one policy's run did, request by request, and what that earned."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from bandmaster.contract import Contract
from bandmaster.core import DEFAULT_PROFILE, BoolArray, Ensemble, Figures, FloatArray, IntArray
from bandmaster.learner import profile_figures
from bandmaster.plans import compiled, parse_plan
from bandmaster.recorded import RecordedLog
from bandmaster.references import Played
from bandmaster.replay.traffic import Drawn
from bandmaster.table import named

Alarms = Mapping[int, Sequence[str]]
"""By request, the names of the detectors that rang."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One policy's run, one entry a request, in order of arrival.

    ``row`` is the request's (first) row in the log as given, ``bounds`` are its log's, and labels are one a row of it
    (R,); ``plans`` names every plan that was played, ``plan`` is an index
    into them; ``ran`` (N, M) says which members ran for the reply; ``label`` and ``truth`` are class indices, in
    regression ``values`` and ``true_values`` the numbers. ``raw`` and ``terms`` map each metric to (N,), a probe's
    energy and cost in, NaN where unknown; ``reward`` is NaN where the label never became known. ``alarms`` are
    those that outcomes raised which came with a request, by its place; ``None`` where nobody looked for drift.
    """

    row: IntArray
    plans: tuple[str, ...]
    plan: IntArray
    propensity: FloatArray
    probed: BoolArray
    stages_run: IntArray
    ran: BoolArray
    label: IntArray
    truth: IntArray
    values: FloatArray | None
    true_values: FloatArray | None
    raw: Mapping[str, FloatArray]
    terms: Mapping[str, FloatArray]
    reward: FloatArray
    phases: tuple[str, ...] | None
    alarms: Alarms | None
    bounds: IntArray | None
    profiles: tuple[str, ...] | None
    over_limits: BoolArray


def trace_of(
    drawn: Drawn, contract: Contract, played: Played, own: Mapping[str, FloatArray], alarms: Alarms | None
) -> Trace:
    """What ``played`` earned; ``own`` are the figures of the user's own metrics, (N,) each."""
    log, known = drawn.log, drawn.log.labelled
    stages = stages_of(log, played)
    raw = {
        "accuracy": np.where(known, log.by_request(_accuracy(log, contract, played)), np.nan),
        "confidence": log.by_request(played.confidence),
        **spent(log, played, stages, figures_of(log, contract)),
        **own,
    }
    return Trace(
        row=log.rows[log.starts],
        bounds=log.bounds,
        plans=played.plans,
        plan=played.plan,
        propensity=played.propensity,
        probed=played.probed,
        stages_run=np.maximum.reduceat(played.stages_run, log.starts),
        ran=np.logical_or.reduceat(stages.any(axis=1), log.starts),
        label=played.label,
        truth=log.truth,
        values=played.values,
        true_values=log.values,
        raw=raw,
        terms={m.name: m.normalise(raw[m.name]) for m in contract.metrics if m.name in raw},
        reward=np.where(known, contract.rewards_under(profiles_of(log), raw), np.nan),
        phases=log.phases,
        alarms=alarms,
        profiles=log.profiles,
        over_limits=np.zeros(len(log), dtype=np.bool_),
    )


def _accuracy(log: RecordedLog, contract: Contract, played: Played) -> FloatArray:
    """How right the answer to each row was, (R,) in [0, 1]."""
    if log.values is None or played.values is None:
        return np.asarray(played.label == log.truth, dtype=np.float64)
    error: FloatArray = played.values - log.values
    return contract.closeness(error)


def stages_of(log: RecordedLog, played: Played) -> BoolArray:
    """Who ran on which row in which stage, (R, S, M)."""
    members = compiled(played.plans, log.ensemble).stage_members
    plan = log.by_row(played.plan)
    return members[plan] & (np.arange(members.shape[1]) < played.stages_run[:, None])[..., None]


def spent(log: RecordedLog, played: Played, stages: BoolArray, figures: Figures) -> dict[str, FloatArray]:
    """What each request took, (N,). A probe runs all members that have not seen all rows: it is charged."""
    ran = np.asarray(stages.any(axis=1))
    calls = _calls(log, ran, stages, figures)
    # A member that saw some rows for the reply and all of them for the probe is paid for both.
    again = played.probed[:, None] & ~np.logical_and.reduceat(ran, log.starts)
    probes = _calls(log, np.ones(ran.shape, dtype=np.bool_), stages, figures)
    weights = played.weights * np.logical_or.reduceat(ran, log.starts)
    explained = np.where(weights > 0.0, calls.explainability, 0.0) * weights
    return {
        "latency": calls.latency_s.sum(axis=-1),
        "energy": calls.energy_j.sum(axis=-1) + np.where(again, probes.energy_j, 0.0).sum(axis=-1),
        "cost": calls.cost.sum(axis=-1) + np.where(again, probes.cost, 0.0).sum(axis=-1),
        "explainability": explained.sum(axis=-1) / weights.sum(axis=-1),
    }


def _calls(log: RecordedLog, ran: BoolArray, stages: BoolArray, figures: Figures) -> Figures:
    """What each member's calls took, all (N, M), and each stage's latency (N, S), as ``RecordedMeter`` adds up rows.

    ``ran`` (R, M, …) says who saw which row, ``stages`` (R, S, M, …) in which stage; figures are each row's, (R, M).
    """
    slowest = np.where(stages, figures.latency_s[:, None], 0.0).max(axis=2)
    rows = np.maximum(np.add.reduceat(ran, log.starts, dtype=np.int64), 1)
    return Figures(
        latency_s=np.maximum.reduceat(slowest, log.starts),
        energy_j=np.add.reduceat(np.where(ran, figures.energy_j, 0.0), log.starts),
        cost=np.add.reduceat(np.where(ran, figures.cost, 0.0), log.starts),
        explainability=np.add.reduceat(np.where(ran, figures.explainability, 0.0), log.starts) / rows,
    )


def profiles_of(log: RecordedLog) -> Sequence[str]:
    """The profile of each request, (N,)."""
    return log.profiles or (DEFAULT_PROFILE,) * len(log)


def figures_of(log: RecordedLog, contract: Contract) -> Figures:
    """The members' figures (N, M) on each request that the contract means: the log's own, or the declared ones."""
    declared = profile_figures(log.ensemble)

    def column(metric: str, own: FloatArray, profile: FloatArray) -> FloatArray:
        found = contract.metric(metric)
        return (np.broadcast_to(profile, own.shape) if found and found.source == "profile" else own)[log.rows]

    return Figures(
        latency_s=column("latency", log.latency_s, declared.latency_s),
        energy_j=column("energy", log.energy_j, declared.energy_j),
        cost=log.cost[log.rows],
        explainability=log.explainability[log.rows],
    )


def trace_frame(trace: Trace, ensemble: Ensemble, policy: str, seed: int, log: int) -> pl.DataFrame:
    """A trace as a table: one row a request, in order of arrival. Unknown figures are null."""
    played = [parse_plan(name, ensemble) for name in trace.plans]
    stages = [[plan.stages[:k] for k in range(len(plan.stages) + 1)] for plan in played]
    ran = [[n for s in stages[p][k] for n in s] for p, k in zip(trace.plan, trace.stages_run, strict=True)]
    columns: dict[str, Any] = {
        "policy": pl.Series([policy] * len(ran), dtype=pl.String),
        "seed": np.full(len(ran), seed),
        "log": np.full(len(ran), log),
        "request": trace.row,
        "position": np.arange(len(ran)),
        "phase": pl.Series(trace.phases if trace.phases else [None] * len(ran), dtype=pl.String),
        "profile": pl.Series(trace.profiles or [DEFAULT_PROFILE] * len(ran), dtype=pl.String),
        "plan": pl.Series([trace.plans[p] for p in trace.plan], dtype=pl.String),
        "propensity": trace.propensity,
        "over_limits": trace.over_limits,
        "ran": pl.Series(ran, dtype=pl.List(pl.String)),
        "probed": trace.probed,
        "rows": np.ones(len(ran), dtype=np.int64) if trace.bounds is None else np.diff(trace.bounds),
        "label": _said(trace.label, trace.values, trace.bounds, ensemble),
        "truth": _said(trace.truth, trace.true_values, trace.bounds, ensemble),
        **{_COLUMN.get(name, name): values for name, values in trace.raw.items()},
        **{f"{name}_term": values for name, values in trace.terms.items()},
        "reward": trace.reward,
        "alarms": pl.Series(_alarms(trace), dtype=pl.List(pl.String)),
    }
    return pl.DataFrame(columns).with_columns(pl.col(pl.Float64).fill_nan(None))


def _alarms(trace: Trace) -> list[list[str] | None]:
    """Those of each request; null where nobody looked for drift."""
    if trace.alarms is None:
        return [None] * len(trace.plan)
    return [list(trace.alarms.get(i, ())) for i in range(len(trace.plan))]


_COLUMN = {"latency": "latency_s", "energy": "energy_j"}


def _said(labels: IntArray, values: FloatArray | None, bounds: IntArray | None, ensemble: Ensemble) -> pl.Series:
    """Labels as classes or values: one a request, or, in a log of several rows a request, a list of them."""
    column = named(labels, ensemble.classes) if values is None else pl.Series(values, nan_to_null=True)
    if bounds is None:
        return column
    return pl.Series([column[a:b] for a, b in itertools.pairwise(bounds.tolist())], dtype=pl.List(column.dtype))
