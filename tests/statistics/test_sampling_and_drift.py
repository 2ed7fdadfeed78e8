"""What is drawn follows what is logged; drift alarms ring when they should and seldom when they should not.

Each test says how often it would fail by chance.
"""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from bandmaster.core import BandmasterError
from bandmaster.drift import DriftMonitor
from bandmaster.policies.traditional import RandomPolicy
from bandmaster.rl_manager import RLManager, checked_distribution, sample
from bandmaster.state import StateManager
from bandmaster.testing import sample_log
from bandmaster.testing.policies import sample_catalogue


@pytest.mark.parametrize("seed", range(3))
def test_draws_follow_the_distribution_that_is_logged(seed):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(12))
    drawn = np.bincount([sample(p, rng) for _ in range(20_000)], minlength=12)
    assert chisquare(drawn, p * 20_000).pvalue > 1e-6  # false alarm: one in a million a seed


@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_a_plan_of_probability_zero_is_never_drawn(size, seed):
    rng = np.random.default_rng(seed)
    p = np.where(rng.random(size) < 0.5, rng.random(size), 0.0)
    p[rng.integers(size)] = 0.5
    p /= p.sum()
    assert all(p[sample(p, rng)] > 0.0 for _ in range(50))


@pytest.mark.parametrize(
    "improper", [[0.5, 0.6], [1.0, 1.0], [-1.0, 2.0], [np.nan, 1.0], [np.inf, 0.0], [1.0], [0.5, 0.25, 0.25]]
)
def test_what_is_no_distribution_is_refused(improper):
    with pytest.raises(BandmasterError, match="no distribution over 2 plans"):
        checked_distribution(np.array(improper), 2, "test")


def test_the_manager_draws_from_what_it_gives():
    log = sample_log(5)
    manager = RLManager(RandomPolicy(sample_catalogue(log)), np.random.default_rng(0))
    state = StateManager(log.ensemble).get_state(log.request(0))
    chosen = [manager.choose([state])[2][0] for _ in range(5000)]
    drawn = np.bincount(chosen, minlength=len(sample_catalogue(log)))
    assert chisquare(drawn).pvalue > 1e-6  # false alarm: one in a million


def test_a_stationary_stream_rings_at_most_one_alarm_in_ten_thousand():
    # 20 streams of 10,000 each. When written, five seeds rang none in 1,000,000: 20 are far outside chance.
    rng = np.random.default_rng(0)
    monitor = DriftMonitor([f"stream{i}" for i in range(20)], delta=0.002)
    share = np.linspace(0.3, 0.95, 20)
    alarms = [event for _ in range(10_000) for event in monitor.update((rng.random(20) < share) - share, 0.0)]
    assert len(alarms) <= 20


def test_a_member_that_breaks_rings_within_three_hundred_outcomes_and_says_why():
    rng = np.random.default_rng(0)
    monitor = DriftMonitor(["accuracy:good", "accuracy:breaks"], delta=0.002)
    for _ in range(1000):
        assert not monitor.update((rng.random(2) < 0.9) - 0.9, 0.0)
    rung = []
    for at in range(100):
        rung += monitor.update((rng.random(2) < [0.9, 0.3]) - 0.9, float(at))
    assert {event.name for event in rung} == {"accuracy:breaks"}
    assert "-0.6 to what was promised" in re.sub(r"(-0\.[4-8])\d*", "-0.6", rung[0].cause)
    assert rung[0].at < 60.0
    assert 5 <= rung[0].seen <= rung[0].at + 20


def test_surprises_that_grow_but_cancel_out_ring_no_alarm():
    """A member that gets harder requests than before is wrong oftener, as is promised."""
    rng = np.random.default_rng(1)
    rung = []
    for _ in range(100):  # 100 members: one in a thousand, at most, should ring
        monitor = DriftMonitor(["a"], delta=0.002)
        for easy in (True, False):
            for promised in rng.choice([0.97, 0.99] if easy else [0.55, 0.65], size=400):
                rung += monitor.update(np.array([(rng.random() < promised) - promised]), 0.0)
    assert len(rung) <= 5


def test_an_unknown_value_is_not_fed():
    monitor = DriftMonitor(["a"], delta=0.002)
    for value in [0.1, np.nan] * 500:
        assert monitor.update(np.array([value]), 0.0) == ()
