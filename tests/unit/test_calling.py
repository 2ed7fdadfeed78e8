"""Members out of service are spared, others stand in for those that fail, and the reward knows who really ran."""

import math

import numpy as np
import pytest

from bandmaster.breaker import Breaker, Breaking
from bandmaster.calling import Caller, Faults
from bandmaster.core import NO_ANSWER, MemberAnswer, Outcome, Request
from bandmaster.counterfactual import earnings
from bandmaster.guard import Guarding
from bandmaster.journal.memory import MemoryJournal
from bandmaster.ledger import Allowance
from bandmaster.members.deadline import Deadline
from bandmaster.orchestrator import settle
from bandmaster.plans import Catalogue, compiled, parse_plan, without
from bandmaster.policies.traditional import ConstantPolicy, RandomPolicy
from bandmaster.recorded import RecordedMember
from bandmaster.testing import sample_learner, sample_log, sample_orchestrator

LOG = sample_log(200)
M0, M1, M2 = LOG.ensemble.names[:3]


class Meter:
    """Members in ``broken`` fail, after 20 ms; the others take 1 ms, 2 ms, 3 ms … and as many J, or where they are in
    ``slow`` 30 ms, if they may. It is the clock.
    """

    def __init__(self):
        self.broken, self.slow, self.asked, self.now = set(), set(), [], 0.0

    def __call__(self):
        return self.now

    def run(self, member, rows, index, within_s=math.inf):
        self.asked.append((member.name, within_s))
        number = LOG.ensemble.index(member.name) + 1
        if member.name in self.slow:
            took = min(within_s, 0.03)
            self.now += took
            done = within_s >= 0.03
            scores, error = (member.predict(rows[index]), None) if done else (None, "it took too long")
            return MemberAnswer(member.name, index, scores, took, took, "declared", error)
        self.now += 0.02 if member.name in self.broken else number / 1e3
        if member.name in self.broken:
            return MemberAnswer(member.name, index, None, 0.02, 0.02, "declared", "it broke")
        return MemberAnswer(member.name, index, member.predict(rows[index]), number / 1e3, float(number), "declared")


def parts(plan, *, breaking=None, deadlines=None, probe_share=0.0):
    """An orchestrator in which ``plan`` always answers, its meter, learner and journal."""
    catalogue = Catalogue.of(LOG.ensemble, [parse_plan(plan, LOG.ensemble)])
    policy = ConstantPolicy(catalogue, plan)
    policy.probes = probe_share > 0.0
    learner = sample_learner(lambda *_: policy, LOG, probe_share=probe_share)
    meter, journal = Meter(), MemoryJournal()
    faults = Faults(Breaker(LOG.ensemble.names, breaking or Breaking(), clock=lambda: 0.0), deadlines or {}, meter)
    return sample_orchestrator(learner, LOG, journal, meter=meter, faults=faults), meter, learner, journal


def request(i=0, deadline_s=None):
    return Request(np.array([[i]]), np.zeros(3), at=float(i), deadline_s=deadline_s)


def test_the_reward_counts_what_stand_ins_took_and_nobody_who_was_spared():
    orchestrator, meter, learner, journal = parts(f"{M0}+{M1}", breaking=Breaking(after=1))
    meter.broken = {M0, M1}
    decision, answer = orchestrator.answer(request())
    assert [said.name for said in answer.ran] == [M0, M1, M2]
    raw = settle(journal, learner, decision.id, Outcome(0.0, (0,))).experience.reward.raw
    assert (raw["latency"], raw["energy"]) == (pytest.approx(0.023), pytest.approx(3.04))
    decision, answer = orchestrator.answer(request(1))
    assert [said.name for said in answer.ran] == [M2]
    raw = settle(journal, learner, decision.id, Outcome(0.0, (0,))).experience.reward.raw
    assert (raw["latency"], raw["energy"]) == (pytest.approx(0.003), pytest.approx(3.0))


def test_without_faults_nobody_stands_in_as_in_replay():
    learner = sample_learner(lambda plans, *_: ConstantPolicy(plans, M0), LOG)
    meter = Meter()
    meter.broken = {M0}
    _, answer = sample_orchestrator(learner, LOG, MemoryJournal(), meter=meter).answer(request(deadline_s=0.001))
    assert [said.name for said in answer.ran] == [M0]
    assert (answer.labels[0], answer.down) == (NO_ANSWER, False)
    assert meter.asked == [(M0, math.inf)]


