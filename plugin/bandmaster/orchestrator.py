"""The request path: an answer now (``Orchestrator``), what came of it later (``settle``). It knows no HTTP, no BentoML.

Replay and tests call ``answer``; serving calls its two halves, so that a slow plan can run in a thread.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bandmaster.calling import Caller
from bandmaster.combine import (
    corrected_mean,
    heard_posterior,
    mean_value,
    pool,
    value_verdict,
    verdict,
    weights_in_force,
)
from bandmaster.core import (
    Answer,
    BandmasterError,
    BoolArray,
    Decision,
    Ensemble,
    Experience,
    FloatArray,
    IntArray,
    Joined,
    Journal,
    Lesson,
    MemberAnswer,
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
from bandmaster.plans import compiled, parse_plan, pool_weights
from bandmaster.probes import aimed
from bandmaster.rl_manager import RLManager, either
from bandmaster.seldom import Seldom
from bandmaster.state import StateManager
from bandmaster.together import walk_together

_log = logging.getLogger("bandmaster.orchestrator")


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of an outcome, and, if it was joined, what was learned."""

    status: Status
    experience: Experience | None = None


class Orchestrator:
    """Decides, runs and records; settles and hands on to the learner.

    Where there is an ``admission``, a guard decides whether the policy's choice answers or the baseline. A request that
    is probed has all its other members run too, after the reply. No plan is chosen that breaks a limit, or needs a
    member out of service, while one is on offer that does not. Where the ``caller`` minds faults, a request's deadline
    ends its walk, and where all of a plan's members fail others answer in their place.
    """

    def __init__(
        self,
        *,
        ensemble: Ensemble,
        state: StateManager,
        manager: RLManager,
        caller: Caller,
        recorder: Recorder,
        new_id: Callable[[float], str],
        limits: Limits | None = None,
        admission: Admission | None = None,
    ) -> None:
        self.ensemble, self.state, self.manager = ensemble, state, manager
        self._admission = admission
        self._caller, self._recorder, self._new_id = caller, recorder, new_id
        self.limiter = Limiter(limits or Limits(), ensemble)
        self.unrecorded = 0
        """How many decisions were lost because they could not be recorded."""
        self._seldom = Seldom(_log)

    def take_over(self, before: Orchestrator) -> None:
        """Go on where another left off: with what has been spent, what could not be recorded, and what is exposed."""
        self.unrecorded = before.unrecorded
        self.limiter.take_over(before.limiter)
        if self._admission is not None and before._admission is not None:
            self._admission.take_over(before._admission)

    def answer(self, request: Request) -> tuple[Decision, Answer]:
        """Choose a plan, run it, record both. A probe, if ``decision.probed``, is the caller's to start."""
        return self.run(self.decide(request), request)

    def decide(self, request: Request) -> Decision:
        """Choose a plan; takes microseconds and runs no member. Whether there is a probe shows once the request is
        answered; a caller that has no time for one takes ``probe_p`` away.
        """
        return self.decide_each([request])[0]

    def decide_each(self, requests: Sequence[Request]) -> list[Decision]:
        """``decide`` for each of several requests that come at the same time."""
        if self.limiter.spends and len(requests) > 1:
            return [self.decide(request) for request in requests]
        fitting = [self._fitted(*each) for each in zip(requests, self.state.get_states(requests), strict=True)]
        offer, every, chosen = self.manager.choose([state for state, _ in fitting])
        return [
            self._decided(request, state, offer.names, p, index, over=over)
            for request, (state, over), p, index in zip(requests, fitting, every, chosen, strict=True)
        ]

    def _fitted(self, request: Request, state: State) -> tuple[State, bool]:
        """The state with who is out, and which plans keep within the limits; and whether none does."""
        if out := either(self._caller.out, self.manager.out):
            state = replace(state, out=out)
        fitting = self.limiter.fitting(self.manager.policy.catalogue, request, state)
        if fitting is None:
            return state, False
        return replace(state, fits=tuple(fitting.plans.tolist())), fitting.over

    def _decided(
        self,
        request: Request,
        state: State,
        plans: tuple[str, ...],
        probabilities: FloatArray,
        chosen: int,
        *,
        over: bool,
    ) -> Decision:
        """The decision for the plan that the policy has chosen, or for the guard's baseline in its place."""
        exposure = None
        if self._admission is not None:
            rows, lot = len(request.rows), self.manager.lot()
            found = self._admission.admit(plans, probabilities, chosen, state.profile, rows, lot)
            plans, probabilities, chosen, exposure = found.plans, found.probabilities, found.chosen, found.exposure
        probe_p = state.probe_share if self.manager.probes else 0.0
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
            over_limits=over,
            exposure=exposure,
        )
        self.limiter.expect(decision, request)
        if self._admission is not None:
            self._admission.expose(decision)
        return decision

    def due(self, request: Request) -> float:
        """When the request must have been answered if it has come just now, by the caller's clock."""
        return self._caller.due(self.limiter.deadline_s(request))

    def run(self, decision: Decision, request: Request, due: float | None = None) -> tuple[Decision, Answer]:
        """Run the chosen plan, settle whether the request is probed, and record the decision with its answer.

        A caller that lets requests wait in between says when it is ``due``.
        """
        return self._ended(decision, request, self._walk(decision, request, self.due(request) if due is None else due))

    def run_each(self, decided: Sequence[tuple[Decision, Request]]) -> list[tuple[Decision, Answer]]:
        """``run`` each of them; those that can be are walked together (``together.walk_together``)."""
        answers, alike = dict[int, Answer](), dict[tuple[Hashable, ...], list[int]]()
        for i, each in enumerate(decided):
            alike.setdefault(self._walks_with(*each) or (i,), []).append(i)
        for those in alike.values():
            together = self._walk_together([decided[i] for i in those]) if len(those) > 1 else None
            for k, i in enumerate(those):
                decision, request = decided[i]
                answers[i] = together[k] if together else self._walk(decision, request, self.due(request))
        return [self._ended(*each, answers[i]) for i, each in enumerate(decided)]

    def _walks_with(self, decision: Decision, request: Request) -> tuple[Hashable, ...] | None:
        """Requests for which this is the same can be walked together; ``None`` where it is to be walked alone."""
        state, rows = decision.state, request.rows
        if len(rows) != 1 or state.out or self.ensemble.regression or self.limiter.deadline_s(request) < math.inf:
            return None
        return decision.plans, state.version, state.requests, len(state.expected), rows.shape, rows.dtype

    def _walk_together(self, decided: Sequence[tuple[Decision, Request]]) -> list[Answer] | None:
        catalogue = compiled(decided[0][0].plans, self.ensemble)
        return walk_together(decided, catalogue, self._caller, self.state.evidence)

    def _ended(self, decision: Decision, request: Request, answer: Answer) -> tuple[Decision, Answer]:
        if not answer.down:
            self._caller.report(answer.ran)
        self.limiter.correct(decision, answer.ran)
        decision = self._aimed(decision, answer, request)
        if decision.probed and answer.stand_ins:  # what stood in would be known without that, too
            ran = (replace(said, teaches=said.teaches or said.error is None) for said in answer.ran)
            answer = replace(answer, ran=tuple(ran))
        recorded = self._record(decision, answer)
        self.unrecorded += not recorded
        if recorded and not decision.probed:
            self.abandon(decision)
        return decision, answer

    def _record(self, decision: Decision, answer: Answer) -> bool:
        """Whether it could be recorded. Where it could not, as on a full disk, requests are answered all the same; but
        by the guard's baseline, if there is one, until one can be.
        """
        try:
            self._recorder.record(decision, answer)
        except BandmasterError as problem:
            self._seldom.error("decisions cannot be recorded, and are lost: %s", problem)
            recorded = False
        else:
            recorded = True
        if self._admission is not None:
            self._admission.blind = not recorded
        return recorded

    def abandon(self, decision: Decision) -> None:
        """Nothing more will be recorded of it. For a caller, too, whose ``run`` failed or never began."""
        if self._admission is not None:
            self._admission.recorded(decision)

    def _aimed(self, decision: Decision, answer: Answer, request: Request) -> Decision:
        """The decision with the probability of a probe that follows from its answer; 0 where budgets forbid one."""
        if not decision.probe_p:
            return decision
        state = decision.state
        probes = self._left_out(decision, answer)
        if not probes and state.out:
            return replace(decision, probe_p=0.0)  # whom it could ask is out of service
        affords = self.limiter.affords(state, request, probes)
        p = aimed(state.probe_share, answer.doubt, state.doubt) if self.manager.policy.aims else state.probe_share
        decision = replace(decision, probe_p=p if affords else 0.0)
        if decision.probed:
            self.limiter.expect_probe(decision, request, probes)
        return decision

    def probe(self, decision: Decision, answer: Answer, request: Request) -> Answer:
        """Run, after the reply, every member that the plan left out or stopped before, on all rows; record it."""
        every = np.arange(len(request.rows))
        try:
            said = self._caller.call(self._left_out(decision, answer), request.rows, every)
            self._caller.report(said)
            probed = replace(answer, probes=tuple(said))
            self.limiter.correct_probe(decision, request, probed.probes)
            self._record(decision, probed)
        finally:
            self.abandon(decision)
        return probed

    def _left_out(self, decision: Decision, answer: Answer) -> list[str]:
        """The members in service that have not seen every row; where agents are compared, those out of the ensemble,
        too.
        """
        complete = {said.name for said in answer.ran if len(said.rows) == len(answer.labels)}
        out = self._caller.out if self.manager.compares else decision.state.out
        return [name for name in self._in_service(self.ensemble.names, out) if name not in complete]

    def _in_service(self, names: Sequence[str], out: tuple[bool, ...]) -> list[str]:
        """Those that are not ``out`` (M,; empty: nobody is)."""
        return [n for n in names if not out[self.ensemble.index(n)]] if out else list(names)

    def _walk(self, decision: Decision, request: Request, due: float) -> Answer:
        ensemble, state = self.ensemble, decision.state
        plan = parse_plan(decision.plan, ensemble)  # by its name: the policy may offer other plans by now
        weights = weights_in_force(state.members.accuracy, ensemble)
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
            replies = self._caller.call(self._in_service(stage, state.out), request.rows, pending, due)
            for reply in replies:
                i = ensemble.index(reply.name)
                ran[i] = True
                if reply.scores is not None:
                    heard[pending, i] = reply.scores
            if replies:
                said += replies
                combined[pending] = self._combined(plan, heard[pending], ran, pooled_by, state)
            if stages_run < len(plan.stages):
                pending = pending[combined[pending].max(axis=1) < plan.stop_at[stages_run - 1]]
            if not len(pending) or self._caller.is_over(due):
                break
        stand_ins = self._caller.faults is not None
        if stand_ins and all(reply.scores is None for reply in said):
            said += self._stand_ins(said, decision, request, due)
            if said[-1].scores is None:
                said = self._asked_again(said, request)
            combined = combined if (last := said[-1].scores) is None else last
        # Where every member fails it is the request's fault, or nobody is there to take another's place.
        down = stand_ins and len(said) == len(ensemble.names) and all(reply.error is not None for reply in said)
        labels, confidence = value_verdict(combined) if ensemble.regression else verdict(combined)
        combined = np.nan_to_num(combined) if ensemble.regression else combined
        return Answer(combined, labels, confidence, tuple(said), stages_run, weights, stand_ins=stand_ins, down=down)

    def _combined(
        self, plan: Plan, heard: FloatArray, ran: BoolArray, pooled_by: FloatArray, state: State
    ) -> FloatArray:
        """The answer (n, C) to rows of which (n, M, C) was ``heard`` from the members (M,) that ``ran``."""
        if plan.weights == "learned" and self.ensemble.regression:
            return corrected_mean(heard, self.state.errors.now, ran[None])[:, 0]
        if plan.weights == "learned":
            return heard_posterior(heard, self.state.evidence(Said.of(heard), state), ran[None])
        if self.ensemble.regression:
            return mean_value(heard, pooled_by * ran)
        return pool(heard, pooled_by * ran)

    def _stand_ins(
        self, failed: Sequence[MemberAnswer], decision: Decision, request: Request, due: float
    ) -> list[MemberAnswer]:
        """What others say where all that were asked ``failed``: one after the other, the fastest in service first and
        those out of service last, until one answers. Each has twice its usual time whatever is left of the request's;
        the first is asked though it breaks a budget.
        """
        names, state = self.ensemble.names, decision.state
        latency, asked = state.members.latency_s, {reply.name for reply in failed}
        others = [i for i, name in enumerate(names) if name not in asked]
        every, said = np.arange(len(request.rows)), list[MemberAnswer]()
        for i in sorted(others, key=lambda i: (bool(state.out) and state.out[i], latency[i])):
            if said and not self.limiter.affords(state, request, [names[i]]):
                continue
            until = self._caller.later(due, 2.0 * float(latency[i]) * len(every))
            (reply,) = self._caller.call([names[i]], request.rows, every, until)
            said.append(replace(reply, teaches=reply.teaches and reply.error is not None))
            if reply.scores is not None:
                break
        return said

    def _asked_again(self, failed: Sequence[MemberAnswer], request: Request) -> list[MemberAnswer]:
        """The same replies, but of members that were cut short for want of the request's time: each is asked again, for
        as long as it may take at all, until one answers. A late answer is better than none.
        """
        every, said = np.arange(len(request.rows)), list(failed)
        for hurried in [reply for reply in failed if not reply.teaches]:
            (reply,) = self._caller.call([hurried.name], request.rows, every)
            both = replace(
                reply,
                latency_s=hurried.latency_s + reply.latency_s,
                energy_j=hurried.energy_j + reply.energy_j,
                teaches=reply.teaches and reply.error is not None,
            )
            said = [*(other for other in said if other is not hurried), both]
            if reply.scores is not None:
                break
        return said

    def trial(self, name: str, request: Request) -> None:
        """Ask a member that is out of service about an answered request, to find out whether it is back."""
        (reply,) = self._caller.call([name], request.rows, np.arange(len(request.rows)))
        if self._caller.faults is not None:
            self._caller.faults.breaker.saw(name, reply.error)


