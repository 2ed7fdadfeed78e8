"""Estimates, against another implementation's and by what must hold of any log."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandmaster.offpolicy import estimators
from bandmaster.offpolicy.estimators import (
    anytime,
    doubts,
    effective,
    estimates,
    lower_sequence,
    sums,
    switch_threshold,
)

OBP = {
    "ips": 0.3908074043216498,
    "snips": 0.42715030382070296,
    "dm": 0.4966225342005699,
    "dr": 0.4256986570251658,
    1.0: 0.46786253749572027,
    3.0: 0.45619613790718244,
}
"""What obp 0.4.1 finds on ``judged`` (``obp.ope``: InverseProbabilityWeighting, DirectMethod, DoublyRobust, their
self-normalised kin, and SwitchDoublyRobust at two thresholds), run apart: its dependencies are those of 2021.
"""


@pytest.mark.parametrize("threshold", [1.0, 3.0])
def test_every_estimate_is_that_of_another_implementation(judged, threshold):
    found = {e.estimator: e.value for e in estimates(sums(judged.lazy(), 500, modelled=True, threshold=threshold))}
    assert tuple(found) == estimators.ESTIMATORS
    for name, value in found.items():
        assert value == pytest.approx(OBP[threshold if name == "switch" else name], rel=1e-12)


def test_without_a_model_there_are_the_estimates_that_need_none(judged):
    assert [e.estimator for e in estimates(sums(judged.lazy(), 500))] == ["ips", "snips"]


def test_sums_do_not_depend_on_how_many_decisions_share_a_bucket(judged, monkeypatch):
    each = sums(judged.lazy(), 500, modelled=True)
    monkeypatch.setattr(estimators, "BUCKETS", 60)
    few = sums(judged.lazy(), 500, modelled=True)
    assert len(few.n) == 56
    assert (few.decisions, few.heaviest, few.largest) == (each.decisions, each.heaviest, each.largest)
    for one, other in zip(estimates(few), estimates(each), strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-12)
        assert one.interval == pytest.approx(other.interval, abs=0.002)


def test_a_target_that_does_what_was_done_earns_what_was_earned(judged):
    found = sums(judged.with_columns(target="propensity").lazy(), 500)
    for e in estimates(found):
        assert e.value == pytest.approx(judged["reward"].mean(), rel=1e-12)
        assert e.interval[0] < e.value < e.interval[1]
    assert effective(found) == pytest.approx(500)


def test_between_its_thresholds_switch_goes_from_the_model_to_doubly_robust(judged):
    def switched(threshold):
        return {e.estimator: e.value for e in estimates(sums(judged.lazy(), 500, modelled=True, threshold=threshold))}

    assert switched(0.0)["switch"] == switched(0.0)["dm"]
    assert switched(math.inf)["switch"] == switched(math.inf)["dr"]


def test_the_threshold_falls_as_far_as_the_model_agrees_and_no_further():
    rng = np.random.default_rng(0)
    n = 20_000
    weight = rng.choice([0.5, 20.0], p=[0.974, 0.026], size=n)
    reward, half = (rng.random(n) < 0.5).astype(float), np.full(n, 0.5)

    def threshold(model):
        return switch_threshold(reward, half / 20.0, half / 20.0 * weight, np.full(n, model), np.full(n, model))

    assert threshold(0.5) == pytest.approx(0.5)  # the model is right: it may foretell what weighs much
    assert threshold(0.0) >= 15.0  # it is not: what weighs much must be looked at


def test_an_estimate_of_rewards_that_never_come_is_none_and_its_intervals_are_not_empty():
    frame = pl.DataFrame({"reward": [0.0] * 50, "propensity": [0.5] * 50, "target": [0.5] * 50})
    ips, snips = estimates(sums(frame.lazy(), 50))
    assert ips.value == snips.value == 0.0
    assert ips.interval == ips.bootstrap == (0.0, 1.0)
    assert ips.anytime is not None
    assert ips.anytime[0] == 0.0 < ips.anytime[1]


# ---- At every length at once ---------------------------------------------------------------------------------


def test_the_anytime_bound_is_crossed_no_oftener_than_it_says():
    """Of 2,000 logs whose mean is known, no more than 2.5 % may ever cross it; that more than 3.9 % do by chance, where
    2.5 % would, is less likely than 1 in 10,000 (binomial).
    """
    rng = np.random.default_rng(1)
    crossed = 0
    for _ in range(2000):
        weight = rng.choice([0.1, 1.0, 9.1], p=[0.5, 0.4, 0.1], size=400)
        terms = weight * (rng.random(400) < 0.3)
        mean = 0.3 * (0.05 + 0.4 + 0.91)
        bounds = lower_sequence(np.ones(400), terms, terms**2)
        crossed += bool((bounds > mean).any())
    assert crossed <= 78


def test_the_anytime_bound_may_be_taken_over_buckets():
    rng = np.random.default_rng(2)
    terms = 3.0 * (rng.random(4000) < 0.3)
    each = lower_sequence(np.ones(4000), terms, terms**2)[-1]
    tens = terms.reshape(-1, 10)
    bucketed = lower_sequence(np.full(400, 10.0), tens.sum(axis=1), (tens**2).sum(axis=1))[-1]
    assert bucketed == pytest.approx(each, abs=0.01)


@given(
    st.lists(st.tuples(st.floats(0.01, 1.0), st.floats(0.0, 1.0), st.sampled_from([0.0, 0.5, 1.0])), min_size=2),
)
def test_an_anytime_interval_is_an_interval_of_rewards(rows):
    propensity, target, reward = map(list, zip(*rows, strict=True))
    frame = pl.DataFrame({"propensity": propensity, "target": target, "reward": reward})
    low, high = anytime(sums(frame.lazy(), len(rows)))
    assert 0.0 <= low <= 1.0
    assert 0.0 <= high <= 1.0


# ---- Whether the log can tell --------------------------------------------------------------------------------


def doubted(frame):
    found = sums(frame.lazy(), len(frame))
    return doubts(found, estimates(found))


def test_a_log_of_a_policy_much_like_the_target_leaves_no_doubt():
    rng = np.random.default_rng(3)
    propensity = rng.choice([0.4, 0.6], size=5000)
    frame = pl.DataFrame(
        {"propensity": propensity, "target": 0.5, "reward": (rng.random(5000) < 0.5).astype(float)}
    ).with_columns(target=pl.lit(0.5) * pl.col("propensity") / pl.col("propensity").mean())
    assert doubted(frame.with_columns(target="propensity")) == ()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"target": pl.when(pl.int_range(pl.len()) < 20).then(1.0).otherwise(0.0)}, "the 1000 decisions count as 20"),
        ({"target": pl.col("propensity") * 0.5}, "never logged, or propensities are too large"),
        ({"target": pl.col("propensity") * 2.0}, "propensities are too small"),
        ({"reward": (pl.int_range(pl.len()) == 7).cast(float)}, "one decision alone makes up 100%"),
        ({"reward": (pl.int_range(pl.len()) % 200 == 0).cast(float)}, "normal intervals of ips, snips"),
        ({"reward": pl.lit(0.0)}, "every decision says the same to ips, snips"),
        ({"target": pl.lit(0.0)}, "every decision says the same to ips, snips"),
    ],
)
def test_what_a_log_cannot_tell_is_said_in_plain_language(changed, said):
    rng = np.random.default_rng(4)
    frame = pl.DataFrame({"propensity": np.full(1000, 0.5), "reward": (rng.random(1000) < 0.5).astype(float)})
    frame = frame.with_columns(target="propensity").with_columns(**changed)
    assert any(said in sentence for sentence in doubted(frame)), doubted(frame)
