"""The bandit offers what its planner finds, keeps what it must, and survives what may change under it."""

from dataclasses import replace

import numpy as np
import pytest

from bandmaster.core import DriftEvent
from bandmaster.learner import profile_figures
from bandmaster.plans import Catalogue, generate, parse_plan
from bandmaster.policies.bandit import BanditPolicy
from bandmaster.policies.scores import PlanScores
from bandmaster.state import StateManager
from bandmaster.testing import sample_experiences, sample_learner, sample_log
from bandmaster.testing.policies import CONTRACT, sample_catalogue

LOG = sample_log(300, seed=4)
FIGURES = profile_figures(LOG.ensemble)
CHANGED = (DriftEvent("accuracy:m1", 0.0, ""),)
STATE = StateManager(LOG.ensemble).get_state(LOG.request(0))


def bandit(keep=0, **more):
    return lambda plans, contract, belief: BanditPolicy(plans, contract, FIGURES, belief, keep=keep, **more)


def played(make, log=LOG, **more):
    learner = sample_learner(make, log, **{"probe_share": 0.2} | more)
    return learner, list(sample_experiences(learner, log))


def catalogue(*include):
    plans = [parse_plan(name, LOG.ensemble) for name in include]
    made = generate(LOG.ensemble, subsets=2, cascades=2, stop_at=(0.7,), limit=20, include=plans)
    return Catalogue.of(LOG.ensemble, made)


# ---- What it offers ----------------------------------------------------------------------------------------------


def test_it_starts_with_the_catalogue_and_goes_over_to_learned_plans_once_enough_is_known():
    learner = sample_learner(bandit(), LOG, probe_share=0.2)
    first, offers = sample_catalogue(LOG), []
    for experience in sample_experiences(learner, LOG):
        offers.append((experience.joined.decision.plans, experience.joined.decision.probed))
    assert offers[0][0] == first.names
    until = next(i for i, (names, _) in enumerate(offers) if names != first.names)
    assert sum(probed for _, probed in offers[:until]) >= 10
    last = learner.manager.policy.catalogue
    # What is good for some features may be bad on average: half of the first catalogue stays.
    half = len(first) // 2
    assert last.names[:half] == first.names[:half]
    assert all(plan.weights == "learned" for plan in last.plans[half:])
    assert len({names for names, _ in offers}) > 3, "plans are renewed again and again"


def test_what_it_offers_can_be_read_stays_within_the_limit_and_holds_what_it_must():
    keep = ("m0>m3@0.55", "m1+m2~recent")
    first = catalogue(*keep)
    learner = sample_learner(bandit(keep=2), LOG, plans=first, probe_share=0.3)
    for _ in sample_experiences(learner, LOG):
        offer = learner.manager.policy.catalogue
        assert offer.names[:2] == keep
        assert len(set(offer.names)) == len(offer.names) <= len(first)
        assert all(parse_plan(name, LOG.ensemble) == plan for name, plan in zip(offer.names, offer.plans, strict=True))
    alone = {plan.members for plan in offer.plans if len(plan.members) == 1}
    assert alone == {(name,) for name in LOG.ensemble.names}, "every member alone is always on offer"


def test_a_plan_that_is_kept_and_found_as_well_is_offered_once_at_what_it_was_found_to_be_worth():
    first = catalogue("m0~learned", "m2~learned")
    learner, _ = played(bandit(keep=2), plans=first)
    policy = learner.manager.policy
    assert policy.catalogue.names[:2] == ("m0~learned", "m2~learned")
    assert len(policy.catalogue) > 4
    worth = policy._scores.worth[:2]
    assert (np.ptp(worth, axis=1) > 0.0).all(), "a prior would be the same for every class"


# ---- Keeping -----------------------------------------------------------------------------------------------------


def test_who_is_restored_decides_and_plans_on_alike():
    learner, experiences = played(bandit(keep=1))
    learner.manager.policy.learn(replace(experiences[-1], alarms=CHANGED))
    twin = sample_learner(bandit(keep=1), LOG, probe_share=0.2)
    twin.load(learner.dump())
    more = sample_log(250, seed=9)
    renewed = set()
    for one, other in zip(sample_experiences(learner, more), sample_experiences(twin, more), strict=True):
        ours, its = one.joined.decision, other.joined.decision
        assert (ours.plans, ours.chosen, ours.policy_version) == (its.plans, its.chosen, its.policy_version)
        np.testing.assert_array_equal(ours.probabilities, its.probabilities)
        renewed.add(ours.plans)
    assert len(renewed) > 1


