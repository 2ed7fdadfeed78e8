"""River's bandits here choose as its own ``pull`` does, and learn late feedback by its logged probability."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from bandmaster.plans import compiled
from bandmaster.policies.context_free import Exp3Policy, ThompsonPolicy, UcbPolicy
from bandmaster.policies.exp4 import Exp4Policy
from bandmaster.policies.traditional import ConstantPolicy, RandomPolicy
from bandmaster.testing import sample_experiences, sample_learner, sample_log

LOG = sample_log(300, seed=5)
ARMS = compiled(("m0", "m1", "m2", "m3"), LOG.ensemble)
TAUGHT = list(sample_experiences(sample_learner(lambda *_: RandomPolicy(ARMS), LOG, probe_share=0.0), LOG))


def taught(policy, experiences=TAUGHT):
    for experience in experiences:
        policy.learn(experience)
    return policy


def test_thompson_draws_as_often_as_rivers_pull():
    policy, shares = taught(ThompsonPolicy(ARMS), TAUGHT[:60]), []
    for n in range(100):  # the same posteriors, other draws
        policy._learned = n
        shares.append(policy._distribution())
    pulled = np.bincount([ARMS.names.index(policy._river.pull(list(ARMS.names))) for _ in range(20_000)], minlength=4)
    table = np.array([pulled, np.sum(shares, axis=0) * ThompsonPolicy.DRAWS])
    # Two samples of 20,000; false alarm: one in a million. River's arms draw from seeds that are fixed.
    assert chi2_contingency(table).pvalue > 1e-6


@pytest.mark.parametrize("seen", [0, 1, 2, 3, 20, 299])
def test_ucb_plays_what_rivers_pull_may_play(seen):
    policy = taught(UcbPolicy(ARMS), TAUGHT[:seen])
    may = {ARMS.names[k] for k in np.flatnonzero(policy.probabilities(None))}
    assert {policy._river.pull(list(ARMS.names)) for _ in range(200)} == may


def test_exp3_states_the_probabilities_that_rivers_pull_draws_from():
    policy = taught(Exp3Policy(ARMS))
    policy._river.pull(list(ARMS.names))
    np.testing.assert_allclose(policy.probabilities(None), list(policy._river._probabilities.values()))


def test_exp3_divides_by_the_probability_that_was_logged_however_late_the_reward():
    rare, frequent = Exp3Policy(ARMS), Exp3Policy(ARMS)
    experience = replace(TAUGHT[0], own=0.5)
    chosen = experience.joined.decision.chosen
    for policy, p in ((rare, 0.1), (frequent, 0.9)):
        logged = np.full(4, (1.0 - p) / 3)
        logged[chosen] = p
        joined = replace(experience.joined, decision=replace(experience.joined.decision, probabilities=logged))
        taught(policy, [replace(experience, joined=joined)])
    gamma = rare._gamma
    ratio = np.exp(gamma / 4 * 0.5 / 0.1), np.exp(gamma / 4 * 0.5 / 0.9)
    for policy, up in zip((rare, frequent), ratio, strict=True):
        expected = np.ones(4)
        expected[chosen] = up
        np.testing.assert_allclose(policy.probabilities(None), (1 - gamma) * expected / expected.sum() + gamma / 4)


def test_exp3_never_overflows():
    policy = Exp3Policy(ARMS)
    best = next(e for e in TAUGHT if e.joined.decision.plan == "m0")
    for _ in range(20_000):
        policy.learn(replace(best, own=1.0))
    p = policy.probabilities(None)
    assert p.sum() == pytest.approx(1.0)
    assert p[0] == pytest.approx(1.0 - policy._gamma * 3 / 4)


@pytest.mark.parametrize("make", [ThompsonPolicy, UcbPolicy])
def test_the_arm_that_earns_most_is_played_most(make):
    log = sample_log(1500, seed=5)
    learner = sample_learner(lambda *_: make(ARMS), log, probe_share=0.0)
    played = [e.joined.decision.plan for e in sample_experiences(learner, log)]
    earned = {name: np.mean([e.own for e in TAUGHT if e.joined.decision.plan == name]) for name in ARMS.names}
    ranked = sorted(earned, key=earned.get)
    assert played[500:].count(ranked[-1]) > played[500:].count(ranked[0])


def test_exp4_offers_what_its_experts_offer_and_follows_the_one_that_pays():
    one, other = ConstantPolicy(ARMS, "m0"), ConstantPolicy(ARMS, "m3")
    policy = Exp4Policy([one, other], ARMS)
    assert policy.catalogue.names == ("m0", "m3")
    for experience in TAUGHT * 5:
        policy.learn(replace(experience, own=1.0 if experience.joined.decision.plan == "m3" else 0.2))
    p = policy.probabilities(TAUGHT[0].joined.decision.state)
    assert p[1] > 0.9
    assert p[0] > 0.0


def test_exp4_probes_if_an_expert_learns_from_probes_and_not_otherwise():
    constant, listens = ConstantPolicy(ARMS, "m0"), RandomPolicy(ARMS)
    assert not Exp4Policy([constant, RandomPolicy(ARMS)], ARMS).probes
    listens.probes = True
    assert Exp4Policy([constant, listens], ARMS).probes
