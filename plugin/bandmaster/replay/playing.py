"""One policy, one traffic: drives the very same ``answer`` and ``settle`` as serving."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from bandmaster.contract import Contract
from bandmaster.core import NO_ANSWER, Answer, Decision, Ensemble, IntArray, Journal, Outcome
from bandmaster.lean import LeanLearner
from bandmaster.learner import Learner
from bandmaster.metrics import NoFigureError, own_figures
from bandmaster.orchestrator import Orchestrator, settle
from bandmaster.plans import compiled, in_service, parse_plan, pool_weights
from bandmaster.recorded import RecordedLog
from bandmaster.references import REFERENCES, Course, Played
from bandmaster.replay.trace import Trace, figures_of, trace_of
from bandmaster.replay.traffic import Drawn


@dataclass(frozen=True, slots=True)
class Parts:
    """One orchestrator with its learner and journal, built for one run over one log."""

    orchestrator: Orchestrator
    learner: Learner
    journal: Journal


MakeParts = Callable[[str, RecordedLog, int], Parts]
"""Builds the parts for a policy's name, a log and a seed. Picklable, so that runs can go to other processes."""


def run(drawn: Drawn, make: MakeParts, policy: str, seed: int) -> Trace:
    """Drive one policy over one seed's traffic, labels arriving as late as they did."""
    log = drawn.log
    parts = make(policy, log, seed)
    tally = _Tally(log, parts.learner.contract)
    ids: list[str] = []
    alarms: dict[int, list[str]] = {}
    for i, arriving in enumerate(drawn.arrivals):
        request = log.request(i)
        decision, answer = parts.orchestrator.answer(request)
        if decision.probed:
            answer = parts.orchestrator.probe(decision, answer, request)
        ids.append(decision.id)
        tally.add(i, decision, answer)
        parts.learner.notice(decision, answer)
        outcomes = [(ids[j], Outcome(at=request.at, labels=log.labels(j))) for j in arriving]
        if decision.probed and parts.learner.contract.by_consensus:
            outcomes.insert(0, (decision.id, Outcome(at=request.at, consensus=True)))
        for decision_id, outcome in outcomes:
            experience = settle(parts.journal, parts.learner, decision_id, outcome).experience
            if experience is not None and experience.alarms:
                alarms.setdefault(i, []).extend(alarm.name for alarm in experience.alarms)
    played = tally.played(log.ensemble)
    looked = None if isinstance(parts.learner, LeanLearner) else alarms
    trace = trace_of(drawn, parts.learner.contract, played, tally.own, looked)
    return replace(trace, over_limits=tally.over)


def refer(drawn: Drawn, contract: Contract, reference: str, seed: int) -> Trace:
    """One of ``REFERENCES`` on one seed's traffic, charged as policies are."""
    course = Course(drawn.log, drawn.arrivals, contract, figures_of(drawn.log, contract), seed)
    return trace_of(drawn, contract, REFERENCES[reference](course), {}, None)


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
        plan, stages = _as_run(decision, answer, self._log.ensemble)
        self._plan[i] = self._plans.setdefault(plan, len(self._plans))
        of = slice(i, i + 1) if self._log.bounds is None else slice(self._log.bounds[i], self._log.bounds[i + 1])
        self._stages[of], self._label[of] = stages, answer.labels
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


def _as_run(decision: Decision, answer: Answer, ensemble: Ensemble) -> tuple[str, IntArray | int]:
    """The plan that ran, without members out of service, and how many of its stages each row went through, (n,)."""
    ran = {reply.name for reply in answer.ran}
    stages = [stage for stage in parse_plan(decision.plan, ensemble).stages[: answer.stages_run] if ran & {*stage}]
    plan = in_service(decision.plan, ensemble, decision.state.out)
    if len(answer.labels) == 1:
        return plan, len(stages)
    by_row, replies = np.zeros(len(answer.labels), dtype=np.int64), iter(answer.ran)
    for stage in stages:
        (reply, *_) = [next(replies) for name in stage if name in ran]
        by_row[reply.rows] += 1
    return plan, by_row
