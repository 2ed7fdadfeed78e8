"""What a learner makes of several requests at once is, to the bit, what it makes of one after the other."""

import numpy as np
import pytest

from bandmaster.core import Joined, Outcome
from bandmaster.journal.memory import MemoryJournal
from bandmaster.policies.traditional import RandomPolicy
from bandmaster.testing import sample_experiences, sample_learner, sample_log
from bandmaster.testing.policies import sample_decisions, sample_orchestrator

LOG = sample_log(120)


def taught():
    learner = sample_learner(lambda plans, contract, belief: RandomPolicy(plans), LOG)
    for _ in sample_experiences(learner, LOG):
        pass
    return learner


def answered(learner):
    return list(sample_decisions(learner, sample_orchestrator(learner, LOG, MemoryJournal(), seed=1), LOG))


@pytest.mark.parametrize("at_once", [1, 7, 120])
def test_requests_that_are_noticed_together_tell_what_they_tell_one_after_the_other(at_once):
    learner, twin = taught(), taught()
    noticed = answered(learner)
    for first in range(0, len(noticed), at_once):
        heard = [twin.hear(*each)[0] for each in noticed[first : first + at_once]]
        twin.state.notice([each for each in heard if each is not None])
    assert twin.dump() == learner.dump()


def test_what_members_answers_speak_for_is_the_same_before_a_reported_reward_is_learned_and_after_it():
    learner = taught()
    for n, (decision, answer) in enumerate(answered(learner)[:20]):
        joined = Joined(1000 + n, decision, answer, Outcome(decision.at, reward=0.5))
        before, experience = learner.experience(joined).evidence, learner.learn(learner.lesson(joined))
        assert np.array_equal(experience.evidence.log_likelihood, before.log_likelihood)
        assert np.array_equal(experience.evidence.log_prior, before.log_prior)
