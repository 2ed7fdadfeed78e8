"""An ensemble played window by window earns what the same plan earns request by request."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bandmaster.contract import Contract, Metric
from bandmaster.plans import compiled, side_by_side
from bandmaster.policies.traditional import ConstantPolicy
from bandmaster.seen import NAIVE, Seen
from bandmaster.testing import sample_experiences, sample_learner, sample_log
from bandmaster.windows import Windows

CONTRACT = Contract.of(
    Metric("accuracy", 0.6),
    Metric("confidence", 0.1),
    Metric("latency", 0.2, goal="min", low=0.001, high=1.0, scale="log"),
    Metric("energy", 0.1, goal="min", low=0.001, high=1.0, scale="log"),
)
LOG = sample_log(400, seed=2)


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (1, 0, 0, 0), (0, 1, 0, 1), (0.25, 0, 1, 0.5)])
def test_a_window_earns_what_its_requests_earn_by_the_request_path(weights: tuple[float, ...]) -> None:
    plan = side_by_side(LOG.ensemble, np.array(weights))
    alone = compiled((plan,), LOG.ensemble)
    learner = sample_learner(lambda *_: ConstantPolicy(alone, plan), LOG, contract=CONTRACT)
    one_by_one = np.array([e.own for e in sample_experiences(learner, LOG)])
    windows = Windows(LOG, CONTRACT, 50)
    played = [windows.play(np.array(weights, dtype=np.float64)) for _ in range(len(windows))]
    np.testing.assert_allclose(played, one_by_one.reshape(-1, 50).mean(axis=1), atol=1e-12)
    assert windows.over


def test_what_is_usual_is_what_all_members_earn_in_the_same_window() -> None:
    both = [Windows(LOG, CONTRACT, 50), Windows(LOG, CONTRACT, 50)]
    for _ in range(len(both[0])):
        all_of_them = both[0].play(np.ones(4))
        both[1].play(np.array([0.0, 1.0, 0.0, 0.0]))
        assert both[0].usual == both[1].usual == pytest.approx(all_of_them, abs=1e-12)


def test_figures_are_those_that_the_contract_means() -> None:
    declared = Contract.of(
        Metric("accuracy", 0.5),
        Metric("latency", 0.5, goal="min", low=0.001, high=1.0, scale="log", source="profile"),
    )
    slow = replace(LOG, latency_s=10.0 * LOG.latency_s)
    learner = sample_learner(lambda plans, *_: ConstantPolicy(plans, "m0+m1"), slow, contract=declared)
    one_by_one = np.array([e.own for e in sample_experiences(learner, slow)])
    windows = Windows(slow, declared, 400)
    assert windows.play(np.array([1.0, 1.0, 0.0, 0.0])) == pytest.approx(one_by_one.mean(), abs=1e-12)


def test_of_members_that_did_not_run_nothing_new_is_known() -> None:
    windows = Windows(LOG, CONTRACT, 100)
    before = windows.seen()
    assert (before.accuracy == NAIVE).all()
    windows.play(np.array([1.0, 0.0, 1.0, 0.0]))
    first = windows.seen()
    assert (first.accuracy[[1, 3]] == NAIVE).all()
    assert first.accuracy[[0, 2]].min() > NAIVE
    assert first.age.tolist() == [0.0, np.inf, 0.0, np.inf]
    windows.play(np.array([0.0, 1.0, 0.0, 0.0]))
    second = windows.seen()
    assert second.accuracy[0] == first.accuracy[0]
    assert second.age.tolist() == [1.0, 0.0, 1.0, np.inf]
    assert second.agreement[1] == pytest.approx((LOG.scores[100:200, 1].max(axis=1) > 0).mean())  # alone, with itself


def test_what_is_seen_is_a_vector_in_the_unit_cube() -> None:
    windows = Windows(LOG, CONTRACT, 100)
    for weights in ([1.0] * 4, [0.25, 0.0, 0.0, 1.0]):
        windows.play(np.array(weights))
        vector = windows.seen().vector()
        assert vector.shape == (Seen.size(4, 3),)
        assert vector.dtype == np.float32
        assert (vector.min() >= 0.0, vector.max() <= 1.0) == (True, True)
