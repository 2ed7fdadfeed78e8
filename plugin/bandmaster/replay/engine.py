"""Policies × seeds: plays every policy on every seed's traffic, and puts the yardsticks beside them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from bandmaster.contract import Contract
from bandmaster.core import BandmasterError, IntArray
from bandmaster.plans import Catalogue, all_members
from bandmaster.recorded import RecordedLog
from bandmaster.references import REFERENCES, SEEDLESS, previous_label, require_judge
from bandmaster.replay.hindsight import MEASURED, FixedPlans, fixed_plans_from
from bandmaster.replay.kept import Kept, found_once
from bandmaster.replay.playing import MakeParts, refer, run
from bandmaster.replay.spread import Spread, processes
from bandmaster.replay.trace import Trace, trace_frame
from bandmaster.replay.traffic import Drawn, Traffic, draw
from bandmaster.results import (
    Hindsight,
    Measures,
    Phase,
    Results,
    Run,
    Setting,
    course,
    first_that_counts,
    mean,
    phase_rows,
    summarise,
)
from bandmaster.state import Tracking
from bandmaster.table import NO_LABEL


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
class Bench:
    """What policies are compared on: how each plays (``make``), what fixed plans are tried in hindsight (``catalogue``,
    and ``tracking``, by which their combiners learn), and the contract that judges.

    Several ``logs`` are redraws of one traffic: seed i plays log i modulo their number. Their large arrays are mapped
    into the workers' memory, not copied.
    """

    logs: tuple[RecordedLog, ...]
    make: MakeParts
    catalogue: Catalogue
    contract: Contract
    tracking: Tracking
    traffic: Traffic

    def draw(self, seed: int) -> Drawn:
        return draw(_unmapped(self.logs[seed % len(self.logs)]), self.traffic, seed)

    def traffic_of(self, seed: int) -> int:
        """Seeds that meet the same requests in the same order have the same number."""
        return seed % len(self.logs) if self.traffic.order == "kept" else seed

    def meet_the_same(self, seeds: int) -> list[list[int]]:
        """The seeds, those together that meet the same requests in the same order and hear of the same labels."""
        if self.traffic.label_share < 1.0:
            return [[seed] for seed in range(seeds)]
        groups: dict[int, list[int]] = {}
        for seed in range(seeds):
            groups.setdefault(self.traffic_of(seed), []).append(seed)
        return list(groups.values())

    def draws(self, policy: str) -> bool:
        """Whether a policy's seed makes a difference to it, not to its traffic alone."""
        if policy in REFERENCES:
            return policy not in SEEDLESS
        manager = self.make(policy, self.logs[0], 0).learner.manager
        return manager.conductor is not None or getattr(manager.policy, "draws", True)

    def conducted_by(self, policy: str | None, seed: int) -> str:
        """Which agent decides who is in the ensemble that a policy plays; empty where none does."""
        if policy is None or policy in REFERENCES:
            return ""
        conductor = self.make(policy, self.logs[0], seed).learner.manager.conductor
        return conductor.agent.version if conductor else ""


