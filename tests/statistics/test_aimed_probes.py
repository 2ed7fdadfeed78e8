"""Probes go where answers are unsure, and weighed by their inverse probability still tell of all requests."""

import numpy as np

from bandmaster.learner import Learner
from bandmaster.policies.traditional import ConstantPolicy
from bandmaster.probes import Probing
from bandmaster.rl_manager import RLManager
from bandmaster.state import StateManager
from bandmaster.testing.policies import CONTRACT, sample_catalogue, sample_experiences, sample_log

REQUESTS = 3000


class Probed(ConstantPolicy):
    probes = aims = True


class Alike(ConstantPolicy):
    probes = True


def played(make=Probed, requests=REQUESTS):
    """Of every request whether it was probed, with what probability, how unsure its answer was; whether m1 is right."""
    log = sample_log(requests, seed=3)
    state = StateManager(log.ensemble, probing=Probing(0.05))
    policy = make(sample_catalogue(log), "m0")
    learner = Learner(log.ensemble, CONTRACT, state, RLManager(policy, np.random.default_rng(0)))
    rows = []
    for experience in sample_experiences(learner, log, seed=1):
        decision, doubt = experience.joined.decision, experience.joined.answer.doubt
        rows.append((decision.probed, decision.probe_p, decision.state.probe_share, doubt, decision.stands_for))
    right = log.scores[:, 1].argmax(axis=1) == log.truth
    return np.array(rows, dtype=float), right


ROWS, RIGHT = played()
PROBED, P, SHARE, DOUBT, STANDS = ROWS.T


def test_as_many_requests_are_probed_as_their_probabilities_say():
    # 4 standard errors: a false alarm in 16,000.
    assert abs(PROBED.sum() - P.sum()) < 4.0 * np.sqrt((P * (1.0 - P)).sum())


def test_unsure_answers_are_probed_oftener_and_the_mean_is_about_the_share():
    unsure = np.median(DOUBT) < DOUBT
    assert (P / SHARE)[unsure].mean() > 1.3 * (P / SHARE)[~unsure].mean()
    assert 0.8 < P.sum() / SHARE.sum() <= 1.05


def test_weighed_by_what_they_stand_for_probes_tell_of_all_requests():
    """Of each request's share, as many are expected to be counted as there are: Horvitz & Thompson (1952)."""
    for of in (np.ones(REQUESTS), RIGHT.astype(float), DOUBT):
        counted, expected = (PROBED * STANDS * of).sum(), (SHARE * of).sum()
        deviation = np.sqrt((P * (1.0 - P) * (STANDS * of) ** 2).sum())
        # 4 standard errors: a false alarm in 16,000.
        assert abs(counted - expected) < 4.0 * deviation


def test_unweighed_they_would_tell_of_unsure_answers_above_all():
    assert (PROBED * DOUBT).sum() / PROBED.sum() > 1.1 * (SHARE * DOUBT).sum() / SHARE.sum()


def test_who_does_not_weigh_probes_has_all_requests_probed_alike():
    rows, _ = played(Alike, 200)
    assert (rows[:, 1] == rows[:, 2]).all()
    assert (rows[:, 4] == 1.0).all()
    assert rows[:, 0].any()
