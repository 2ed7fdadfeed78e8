"""Replay: what would each policy have earned on recorded traffic? Drives the very same ``answer`` and ``settle``."""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import joblib
import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from bandmaster.combine import weights_in_force
from bandmaster.contract import Contract
from bandmaster.core import (
    DEFAULT_PROFILE,
    NO_ANSWER,
    Answer,
    BandmasterError,
    BoolArray,
    Decision,
    Ensemble,
    Figures,
    FloatArray,
    IntArray,
    Joined,
    Journal,
    Outcome,
)
from bandmaster.counterfactual import Evaluation, evaluate, spend
from bandmaster.learner import Learner, profile_figures
from bandmaster.metrics import NoFigureError, own_figures, plan_figures
from bandmaster.orchestrator import Orchestrator, settle
from bandmaster.plans import Catalogue, all_members, compiled, parse_plan, pool_weights
from bandmaster.recorded import RecordedLog, RecordedMember, RecordedMeter
from bandmaster.references import REFERENCES, Course, Played, previous_label, require_judge, said
from bandmaster.results import Hindsight, Measures, Phase, Results, Run, Setting, mean, phase_rows, summarise
from bandmaster.state import RecentAccuracy, StateManager, Tracking
from bandmaster.table import NO_LABEL

CHUNK = 1 << 22
"""Figures in the largest array of the vectorised evaluation of many requests; bounds its memory."""


Order = Literal["kept", "shuffled", "mixed"]


@dataclass(frozen=True, slots=True)
class Mix:
    """A class mix that is redrawn: every ``every`` requests, ``classes`` others of the log's; ``requests`` in all."""

    classes: int
    every: int
    requests: int

    def phases(self) -> dict[str, int]:
        """The length of each phase, by its name."""
        starts = range(0, self.requests, self.every)
        return {f"mix {k}": min(self.every, self.requests - start) for k, start in enumerate(starts, start=1)}


@dataclass(frozen=True, slots=True)
class Traffic:
    """How a log becomes traffic. ``delay`` (requests) overrides the log's own; ``label_share`` of the labels arrive.

    ``mix`` is there where the order is ``mixed``, and only there.
    """

    order: Order = "kept"
    delay: int | None = None
    label_share: float = 1.0
    mix: Mix | None = None

    def __post_init__(self) -> None:
        if (self.order == "mixed") != (self.mix is not None):
            raise BandmasterError(f"order {self.order!r} and mix {self.mix}: mixed traffic has a mix, and no other has")
        if self.mix is not None and min(self.mix.classes, self.mix.every, self.mix.requests) < 1:
            raise BandmasterError(f"{self.mix}: classes, every and requests must be 1 or more")

    def length(self, log: RecordedLog) -> int:
        """Requests that a log gives."""
        return len(log) if self.mix is None else self.mix.requests


@dataclass(frozen=True, slots=True)
class Parts:
    """One orchestrator with its learner and journal, built for one run over one log."""

    orchestrator: Orchestrator
    learner: Learner
    journal: Journal


MakeParts = Callable[[str, RecordedLog, int], Parts]
"""Builds the parts for a policy's name, a log and a seed. Picklable, so that runs can go to other processes."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One seed's traffic: the ``log`` in the order of arrival, and after each request whose labels become known."""

    log: RecordedLog
    arrivals: tuple[tuple[int, ...], ...]


def draw(log: RecordedLog, traffic: Traffic, seed: int) -> Drawn:
    """The traffic of one seed; every policy of that seed sees the same."""
    if traffic.delay is not None:
        log = replace(log, delay=np.full(len(log), traffic.delay))
    rng = np.random.default_rng([seed, 0])
    if traffic.mix is not None:
        log = _mixed(log, traffic.mix, rng)
    elif traffic.order == "shuffled":
        log = log.redrawn(rng.permutation(len(log)))
    reported = np.random.default_rng([seed, 1]).random(len(log)) < traffic.label_share
    after = np.arange(len(log)) + log.delay
    arrivals: list[list[int]] = [[] for _ in range(len(log))]
    for i in np.flatnonzero(reported & log.labelled & (after < len(log))):
        arrivals[after[i]].append(int(i))
    return Drawn(log, tuple(map(tuple, arrivals)))


