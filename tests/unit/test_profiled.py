"""One policy a profile: each request is decided by its own profile's, and every one of them learns from it."""

from dataclasses import replace

import numpy as np
import pytest

from bandmaster.contract import Contract
from bandmaster.core import BandmasterError
from bandmaster.learner import profile_figures
from bandmaster.policies.bandit import BanditPolicy
from bandmaster.policies.peers import BlastPolicy
from bandmaster.policies.profiled import ProfiledPolicy
from bandmaster.policies.traditional import ScoringPolicy
from bandmaster.testing.policies import CONTRACT, check_policy, sample_experiences, sample_learner, sample_log

HASTE = {"latency": 0.7, "energy": 0.3}
CARE = {"accuracy": 1.0}
ASKED = Contract.of(*CONTRACT.metrics, profiles={"haste": HASTE, "care": CARE})


def under_profiles(make):
    """A maker of a policy a profile, whose ``make`` is given the catalogue, a contract and the belief."""

    def profiled(catalogue, contract, belief):
        contract = Contract.of(*contract.metrics, profiles={"haste": HASTE, "care": CARE})
        return ProfiledPolicy(contract, lambda own: make(catalogue, own, belief), catalogue.ensemble)

    return profiled


def bandit(catalogue, contract, belief):
    return BanditPolicy(catalogue, contract, profile_figures(catalogue.ensemble), belief)


def blast(catalogue, contract, belief):
    return BlastPolicy(catalogue, contract)


def scoring(catalogue, contract, belief):
    return ScoringPolicy(catalogue, contract, profile_figures(catalogue.ensemble))


def taught(make, requests=300, asked=("default",)):
    """A learner that has learned from so many requests, which asked for these profiles in turn."""
    log = sample_log(requests)
    log = replace(log, profiles=tuple(asked[i % len(asked)] for i in range(requests)))
    learner = sample_learner(under_profiles(make), log)
    learner.contract = ASKED
    return learner, list(sample_experiences(learner, log))


def test_it_keeps_every_rule_of_policies():
    check_policy(under_profiles(blast))  # tests/contracts has it with a bandit


def test_each_profile_is_decided_as_by_a_policy_of_its_own_contract():
    learner, experiences = taught(scoring, asked=("default", "haste", "care"))
    for experience in experiences[-30:]:
        decision = experience.joined.decision
        alone = scoring(learner.manager.policy.catalogue, ASKED.under(decision.profile), None)
        state = replace(decision.state, profile="default")
        assert np.array_equal(decision.probabilities, alone.probabilities(state))


def test_nobody_need_ever_have_asked_for_a_profile_for_it_to_be_decided_well():
    learner, experiences = taught(blast)
    state, policy = experiences[-1].joined.decision.state, learner.manager.policy
    best = {name: policy.probabilities(replace(state, profile=name)).argmax() for name in ("haste", "care")}
    assert policy.catalogue.names[best["haste"]] == "m0"  # the fastest, and the cheapest
    assert policy.catalogue.names[best["care"]] != "m0"


def test_a_bandit_offers_plans_for_every_profile_and_chooses_by_its_weights():
    learner, experiences = taught(bandit, 900, asked=("default", "haste", "care"))
    spent = {name: [] for name in ("default", "haste", "care")}
    for experience in experiences[-300:]:
        spent[experience.joined.decision.profile].append(len(experience.joined.answer.ran))
    assert np.mean(spent["haste"]) < 1.1 < np.mean(spent["care"])
    assert len(learner.manager.policy.catalogue) > len(learner.manager.policy._policies["care"].catalogue)


def test_a_reward_that_was_reported_teaches_its_requests_profile_alone():
    learner, experiences = taught(blast, 40)
    policy = learner.manager.policy
    before = {name: own.dump() for name, own in policy._policies.items()}
    experience = replace(experiences[-1], own_raw=None, own=0.9)
    decision = experience.joined.decision
    asked = replace(decision, state=replace(decision.state, profile="haste"))
    policy.learn(replace(experience, joined=replace(experience.joined, decision=asked)))
    changed = {name for name, own in policy._policies.items() if own.dump() != before[name]}
    assert changed == {"haste"}


def test_what_was_learned_under_other_profiles_is_refused():
    log = sample_log(1)
    policy = sample_learner(under_profiles(blast), log).manager.policy
    other = ProfiledPolicy(CONTRACT, lambda own: blast(policy.catalogue, own, None), log.ensemble)
    with pytest.raises(BandmasterError, match="under the profiles default, not under default, haste, care"):
        policy.load(other.dump())
