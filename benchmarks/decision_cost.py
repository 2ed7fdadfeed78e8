"""What a decision takes: processor time, with its split, and memory. In process, probes excluded, on one core."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from bandmaster import build, rl_manager
from bandmaster.calling import Caller
from bandmaster.config import Config
from bandmaster.core import Answer, BandmasterError, Decision, Outcome, Request
from bandmaster.journal.spool import Spool
from bandmaster.orchestrator import Orchestrator, settle
from bandmaster.policies.vw import VowpalWabbit
from bandmaster.recorded import RecordedLog
from bandmaster.replay import Parts
from bandmaster.state import StateManager
from benchmarks.scenario import DecisionCost

MB = 1e6

BETWEEN = 50
"""Requests answered between two rounds of learning: a worker never learns, and has a new snapshot five times a second.
What learns would push what decides out of the processor's caches."""


def measure_apart(scenario: DecisionCost, config: Config, log: RecordedLog) -> dict[str, float | None]:
    """``measure`` in a process of its own, whose memory nobody else has used."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as alone:
        return alone.submit(measure, scenario, config, log).result()


def measure(scenario: DecisionCost, config: Config, log: RecordedLog) -> dict[str, float | None]:
    """µs of processor time a request (``*_us``, medians, as a machine has others to serve), and MB.

    ``decide_us`` is choosing the plan; ``walk_us`` is walking it, stopping and combining and recording, with members
    that answer from memory; ``learn_us`` is settling a label without a probe. The split of ``decide_us`` is timed
    in a pass of its own, for timers take time too; and so is what serving does besides: ``journal_us`` is leaving the
    decision and its answer in a worker's spool, ``telemetry_us`` counting it for monitoring, ``tracing_us`` finding out
    that nobody traces it. ``added_us`` is all that orchestrating adds to a request: choosing, walking without the
    members, the journal, telemetry and tracing. ``state_mb`` is what a snapshot holds, ``memory_mb`` by how much the
    process grew from before the parts were built to after the last request.

    Raises ``BandmasterError`` when the log is too short, or holds requests without labels.
    """
    if len(log) < scenario.warm_up + 2 * scenario.requests:
        raise BandmasterError(f"{scenario.id}: needs warm_up + 2 × requests; the log has {len(log)}")
    log = replace(log, delay=np.full(len(log), BETWEEN))  # or the journal would take its labels for late
    with _served(log) as served, threadpool_limits(1):
        # What is imported on the way, as River is at the first outcomes, is no state.
        _pass(build.ReplayFactory(config)(scenario.policy, log, 0), log, 0, 2 * BETWEEN, probe=True)
        before = psutil.Process().memory_info().rss
        parts = build.ReplayFactory(config)(scenario.policy, log, 0)
        _pass(parts, log, 0, scenario.warm_up, probe=True)
        middle = scenario.warm_up + scenario.requests
        whole = _pass(parts, log, scenario.warm_up, middle, probe=False)
        with _split(parts) as clocks:
            _pass(parts, log, middle, middle + scenario.requests, probe=False, clocks=clocks, served=served)
    members_us = (
        sum(clocks.seconds.pop("members")) / scenario.requests * 1e6
    )  # called once a stage, of which some are run
    split = {name: _us(seconds) for name, seconds in clocks.seconds.items()}
    besides = {name: _us(seconds) for name, seconds in served.seconds.items()}
    return {
        "members": float(len(log.ensemble.names)),
        "plans": float(len(parts.orchestrator.manager.policy.catalogue)),
        "decision_us": _us(whole.decide) + _us(whole.walk),
        "decide_us": _us(whole.decide),
        "decide_mean_us": float(np.mean(whole.decide)) * 1e6,
        "walk_us": _us(whole.walk),
        "learn_us": _us(whole.learn),
        "added_us": _us(whole.decide) + _us(whole.walk) - members_us + sum(besides.values()),
        "decision_and_journal_us": _us(whole.decide) + besides["journal"],
        "walk_members_us": members_us,
        "journal_us": besides["journal"],
        "telemetry_us": besides["telemetry"],
        "tracing_us": besides["tracing"],
        "split_state_us": split["state"],
        "split_scores_us": split["policy"] - split["vw"],
        "split_vw_us": split["vw"],
        "split_sampling_us": split["check"] + split["sample"],
        "state_mb": len(parts.learner.dump()) / MB,
        "memory_mb": (psutil.Process().memory_info().rss - before) / MB,
    }


def _us(seconds: Sequence[float]) -> float:
    return float(np.median(seconds)) * 1e6


@dataclass(frozen=True, slots=True)
class _Spent:
    """Seconds of processor time, request by request."""

    decide: list[float] = field(default_factory=list)
    walk: list[float] = field(default_factory=list)
    learn: list[float] = field(default_factory=list)


def _pass(
    parts: Parts,
    log: RecordedLog,
    start: int,
    end: int,
    *,
    probe: bool,
    clocks: _Clocks | None = None,
    served: _Served | None = None,
) -> _Spent:
    """Answer requests and settle their labels, ``BETWEEN`` at a time. ``clocks`` run while requests are answered, and
    what serving does besides is done where there is a ``served``.
    """
    spent, clocks = _Spent(), clocks or _Clocks()
    for first in range(start, end, BETWEEN):
        batch = range(first, min(first + BETWEEN, end))
        ids = [_answer(parts.orchestrator, log.request(i), spent, clocks, served, probe=probe) for i in batch]
        for i, decision_id in zip(batch, ids, strict=True):
            outcome = Outcome(log.request(i).at, labels=(int(log.truth[i]),))
            asked = time.process_time()
            settled = settle(parts.journal, parts.learner, decision_id, outcome)
            if settled.experience is None:
                raise BandmasterError(f"request {i} of the log taught nothing: {settled.status}")
            spent.learn.append(time.process_time() - asked)
    return spent


def _answer(
    orchestrator: Orchestrator,
    request: Request,
    spent: _Spent,
    clocks: _Clocks,
    served: _Served | None,
    *,
    probe: bool,
) -> str:
    clocks.running = True
    began = time.process_time()
    decision = orchestrator.decide(request)
    decided = time.process_time()
    if not probe:
        decision = replace(decision, probe_p=0.0)
    sent = time.process_time()
    decision, answer = orchestrator.run(decision, request)
    spent.decide.append(decided - began)
    spent.walk.append(time.process_time() - sent)
    clocks.running = False
    if served is not None:
        served.besides(decision, answer)
    if decision.probed:
        orchestrator.probe(decision, answer, request)
    return decision.id


@dataclass(slots=True)
class _Clocks:
    """Seconds by part, call by call, while ``running``: what learns may call the same functions."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    running: bool = False

    def timing(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        spent = self.seconds[part] = []

        def timed(*args: Any, **options: Any) -> Any:
            if not self.running:
                return call(*args, **options)
            began = time.process_time()
            try:
                return call(*args, **options)
            finally:
                spent.append(time.process_time() - began)

        return timed


@dataclass(slots=True)
class _Served:
    """What serving does with an answer besides, and its seconds by part, request by request."""

    does: dict[str, Callable[[Decision, Answer], None]]
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def besides(self, decision: Decision, answer: Answer) -> None:
        for part, do in self.does.items():
            began = time.process_time()
            do(decision, answer)
            self.seconds.setdefault(part, []).append(time.process_time() - began)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """A variable of the environment, which is as it was afterwards."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


@contextmanager
def _served(log: RecordedLog) -> Iterator[_Served]:
    """The same calls as a worker's, on a spool of its own and metrics as several processes keep them."""
    with tempfile.TemporaryDirectory(prefix="bandmaster-") as folder, _environment("PROMETHEUS_MULTIPROC_DIR", folder):
        # That is looked for as the metrics are imported.
        from bandmaster.serving import telemetry, tracing

        spool = Spool(Path(folder) / "spools", "1")
        yield _Served(
            {
                "journal": spool.record,
                "telemetry": lambda d, a: telemetry.answered([(d, a)]),
                "tracing": lambda d, a: tracing.traced(d, a, log.ensemble),
            }
        )
        spool.close()


@contextmanager
def _split(parts: Parts) -> Iterator[_Clocks]:
    """Clocks on what answering a request calls."""
    places: dict[str, tuple[Any, str]] = {
        "state": (StateManager, "get_states"),
        "policy": (type(parts.orchestrator.manager.policy), "probabilities"),
        "vw": (VowpalWabbit, "predict"),
        "check": (rl_manager, "checked_distribution"),
        "sample": (rl_manager, "sample"),
        "members": (Caller, "call"),
    }
    clocks = _Clocks()
    with ExitStack() as stack:
        for part, (owner, attribute) in places.items():
            timed = clocks.timing(part, getattr(owner, attribute))
            stack.enter_context(patch.object(owner, attribute, timed))
        yield clocks