def _mixed(log: RecordedLog, mix: Mix, rng: np.random.Generator) -> RecordedLog:
    """Phase by phase, requests of a few classes: each once, and again only when all of them have been."""
    present = np.unique(log.truth[log.truth != NO_LABEL])
    order: list[IntArray] = []
    for length in mix.phases().values():
        (rows,) = np.nonzero(np.isin(log.truth, rng.choice(present, mix.classes, replace=False)))
        order.append(np.concatenate([rng.permutation(rows) for _ in range(-(-length // len(rows)))])[:length])
    phases = tuple(name for name, length in mix.phases().items() for _ in range(length))
    return replace(log.redrawn(np.concatenate(order)), phases=phases)


# ---- One policy, one traffic ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trace:
    """One policy's run, one entry a request, in order of arrival.

    ``row`` is the request's (first) row in the log as given, ``bounds`` are its log's, and labels are one a row of it
    (R,); ``plans`` names every plan that was played, ``plan`` is an index
    into them; ``ran`` (N, M) says which members ran for the reply; ``label`` and ``truth`` are class indices, in
    regression ``values`` and ``true_values`` the numbers. ``raw`` and ``terms`` map each metric to (N,), a probe's
    energy and cost in, NaN where unknown; ``reward`` is NaN where the label never became known.
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
    drift_events: int
    bounds: IntArray | None
    profiles: tuple[str, ...] | None
    over_limits: BoolArray


def run(drawn: Drawn, make: MakeParts, policy: str, seed: int) -> Trace:
    """Drive one policy over one seed's traffic, labels arriving as late as they did."""
    log = drawn.log
    parts = make(policy, log, seed)
    tally = _Tally(log, parts.learner.contract)
    ids: list[str] = []
    for i, arriving in enumerate(drawn.arrivals):
        request = log.request(i)
        decision, answer = parts.orchestrator.answer(request)
        if decision.probed:
            answer = parts.orchestrator.probe(decision, answer, request)
        ids.append(decision.id)
        tally.add(i, decision, answer)
        parts.learner.notice(decision, answer)
        if decision.probed and parts.learner.contract.by_consensus:
            settle(parts.journal, parts.learner, decision.id, Outcome(at=request.at, consensus=True))
        for j in arriving:
            settle(parts.journal, parts.learner, ids[j], Outcome(at=request.at, labels=log.labels(j)))
    played = tally.played(log.ensemble)
    trace = _trace(drawn, parts.learner.contract, played, tally.own, len(parts.journal.events()))
    return replace(trace, over_limits=tally.over)


def refer(drawn: Drawn, contract: Contract, reference: str, seed: int) -> Trace:
    """One of ``REFERENCES`` on one seed's traffic, charged as policies are."""
    course = Course(drawn.log, drawn.arrivals, contract, figures_of(drawn.log, contract), seed)
    return _trace(drawn, contract, REFERENCES[reference](course), {}, 0)


class _Tally:
    """Notes what each request did; what that earned is computed for all at once when the run is over."""

    def __init__(self, log: RecordedLog, contract: Contract) -> None:
        n, rows = len(log), len(log.truth)
        self._log, self._contract = log, contract
        self._labelled = log.labelled
        self._value = None if log.values is None else np.zeros(rows)
        self.own = {m.name: np.full(n, np.nan) for m in contract.own}
        self._plans: dict[str, int] = {}
        self._plan = np.zeros(n, dtype=np.int64)
        self._stages, self._label = np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.int64)
        self._propensity, self._confidence = np.zeros(n), np.zeros(rows)
        self._probed, self.over = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
        self._weights = np.zeros((n, len(log.ensemble.names)))

    def add(self, i: int, decision: Decision, answer: Answer) -> None:
        self._plan[i] = self._plans.setdefault(decision.plan, len(self._plans))
        of = slice(i, i + 1) if self._log.bounds is None else slice(self._log.bounds[i], self._log.bounds[i + 1])
        self._stages[of], self._label[of] = _stages_by_row(decision, answer, self._log.ensemble), answer.labels
        self._propensity[i], self._confidence[of] = decision.propensity, answer.confidence
        self._probed[i], self.over[i] = decision.probed, decision.over_limits
        self._weights[i] = answer.weights
        if self._value is not None:
            self._value[of] = np.where(answer.labels == NO_ANSWER, np.nan, answer.scores[:, 0])
        if self.own and self._labelled[i]:
            for name, figure in self._judged(decision, answer, self._log.labels(i)).items():
                self.own[name][i] = figure

    def _judged(self, decision: Decision, answer: Answer, labels: tuple[int | float, ...]) -> Mapping[str, float]:
        """The user's own metrics; none where one of them has no figure, so that the request has no reward."""
        try:
            return own_figures(self._contract, decision, answer, Outcome(decision.at, labels=labels))
        except NoFigureError:
            return {}

    def played(self, ensemble: Ensemble) -> Played:
        plans = compiled(tuple(self._plans), ensemble).plans
        recent = np.array([p.weights == "recent" for p in plans])[self._plan]
        fixed = np.stack([pool_weights(p, ensemble, np.ones(len(ensemble.names))) for p in plans])[self._plan]
        return Played(
            plans=tuple(self._plans),
            plan=self._plan,
            stages_run=self._stages,
            label=self._label,
            confidence=self._confidence,
            weights=np.where(recent[:, None], self._weights, fixed),
            probed=self._probed,
            propensity=self._propensity,
            values=self._value,
        )


def _stages_by_row(decision: Decision, answer: Answer, ensemble: Ensemble) -> IntArray | int:
    """How many stages each row went through, (n,)."""
    if len(answer.labels) == 1:
        return answer.stages_run
    stages, replies = np.zeros(len(answer.labels), dtype=np.int64), iter(answer.ran)
    for stage in parse_plan(decision.plan, ensemble).stages[: answer.stages_run]:
        (reply, *_) = (next(replies) for _ in stage)
        stages[reply.rows] += 1
    return stages


def _trace(drawn: Drawn, contract: Contract, played: Played, own: Mapping[str, FloatArray], drift_events: int) -> Trace:
    """What ``played`` earned; ``own`` are the figures of the user's own metrics, (N,) each."""
    log, known = drawn.log, drawn.log.labelled
    stages = _stages(log, played)
    raw = {
        "accuracy": np.where(known, log.by_request(_accuracy(log, contract, played)), np.nan),
        "confidence": log.by_request(played.confidence),
        **_spent(log, played, stages, figures_of(log, contract)),
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
        drift_events=drift_events,
        profiles=log.profiles,
        over_limits=np.zeros(len(log), dtype=np.bool_),
    )


def _accuracy(log: RecordedLog, contract: Contract, played: Played) -> FloatArray:
    """How right the answer to each row was, (R,) in [0, 1]."""
    if log.values is None or played.values is None:
        return np.asarray(played.label == log.truth, dtype=np.float64)
    error: FloatArray = played.values - log.values
    return contract.closeness(error)


def _stages(log: RecordedLog, played: Played) -> BoolArray:
    """Who ran on which row in which stage, (R, S, M)."""
    members = compiled(played.plans, log.ensemble).stage_members
    plan = log.by_row(played.plan)
    return members[plan] & (np.arange(members.shape[1]) < played.stages_run[:, None])[..., None]


def _spent(log: RecordedLog, played: Played, stages: BoolArray, figures: Figures) -> dict[str, FloatArray]:
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
    }
    return pl.DataFrame(columns).with_columns(pl.col(pl.Float64).fill_nan(None))


_COLUMN = {"latency": "latency_s", "energy": "energy_j"}


def _said(labels: IntArray, values: FloatArray | None, bounds: IntArray | None, ensemble: Ensemble) -> pl.Series:
    """Labels as classes or values: one a request, or, in a log of several rows a request, a list of them."""
    column = _classes(labels, ensemble) if values is None else pl.Series(values, nan_to_null=True)
    if bounds is None:
        return column
    return pl.Series([column[a:b] for a, b in itertools.pairwise(bounds.tolist())], dtype=pl.List(column.dtype))


def _classes(indices: IntArray, ensemble: Ensemble) -> pl.Series:
    """Class indices as the classes themselves; negative ones, no answer or no label, are null."""
    plain = all(isinstance(c, int) for c in ensemble.classes)
    values = [(ensemble.classes[i] if plain else str(ensemble.classes[i])) if i >= 0 else None for i in indices]
    return pl.Series(values, dtype=pl.Int64 if plain else pl.String)


# ---- Every plan in hindsight ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FixedPlans:
    """What each plan alone would have earned: ``rewards`` (requests that count, P), NaN where there is no label, and
    its means.
    """

    rewards: FloatArray
    measures: tuple[Measures, ...]


def fixed_plans(
    drawn: Drawn, catalogue: Catalogue, contract: Contract, tracking: Tracking, first: int = 0
) -> FixedPlans:
    """Evaluate every plan alone on every request from the ``first`` that counts on.

    The combiner is as deployed: weights by recent accuracy learn prequentially, from the labels that had arrived
    and the members that the plan ran, before ``first`` too; nobody probes. A test holds this equal to driving
    ``answer`` and ``settle`` with the constant policy.
    """
    if contract.by_consensus:  # which speaks on probes alone
        drawn = replace(drawn, arrivals=((),) * len(drawn.log))
    log = drawn.log
    rewards = np.empty((len(log), len(catalogue)))
    total = {name: np.zeros(len(catalogue)) for name in (*_MEASURED, "explainability")}
    for group, which in _by_history(catalogue):
        weights = _prequential_weights(drawn, contract, tracking, group)
        widest = 1 if log.bounds is None else int(np.diff(log.bounds).max())
        step = max(1, CHUNK // (len(group.prefix_members) * len(log.ensemble.classes) * widest))
        for start in range(first, len(log), step):
            part = slice(start, start + step)
            raw = _evaluate(group, contract, log, weights, part)
            rewards[part, which] = contract.rewards_under(profiles_of(log)[part], raw)
            for name in total:
                values = raw[name]
                total[name][which] += (np.nan_to_num(values) if name == "accuracy" else values).sum(axis=0)
    rewards, labelled = rewards[first:], log.labelled[first:]
    rewards[~labelled] = np.nan
    means = {name: total[name] / (labelled.sum() if name == "accuracy" else len(rewards)) for name in _MEASURED}
    plans = zip(*(means[name].tolist() for name in _MEASURED), strict=True)
    return FixedPlans(rewards, tuple(Measures(mean(rewards[:, k]), *figures) for k, figures in enumerate(plans)))


_MEASURED = ("accuracy", "confidence", "latency", "energy", "cost", "members_per_request")
"""The fields of ``Measures`` after the reward, as the metrics are called."""


def _by_history(catalogue: Catalogue) -> list[tuple[Catalogue, IntArray]]:
    """The plans, as catalogues with their indices, parted by whose answers their weights have learned from.

    A member that a plan always runs is heard on every request, whatever the plan; only cascades weighted by recent
    accuracy hear their later members at times, each cascade at times of its own.
    """
    apart = [k for k, p in enumerate(catalogue.plans) if p.weights == "recent" and len(p.stages) > 1]
    groups = [[k for k in range(len(catalogue)) if k not in apart], *([k] for k in apart)]
    return [
        (Catalogue.of(catalogue.ensemble, [catalogue.plans[k] for k in which]), np.array(which))
        for which in groups
        if which
    ]


def _evaluate(
    catalogue: Catalogue, contract: Contract, log: RecordedLog, weights: FloatArray, part: slice
) -> dict[str, FloatArray]:
    """Each metric of every plan on the requests in ``part``, (B, P)."""
    part_log = log.part(part)
    rows, row_weights = part_log.rows, part_log.by_row(weights[part])
    scores = log.scores[rows].astype(np.float64)
    seen = evaluate(catalogue, scores, np.ones(scores.shape[:2], dtype=np.bool_), row_weights)
    accuracy = (seen.labels == part_log.truth[:, None]).astype(np.float64)
    if part_log.values is not None and seen.values is not None:
        accuracy = contract.closeness(seen.values - part_log.values[:, None])
    raw = {
        "accuracy": np.where(part_log.labelled[:, None], part_log.by_request(accuracy), np.nan),
        "confidence": part_log.by_request(seen.confidence),
        **_own(catalogue, contract, log, seen, weights, part),
    }
    own = figures_of(part_log, contract)
    if log.bounds is not None:
        return raw | _spent_by_calls(catalogue, part_log, seen, own, row_weights)
    members = catalogue.stage_members.sum(axis=2).cumsum(axis=1)
    return {
        **raw,
        "members_per_request": members[np.arange(len(catalogue)), seen.stop].astype(np.float64),
        **spend(catalogue, seen.stop + 1, own, row_weights),
    }


def _spent_by_calls(
    catalogue: Catalogue, log: RecordedLog, seen: Evaluation, figures: Figures, weights: FloatArray
) -> dict[str, FloatArray]:
    """What every plan spends on requests of several rows, and how many members run, (N, P); ``weights`` (R, M)."""
    found: dict[str, list[FloatArray]] = {}
    for k, plan in enumerate(catalogue.plans):
        played = Played(
            plans=(plan.name,),
            plan=np.zeros(len(log), dtype=np.int64),
            stages_run=seen.stop[:, k] + 1,
            label=seen.labels[:, k],
            confidence=seen.confidence[:, k],
            weights=np.stack([pool_weights(plan, catalogue.ensemble, w) for w in weights[log.starts]]),
            probed=np.zeros(len(log), dtype=np.bool_),
            propensity=np.ones(len(log)),
        )
        stages = _stages(log, played)
        ran = np.logical_or.reduceat(stages.any(axis=1), log.starts)
        figures_of_plan = _spent(log, played, stages, figures) | {"members_per_request": ran.sum(axis=1).astype(float)}
        for name, values in figures_of_plan.items():
            found.setdefault(name, []).append(values)
    return {name: np.stack(columns, axis=1) for name, columns in found.items()}


def _own(
    catalogue: Catalogue, contract: Contract, log: RecordedLog, seen: Evaluation, weights: FloatArray, part: slice
) -> dict[str, FloatArray]:
    """The user's own metrics of every plan on the requests in ``part``, (B, P). In the states that their functions see,
    members' statistics are the priors: each plan had a history of its own.
    """
    requests = range(*part.indices(len(log)))
    figures = {m.name: np.full((len(requests), len(catalogue)), np.nan) for m in contract.own}
    if not figures:
        return figures
    states, meter = StateManager(log.ensemble), RecordedMeter(log)
    members = [RecordedMember(name, log.scores[:, m]) for m, name in enumerate(log.ensemble.names)]
    p, labelled, end = np.full(len(catalogue), 1.0 / len(catalogue)), log.labelled, 0
    for b, i in enumerate(requests):
        request = log.request(i)
        of, end = slice(end, end + len(request.rows)), end + len(request.rows)
        if not labelled[i]:
            continue
        every = np.arange(len(request.rows))
        heard = tuple(meter.run(member, request.rows, every) for member in members)
        scores = log.scores[request.rows[:, 0]].astype(np.float64)
        values = None if seen.values is None else seen.values[of]
        one = Evaluation(seen.labels[of], seen.confidence[of], seen.stop[of], seen.determined[of], values)
        state = states.get_state(request)
        decision = Decision(str(i), request.at, catalogue.names, p, 0, "constant", "0", state)
        answer = Answer(scores[:, 0], one.labels[:, 0], one.confidence[:, 0], heard, 1, weights[i])
        joined = Joined(0, decision, answer, Outcome(request.at, labels=log.labels(i)))
        for name, found in plan_figures(contract, catalogue, joined, one, scores).items():
            figures[name][b] = found
    return figures


def _prequential_weights(drawn: Drawn, contract: Contract, tracking: Tracking, catalogue: Catalogue) -> FloatArray:
    """The weights by recent accuracy (N, M) in force at each request, had a plan of ``catalogue`` been played."""
    log = drawn.log
    if log.values is not None:
        right = contract.closeness(log.scores[log.rows, :, 0] - log.values[:, None])
    else:
        right = (said(log) == log.truth[:, None]).astype(np.float64)
    correct, rows, starts = log.by_request(right).copy(), log.rows, np.r_[log.starts, len(log.truth)]
    walked = len(catalogue) == 1 and catalogue.stages[0] > 1
    accuracy = RecentAccuracy(log.ensemble, tracking)
    everyone = np.ones((1, len(log.ensemble.names)), dtype=np.bool_)
    weights = np.empty(correct.shape)
    for i, arriving in enumerate(drawn.arrivals):
        weights[i] = weights_in_force(accuracy.value, log.ensemble)
        if walked:
            own = slice(starts[i], starts[i + 1])
            scores = log.scores[rows[own]].astype(np.float64)
            stop = evaluate(catalogue, scores, np.repeat(everyone, len(scores), axis=0), weights[i]).stop[:, 0]
            heard = catalogue.stage_members[0].cumsum(axis=0)[stop] > 0  # (n, M)
            seen = heard.sum(axis=0)
            correct[i] = np.where(seen > 0, (right[own] * heard).sum(axis=0) / np.maximum(seen, 1), np.nan)
        for j in arriving:
            accuracy.update(correct[j])
    return weights


# ---- Policies × seeds ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """Progress: a run, or the yardsticks of a seed (``reward`` is ``None``), is ``done``, the so-many-th of all."""

    name: str
    seed: int
    reward: float | None
    seconds: float
    done: int
    of: int


@dataclass(frozen=True, slots=True)
class _Bench:
    """What all runs share. Its large arrays are mapped into the workers' memory, not copied."""

    logs: tuple[RecordedLog, ...]
    make: MakeParts
    catalogue: Catalogue
    contract: Contract
    tracking: Tracking
    traffic: Traffic
    last: float

    def first(self, requests: int) -> int:
        """The first request that counts, of so many; those before it warm up."""
        return requests - max(1, round(self.last * requests))

    def draw(self, seed: int) -> Drawn:
        return draw(_unmapped(self.logs[seed % len(self.logs)]), self.traffic, seed)

    def traffic_of(self, seed: int) -> int:
        """Seeds that meet the same requests in the same order have the same number."""
        return seed % len(self.logs) if self.traffic.order == "kept" else seed


def replay(
    logs: Sequence[RecordedLog],
    make: MakeParts,
    catalogue: Catalogue,
    contract: Contract,
    tracking: Tracking,
    *,
    policies: Sequence[str],
    seeds: int = 10,
    traffic: Traffic | None = None,
    last: float = 1.0,
    jobs: int | None = None,
    progress: Callable[[Step], None] | None = None,
    trace: Path | None = None,
) -> Results:
    """Play every policy on every seed's traffic, and compare.

    Several ``logs`` are redraws of one traffic: seed i plays log i modulo their number. All figures but the count of
    drift alarms are taken over the ``last`` share, in (0, 1], of each run's requests; the rest is learned from alone.
    ``jobs`` runs go on at once, in processes (``None``: as many as there are cores; 1: in this one); the results do
    not depend on it. ``progress`` hears of every step as it ends. ``trace`` names a parquet file for one row per
    request, policy and seed.

    Raises ``BandmasterError`` when the logs do not fit each other, hold no label, or a policy cannot be made.
    """
    began = time.perf_counter()
    bench = _Bench(tuple(logs), make, catalogue, contract, tracking, traffic or Traffic(), last)
    _check(bench, policies, seeds)
    jobs = jobs or joblib.cpu_count()
    alone = len({bench.traffic_of(seed) for seed in range(seeds)}) == 1
    with _TraceFile(trace) as file:
        tasks = [joblib.delayed(_look_back)(bench, seed, alone) for seed in _yardstick_seeds(bench, seeds)]
        for name in policies:
            for seed in range(seeds):
                tasks.append(joblib.delayed(_play)(bench, name, seed, file.part()))
        runs: list[Run] = []
        hindsights: list[Hindsight] = []
        for done, found in enumerate(joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(tasks), start=1):
            if isinstance(found, Run):
                runs.append(found)
            else:
                hindsights.append(found)
            if progress:
                progress(_step(found, done, len(tasks)))
        file.merge(max(map(bench.traffic.length, logs)))
    runs.sort(key=lambda r: (policies.index(r.policy), r.seed))
    hindsights.sort(key=lambda h: h.seed)
    timing = _timing(bench, runs, jobs, time.perf_counter() - began)
    return summarise(_setting(bench, seeds), runs, hindsights, timing)


def _unmapped(log: RecordedLog) -> RecordedLog:
    """The same log in the same memory. Mapped arrays come as ``np.memmap``, whose every slice costs microseconds."""
    return replace(
        log,
        truth=np.asarray(log.truth),
        delay=np.asarray(log.delay),
        at=np.asarray(log.at),
        features=np.asarray(log.features),
        scores=np.asarray(log.scores),
        values=None if log.values is None else np.asarray(log.values),
        latency_s=np.asarray(log.latency_s),
        energy_j=np.asarray(log.energy_j),
        cost=np.asarray(log.cost),
        explainability=np.asarray(log.explainability),
    )


def _check(bench: _Bench, policies: Sequence[str], seeds: int) -> None:
    if not bench.logs or not policies or seeds < 1:
        raise BandmasterError("a replay needs at least one log, one policy and one seed")
    if len(set(policies)) != len(policies):
        raise BandmasterError(f"a policy is named twice: {', '.join(policies)}; name each once")
    if not 0.0 < bench.last <= 1.0:
        raise BandmasterError(f"last {bench.last}: is no share of the requests; give one above 0, at most 1")
    for number, log in enumerate(bench.logs, start=1):
        if log.ensemble != bench.catalogue.ensemble:
            raise BandmasterError(
                f"log {number} of {len(bench.logs)} has other members or classes than the first; list all classes "
                "under classes: in the config, and replay logs of one ensemble together"
            )
        if not log.labelled.any():
            raise BandmasterError(
                f"log {number} of {len(bench.logs)}: column 'label' is empty, so nothing can be compared; fill it "
                "where outcomes are known"
            )
        if bench.traffic.order == "kept" and not log.labelled[bench.first(len(log)) :].any():
            raise BandmasterError(
                f"log {number} of {len(bench.logs)}: holds no label in its last {bench.last:g} of requests, so nothing "
                "can be compared; take figures over a larger share"
            )
        if bench.traffic.mix is not None and log.bounds is not None:
            raise BandmasterError(
                f"log {number} of {len(bench.logs)}: has requests of several rows, which may be of several classes, so "
                "that no mix of them can be drawn; play it in its own order, or shuffled"
            )
        classes = len(np.unique(log.truth[log.truth != NO_LABEL]))
        if bench.traffic.mix is not None and bench.traffic.mix.classes > classes:
            raise BandmasterError(
                f"log {number} of {len(bench.logs)}: {bench.traffic.mix.classes} classes cannot be drawn from the "
                f"{classes} that its labels have; draw fewer"
            )
    for name in policies:  # what cannot be played is refused before the first run
        if name in REFERENCES:
            require_judge(name, bench.contract, bench.logs[0])
        else:
            bench.make(name, bench.logs[0], 0)


def _yardstick_seeds(bench: _Bench, seeds: int) -> list[int]:
    """One seed for each traffic; every seed where which labels arrive differs between them."""
    if bench.traffic.label_share < 1.0:
        return list(range(seeds))
    return list({bench.traffic_of(seed): seed for seed in reversed(range(seeds))}.values())[::-1]


def _play(bench: _Bench, policy: str, seed: int, part: Path | None) -> Run:
    began = time.perf_counter()
    drawn = bench.draw(seed)
    # One thread of linear algebra: arrays are small, cores are busy with other runs, and sums stay the same.
    with threadpool_limits(1):
        if policy in REFERENCES:
            trace = refer(drawn, bench.contract, policy, seed)
        else:
            trace = run(drawn, bench.make, policy, seed)
    if part is not None:
        trace_frame(trace, drawn.log.ensemble, policy, seed, seed % len(bench.logs)).write_parquet(part)
    first = bench.first(len(drawn.log))
    return Run(
        policy=policy,
        seed=seed,
        traffic=bench.traffic_of(seed),
        requests=len(drawn.log),
        rewards=trace.reward[first:],
        measures=_measures(trace, np.arange(first, len(drawn.log))),
        probe_share=float(trace.probed[first:].mean()),
        drift_events=float(trace.drift_events),
        by_phase=tuple(Phase(n, len(at), _measures(trace, at)) for n, at in phase_rows(trace.phases, first).items()),
        seconds=time.perf_counter() - began,
    )


def _measures(trace: Trace, rows: IntArray) -> Measures:
    raw = {**trace.raw, "members_per_request": trace.ran.sum(axis=1).astype(np.float64)}
    figures = {name: raw[name][rows] for name in _MEASURED}
    # Only labels may be missing. A figure that some requests lack has no mean: the others' would flatter.
    return Measures(
        mean(trace.reward[rows]), *(mean(v) if n == "accuracy" else float(v.mean()) for n, v in figures.items())
    )


def _look_back(bench: _Bench, seed: int, keep: bool) -> Hindsight:
    began = time.perf_counter()
    drawn = bench.draw(seed)
    first = bench.first(len(drawn.log))
    with threadpool_limits(1):
        fixed = fixed_plans(drawn, bench.catalogue, bench.contract, bench.tracking, first)
    singles = fixed.rewards[:, _singles(bench.catalogue)]
    phases = phase_rows(drawn.log.phases, first)
    return Hindsight(
        seed=seed,
        traffic=bench.traffic_of(seed),
        plans=fixed.measures,
        by_phase={
            name: np.array([mean(column) for column in fixed.rewards[at - first].T]) for name, at in phases.items()
        },
        oracle=mean(singles.max(axis=1)),
        previous_label=previous_label(drawn.log, drawn.arrivals, bench.contract, first),
        rewards=fixed.rewards if keep else None,
        seconds=time.perf_counter() - began,
    )


def _singles(catalogue: Catalogue) -> list[int]:
    """The plans of one member each, in the ensemble's order."""
    return [catalogue.index(name) for name in catalogue.ensemble.names]


def _setting(bench: _Bench, seeds: int) -> Setting:
    played = bench.logs[:seeds]
    mix = bench.traffic.mix
    phases = mix.phases() if mix else dict.fromkeys(name for log in played for name in phase_rows(log.phases))
    return Setting(
        rows=sum(map(len, played)),
        unlabelled=sum(int((~log.labelled).sum()) for log in played),
        sha256=",".join(log.sha256 for log in played),
        seeds=seeds,
        order=bench.traffic.order,
        mix=asdict(mix) if mix else None,
        delay=bench.traffic.delay,
        label_share=bench.traffic.label_share,
        last=bench.last,
        contract=bench.contract.describe(),
        plans=bench.catalogue.names,
        singles=tuple(_singles(bench.catalogue)),
        whole=bench.catalogue.index(all_members(bench.catalogue.ensemble).name),
        phases=tuple(phases),
    )


def _step(found: Run | Hindsight, done: int, of: int) -> Step:
    if isinstance(found, Run):
        return Step(found.policy, found.seed, found.measures.reward, found.seconds, done, of)
    return Step("yardsticks", found.seed, None, found.seconds, done, of)


def _timing(bench: _Bench, runs: Sequence[Run], jobs: int, seconds: float) -> dict[str, Any]:
    return {
        "jobs": jobs,
        "seconds": seconds,
        "us_per_request": {
            name: 1e6
            * sum(r.seconds for r in runs if r.policy == name)
            / sum(r.requests for r in runs if r.policy == name)
            for name in dict.fromkeys(r.policy for r in runs)
        },
        "runs": [{"policy": r.policy, "seed": r.seed, "seconds": r.seconds} for r in runs],
    }


class _TraceFile:
    """Every run writes its own part; in the end they are streamed into one file, a row group a run."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._parts: list[Path] = []

    def __enter__(self) -> _TraceFile:
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._folder = tempfile.TemporaryDirectory(dir=self._path.parent, prefix=".trace-")
            except OSError as problem:
                raise BandmasterError(f"{self._path}: cannot be written ({problem.strerror}); name another") from None
        return self

    def __exit__(self, *problem: object) -> None:
        if self._path is not None:
            self._folder.cleanup()

    def part(self) -> Path | None:
        """Where the next run shall write; ``None`` when no trace is wanted."""
        if self._path is None:
            return None
        self._parts.append(Path(self._folder.name) / f"{len(self._parts):06d}.parquet")
        return self._parts[-1]

    def merge(self, rows: int) -> None:
        """Put the parts together, ``rows`` to a row group."""
        if self._path is not None:
            whole = Path(self._folder.name) / "whole.parquet"
            pl.scan_parquet(self._parts).sink_parquet(whole, row_group_size=rows)
            os.replace(whole, self._path)
