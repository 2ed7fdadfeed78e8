"""Hard limits: what may not be chosen is not, no budget is overspent, and what is logged is what was drawn from."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandmaster.core import Ensemble
from bandmaster.journal.memory import MemoryJournal
from bandmaster.learner import Learner, profile_figures
from bandmaster.limits import Budget, Limits, Spending, fitting, masked
from bandmaster.policies.bandit import BanditPolicy
from bandmaster.policies.exp4 import Exp4Policy
from bandmaster.policies.exploration import Exploration, spread
from bandmaster.policies.traditional import ConstantPolicy, RandomPolicy, ScoringPolicy
from bandmaster.probes import Probing
from bandmaster.rl_manager import RLManager
from bandmaster.state import StateManager
from bandmaster.testing import sample_log, sample_orchestrator
from bandmaster.testing.policies import CONTRACT, sample_catalogue

LOG = sample_log(60)
PLANS = sample_catalogue(LOG)
ENERGY = np.array([LOG.ensemble.profiles[n].energy_j for n in LOG.ensemble.names])
COST = np.array([LOG.ensemble.profiles[n].cost for n in LOG.ensemble.names])
LATENCY = np.array([LOG.ensemble.profiles[n].latency_s for n in LOG.ensemble.names])


def decide_all(limits, times=None, *, policy=None, probe_share=0.3, seed=0, deadlines=None):
    """Every request of the log answered, and probed where it was to be: decisions and answers."""
    state = StateManager(LOG.ensemble, probing=Probing(probe_share, adapt=False))
    manager = RLManager(policy or Probed(PLANS), np.random.default_rng(seed))
    learner = Learner(LOG.ensemble, CONTRACT, state, manager)
    orchestrator = sample_orchestrator(learner, LOG, MemoryJournal(), seed=seed, limits=limits)
    done = []
    for i in range(len(LOG) if times is None else len(times)):
        request = replace(LOG.request(i), at=float(i if times is None else times[i]))
        if deadlines is not None:
            request = replace(request, deadline_s=deadlines[i])
        decision, answer = orchestrator.answer(request)
        if decision.probed:
            answer = orchestrator.probe(decision, answer, request)
        done.append((decision, answer))
    return done, orchestrator


class Probed(RandomPolicy):
    probes = True


def spent(answer, each):
    return sum(each[LOG.ensemble.index(said.name)] for said in (*answer.ran, *answer.probes))


def walk_s(decision):
    plan = PLANS.plans[PLANS.index(decision.plan)]
    return sum(max(LATENCY[LOG.ensemble.index(n)] for n in stage) for stage in plan.stages)


moments = st.lists(st.floats(0.0, 3.0), min_size=20, max_size=len(LOG)).map(np.cumsum)


@settings(max_examples=25, deadline=None)
@given(moments, st.floats(0.001, 1.0), st.floats(0.5, 20.0), st.integers(0, 99))
def test_no_period_spends_more_than_its_budget_unless_no_plan_fits(times, amount, per_s, seed):
    done, _ = decide_all(Limits(energy=Budget(amount, per_s), cost=Budget(10 * amount, per_s)), times, seed=seed)
    for each, most in ((ENERGY, amount), (COST, 10 * amount)):
        paid = np.array([spent(answer, each) for _, answer in done])
        for i, (decision, _) in enumerate(done):
            if not decision.over_limits:
                period = (times <= times[i]) & (times > times[i] - per_s) & (np.arange(len(times)) <= i)
                assert paid[period].sum() <= most + 1e-9


def test_a_budget_is_nearly_used_up_where_there_is_use_for_it():
    done, orchestrator = decide_all(Limits(energy=Budget(0.2, 1000.0)), probe_share=0.0)
    total = sum(spent(answer, ENERGY) for decision, answer in done if not decision.over_limits)
    assert 0.2 - ENERGY.max() <= total <= 0.2
    assert orchestrator.limiter.left(59.0)["energy"] == pytest.approx(0.2 - sum(spent(a, ENERGY) for _, a in done))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(0.0005, 0.2)), min_size=20, max_size=20), st.floats(0.0005, 0.2))
def test_no_plan_is_chosen_whose_walk_is_longer_than_the_deadline_unless_all_are(asked, configured):
    done, orchestrator = decide_all(Limits(deadline_s=configured), np.arange(20.0), deadlines=asked)
    for (decision, _), own in zip(done, asked, strict=True):
        deadline = configured if own is None else min(configured, own)
        assert decision.over_limits == (deadline < LATENCY.min())
        assert walk_s(decision) <= max(deadline, LATENCY.min())
    assert orchestrator.limiter.over == sum(decision.over_limits for decision, _ in done)


def test_without_limits_and_with_ones_that_nothing_reaches_every_decision_is_the_same():
    free, _ = decide_all(None)
    wide, _ = decide_all(Limits(10.0, Budget(1e9, 60.0), Budget(1e9, 60.0)))
    for (one, _), (other, _) in zip(free, wide, strict=True):
        assert (one.plan, one.probed, one.state.fits, other.state.fits) == (other.plan, other.probed, (), ())
        assert np.array_equal(one.probabilities, other.probabilities)


def test_the_logged_distribution_is_the_masked_one_and_what_is_drawn_from():
    done, _ = decide_all(Limits(deadline_s=0.02))
    for decision, _ in done:
        fits = np.array(decision.state.fits)
        assert not decision.probabilities[~fits].any()
        assert fits[decision.chosen]
        assert decision.probabilities[fits] == pytest.approx(1.0 / fits.sum())


def test_a_policy_takes_the_best_of_the_plans_that_fit():
    state = StateManager(LOG.ensemble).get_state(LOG.request(0))
    scoring = ScoringPolicy(PLANS, CONTRACT, profile_figures(LOG.ensemble))
    scores = scoring.scores(state.members)
    fits = scores < scores.max()
    manager = RLManager(scoring, np.random.default_rng(0))
    _, (p,), (chosen,) = manager.choose([replace(state, fits=tuple(fits.tolist()))])
    assert scores[chosen] == scores[fits].max()
    assert not p[~fits].any()


def test_experts_are_told_which_of_their_own_plans_fit():
    state = StateManager(LOG.ensemble).get_state(LOG.request(0))
    scoring, constant = ScoringPolicy(PLANS, CONTRACT, profile_figures(LOG.ensemble)), ConstantPolicy(PLANS, "m3")
    policy = Exp4Policy([scoring, constant], PLANS)
    scores = scoring.scores(state.members)
    best = int(scores.argmax())
    second = int(np.where(scores < scores.max(), scores, 0.0).argmax())
    fits = tuple(k not in (best, PLANS.index("m3")) for k in range(len(PLANS)))
    p = RLManager(policy, np.random.default_rng(0)).choose([replace(state, fits=fits)])[1][0]
    assert p.argmax() == second
    assert p[best] == p[PLANS.index("m3")] == 0.0


@given(
    st.lists(st.floats(0.0, 1.0), min_size=2, max_size=20),
    st.data(),
    st.sampled_from([Exploration("epsilon", 0.1), Exploration("squarecb", 0.0), Exploration("softmax", 5.0)]),
)
def test_whoever_explores_spreads_over_the_plans_that_fit_as_if_there_were_no_others(values, data, explore):
    worth = np.array(values)
    fits = np.array(data.draw(st.lists(st.booleans(), min_size=len(worth), max_size=len(worth)).filter(any)))
    p = spread(np.where(fits, worth, -np.inf), explore, 10)
    assert np.allclose(p[fits], spread(worth[fits], explore, 10))
    assert not p[~fits].any()


def test_a_plan_alone_on_offer_is_taken_though_it_breaks_a_limit_and_said_so():
    done, orchestrator = decide_all(Limits(deadline_s=0.001), policy=ConstantPolicy(PLANS, "m3"))
    assert all(decision.plan == "m3" and decision.over_limits for decision, _ in done)
    assert orchestrator.limiter.over == len(done)


def test_probes_are_skipped_where_the_budget_has_no_room_for_every_member():
    dear, _ = decide_all(Limits(energy=Budget(ENERGY.sum() * 0.9, 1.0)), probe_share=1.0)
    room, _ = decide_all(Limits(energy=Budget(ENERGY.sum() * 1.1, 0.5)), probe_share=1.0)
    assert all(decision.probe_p == 0.0 and not decision.probed for decision, _ in dear)
    assert all(decision.probe_p == 1.0 and decision.probed for decision, _ in room)


figures = st.lists(st.floats(0.0, 10.0), min_size=1, max_size=20)


@given(figures, st.data())
def test_some_plan_always_remains_and_none_that_fits_is_left_out(latency, data):
    latency_s = np.array(latency)
    overspent = np.array(data.draw(st.lists(st.floats(-2.0, 2.0), min_size=len(latency), max_size=len(latency))))
    deadline_s = data.draw(st.floats(0.0, 10.0))
    found, fits = fitting(overspent, latency_s, deadline_s), (overspent <= 0.0) & (latency_s <= deadline_s)
    assert found.plans.any()
    assert found.over == (not fits.any())
    if fits.any():
        assert np.array_equal(found.plans, fits)
    elif (overspent <= 0.0).any():
        assert (overspent[found.plans] <= 0.0).all(), "haste overspends nothing"
    else:
        assert (overspent[found.plans] == overspent.min()).all(), "the cheapest"


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20).filter(lambda p: sum(p) > 1e-3), st.data())
def test_a_masked_distribution_stays_one_and_keeps_the_proportions(weights, data):
    p = np.array(weights) / sum(weights)
    fits = np.array(data.draw(st.lists(st.booleans(), min_size=len(p), max_size=len(p)).filter(any)))
    q = masked(p, fits)
    assert q.sum() == pytest.approx(1.0)
    assert (q >= 0.0).all()
    assert not q[~fits].any()
    if p[fits].sum() > 1e-6:
        assert np.allclose(q[fits] * p[fits].sum(), p[fits])
    assert np.allclose(masked(p, np.ones(len(p), dtype=bool)), p)


@given(
    st.lists(st.tuples(st.floats(0.0, 500.0), st.floats(0.0, 5.0)), max_size=60),
    st.floats(0.1, 100.0),
    st.floats(0, 600),
)
def test_what_is_left_forgets_nothing_that_was_spent_within_the_period(paid, per_s, now):
    spending = Spending(Budget(100.0, per_s))
    for at, amount in paid:
        spending.add(at, amount)
    newest = max([now, *(at for at, _ in paid)])
    recent = sum(amount for at, amount in paid if at > newest - per_s)
    held = sum(amount for at, amount in paid if at >= newest - per_s * (1 + 2 / Spending.SLICES))
    assert 100.0 - held - 1e-9 <= spending.left(newest) <= 100.0 - recent + 1e-9


@pytest.mark.parametrize("back_s", [10.0, 90.0, 3600.0])
def test_where_the_clock_goes_back_a_budget_is_kept_all_the_same(back_s):
    times = 7200.0 + np.linspace(0.0, 30.0, len(LOG))
    times[3:] -= back_s  # before all is spent
    done, _ = decide_all(Limits(energy=Budget(0.2, 60.0)), times, probe_share=0.0)
    assert sum(spent(answer, ENERGY) for decision, answer in done if not decision.over_limits) <= 0.2 + 1e-9
    assert any(decision.over_limits for decision, _ in done)


def test_workers_share_a_budget_and_not_a_deadline():
    whole = Limits(0.2, Budget(6.0, 60.0), Budget(0.3, 3600.0))
    assert whole.shared(3) == Limits(0.2, Budget(2.0, 60.0), Budget(0.3 / 3, 3600.0))
    assert Limits().shared(4) == Limits()


def test_members_of_unknown_price_and_latency_are_taken_to_cost_nothing_until_they_have_run():
    log = replace(LOG, ensemble=Ensemble(LOG.ensemble.names, LOG.ensemble.classes))
    state = StateManager(log.ensemble).get_state(log.request(0))
    assert not state.members.latency_s.any()
    assert not state.members.energy_j.any()


def test_the_bandit_explores_around_the_best_plan_that_fits():
    bandit = BanditPolicy(PLANS, CONTRACT, profile_figures(LOG.ensemble), StateManager(LOG.ensemble).belief)
    state = StateManager(LOG.ensemble).get_state(LOG.request(0))
    values = bandit.values(state)
    fits = values < values.max()
    _, (p,), _ = RLManager(bandit, np.random.default_rng(0)).choose([replace(state, fits=tuple(fits.tolist()))])
    best = int(np.where(fits, values, 0.0).argmax())
    assert p[best] > 0.98
    assert p[fits].sum() == pytest.approx(1.0)
