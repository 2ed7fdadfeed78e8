"""A guard lets the policy's choice answer as far as there is room for what that may cost, and says how likely."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandmaster.contract import Contract, Metric
from bandmaster.core import Figures, Outcome
from bandmaster.counterfactual import earnings, revealed
from bandmaster.guard import Admission, Guard, Guarding, extremes
from bandmaster.journal.memory import MemoryJournal
from bandmaster.learner import Learner, profile_figures
from bandmaster.ledger import Allowance, AtLeast, Gain, Ledger
from bandmaster.orchestrator import settle
from bandmaster.plans import compiled
from bandmaster.policies.traditional import ConstantPolicy, RandomPolicy
from bandmaster.probes import Probing
from bandmaster.rl_manager import RLManager
from bandmaster.state import StateManager
from bandmaster.testing import sample_experiences, sample_learner, sample_log, sample_orchestrator
from bandmaster.testing.policies import sample_catalogue, sample_decisions

ALLOWANCE = Allowance(per_request=0.1, burn=2.0)


def ledger(requests=0):
    made = Ledger(ALLOWANCE)
    for _ in range(requests):
        made.decided()
    return made


# ---- What a sum is at least --------------------------------------------------------------------------------------


def test_of_nothing_nothing_is_known():
    found = AtLeast(0.01)
    assert found.value == 0.0
    found.add(0.0)
    assert found.value == 0.0


def test_of_many_alike_nearly_all_is_sure():
    found = AtLeast(0.01)
    for _ in range(10_000):
        found.add(0.5)
    assert 4_600 < found.value < 5_000


def test_one_estimate_however_great_proves_little():
    found = AtLeast(0.01)
    found.add(1e9)
    assert found.value == 0.0


@given(st.lists(st.floats(0.0, 1e3), max_size=60))
def test_what_was_sure_stays_so_and_is_no_more_than_was_seen(estimates):
    found, before = AtLeast(0.05), 0.0
    for estimate in estimates:
        found.add(estimate)
        assert before <= found.value <= sum(estimates)
        before = found.value


# ---- The ledger --------------------------------------------------------------------------------------------------


def test_every_request_makes_a_little_room_again_until_there_is_as_much_as_the_burn():
    assert ledger().room == ledger(1000).room == 2.0
    book = ledger()
    book.expose("a", 0.8)
    rooms = [book.decided() or book.room for _ in range(15)]
    assert rooms[:7] == pytest.approx([1.2 + 0.1 * i for i in range(1, 8)])
    assert 2.0 <= rooms[-1] <= 2.1


def test_who_has_no_outcome_yet_is_taken_for_the_worst():
    book = ledger()
    book.expose("a", 0.8)
    book.expose("b", 0.8)
    assert (book.lost, book.room) == pytest.approx((1.6, 0.4))
    book.settle("a", -0.3)
    assert book.lost == pytest.approx(0.5)


def test_what_no_outcome_will_come_of_any_more_costs_nothing():
    book = ledger()
    for i in range(3):
        book.expose(str(i), 0.5, at=float(i))
    book.settle("0", 0.1)
    book.expire(before=2.0)
    assert book.lost == pytest.approx(0.1 + 0.5)


def test_an_outcome_counts_though_nobody_had_noticed_its_decision_and_one_that_is_noticed_twice_counts_once():
    book = ledger()
    for _ in range(2):
        book.expose("a", 0.8)
    book.settle("b", 0.2)
    assert book.lost == pytest.approx(1.0)
    book.settle("a", 0.5)
    book.expire(before=1.0)
    assert book.lost == pytest.approx(0.7)


def test_what_is_kept_makes_another_its_equal_and_it_goes_on_alike():
    book, twin = ledger(500), Ledger(ALLOWANCE)
    for i in range(120):
        book.expose(str(i), 0.4, at=float(i))
        if i % 3:
            book.settle(str(i), -0.1, slack=0.2 * (i % 2))
    twin.load(msgspec.msgpack.decode(msgspec.msgpack.encode(book.dump())))
    for each in (book, twin):
        each.settle("0", 0.1, slack=0.3)
        each.settle("3", 0.1, slack=0.3)
        each.decided()
    assert (twin.lost, twin.room) == pytest.approx((book.lost, book.room))
    assert twin.dump() == book.dump()


def test_slack_counts_in_the_order_of_requests_whichever_outcome_comes_first():
    book = ledger()
    for i in range(200):
        book.expose(str(i), 0.3)
    for i in reversed(range(1, 200)):
        book.settle(str(i), 0.3, slack=0.3)
    assert book.lost == pytest.approx(200 * 0.3)
    book.settle("0", 0.3, slack=0.3)
    assert 0.0 < book.lost < 100 * 0.3


def test_what_was_won_may_not_be_lost_again():
    book = ledger()
    for i in range(100):
        book.expose(str(i), 0.5)
        book.settle(str(i), -0.5)
        assert book.room <= 2.0 * 2.0
    for i in range(4):
        book.expose(f"bad {i}", 0.5)
        book.settle(f"bad {i}", 0.5)
    assert book.room < 2.5


moves = st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(0, 3)), max_size=80)


@given(moves)
def test_whatever_comes_of_it_no_more_is_lost_than_was_agreed(drawn):
    """Without probes nothing is a matter of chance: the worst that may happen is all counted."""
    book, truly, waiting = Ledger(ALLOWANCE), 0.0, []
    for i, (most, share, delay) in enumerate(drawn):
        book.decided()
        if most <= book.room:
            book.expose(str(i), most)
            waiting.append((i + delay, str(i), most * share))
            truly += most * share
        for due in [w for w in waiting if w[0] <= i]:
            waiting.remove(due)
            book.settle(due[1], due[2])
        assert truly <= ALLOWANCE.per_request * (i + 1) + ALLOWANCE.burn + 1e-9


# ---- The guard ---------------------------------------------------------------------------------------------------

LOG = sample_log(400, seed=2)
ALL = "m0+m1+m2+m3"


def learner_of(mode, make=lambda plans, *_: RandomPolicy(plans), burn=20.0, probe_share=0.1):
    guarding = Guarding(mode, ALL, Allowance(0.02, burn))
    return sample_learner(make, LOG, probe_share=probe_share, guarding=guarding)


def decisions(learner):
    return [e.joined.decision for e in sample_experiences(learner, LOG)]


def guard(mode="live"):
    return learner_of(mode).guard


PLANS = ("m0", ALL, "m1>m2@0.8", "m3")


@given(
    st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4),
    st.integers(0, 3),
    st.floats(0.0, 1.0, exclude_max=True),
    st.floats(-1.0, 2.0),
    st.sampled_from([PLANS, PLANS[::-1], ("m0", "m1", "m2", "m3")]),
)
def test_what_is_said_of_how_likely_each_plan_answers_is_so(weights, intended, lot, room, plans):
    p = np.array(weights) / sum(weights)
    found = guard().admit(plans, p, intended, "default", 1, lot, room)
    baseline = found.plans.index(ALL)
    assert found.probabilities.sum() == pytest.approx(1.0)
    assert (found.probabilities >= 0.0).all()
    for k, name in enumerate(plans):
        if name != ALL:  # live: all or nothing, by whether there is room
            alone = guard().admit(plans, p, k, "default", 1, 0.0, room)
            assert found.probabilities[k] == pytest.approx(p[k] * alone.exposure.share)
            assert alone.exposure.exposed == (alone.exposure.most <= room) == (alone.chosen == k)
    assert found.chosen in (intended, baseline)
    assert (found.exposure.intended, found.exposure.p) == (plans[intended], p[intended])


def test_in_a_canary_a_lot_decides_as_often_as_is_said():
    canary, p = guard("canary"), np.full(4, 0.25)
    lots = [canary.admit(PLANS, p, 0, "default", 1, lot, 2.0).chosen == 0 for lot in (np.arange(1000) + 0.5) / 1000]
    assert np.mean(lots) == canary.STEPS[0] == canary.admit(PLANS, p, 0, "default", 1, 0.0, 2.0).probabilities[0] * 4


@pytest.mark.parametrize("mode", ["off", "shadow"])
def test_off_and_in_the_shadow_the_baseline_answers_and_what_was_intended_is_known(mode):
    made = decisions(learner_of(mode))
    assert {d.plan for d in made} == {ALL}
    assert {d.propensity for d in made} == {1.0}
    assert len({d.exposure.intended for d in made}) > 5
    assert not any(d.exposure.exposed for d in made)


def test_live_with_room_for_all_it_is_as_if_there_were_no_guard_but_for_the_lots():
    made = decisions(learner_of("live", burn=1000.0))
    assert all(d.plan == d.exposure.intended for d in made)


def test_what_plans_earn_lies_between_their_extremes():
    learner = learner_of("live", burn=1000.0, probe_share=1.0)
    catalogue = learner.manager.policy.catalogue
    worst, best = extremes(learner.contract, catalogue, profile_figures(LOG.ensemble))
    assert (worst < best).all()
    for experience in sample_experiences(learner, LOG):
        found = revealed(catalogue, learner.contract, experience).rewards
        known = ~np.isnan(found)
        assert (found[known] >= worst[known] - 1e-9).all()
        assert (found[known] <= best[known] + 1e-9).all()


def test_what_is_not_known_may_be_worth_nothing_or_all():
    learner = learner_of("live")
    unknown = Figures(*(np.full(4, np.nan) for _ in range(4)))
    worst, best = extremes(learner.contract, learner.guard.baseline, unknown)
    assert (worst[0], best[0]) == pytest.approx((0.0, 1.0))


# ---- Breaches ----------------------------------------------------------------------------------------------------


def played(learner, requests=LOG):
    """Each request's decision, and the guard's alarms."""
    alarms, noticed = [], learner.notice

    def notice(decision, answer):
        if (alarm := noticed(decision, answer)) is not None:
            alarms.append(alarm)
        return alarm

    learner.notice = notice
    return [e.joined.decision for e in sample_experiences(learner, requests)], alarms


def test_where_too_much_was_lost_the_baseline_answers_alone_until_half_of_the_burn_is_there_again():
    learner = learner_of("live", lambda plans, *_: ConstantPolicy(plans, "m3"), burn=2.0)
    made, alarms = played(learner, sample_log(1500, seed=2))
    assert alarms
    assert {a.name for a in alarms} == {"guard"}
    assert "answers alone" in alarms[0].cause
    exposed = np.array([d.exposure.exposed for d in made])
    first = int(np.argmin(exposed))  # the first that is refused
    assert exposed[first:].any(), "it recovers"
    assert not exposed[first : first + 10].any(), "but not before 0.02 a request have made up for enough of it"
    assert learner.guard.ledger.room >= 0.0


def winning(mode):
    """A policy whose plan asks whom the baseline asks, so that it is always known what that would have earned."""
    plans = compiled((f"{ALL}~recent", ALL), LOG.ensemble)
    guarding = Guarding(mode, ALL, Allowance(0.02, 20.0))
    return sample_learner(lambda plans, *_: ConstantPolicy(plans, f"{ALL}~recent"), LOG, plans=plans, guarding=guarding)


def test_a_canary_climbs_while_nothing_is_lost():
    learner = winning("canary")
    learner.guard.EACH = 5
    played(learner, sample_log(2500, seed=2))
    assert learner.guard.share > 0.01


class Probed(ConstantPolicy):
    probes = True


@pytest.mark.parametrize(("baseline", "share"), [(ALL, 0.2), ("m1", 0.2)])
def test_in_the_shadow_it_is_estimated_what_the_policy_would_have_gained(baseline, share):
    """By the baseline that asks everybody it is known of each request, by another from probes alone."""
    log = sample_log(2000, seed=3)
    guarding = Guarding("shadow", baseline)
    learner = sample_learner(lambda plans, *_: Probed(plans, "m0"), log, probe_share=share, guarding=guarding)
    assert all(e.joined.decision.plan == baseline for e in sample_experiences(learner, log))
    alone = []
    for plan in ("m0", baseline):
        constant = sample_learner(lambda plans, *_, plan=plan: ConstantPolicy(plans, plan), log)
        alone.append(np.array([e.own for e in sample_experiences(constant, log)]))
    gain = learner.guard.gain
    assert gain.requests == len(log)
    assert abs(gain.mean - np.mean(alone[0] - alone[1])) < gain.margin(0.001)
    assert gain.margin(0.01) < (0.1 if baseline == ALL else 0.3)


def test_nothing_is_said_of_the_margin_before_a_hundred_differences_are_known():
    gain = Gain()
    for _ in range(10_000):
        gain.add(float("nan"), 0.02)
    for _ in range(99):
        gain.add(0.0, 0.02)
        assert gain.margin(0.01) == float("inf")
    gain.add(0.0, 0.02)
    assert 0.0 < gain.margin(0.01) < 0.01


def test_a_difference_counts_for_all_that_were_as_unlikely_to_be_known():
    gain = Gain()
    gain.add(float("nan"), 0.5)
    gain.add(0.4, 0.5)
    assert (gain.requests, gain.mean) == (2, pytest.approx(0.4))


def test_a_restored_guard_goes_on_alike():
    learner, twin = learner_of("canary"), learner_of("canary")
    decisions(learner)
    twin.load(learner.dump())
    assert twin.dump() == learner.dump()
    assert twin.guard.ledger.room == pytest.approx(learner.guard.ledger.room)


def test_by_another_baseline_all_begins_anew_and_in_another_mode_climbing():
    learner = winning("canary")
    learner.guard.EACH = 1
    played(learner, sample_log(1500, seed=2))
    assert learner.guard.share > 0.01
    other = winning("canary")
    other.guard = Guard(Guarding("canary", "m1"), LOG.ensemble, other.contract, profile_figures(LOG.ensemble))
    other.load(learner.dump())
    assert (other.guard.share, other.guard.gain.requests, other.guard.ledger.lost) == (0.01, 0, 0.0)
    live, again = winning("live"), winning("canary")
    live.load(learner.dump())
    again.load(live.dump())
    assert again.guard.share == 0.01
    assert again.guard.gain.requests == learner.guard.gain.requests > 0


# ---- Where the learner is another process ------------------------------------------------------------------------


def test_what_the_learner_has_not_counted_yet_takes_up_room_and_workers_share_what_there_is():
    known, now = guard(), [100.0]
    admission = Admission(known, workers=2, clock=lambda: now[0])
    assert admission.room == 10.0
    exposed = next(d for d in decisions(learner_of("live", burn=1000.0)) if d.exposure.exposed)
    admission.expose(exposed)
    left = 10.0 - exposed.exposure.most
    assert admission.room == left
    known.counted = 200.0  # it is not recorded yet, so that it cannot have been counted
    admission.expose(exposed)
    assert admission.room == left
    now[0] = 300.0
    admission.recorded(exposed)
    assert admission.room == left
    known.counted = 301.0
    assert admission.room == 10.0


# ---- What nobody foresees ----------------------------------------------------------------------------------------


def test_where_figures_are_measured_what_they_may_cost_is_all_that_they_may():
    """Latencies that stray widely: on average they earn the baseline more than their average would."""
    rng, log = np.random.default_rng(5), sample_log(2500, seed=5)
    took = rng.lognormal(np.log(0.03), 1.2, size=log.latency_s.shape)
    log = replace(log, latency_s=took, scores=np.repeat(np.eye(3)[log.truth][:, None], 4, axis=1).astype(np.float32))
    baseline = sample_learner(lambda plans, *_: ConstantPolicy(plans, ALL), log)
    earned = np.array([e.own for e in sample_experiences(baseline, log)])
    learner = sample_learner(
        lambda plans, *_: Probed(plans, "m0>m3@0.99"), log, plans=compiled(("m0>m3@0.99", ALL), log.ensemble),
        probe_share=0.05, guarding=Guarding("live", ALL, Allowance(0.02, 20.0)),
    )  # fmt: skip
    own = np.array([e.own for e in sample_experiences(learner, log)])
    lost = (earned - own).cumsum()
    assert (lost <= 0.02 * np.arange(1, len(log) + 1) + 20.0).all()


def test_where_rewards_are_reported_every_request_may_cost_all():
    learner = learner_of("live", burn=5.0)
    journal, exposed = MemoryJournal(), []
    orchestrator = sample_orchestrator(learner, LOG, journal)
    for decision, _ in sample_decisions(learner, orchestrator, LOG):
        exposed.append(decision.exposure.exposed)
        assert learner.guard.ledger.room >= -1e-9
        if len(exposed) > 100:
            break
    assert sum(exposed) == 5 + 1  # for the burn, and for the budget of fifty requests


def test_by_consensus_the_gain_is_that_of_the_probed_and_learning_goes_on():
    log = sample_log(600, seed=6)
    contract = Contract.of(Metric("accuracy", 1.0, source="consensus"))
    policy = Probed(sample_catalogue(log), "m0")
    state = StateManager(log.ensemble, probing=Probing(0.3, adapt=False))
    learner = Learner(
        log.ensemble, contract, state, RLManager(policy, np.random.default_rng(0)), Guarding("shadow", "m1")
    )
    journal, differences = MemoryJournal(), []
    for decision, _ in sample_decisions(learner, sample_orchestrator(learner, log, journal), log):
        if decision.probed:
            found = settle(journal, learner, decision.id, Outcome(decision.at, consensus=True)).experience
            both = earnings(compiled(("m1", "m0"), log.ensemble), contract, found)
            differences.append(both[1] - both[0])
    assert len(differences) > 100
    assert learner.guard.gain.requests == len(differences)
    assert learner.guard.gain.mean == pytest.approx(np.mean(differences))


def test_in_a_canary_a_policy_sees_each_of_its_plans_as_often_as_it_chooses_it():
    """Weighed by how much each counts, what was followed is spread as the policy's own choices are."""
    log = sample_log(3000, seed=7)
    plans = compiled(("m0", "m1", ALL), log.ensemble)
    guarding = Guarding("canary", ALL, Allowance(1.0, 1000.0))
    learner = sample_learner(lambda *_: RandomPolicy(plans), log, guarding=guarding)
    learner.guard.STEPS = (0.2,)
    seen = dict.fromkeys(plans.names, 0.0)
    for experience in sample_experiences(learner, log):
        decision = experience.joined.decision
        seen[decision.plan] += decision.followed
        assert decision.chosen_p == pytest.approx(1 / 3)
    assert sum(seen.values()) == pytest.approx(600, rel=0.2)
    np.testing.assert_allclose(list(seen.values()), 200, rtol=0.25)