# ---- What may change under it ------------------------------------------------------------------------------------


def test_a_member_that_has_changed_is_planned_with_anew_at_once():
    learner, experiences = played(bandit())
    policy = learner.manager.policy
    before = policy._searched
    policy.learn(replace(experiences[-1], alarms=(DriftEvent("reward", 0.0, ""),)))
    assert policy._searched == before
    policy.learn(replace(experiences[-1], alarms=CHANGED))
    assert policy._searched == policy._learned
    rows = len(policy._planner.rows)
    assert policy._planner._before.tolist() == [0, rows, 0, 0]


def test_after_a_change_searches_come_close_together_again():
    learner, experiences = played(bandit(), sample_log(1200, seed=4))
    policy = learner.manager.policy

    def searches(outcomes):
        seen = set()
        for experience in outcomes:
            policy.learn(experience)
            seen.add(policy._searched)
        return len(seen - {before})

    before = policy._searched
    calm = searches(experiences[:100])
    policy.learn(replace(experiences[-1], alarms=CHANGED))
    before = policy._searched
    assert searches(experiences[:100]) >= 3 > calm


def test_what_was_best_before_members_changed_is_tried_in_every_search_since():
    learner, experiences = played(bandit())
    policy, tried = learner.manager.policy, []
    best, propose = policy._incumbent, policy._planner.propose

    def spied(belief, mix, contract, known, *rest, **more):
        tried.append(list(known))
        return propose(belief, mix, contract, known, *rest, **more)

    policy._planner.propose = spied
    for experience in (replace(experiences[-1], alarms=CHANGED), *experiences):
        policy.learn(experience)
    assert best is not None
    assert len(tried) > 3
    assert all(best in known for known in tried)
    for _ in range(2 * policy.REMEMBERED):
        policy.learn(replace(experiences[-1], alarms=CHANGED))
    assert len(policy._former) == len(set(policy._former)) <= policy.REMEMBERED


@pytest.mark.parametrize("features", [1, 5])
def test_models_that_take_other_inputs_are_served_by_what_was_learned_with_the_old_ones(features):
    few = sample_log(300, members=2)  # of which fewer plans can be found than there were at first
    few = replace(few, features=np.zeros((300, 0)))
    learner, _ = played(lambda *given: BanditPolicy(*given[:2], profile_figures(few.ensemble), given[2]), few)
    policy = learner.manager.policy
    assert len(policy.catalogue) < len(sample_catalogue(few))
    other = replace(sample_log(40, seed=1, members=2), features=np.zeros((40, features)))
    for experience in sample_experiences(learner, other):
        assert len(experience.joined.decision.state.features) == features
    assert policy.version == "340"


# ---- Scores ------------------------------------------------------------------------------------------------------


def scores_of(features=2, worth=0.5):
    plans = sample_catalogue(LOG)
    return plans, PlanScores(plans, CONTRACT, np.full(len(plans), worth), features)


def foretold(scores, state):
    return scores.rewards(scores.foresee(state))


def state_with(features, mix=(1 / 3, 1 / 3, 1 / 3)):
    return replace(STATE, features=np.array(features, dtype=float), label_mix=np.array(mix))


def test_without_anything_learned_a_plan_is_worth_what_it_was_said_to_be_less_its_doubt():
    plans, scores = scores_of(worth=0.4)
    np.testing.assert_allclose(foretold(scores, state_with([1.0, -2.0])), 0.4)
    worth = np.linspace(0.0, 1.0, 3) * np.ones((len(plans), 1))
    doubt, valued = np.linspace(0.0, 0.1, len(plans)), np.ones(len(plans), dtype=bool)
    scores.offer(plans, worth, doubt, valued, np.full(len(plans), -1))
    np.testing.assert_allclose(foretold(scores, state_with([0.0, 0.0])), 0.5 - doubt)
    np.testing.assert_allclose(foretold(scores, state_with([0.0, 0.0], (0.0, 0.0, 1.0))), 1.0 - doubt)


