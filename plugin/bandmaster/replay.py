"""Replay: what would each policy have earned on recorded traffic? Drives the very same ``answer`` and ``settle``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from bandmaster.combine import recent_weights
from bandmaster.contract import Contract
from bandmaster.core import (
    Decision,
    FloatArray,
    IntArray,
    Joined,
    Journal,
    Outcome,
)
from bandmaster.counterfactual import Figures, evaluate, spend
from bandmaster.learner import Learner
from bandmaster.orchestrator import Orchestrator, settle
from bandmaster.plans import Catalogue
from bandmaster.recorded import NO_LABEL, RecordedLog
from bandmaster.state import RecentAccuracy, Tracking

CHUNK = 1024
"""Requests evaluated at once; bounds the memory of the vectorised evaluation."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """How a log becomes traffic. ``delay`` (requests) overrides the log's own; ``label_share`` of the labels arrive."""

    order: Literal["kept", "shuffled"] = "kept"
    delay: int | None = None
    label_share: float = 1.0


@dataclass(frozen=True, slots=True)
class Parts:
    """One orchestrator with its learner and journal, built for one run over one log."""

    orchestrator: Orchestrator
    learner: Learner
    journal: Journal


MakeParts = Callable[[str, RecordedLog, int], Parts]
"""Builds the parts for a policy's name, a log and a seed."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One policy's run, one entry a request. ``label`` and ``truth`` are class indices; ``raw`` and ``terms`` map
    each metric of the contract to (N,); ``reward`` is NaN where the label never became known.
    """

    plan: tuple[str, ...]
    ran: tuple[str, ...]
    probed: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
    propensity: FloatArray
    label: IntArray
    truth: IntArray
    confidence: FloatArray
    members_run: IntArray
    raw: dict[str, FloatArray]
    terms: dict[str, FloatArray]
    reward: FloatArray
    phases: tuple[str, ...] | None
    drift_events: int


def redraw(log: RecordedLog, traffic: Traffic, seed: int) -> RecordedLog:
    """The traffic of one seed; every policy of that seed sees the same."""
    rng = np.random.default_rng([seed, 0])
    if traffic.delay is not None:
        log = replace(log, delay=np.full(len(log), traffic.delay))
    return log.take(rng.permutation(len(log))) if traffic.order == "shuffled" else log


def run(log: RecordedLog, make: MakeParts, policy: str, seed: int, traffic: Traffic) -> Trace:
    """Drive one policy over one seed's traffic, labels arriving as late as they did."""
    log = redraw(log, traffic, seed)
    parts = make(policy, log, seed)
    reported = np.random.default_rng([seed, 1]).random(len(log)) < traffic.label_share
    due: list[deque[int]] = [deque() for _ in range(len(log))]
    recorder = _TraceRecorder(parts.learner, log)
    ids: list[str] = []
    for i in range(len(log)):
        request = log.request(i)
        decision, answer = parts.orchestrator.answer(request)
        if decision.probed:
            answer = parts.orchestrator.probe(decision, answer, request)
        ids.append(decision.id)
        outcome = Outcome(at=request.at, labels=(int(log.truth[i]),))
        recorder.add(Joined(0, decision, answer, outcome), i)
        arrives = i + int(log.delay[i])
        if log.truth[i] != NO_LABEL and reported[i] and arrives < len(log):
            due[arrives].append(i)
        for j in due[i]:
            settle(parts.journal, parts.learner, ids[j], Outcome(at=request.at, labels=(int(log.truth[j]),)))
    return recorder.trace(len(parts.journal.events()))


class _TraceRecorder:
    """Collects what each request did and earned, probes charged, whether or not its label ever reaches the learner."""

    def __init__(self, learner: Learner, log: RecordedLog) -> None:
        self._learner, self._log = learner, log
        self._decisions: list[Decision] = []
        self._ran: list[str] = []
        self._label = np.zeros(len(log), dtype=np.int64)
        self._members_run = np.zeros(len(log), dtype=np.int64)
        self._confidence, self._reward = np.zeros(len(log)), np.full(len(log), np.nan)
        names = (*learner.contract.names, *(n for n in _ALWAYS if n not in learner.contract.names))
        self._raw = {n: np.full(len(log), np.nan) for n in names}
        self._terms = {n: np.full(len(log), np.nan) for n in learner.contract.names}

    def add(self, joined: Joined, i: int) -> None:
        answer = joined.answer
        self._decisions.append(joined.decision)
        self._ran.append(",".join(a.name for a in answer.ran))
        self._label[i], self._confidence[i] = answer.labels[0], answer.confidence[0]
        self._members_run[i] = len(answer.ran)
        reward = self._learner.reward(joined)
        for name, column in self._raw.items():
            column[i] = reward.raw.get(name, np.nan)
        for name, column in self._terms.items():
            column[i] = reward.terms[name]
        if self._log.truth[i] != NO_LABEL:
            self._reward[i] = reward.value

    def trace(self, drift_events: int) -> Trace:
        return Trace(
            plan=tuple(d.plan for d in self._decisions),
            ran=tuple(self._ran),
            probed=np.array([d.probed for d in self._decisions]),
            propensity=np.array([d.propensity for d in self._decisions]),
            label=self._label,
            truth=self._log.truth,
            confidence=self._confidence,
            members_run=self._members_run,
            raw=self._raw,
            terms=self._terms,
            reward=self._reward,
            phases=self._log.phases,
            drift_events=drift_events,
        )


_ALWAYS = ("accuracy", "confidence", "latency", "energy", "cost")


def fixed_plans(log: RecordedLog, catalogue: Catalogue, contract: Contract, tracking: Tracking) -> FloatArray:
    """The reward (N, P) that each plan alone would have earned on every request, NaN where there is no label.

    The combiner is as deployed: weights by recent accuracy learn prequentially, from the labels that had arrived.
    A test holds this equal to driving ``answer`` and ``settle`` with the constant policy.
    """
    weights = _prequential_weights(log, tracking)
    rewards = np.empty((len(log), len(catalogue)))
    for start in range(0, len(log), CHUNK):
        part = slice(start, start + CHUNK)
        scores = log.scores[part].astype(np.float64)
        seen = evaluate(catalogue, scores, np.ones(scores.shape[:2], dtype=np.bool_), weights[part])
        figures = Figures(log.latency_s[part], log.energy_j[part], log.cost[part], log.explainability[part])
        spent = spend(catalogue, seen.stop + 1, figures, weights[part])
        accuracy = (seen.labels == log.truth[part, None]).astype(np.float64)
        rewards[part] = contract.rewards({"accuracy": accuracy, "confidence": seen.confidence, **spent})
    rewards[log.truth == NO_LABEL] = np.nan
    return rewards


def _prequential_weights(log: RecordedLog, tracking: Tracking) -> FloatArray:
    right = (log.scores.argmax(axis=-1) == log.truth[:, None]) & (log.scores.sum(axis=-1) > 0.0)
    accuracy = RecentAccuracy(log.ensemble, tracking)
    arrivals: list[list[int]] = [[] for _ in range(len(log))]
    for i, delay in enumerate(log.delay):
        if log.truth[i] != NO_LABEL and i + delay < len(log):
            arrivals[i + int(delay)].append(i)
    weights = np.empty(right.shape)
    for i in range(len(log)):
        weights[i] = recent_weights(accuracy.value, len(log.ensemble.classes))
        for j in arrivals[i]:
            accuracy.update(right[j].astype(np.float64), float(log.at[j]))
    return weights