def test_each_call_is_given_the_lesser_of_its_member_s_time_and_what_the_request_has_left():
    orchestrator, meter, _, _ = parts(f"{M0}>{M1}>{M2}@1", deadlines={M1: Deadline(0.005)})
    orchestrator.answer(request(deadline_s=0.05))
    assert meter.asked == [(M0, pytest.approx(0.05)), (M1, 0.005), (M2, pytest.approx(0.047))]


def test_once_its_time_is_up_a_request_asks_others_only_where_nobody_has_answered_and_then_until_one_does():
    orchestrator, meter, _, _ = parts(f"{M0}>{M1}>{M2}@1")
    _, answer = orchestrator.answer(request(deadline_s=0.002))
    assert ([said.name for said in answer.ran], answer.stages_run) == ([M0, M1], 2)
    assert answer.labels[0] != NO_ANSWER
    meter.broken, meter.asked = set(LOG.ensemble.names), []
    _, answer = orchestrator.answer(request(1, deadline_s=0.002))
    assert [said.name for said in answer.ran] == [*LOG.ensemble.names[2:], M0, M1]  # who was cut short is asked again
    assert (answer.labels[0], answer.down) == (NO_ANSWER, True)
    assert meter.asked[1][1] == pytest.approx(0.012)  # twice what it takes by its profile
    meter.broken.discard(LOG.ensemble.names[-1])
    _, answer = orchestrator.answer(request(2, deadline_s=0.002))
    assert answer.labels[0] != NO_ANSWER


def test_of_members_that_take_turns_those_for_whom_no_time_is_left_are_not_asked():
    orchestrator, _, _, _ = parts(f"{M0}+{M1}+{M2}")
    _, answer = orchestrator.answer(request(deadline_s=0.002))
    assert [said.name for said in answer.ran] == [M0, M1]


def test_a_failure_for_want_of_the_request_s_time_is_not_the_member_s():
    member = {M0: RecordedMember(M0, LOG.scores[:, 0])}
    breaker, meter = Breaker(LOG.ensemble.names, Breaking(after=1), clock=lambda: 0.0), Meter()
    meter.broken = {M0}
    caller = Caller(member, meter, faults=Faults(breaker, {M0: Deadline(1.0)}, meter))
    hurried = caller.call([M0], np.array([[0]]), np.arange(1), meter.now + 0.01)  # it took 20 ms
    caller.report(hurried)
    assert not hurried[0].teaches
    assert not any(breaker.out)
    caller.report(caller.call([M0], np.array([[0]]), np.arange(1), meter.now + 0.5))
    assert any(breaker.out)


def test_a_member_that_was_cut_short_answers_late_where_all_others_fail():
    """M0 is asked first, and has 10 ms; M1 stands in, and has 12, twice its usual time. Both need 30; others break."""
    for hurried, first_s in ((M0, 0.01), (M1, 0.012)):
        orchestrator, meter, learner, journal = parts(M0, deadlines=dict.fromkeys(LOG.ensemble.names, Deadline(0.5)))
        meter.broken = set(LOG.ensemble.names) - {hurried}
        meter.slow = {hurried}
        decision, answer = orchestrator.answer(request(deadline_s=0.01))
        assert answer.labels[0] != NO_ANSWER
        assert not answer.down
        assert sorted(said.name for said in answer.ran) == list(LOG.ensemble.names)
        assert (answer.ran[-1].name, answer.ran[-1].error) == (hurried, None)
        assert answer.ran[-1].latency_s == pytest.approx(first_s + 0.03)
        assert settle(journal, learner, decision.id, Outcome(0.0, (0,))).experience is not None


def test_probes_ask_nobody_who_is_out_and_are_none_where_all_others_are():
    orchestrator, meter, learner, journal = parts(M0, breaking=Breaking(after=1, at_most=1.0), probe_share=1.0)
    meter.broken = {M1}
    decision, answer = orchestrator.answer(request())
    orchestrator.probe(decision, answer, request())  # finds M1 out
    decision, answer = orchestrator.answer(request(1))
    probed = orchestrator.probe(decision, answer, request(1))
    assert {said.name for said in probed.probes} == set(LOG.ensemble.names) - {M0, M1}
    settled = settle(journal, learner, decision.id, Outcome(1.0, (0,)))
    assert not settled.experience.known[0, LOG.ensemble.index(M1)]
    meter.broken = set(LOG.ensemble.names) - {M0}
    decision, answer = orchestrator.answer(request(2))
    orchestrator.probe(decision, answer, request(2))
    decision, answer = orchestrator.answer(request(3))
    assert (decision.probed, decision.probe_p) == (False, 0.0)