def settle(journal: Journal, learner: Learner, decision_id: str, outcome: Outcome) -> Settled:
    """Join an outcome to its decision and learn from it, at most once."""
    settlement = journal.settle(decision_id, outcome)
    if settlement.joined is None:
        return Settled(settlement.status)
    return Settled(settlement.status, learn(journal, learner, settlement.joined))


def learn(journal: Journal, learner: Learner, joined: Joined) -> Experience | None:
    """Learn from one joined decision, and keep its reward and the alarms it raised; ``None`` if it cannot teach."""
    if (lesson := lesson_of(learner, joined)) is None:
        return None
    experience = learner.learn(lesson)
    keep(journal, experience)
    return experience


def lesson_of(learner: Learner, joined: Joined) -> Lesson | None:
    """What a joined decision teaches, whatever has been learned before; ``None``, and the log says why, if nothing."""
    if (why := learner.refuses(joined)) is not None:
        # Where consensus judges, every label that is reported comes here; where all members are down, every request.
        usual = learner.contract.by_consensus or joined.answer.down
        _log.log(logging.DEBUG if usual else logging.WARNING, "not learned: %s", why)
        return None
    try:
        return learner.lesson(joined)
    except NoFigureError as problem:
        learner.without_reward += 1
        _log.warning("decision %s has no reward: %s", joined.decision.id, problem)
        return None


def keep(journal: Journal, experience: Experience) -> None:
    """Keep the reward of what was learned from, and the alarms it raised."""
    journal.save_reward(experience.joined, experience.reward)
    for alarm in experience.alarms:
        journal.save_event(alarm)
