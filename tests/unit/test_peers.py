"""Peers do what their papers say."""

from dataclasses import replace

import numpy as np
import pytest

from bandmaster.core import BandmasterError, Ensemble
from bandmaster.plans import Catalogue, all_members, compiled
from bandmaster.policies.peers import BlastPolicy, KnoraPolicy
from bandmaster.policies.traditional import RandomPolicy
from bandmaster.testing import sample_experiences, sample_learner, sample_log
from bandmaster.testing.policies import CONTRACT

LOG = sample_log(400, seed=2, abstain=0.0)
ALL = compiled((all_members(LOG.ensemble).name,), LOG.ensemble)
TAUGHT = list(sample_experiences(sample_learner(lambda *_: RandomPolicy(ALL), LOG, probe_share=0.0), LOG))


def test_blast_offers_single_members_and_plays_the_one_that_earned_most_of_late():
    policy = BlastPolicy(ALL, CONTRACT)
    assert policy.catalogue.names == LOG.ensemble.names
    for experience in TAUGHT:
        policy.learn(experience)
    leader = policy.catalogue.names[policy.probabilities(TAUGHT[0].joined.decision.state).argmax()]
    # Members cost three times as much one after the other; m0 and m1 are equally good, each at home half of the time.
    assert leader in ("m0", "m1")
    for experience in TAUGHT * 8:  # from now on only m3 is right
        joined = experience.joined
        state = joined.decision.state
        right = np.zeros_like(experience.scores)
        right[:, :, (joined.outcome.labels[0] + 1) % 3] = 1.0
        right[:, 3] = np.eye(3)[joined.outcome.labels[0]]
        policy.learn(replace(experience, scores=right))
    assert policy.catalogue.names[policy.probabilities(state).argmax()] == "m3"


def told(policy, features, *rights):
    """``policy`` after requests with these features (n, d) on which these members were right."""
    for x, right in zip(features, rights, strict=True):
        first = TAUGHT[0]
        decision = replace(first.joined.decision, state=replace(first.joined.decision.state, features=np.array(x)))
        correct = np.array([float(m in right) for m in range(4)])
        policy.learn(replace(first, joined=replace(first.joined, decision=decision), correct=correct))
    return policy


def picked(policy, features):
    state = replace(TAUGHT[0].joined.decision.state, features=np.array(features))
    return policy.catalogue.names[policy.probabilities(state).argmax()]


def test_knora_runs_those_that_were_right_on_every_neighbour():
    here, there = [[0.0, i / 100] for i in range(7)], [[9.0, i / 100] for i in range(7)]
    policy = told(KnoraPolicy(ALL), here + there, *[{0, 2}, {0, 2, 3}] * 3, {0, 2}, *[{1}] * 7)
    assert picked(policy, [0.1, 0.0]) == "m0+m2"
    assert picked(policy, [8.9, 0.0]) == "m1"


def test_knora_asks_fewer_neighbours_where_nobody_was_right_on_all():
    points = [[i / 10, 0.0] for i in range(7)]
    policy = told(KnoraPolicy(ALL), points, {1, 3}, {1, 3}, {3}, {0}, {0}, {0}, {0})
    assert picked(policy, [0.0, 0.0]) == "m3"


def test_knora_runs_everyone_where_nobody_is_known_to_be_right():
    policy = KnoraPolicy(ALL)
    assert picked(policy, [0.0, 0.0]) == "m0+m1+m2+m3"
    assert picked(told(policy, [[0.0, 0.0]], set()), [0.0, 0.0]) == "m0+m1+m2+m3"


def test_knora_passes_over_requests_on_which_not_every_outcome_is_known():
    policy = told(KnoraPolicy(ALL), TAUGHT[0].joined.decision.state.features[None] + 1.0, {2})
    policy.learn(replace(TAUGHT[0], correct=np.array([1.0, np.nan, 0.0, 0.0])))
    assert picked(policy, TAUGHT[0].joined.decision.state.features) == "m2"


def test_knora_refuses_more_members_than_it_can_pick_subsets_of():
    many = Ensemble(tuple(f"m{i}" for i in range(13)), (0, 1))
    with pytest.raises(BandmasterError, match="at most 12 members, not of 13"):
        KnoraPolicy(Catalogue.of(many, [all_members(many)]))