def test_where_every_plan_needs_somebody_who_is_out_all_remain_and_the_rest_of_them_run():
    catalogue = Catalogue.of(LOG.ensemble, [parse_plan(f"{M0}+{name}", LOG.ensemble) for name in (M1, M2)])
    learner = sample_learner(lambda *_: RandomPolicy(catalogue), LOG)
    meter = Meter()
    meter.broken = {M0}
    faults = Faults(Breaker(LOG.ensemble.names, Breaking(after=1), clock=lambda: 0.0))
    orchestrator = sample_orchestrator(learner, LOG, MemoryJournal(), meter=meter, faults=faults)
    orchestrator.answer(request())
    decision, answer = orchestrator.answer(request(1))
    assert decision.probabilities.tolist() == [0.5, 0.5]
    assert [said.name for said in answer.ran] == [decision.plan.removeprefix(f"{M0}+")]


def test_what_is_left_of_a_baseline_in_service_is_what_it_is_judged_by():
    catalogue = Catalogue.of(LOG.ensemble, [parse_plan(name, LOG.ensemble) for name in (M0, f"{M0}+{M1}")])
    policy, guarding = ConstantPolicy(catalogue, M0), Guarding("live", f"{M0}+{M1}", Allowance(burn=1000.0))
    policy.probes = True
    learner = sample_learner(lambda *_: policy, LOG, probe_share=1.0, guarding=guarding)
    meter, journal = Meter(), MemoryJournal()
    meter.broken = {M1}
    faults = Faults(Breaker(LOG.ensemble.names, Breaking(after=1), clock=lambda: 0.0), clock=meter)
    orchestrator = sample_orchestrator(learner, LOG, journal, meter=meter, faults=faults)
    for i in range(100):
        decision, answer = orchestrator.answer(request(i))
        answer = orchestrator.probe(decision, answer, request(i))
        learner.notice(decision, answer)
        if i == 10:
            before = learner.guard.ledger.lost
        settle(journal, learner, decision.id, Outcome(float(i), (int(LOG.truth[i]),)))
    assert any(faults.breaker.out)
    assert learner.guard.ledger.lost == pytest.approx(before, abs=1.0)  # the policy and what is left are the same
    assert learner.guard.gain.mean == pytest.approx(0.0, abs=0.02)


def test_a_plan_whose_members_all_failed_is_not_taken_to_have_earned_nothing():
    orchestrator, meter, learner, journal = parts(M0, probe_share=1.0)
    meter.broken = {M1}
    decision, answer = orchestrator.answer(request())
    orchestrator.probe(decision, answer, request())
    experience = settle(journal, learner, decision.id, Outcome(0.0, (0,))).experience
    found = earnings(compiled((M0, M1, f"{M0}+{M1}"), LOG.ensemble), learner.contract, experience)
    assert np.isnan(found).tolist() == [False, True, False]


@pytest.mark.parametrize(("probe_share", "known"), [(0.0, False), (1.0, True)])
def test_what_a_stand_in_said_tells_of_others_only_where_a_probe_would_have(probe_share, known):
    orchestrator, meter, learner, journal = parts(M0, probe_share=probe_share)
    meter.broken = {M0}
    decision, answer = orchestrator.answer(request())
    assert [said.name for said in answer.ran] == [M0, M1]
    if decision.probed:
        orchestrator.probe(decision, answer, request())
    experience = settle(journal, learner, decision.id, Outcome(0.0, (0,))).experience
    assert experience.known[0].tolist() == [True, known, known, known]


def test_deadlines_grow_with_the_rows_unless_they_are_declared_and_never_beyond_the_limit():
    assert Deadline.of(None, 0.01).seconds(100) == pytest.approx(21.0)
    assert Deadline.of(0.05, 0.01).seconds(100) == 0.05
    assert Deadline.of(None, 0.01, 0.2).seconds(100) == 0.2


@pytest.mark.parametrize(
    ("plan", "out", "left"),
    [
        ("m0+m1", "m0", "m1"),
        ("m0>m1@0.9", "m0", "m1"),
        ("m0>m1@0.9", "m1", "m0"),
        ("m0>m1>m2@0.9,0.6", "m1", "m0>m2@0.6"),
        ("m0>m1>m2@0.6,0.9", "m1", "m0>m2@0.6"),
        ("m0>m1+m2>m3@0.9,0.6~learned", "m2", "m0>m1>m3@0.9,0.6~learned"),
        ("m0", "m0", None),
    ],
)
def test_a_plan_without_a_member_runs_the_rest_of_its_stages(plan, out, left):
    found = without(parse_plan(plan, LOG.ensemble), {out})
    assert (found and found.name) == left