def replay(
    bench: Bench,
    policies: Sequence[str],
    seeds: int = 10,
    *,
    lasts: Sequence[float] = (1.0,),
    spread: Spread[_Found] | None = None,
    progress: Callable[[Step], None] | None = None,
    trace: Path | None = None,
    resume: Path | None = None,
) -> list[Results]:
    """Play every policy on every seed's traffic, and compare.

    There are results for each of ``lasts``, the last share in (0, 1] of each run's requests that all figures but the
    count of drift alarms are taken over; the rest is learned from alone. ``spread`` says where runs go on, and how many
    at once (default: ``processes``, as many as there are cores); the results do not depend on it. ``progress`` hears of
    every step as it ends. ``trace`` names a parquet file for one row per request, policy and seed. ``resume`` names a
    folder where every step is kept once it has ended, and looked up before it is taken.

    Raises ``BandmasterError`` when the logs do not fit each other, hold no label, or a policy cannot be made.
    """
    began = time.perf_counter()
    _check(bench, policies, seeds, lasts)
    runs: list[list[Run]] = [[] for _ in lasts]
    hindsights: list[list[Hindsight]] = [[] for _ in lasts]
    kept = Kept(resume, bench) if resume is not None else None
    with _TraceFile(trace, kept) as file:
        tasks = _tasks(bench, policies, seeds, lasts, file, kept)
        for done, found in enumerate((spread or processes())(_do, bench, tasks), start=1):
            for k in range(len(lasts)):
                runs[k] += found.runs[k]
                hindsights[k] += found.hindsights[k]
            if progress:
                progress(_step(found, done, len(tasks)))
        file.merge(max(map(bench.traffic.length, bench.logs)))
    for played, yardsticks in zip(runs, hindsights, strict=True):
        played.sort(key=lambda r: (policies.index(r.policy), r.seed))
        yardsticks.sort(key=lambda h: h.seed)
    timing = _timing(runs[0], time.perf_counter() - began)
    return [
        summarise(_setting(bench, seeds, last), r, h, timing)
        for last, r, h in zip(lasts, runs, hindsights, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Found:
    """What one task found, for each of ``lasts``: the runs of every seed that shares it, or a traffic's yardsticks."""

    runs: list[list[Run]]
    hindsights: list[list[Hindsight]]


@dataclass(frozen=True, slots=True)
class _Task:
    """A policy's run, which is that of each of ``seeds``, or the yardsticks of a seed's traffic (``policy`` is
    ``None``). ``parts`` are the traces' of each seed; what is found is kept at ``path``.
    """

    policy: str | None
    seeds: tuple[int, ...]
    lasts: tuple[float, ...]
    parts: tuple[Path, ...] = ()
    alone: bool = False
    path: Path | None = None


def _tasks(
    bench: Bench, policies: Sequence[str], seeds: int, lasts: Sequence[float], file: _TraceFile, kept: Kept | None
) -> list[_Task]:
    """All there is to play: every traffic's yardsticks, and every policy's runs, each that seeds share once."""
    same = bench.meet_the_same(seeds)
    alone = len({bench.traffic_of(seed) for seed in range(seeds)}) == 1
    tasks = [_Task(None, (group[0],), tuple(lasts), alone=alone) for group in same]
    for name in policies:
        parts = [file.part(name, seed) for seed in range(seeds)]  # in the order in which the trace has them
        for group in [[seed] for seed in range(seeds)] if bench.draws(name) else same:
            own = tuple(part for seed in group if (part := parts[seed]) is not None)
            tasks.append(_Task(name, tuple(group), tuple(lasts), own))
    if kept is None:
        return tasks
    return [
        replace(task, path=kept.path(task.policy, agent, task.seeds, task.lasts, task.alone))
        for task in tasks
        for agent in [bench.conducted_by(task.policy, task.seeds[0])]
    ]


def _do(bench: Bench, task: _Task) -> _Found:
    return found_once(task.path, _Found, lambda: _find(bench, task), beside=task.parts)


def _find(bench: Bench, task: _Task) -> _Found:
    return _look_back(bench, task) if task.policy is None else _play(bench, task, task.policy)


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


def _check(bench: Bench, policies: Sequence[str], seeds: int, lasts: Sequence[float]) -> None:
    if not bench.logs or not policies or seeds < 1:
        raise BandmasterError("a replay needs at least one log, one policy and one seed")
    if len(set(policies)) != len(policies):
        raise BandmasterError(f"a policy is named twice: {', '.join(policies)}; name each once")
    for last in lasts:
        if not 0.0 < last <= 1.0:
            raise BandmasterError(f"last {last}: is no share of the requests; give one above 0, at most 1")
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
        if bench.traffic.order == "kept" and not log.labelled[first_that_counts(len(log), min(lasts)) :].any():
            raise BandmasterError(
                f"log {number} of {len(bench.logs)}: holds no label in its last {min(lasts):g} of requests, so "
                "nothing can be compared; take figures over a larger share"
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


def _play(bench: Bench, task: _Task, policy: str) -> _Found:
    """One run, which is that of each of its seeds; the trace of each goes to a part of its own."""
    began = time.perf_counter()
    seed = min(task.seeds)
    drawn = bench.draw(seed)
    # One thread of linear algebra: arrays are small, cores are busy with other runs, and sums stay the same.
    with threadpool_limits(1):
        if policy in REFERENCES:
            trace = refer(drawn, bench.contract, policy, seed)
        else:
            trace = run(drawn, bench.make, policy, seed)
    for own, part in zip(task.seeds, task.parts, strict=False):  # no parts where no trace is wanted
        trace_frame(trace, drawn.log.ensemble, policy, own, own % len(bench.logs)).write_parquet(part)
    seconds = time.perf_counter() - began
    firsts = [first_that_counts(len(drawn.log), last) for last in task.lasts]
    played = [_run(trace, policy, bench.traffic_of(seed), first, seconds) for first in firsts]
    return _Found([[replace(one, seed=own) for own in task.seeds] for one in played], [[] for _ in played])


def _run(trace: Trace, policy: str, traffic: int, first: int, seconds: float) -> Run:
    """A run's figures over the requests from the ``first`` that counts on; whose seed it is stays open."""
    requests = len(trace.reward)
    return Run(
        policy=policy,
        seed=0,
        traffic=traffic,
        requests=requests,
        rewards=trace.reward[first:],
        measures=measures_of(trace, np.arange(first, requests)),
        probe_share=float(trace.probed[first:].mean()),
        drift_events=None if trace.alarms is None else float(sum(map(len, trace.alarms.values()))),
        by_phase=tuple(Phase(n, len(at), measures_of(trace, at)) for n, at in phase_rows(trace.phases, first).items()),
        seconds=seconds,
    )


def measures_of(trace: Trace, rows: IntArray) -> Measures:
    raw = {**trace.raw, "members_per_request": trace.ran.sum(axis=1).astype(np.float64)}
    figures = {name: raw[name][rows] for name in MEASURED}
    # Only labels may be missing. A figure that some requests lack has no mean: the others' would flatter.
    return Measures(
        mean(trace.reward[rows]), *(mean(v) if n == "accuracy" else float(v.mean()) for n, v in figures.items())
    )


def _look_back(bench: Bench, task: _Task) -> _Found:
    """The yardsticks of a seed's traffic; what each request would have earned only where it is ``alone``."""
    began = time.perf_counter()
    (seed,) = task.seeds
    drawn = bench.draw(seed)
    firsts = [first_that_counts(len(drawn.log), last) for last in task.lasts]
    with threadpool_limits(1):
        fixed = fixed_plans_from(firsts, drawn, bench.catalogue, bench.contract, bench.tracking)
    seconds = time.perf_counter() - began
    found = [_hindsight(bench, drawn, seed, first, f, seconds) for first, f in zip(firsts, fixed, strict=True)]
    return _Found([[] for _ in found], [[h if task.alone else replace(h, rewards=None)] for h in found])


def _hindsight(bench: Bench, drawn: Drawn, seed: int, first: int, fixed: FixedPlans, seconds: float) -> Hindsight:
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
        rewards=fixed.rewards,
        course=course(fixed.rewards),
        oracle_course=course(singles.max(axis=1, keepdims=True))[:, 0],
        seconds=seconds,
    )


def _singles(catalogue: Catalogue) -> list[int]:
    """The plans of one member each, in the ensemble's order."""
    return [catalogue.index(name) for name in catalogue.ensemble.names]


def _setting(bench: Bench, seeds: int, last: float) -> Setting:
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
        last=last,
        contract=bench.contract.describe(),
        plans=bench.catalogue.names,
        singles=tuple(_singles(bench.catalogue)),
        whole=bench.catalogue.index(all_members(bench.catalogue.ensemble).name),
        phases=tuple(phases),
    )


def _step(found: _Found, done: int, of: int) -> Step:
    for r in found.runs[0]:
        return Step(r.policy, r.seed, r.measures.reward, r.seconds, done, of)
    (h,) = found.hindsights[0]
    return Step("yardsticks", h.seed, None, h.seconds, done, of)


def _timing(runs: Sequence[Run], seconds: float) -> dict[str, Any]:
    """A run that seeds share stands for each of them, with what it took once."""
    return {
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

    def __init__(self, path: Path | None, kept: Kept | None) -> None:
        self._path, self._kept = path, kept
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

    def part(self, policy: str, seed: int) -> Path | None:
        """Where the next run shall write; ``None`` when no trace is wanted."""
        if self._path is None:
            return None
        passing = Path(self._folder.name) / f"{len(self._parts):06d}"
        part = self._kept.path("trace", policy, seed) if self._kept else passing
        self._parts.append(part.with_suffix(".parquet"))
        return self._parts[-1]

    def merge(self, rows: int) -> None:
        """Put the parts together, ``rows`` to a row group."""
        if self._path is not None:
            whole = Path(self._folder.name) / "whole.parquet"
            pl.scan_parquet(self._parts).sink_parquet(whole, row_group_size=rows)
            os.replace(whole, self._path)
