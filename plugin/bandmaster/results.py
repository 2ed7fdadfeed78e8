"""What a replay found: means, intervals, yardsticks in hindsight, and ``results.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from bandmaster.core import FloatArray, IntArray
from bandmaster.files import write_text
from bandmaster.intervals import Interval, block_interval, t_interval
from bandmaster.references import IN_HINDSIGHT

DIGITS = 6
"""Significant digits in ``results.json``."""

BEST_PLAN = "best_constant_plan"

PARTS = 100
"""Of a run, in which its course is reported."""


@dataclass(frozen=True, slots=True)
class Measures:
    """Means over requests; NaN where a request's figure is unknown. ``reward`` and ``accuracy`` are over requests
    with a label. A probe's energy and cost are in; ``members_per_request`` counts who ran for the reply.
    """

    reward: float
    accuracy: float
    confidence: float
    latency_s: float
    energy_j: float
    cost: float
    members_per_request: float


@dataclass(frozen=True, slots=True)
class Phase:
    """The measures of a phase, wherever it came back; ``rows`` requests that count are of it, a traffic."""

    name: str
    rows: int
    measures: Measures


@dataclass(frozen=True, slots=True)
class Run:
    """One policy on one seed's traffic of so many ``requests``. Runs with the same ``traffic`` met the same ones in the
    same order. ``rewards`` has one entry for each that counts, NaN where there is no label. ``drift_events`` is
    ``None`` where nobody looked for drift.
    """

    policy: str
    seed: int
    traffic: int
    requests: int
    rewards: FloatArray
    measures: Measures
    probe_share: float
    drift_events: float | None
    by_phase: tuple[Phase, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Hindsight:
    """Every plan of the catalogue alone, on one traffic. ``by_phase`` maps a phase to the mean rewards (P,) in it;
    ``rewards`` (requests that count, P) is there only where intervals need it; ``oracle`` is the mean of the best
    single member's reward, request by request, and ``previous_label`` the accuracy of answering with the newest label
    known. ``course`` (PARTS, P) has the mean rewards in each of ``PARTS`` equal parts of the requests that count,
    ``oracle_course`` (PARTS,) the oracle's.
    """

    seed: int
    traffic: int
    plans: tuple[Measures, ...]
    by_phase: Mapping[str, FloatArray]
    oracle: float
    previous_label: float
    rewards: FloatArray | None
    course: FloatArray
    oracle_course: FloatArray
    seconds: float


@dataclass(frozen=True, slots=True)
class Sample:
    """A mean with what its interval needs: ``means`` (T,), one a traffic; with a single one ``requests`` (N,)."""

    means: FloatArray
    requests: FloatArray | None

    def __sub__(self, other: Sample) -> Sample:
        """The paired difference."""
        both = self.requests is not None and other.requests is not None
        return Sample(self.means - other.means, self.requests - other.requests if both else None)  # type: ignore[operator]

    @property
    def mean(self) -> float:
        return float(np.mean(self.means))

    def interval(self) -> Interval:
        """95 %: over traffics where there are several, else over blocks of the one traffic's requests."""
        if self.requests is None:
            return t_interval(self.means)
        return block_interval(self.requests[~np.isnan(self.requests)])


@dataclass(frozen=True, slots=True)
class Difference:
    mean: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """One policy over all seeds. ``advantage`` is its reward less another's, paired; ``gap_closed`` is ``None``
    where the best single member is as good as the oracle. ``hindsight``: it knew what nobody could have known.
    """

    measures: Measures
    interval: Interval
    gap_closed: float | None
    probe_share: float
    drift_events: float | None
    advantage: Mapping[str, Difference]
    by_phase: tuple[Phase, ...]
    hindsight: bool = False


@dataclass(frozen=True, slots=True)
class Constant:
    """A plan that was played throughout; in hindsight, so nobody could have known to."""

    plan: str
    measures: Measures


@dataclass(frozen=True, slots=True)
class PhaseBest:
    name: str
    plan: str
    reward: float