def test_a_plan_is_worth_more_where_its_members_are_good():
    plans, scores = scores_of(features=1)
    usual = np.full(4, 0.6)
    here = replace(state_with([0.0]), expected=np.array([0.9, 0.6, 0.3, 0.6]), usual=usual)
    alone = [plans.index(name) for name in LOG.ensemble.names]
    # Worth that stands for members who are right every other time, and worth that stands for those of late.
    np.testing.assert_allclose(foretold(scores, here)[alone], 0.5 + 0.7 * np.array([0.4, 0.1, -0.2, 0.1]))
    worth, valued = np.full((len(plans), 3), 0.5), np.ones(len(plans), dtype=bool)
    scores.offer(plans, worth, np.zeros(len(plans)), valued, np.full(len(plans), -1))
    np.testing.assert_allclose(foretold(scores, here)[alone], 0.5 + 0.7 * np.array([0.3, 0.0, -0.3, 0.0]))
    pair = plans.index("m0+m1")
    assert foretold(scores, here)[pair] == pytest.approx(0.5 + 0.7 * 0.15)


def test_what_a_plan_earned_beyond_its_members_is_learned_and_goes_with_it_when_plans_change():
    plans, scores = scores_of(features=1)
    rng = np.random.default_rng(0)
    for _ in range(400):
        rewards = np.full(len(plans), np.nan)
        k = int(rng.integers(len(plans)))
        rewards[k] = 0.8 if k == 3 else 0.5
        state = state_with([rng.normal()])
        scores.learn(state, scores.foresee(state), rewards, np.where(np.isnan(rewards), np.nan, 0.5))
    found = foretold(scores, state_with([0.0]))
    assert found[3] == pytest.approx(0.8, abs=0.08)
    assert np.delete(found, 3) == pytest.approx(0.5, abs=0.08)
    few = Catalogue.of(LOG.ensemble, [plans.plans[3], plans.plans[0], parse_plan("m1>m2@0.9~learned", LOG.ensemble)])
    scores.offer(few, np.full((3, 3), 0.5), np.zeros(3), np.ones(3, dtype=bool), np.array([3, 0, -1]))
    assert foretold(scores, state_with([0.0])) == pytest.approx([found[3], found[0], 0.5])


def test_a_reward_that_tells_of_one_plan_is_learned_as_are_rewards_of_which_one_is_known():
    rng = np.random.default_rng(0)
    (plans, one), (_, all_) = scores_of(), scores_of()
    for n in range(60):
        state, k, reward, p = state_with(rng.normal(size=2)), int(rng.integers(len(plans))), rng.random(), 0.01 + n / 60
        foreseen = one.foresee(state)
        assert [one.reward(foreseen, j) for j in range(len(plans))] == one.rewards(foreseen).tolist()
        rewards, observed_p = np.full(len(plans), np.nan), np.full(len(plans), np.nan)
        if n % 7:  # else of a plan that is not on offer any more
            rewards[k], observed_p[k] = reward, p
        one.learn_one(state, foreseen, k if n % 7 else None, reward, p)
        all_.learn(state, all_.foresee(state), rewards, observed_p)
    assert one.dump() == all_.dump()


def test_what_scores_keep_makes_others_their_equal_and_nothing_else_is_taken():
    plans, scores = scores_of(features=3)
    for experience in played(bandit())[1][:60]:
        known = np.where(np.arange(len(plans)) % 2 == 0, 0.7, np.nan)
        state = experience.joined.decision.state
        scores.learn(state, scores.foresee(state), known, known)
    kept = scores.dump()
    twin = PlanScores.of(kept, plans, CONTRACT)
    state = state_with([0.1, -1.0, 2.0])
    np.testing.assert_array_equal(foretold(twin, state), foretold(scores, state))
    assert twin.dump() == kept
    fewer = Catalogue.of(LOG.ensemble, plans.plans[:-1])
    for garbage, offered in ((b"", plans), (kept[:-9], plans), (kept, fewer)):
        with pytest.raises(ValueError, match="scores"):
            PlanScores.of(garbage, offered, CONTRACT)
