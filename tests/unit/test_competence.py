"""Where members are good, and what that makes of what they say."""

import numpy as np
import pytest

from bandmaster.belief import Belief, bent_odds
from bandmaster.competence import CHANCE, Competence
from bandmaster.core import Outcome, Said
from bandmaster.journal.memory import MemoryJournal
from bandmaster.orchestrator import settle
from bandmaster.policies.traditional import ConstantPolicy
from bandmaster.testing.policies import sample_decisions, sample_learner, sample_log, sample_orchestrator


def taught(n=1500, seed=0):
    """The first of three members is good where x > 0, the second where x < 0, the third everywhere alike."""
    competence, rng = Competence(3, 1), np.random.default_rng(seed)
    for _ in range(n):
        x = rng.normal(size=1)
        correct = (rng.random(3) < ([0.9, 0.3, 0.6] if x[0] > 0 else [0.3, 0.9, 0.6])).astype(float)
        competence.learn(x, np.where(rng.random(3) < 0.5, correct, np.nan))
    return competence


def test_nothing_seen_is_chance_everywhere():
    competence = Competence(2, 3)
    np.testing.assert_array_equal(competence.expected(np.array([1.0, 2.0, 3.0])), CHANCE)
    np.testing.assert_array_equal(competence.usual, CHANCE)


def test_where_a_member_is_good_is_learned_from_half_of_the_outcomes():
    competence = taught()
    np.testing.assert_allclose(competence.expected(np.array([1.0])), [0.9, 0.3, 0.6], atol=0.12)
    np.testing.assert_allclose(competence.expected(np.array([-1.0])), [0.3, 0.9, 0.6], atol=0.12)
    np.testing.assert_allclose(competence.usual, 0.6, atol=0.08)


def test_what_is_kept_makes_another_its_equal_and_nothing_else_is_taken():
    competence = taught(200)
    twin = Competence.of(competence.dump(), 3)
    for c in (competence, twin):
        c.learn(np.array([0.3]), np.array([1.0, 0.0, np.nan]))
    assert twin.dump() == competence.dump()
    for garbage, members in ((b"", 3), (competence.dump()[:-5], 3), (competence.dump(), 4)):
        with pytest.raises(ValueError, match=r"figures|competence|finite|lists"):
            Competence.of(garbage, members)


def test_a_member_counts_for_more_where_it_is_good_and_its_word_against_it_where_it_is_bad():
    belief = Belief(2, 3)
    said = Said(np.array([[0, 1]]), np.array([[5, 5]]))
    plain = belief.log_likelihood(said)
    odds = bent_odds(np.array([0.9, 0.2]), np.array([0.6, 0.6]))
    bent = belief.log_likelihood(said, odds)
    np.testing.assert_allclose((bent - plain)[0, 0], np.log([0.9 / 0.6, 0.1 / 0.4, 0.1 / 0.4]))
    np.testing.assert_allclose((bent - plain)[0, 1], np.log([0.8 / 0.4, 0.2 / 0.6, 0.8 / 0.4]))
    silent = Said(np.array([[3, 3]]), np.zeros((1, 2), dtype=int))
    np.testing.assert_array_equal(belief.log_likelihood(silent, odds), belief.log_likelihood(silent))


def test_members_as_good_as_usual_and_requests_without_features_change_nothing():
    belief, usual = Belief(2, 3), np.array([0.7, 0.4])
    said = Said(np.array([[0, 1]]), np.array([[5, 5]]))
    plain = belief.log_likelihood(said)
    np.testing.assert_allclose(belief.log_likelihood(said, bent_odds(usual, usual)), plain)
    assert bent_odds(np.zeros(0), np.zeros(0)) is None


def test_who_is_good_where_is_asked_for_once_somebody_has_said_who_was_right():
    log = sample_log(40)
    learner, journal = sample_learner(lambda plans, *_: ConstantPolicy(plans, plans.names[0]), log), MemoryJournal()
    expected = []
    for i, (decision, _) in enumerate(sample_decisions(learner, sample_orchestrator(learner, log, journal), log)):
        expected.append(len(decision.state.expected))
        outcome = Outcome(decision.at, (int(log.truth[i]),)) if i in (20, 30) else Outcome(decision.at, reward=0.5)
        assert settle(journal, learner, decision.id, outcome).experience is not None
    assert expected == [0] * 21 + [len(log.ensemble.names)] * 19