@dataclass(frozen=True, slots=True)
class Setting:
    """What was replayed. ``sha256`` has each log's, comma-separated; ``rows`` and ``unlabelled`` are sums over logs;
    ``delay`` is ``None`` where the log's own hold, ``mix`` where the order has none. Figures are taken over the
    ``last`` share of a run's requests. ``phases`` are in order of appearance.
    """

    rows: int
    unlabelled: int
    sha256: str
    seeds: int
    order: str
    mix: Mapping[str, int] | None
    delay: int | None
    label_share: float
    last: float
    contract: Mapping[str, Any]
    plans: tuple[str, ...]
    singles: tuple[int, ...]
    whole: int
    phases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Results:
    """A whole comparison. Every figure is a mean over the traffics played.

    ``plans`` are the measures of each of ``setting.plans`` alone; ``courses`` (PARTS,) the mean rewards of the
    yardsticks in each part of the run: ``best_constant``, ``best_constant_plan``, ``oracle``. Neither is in
    ``results.json``.
    """

    setting: Setting
    best_constant: Constant
    best_constant_plan: Constant
    best_by_phase: tuple[PhaseBest, ...]
    all_members: Constant
    oracle: float
    previous_label: float
    policies: Mapping[str, PolicyResult]
    plans: tuple[Measures, ...]
    courses: Mapping[str, FloatArray]
    timing: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """``results.json``: the same for the same logs, configuration and seeds."""
        setting = self.setting
        best_plan = _constant(self.best_constant_plan)
        best_plan["by_phase"] = [{"phase": b.name, "plan": b.plan, "reward": b.reward} for b in self.best_by_phase]
        found: dict[str, Any] = {
            "log": {"rows": setting.rows, "unlabelled": setting.unlabelled, "sha256": setting.sha256},
            "seeds": setting.seeds,
            "traffic": {
                "order": setting.order,
                "mix": setting.mix,
                "delay": setting.delay,
                "label_share": setting.label_share,
            },
            "last": setting.last,
            "contract": setting.contract,
            "plans": len(setting.plans),
            "best_constant": _constant(self.best_constant),
            BEST_PLAN: best_plan,
            "all_members": _constant(self.all_members),
            "oracle": {"reward": self.oracle},
            "previous_label": {"accuracy": self.previous_label},
            "policies": {name: _policy(result) for name, result in self.policies.items()},
        }
        short: dict[str, Any] = rounded(found)
        return short

    def write(self, path: Path) -> None:
        """Write ``path``, and ``timing.json`` beside it, each whole or not at all."""
        write_text(path, json.dumps(self.as_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        write_text(path.with_name("timing.json"), json.dumps(rounded(self.timing), indent=1) + "\n")


@dataclass(frozen=True, slots=True)
class Point:
    """Of a sweep: a metric's weight, and the results under it."""

    weight: float
    results: Results


def swept_json(metric: str, points: Sequence[Point]) -> dict[str, Any]:
    """A whole sweep over the weight of ``metric``: ``results.json`` for each."""
    return {"metric": metric, "points": [{"weight": p.weight, "results": p.results.as_json()} for p in points]}


def _constant(constant: Constant) -> dict[str, Any]:
    return {"plan": constant.plan, **_measures(constant.measures)}


def _measures(measures: Measures) -> dict[str, Any]:
    return {f.name: getattr(measures, f.name) for f in fields(Measures)}


def _policy(result: PolicyResult) -> dict[str, Any]:
    measures = _measures(result.measures)
    return {
        **({"hindsight": True} if result.hindsight else {}),
        "reward": measures.pop("reward"),
        "interval": list(result.interval),
        "gap_closed": result.gap_closed,
        **measures,
        "probe_share": result.probe_share,
        "drift_events": result.drift_events,
        "advantage": {n: {"mean": d.mean, "interval": list(d.interval)} for n, d in result.advantage.items()},
        "by_phase": [{"phase": p.name, "rows": p.rows, **_measures(p.measures)} for p in result.by_phase],
    }


def rounded(value: Any) -> Any:
    """The same with all floats to ``DIGITS`` significant digits, ``None`` for those that are not finite."""
    if isinstance(value, Mapping):
        return {name: rounded(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


# ---- From runs to results ------------------------------------------------------------------------------------


def summarise(
    setting: Setting, runs: Sequence[Run], hindsights: Sequence[Hindsight], timing: Mapping[str, Any]
) -> Results:
    """Put runs and yardsticks together. Both must be in order of their seeds."""
    plans = _plan_measures(hindsights)
    rewards = np.array([m.reward for m in plans])
    single, best = max(setting.singles, key=lambda k: rewards[k]), int(rewards.argmax())
    oracle = _mean_by_traffic([h.traffic for h in hindsights], [h.oracle for h in hindsights])
    samples = {
        name: _policy_sample([r for r in runs if r.policy == name]) for name in dict.fromkeys(r.policy for r in runs)
    }
    others = samples | {BEST_PLAN: _plan_sample(hindsights, best)}
    gap = oracle - rewards[single]
    policies = {}
    for name, sample in samples.items():
        played = [r for r in runs if r.policy == name]
        policies[name] = PolicyResult(
            measures=_mean_measures([r.traffic for r in played], [r.measures for r in played]),
            interval=sample.interval(),
            gap_closed=float((sample.mean - rewards[single]) / gap) if abs(gap) > 1e-12 else None,
            probe_share=_mean_by_traffic([r.traffic for r in played], [r.probe_share for r in played]),
            drift_events=_alarms(played),
            advantage={o: _difference(sample - others[o]) for o in others if o != name},
            by_phase=_phases(setting, played),
            hindsight=name in IN_HINDSIGHT,
        )
    return Results(
        setting=setting,
        best_constant=Constant(setting.plans[single], plans[single]),
        best_constant_plan=Constant(setting.plans[best], plans[best]),
        best_by_phase=_best_by_phase(setting, hindsights),
        all_members=Constant(setting.plans[setting.whole], plans[setting.whole]),
        oracle=oracle,
        previous_label=_mean_by_traffic([h.traffic for h in hindsights], [h.previous_label for h in hindsights]),
        policies=policies,
        plans=tuple(plans),
        courses={
            "best_constant": _course(hindsights, [h.course[:, single] for h in hindsights]),
            BEST_PLAN: _course(hindsights, [h.course[:, best] for h in hindsights]),
            "oracle": _course(hindsights, [h.oracle_course for h in hindsights]),
        },
        timing=timing,
    )


def _course(hindsights: Sequence[Hindsight], courses: Sequence[FloatArray]) -> FloatArray:
    traffics = [h.traffic for h in hindsights]
    return np.array([_mean_by_traffic(traffics, part) for part in zip(*courses, strict=True)])


def _by_traffic(traffics: Sequence[int], values: Sequence[float] | FloatArray) -> FloatArray:
    """The mean of each traffic's values, in order of first appearance; NaN where one is unknown."""
    groups: dict[int, list[float]] = {t: [] for t in traffics}
    for traffic, value in zip(traffics, values, strict=True):
        groups[traffic].append(value)
    return np.array([math.fsum(g) / len(g) for g in groups.values()])


def _mean_by_traffic(traffics: Sequence[int], values: Sequence[float] | FloatArray) -> float:
    """The mean over traffics of the mean over the seeds that played each."""
    return float(np.mean(_by_traffic(traffics, values)))


def _mean_measures(traffics: Sequence[int], measures: Sequence[Measures]) -> Measures:
    return Measures(*(_mean_by_traffic(traffics, [getattr(m, f.name) for m in measures]) for f in fields(Measures)))


def _alarms(runs: Sequence[Run]) -> float | None:
    """Drift alarms a run; ``None`` where nobody looked for drift."""
    seen = [r.drift_events for r in runs if r.drift_events is not None]
    return _mean_by_traffic([r.traffic for r in runs], seen) if len(seen) == len(runs) else None


def _plan_measures(hindsights: Sequence[Hindsight]) -> list[Measures]:
    traffics = [h.traffic for h in hindsights]
    return [_mean_measures(traffics, column) for column in zip(*(h.plans for h in hindsights), strict=True)]


def _policy_sample(runs: Sequence[Run]) -> Sample:
    means = _by_traffic([r.traffic for r in runs], [r.measures.reward for r in runs])
    return Sample(means, np.mean([r.rewards for r in runs], axis=0) if len(means) == 1 else None)


def _plan_sample(hindsights: Sequence[Hindsight], plan: int) -> Sample:
    means = _by_traffic([h.traffic for h in hindsights], [h.plans[plan].reward for h in hindsights])
    kept = [h.rewards[:, plan] for h in hindsights if h.rewards is not None]
    return Sample(means, np.mean(kept, axis=0) if len(means) == 1 else None)


def _difference(sample: Sample) -> Difference:
    return Difference(sample.mean, sample.interval())


def _phases(setting: Setting, runs: Sequence[Run]) -> tuple[Phase, ...]:
    found = []
    for name in setting.phases:
        of = [(r.traffic, p) for r in runs for p in r.by_phase if p.name == name]
        if not of:
            continue  # it was over before the requests that count
        rows = round(_mean_by_traffic([t for t, _ in of], [float(p.rows) for _, p in of]))
        # A log without a label in this phase says nothing of it, unless none does.
        of = [(t, p) for t, p in of if not math.isnan(p.measures.reward)] or of
        found.append(Phase(name, rows, _mean_measures([t for t, _ in of], [p.measures for _, p in of])))
    return tuple(found)


def _best_by_phase(setting: Setting, hindsights: Sequence[Hindsight]) -> tuple[PhaseBest, ...]:
    found = []
    for name in setting.phases:
        of = [h for h in hindsights if name in h.by_phase and not np.isnan(h.by_phase[name]).any()]
        if of:
            table = np.array([h.by_phase[name] for h in of])
            rewards = np.array([_mean_by_traffic([h.traffic for h in of], column) for column in table.T])
            best = int(rewards.argmax())
            found.append(PhaseBest(name, setting.plans[best], float(rewards[best])))
    return tuple(found)


def mean(values: FloatArray) -> float:
    """The mean of what is known; NaN where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def course(rewards: FloatArray) -> FloatArray:
    """The means of (N, K) in each of ``PARTS`` equal parts of the N, (PARTS, K); NaN where a part has none."""
    parts, starts = np.unique(np.arange(len(rewards)) * PARTS // len(rewards), return_index=True)
    known = ~np.isnan(rewards)
    means = np.full((PARTS, rewards.shape[1]), np.nan)
    count = np.add.reduceat(known, starts, dtype=np.int64)
    total = np.add.reduceat(np.where(known, rewards, 0.0), starts)
    means[parts] = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return means


def first_that_counts(requests: int, last: float) -> int:
    """The first request that counts, of so many, where the ``last`` share does; those before it warm up."""
    return requests - max(1, round(last * requests))


def phase_rows(phases: Sequence[str] | None, first: int = 0) -> dict[str, IntArray]:
    """The rows of each phase from the ``first`` row on, in order of first appearance."""
    if phases is None:
        return {}
    names = np.array(phases[first:])
    return {name: first + np.flatnonzero(names == name) for name in dict.fromkeys(phases[first:])}
