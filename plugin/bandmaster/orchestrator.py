"""The request path: an answer now (``Orchestrator``), what came of it later (``settle``). It knows no HTTP, no BentoML.

Replay and tests call ``answer``; serving calls its two halves, so that a slow plan can run in a thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np

from bandmaster.combine import corrected_mean, mean_value, pool, posterior, value_verdict, verdict, weights_in_force
from bandmaster.core import (
    Answer,
    Decision,
    Ensemble,
    Experience,
    FloatArray,
    IntArray,
    Joined,
    Journal,
    Member,
    MemberAnswer,
    Meter,
    Outcome,
    Plan,
    Recorder,
    Request,
    Said,
    State,
    Status,
)
from bandmaster.guard import Admission
from bandmaster.learner import Learner
from bandmaster.limits import Limiter, Limits
from bandmaster.metrics import NoFigureError
from bandmaster.plans import parse_plan, pool_weights
from bandmaster.probes import aimed
from bandmaster.rl_manager import RLManager
from bandmaster.state import StateManager

_log = logging.getLogger("bandmaster.orchestrator")


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of an outcome, and, if it was joined, what was learned."""

    status: Status
    experience: Experience | None = None


class Orchestrator:
    """Decides, runs and records; settles and hands on to the learner.

    Where there is an ``admission``, a guard decides whether the policy's choice answers or the baseline. A request that
    is probed has all its other members run too, after the reply. No plan is chosen that breaks a limit
    while one is on offer that does not. A stage with two or more ``slow``
    members runs in the threads of ``executor``, all of it side by side.
    """

    def __init__(
        self,
        *,
        ensemble: Ensemble,
        state: StateManager,
        manager: RLManager,
        members: Mapping[str, Member],
        meter: Meter,
        recorder: Recorder,
        new_id: Callable[[float], str],
        executor: Executor | None = None,
        slow: frozenset[str] = frozenset(),
        limits: Limits | None = None,
        admission: Admission | None = None,
    ) -> None:
        self.ensemble, self.state, self.manager = ensemble, state, manager
        self._admission = admission
        self._members, self._meter, self._recorder, self._new_id = members, meter, recorder, new_id
        self._executor, self._slow = executor, slow
        self.limiter = Limiter(limits or Limits(), ensemble)

    def answer(self, request: Request) -> tuple[Decision, Answer]:
        """Choose a plan, run it, record both. A probe, if ``decision.probed``, is the caller's to start."""
        return self.run(self.decide(request), request)

    def decide(self, request: Request, *, busy: bool = False) -> Decision:
        """Choose a plan; takes microseconds and runs no member. A ``busy`` caller is spared probes; else whether there
        is one shows once the request is answered.
        """
        state = self.state.get_state(request)
        fitting = self.limiter.fitting(self.manager.policy.catalogue, request, state)
        if fitting is not None:
            state = replace(state, fits=tuple(fitting.plans.tolist()))
        offer, probabilities, chosen = self.manager.choose(state)
        plans, exposure = offer.names, None
        if self._admission is not None:
            rows, lot = len(request.rows), self.manager.lot()
            found = self._admission.admit(plans, probabilities, chosen, state.profile, rows, lot)
            plans, probabilities, chosen, exposure = found.plans, found.probabilities, found.chosen, found.exposure
        probe_p = 0.0 if busy or not self.manager.policy.probes else state.probe_share
        decision = Decision(
            id=self._new_id(request.at),
            at=request.at,
            plans=plans,
            probabilities=probabilities,
            chosen=chosen,
            policy=self.manager.policy.name,
            policy_version=self.manager.policy.version,
            state=state,
            probe_p=probe_p,
            lot=self.manager.lot() if probe_p else 1.0,
            over_limits=fitting is not None and fitting.over,
            exposure=exposure,
        )
        self.limiter.expect(decision, request)
        if self._admission is not None:
            self._admission.expose(decision)
        return decision

    def run(self, decision: Decision, request: Request) -> tuple[Decision, Answer]:
        """Run the chosen plan, settle whether the request is probed, and record the decision with its answer."""
        # By its name: the policy may offer other plans by now.
        plan = parse_plan(decision.plan, self.ensemble)
        weights = weights_in_force(decision.state.members.accuracy, self.ensemble)
        answer = self._walk(plan, request, weights, decision.state)
        self.limiter.correct(decision, answer.ran)
        decision = self._aimed(decision, answer, request)
        self._recorder.record(decision, answer)
        if not decision.probed:
            self.abandon(decision)
        return decision, answer

    def abandon(self, decision: Decision) -> None:
        """Nothing more will be recorded of it. For a caller, too, whose ``run`` failed or never began."""
        if self._admission is not None:
            self._admission.recorded(decision)

    def _aimed(self, decision: Decision, answer: Answer, request: Request) -> Decision:
        """The decision with the probability of a probe that follows from its answer; 0 where budgets forbid one."""
        if not decision.probe_p:
            return decision
        state = decision.state
        probes = self._left_out(answer, request)
        affords = self.limiter.affords_probe(decision, request, probes)
        p = aimed(state.probe_share, answer.doubt, state.doubt) if self.manager.policy.aims else state.probe_share
        decision = replace(decision, probe_p=p if affords else 0.0)
        if decision.probed:
            self.limiter.expect_probe(decision, request, probes)
        return decision

    def probe(self, decision: Decision, answer: Answer, request: Request) -> Answer:
        """Run, after the reply, every member that the plan left out or stopped before, on all rows; record it."""
        every = np.arange(len(request.rows))
        try:
            probed = replace(answer, probes=tuple(self._run_stage(self._left_out(answer, request), request, every)))
            self.limiter.correct_probe(decision, request, probed.probes)
            self._recorder.record(decision, probed)
        finally:
            self.abandon(decision)
        return probed

    def _left_out(self, answer: Answer, request: Request) -> list[str]:
        """The members that have not seen every row."""
        complete = {said.name for said in answer.ran if len(said.rows) == len(request.rows)}
        return [name for name in self.ensemble.names if name not in complete]

    def _walk(self, plan: Plan, request: Request, weights: FloatArray, state: State) -> Answer:
        ensemble = self.ensemble
        n, classes = len(request.rows), len(ensemble.classes)
        said: list[MemberAnswer] = []
        silent = np.nan if ensemble.regression else 0.0
        heard = np.full((n, len(ensemble.names), classes), silent)
        combined = np.full((n, classes), silent)
        pooled_by = pool_weights(plan, ensemble, weights)
        pending: IntArray = np.arange(n)
        ran = np.zeros(len(ensemble.names), dtype=np.bool_)
        stages_run = 0
        for stage in plan.stages:
            stages_run += 1
            for reply in self._run_stage(stage, request, pending):
                said.append(reply)
                i = ensemble.index(reply.name)
                ran[i] = True
                if reply.scores is not None:
                    heard[pending, i] = reply.scores
            if plan.weights == "learned" and ensemble.regression:
                errors = self.state.errors.now
                combined[pending] = corrected_mean(heard[pending], errors, ran[None])[:, 0]
            elif plan.weights == "learned":
                likely = posterior(self.state.evidence(Said.of(heard[pending]), state), ran[None])[:, 0]
                # An abstention tells of the class too; but where all abstain or fail, nobody has answered.
                combined[pending] = likely * np.asarray(heard[pending].any(axis=(1, 2)))[:, None]
            elif ensemble.regression:
                combined[pending] = mean_value(heard[pending], pooled_by * ran)
            else:
                combined[pending] = pool(heard[pending], pooled_by * ran)
            if stages_run < len(plan.stages):
                pending = pending[combined[pending].max(axis=1) < plan.stop_at[stages_run - 1]]
            if not len(pending):
                break
        labels, confidence = value_verdict(combined) if ensemble.regression else verdict(combined)
        combined = np.nan_to_num(combined) if ensemble.regression else combined
        return Answer(combined, labels, confidence, tuple(said), stages_run, weights)

    def _run_stage(self, stage: Sequence[str], request: Request, pending: IntArray) -> list[MemberAnswer]:
        members = [self._members[name] for name in stage]
        if self._executor is None or sum(name in self._slow for name in stage) < 2:
            return [self._meter.run(m, request.rows, pending) for m in members]
        return list(self._executor.map(lambda m: self._meter.run(m, request.rows, pending), members))


def settle(journal: Journal, learner: Learner, decision_id: str, outcome: Outcome) -> Settled:
    """Join an outcome to its decision and learn from it, at most once."""
    settlement = journal.settle(decision_id, outcome)
    if settlement.joined is None:
        return Settled(settlement.status)
    return Settled(settlement.status, learn(journal, learner, settlement.joined))


def learn(journal: Journal, learner: Learner, joined: Joined) -> Experience | None:
    """Learn from one joined decision, and keep its reward and the alarms it raised; ``None`` if it cannot teach."""
    if (why := learner.refuses(joined)) is not None:
        # Where consensus judges, every label that is reported comes here.
        _log.log(logging.DEBUG if learner.contract.by_consensus else logging.WARNING, "not learned: %s", why)
        return None
    try:
        experience = learner.learn(joined)
    except NoFigureError as problem:
        _log.warning("decision %s has no reward: %s", joined.decision.id, problem)
        return None
    journal.save_reward(joined, experience.reward)
    for alarm in experience.alarms:
        journal.save_event(alarm)
    return experience
