"""The contract maps every metric into [0, 1] and weighs the terms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandmaster.contract import Contract, Metric
from bandmaster.core import BandmasterError

figures = st.floats(1e-6, 1e6)
names = st.sampled_from(["accuracy", "confidence", "latency", "energy", "cost"])


@st.composite
def metrics(draw, name):
    low, high = sorted(draw(st.tuples(figures, figures).filter(lambda pair: max(pair) > 1.001 * min(pair))))
    return Metric(
        name,
        draw(st.floats(0.0, 100.0)),
        draw(st.sampled_from(["max", "min"])),
        low,
        high,
        draw(st.sampled_from(["linear", "log"])),
    )


@st.composite
def contracts(draw):
    chosen = draw(st.lists(names, min_size=1, unique=True))
    drawn = [draw(metrics(name)) for name in chosen]
    return Contract.of(*drawn, Metric("explainability", 1.0))


@given(contracts(), st.data())
def test_a_reward_always_lies_between_zero_and_one(contract, data):
    raw = {name: data.draw(st.floats(-1e9, 1e9)) for name in contract.names}
    reward = contract.reward(raw)
    assert 0.0 <= reward.value <= 1.0
    assert all(0.0 <= term <= 1.0 for term in reward.terms.values())


@given(contracts())
def test_the_weights_sum_to_one(contract):
    assert math.isclose(math.fsum(m.weight for m in contract.metrics), 1.0)


@given(contracts(), st.data())
def test_a_reward_is_the_weighted_sum_of_its_terms(contract, data):
    raw = {name: data.draw(figures) for name in contract.names}
    reward = contract.reward(raw)
    assert math.isclose(reward.value, sum(contract.weight(n) * t for n, t in reward.terms.items()), abs_tol=1e-12)


@given(contracts(), st.data())
def test_many_cases_at_once_earn_what_each_earns_alone(contract, data):
    cases = [{name: data.draw(figures) for name in contract.names} for _ in range(3)]
    together = contract.rewards({name: np.array([case[name] for case in cases]) for name in contract.names})
    assert np.allclose(together, [contract.reward(case).value for case in cases], atol=1e-12)


@given(metrics("latency"), figures, figures)
def test_a_metric_to_be_minimised_never_rewards_more_of_it(metric, a, b):
    f_small, f_large = metric.normalise(np.array(sorted((a, b))))
    assert f_small >= f_large - 1e-12 if metric.goal == "min" else f_small <= f_large + 1e-12


def test_the_ends_of_a_range_are_worth_all_and_nothing():
    latency = Metric("latency", 1.0, "min", 0.001, 1.0, "log")
    assert latency.normalise(np.array([0.001, math.sqrt(0.001), 1.0])).tolist() == pytest.approx([1.0, 0.5, 0.0])


def test_an_unknown_figure_has_no_term():
    assert np.isnan(Metric("cost", 1.0).normalise(float("nan")))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Contract.of(), "sum to 0"),
        (lambda: Contract.of(Metric("accuracy", 0.0)), "sum to 0"),
        (lambda: Contract.of(Metric("accuracy", 1.0), Metric("accuracy", 1.0)), "named twice"),
        (lambda: Metric("accuracy", -1.0), "≥ 0"),
        (lambda: Metric("accuracy", float("nan")), "finite"),
        (lambda: Metric("latency", 1.0, low=2.0, high=1.0), "smaller"),
        (lambda: Metric("latency", 1.0, low=0.0, high=1.0, scale="log"), "above 0"),
    ],
)
def test_a_contract_that_makes_no_sense_is_refused_with_the_reason(make, says):
    with pytest.raises(BandmasterError, match=says):
        make()


def test_a_metric_that_weighs_nothing_needs_no_figure():
    contract = Contract.of(Metric("accuracy", 1.0), Metric("cost", 0.0))
    assert contract.reward({"accuracy": 0.5}).value == 0.5
    assert contract.reward({"accuracy": 0.5, "cost": 0.2}).terms == {"accuracy": 0.5, "cost": 0.2}


HASTY = Contract.of(
    Metric("accuracy", 3.0),
    Metric("latency", 1.0, "min", 0.0, 2.0),
    profiles={"hasty": {"latency": 2.0}, "even": {"accuracy": 1, "latency": 1}},
)


@given(st.lists(st.tuples(st.sampled_from(["default", "hasty", "even"]), st.floats(0, 1), st.floats(0, 3)), min_size=1))
def test_many_cases_at_once_are_each_judged_under_their_own_profile(cases):
    profiles, accuracy, latency = zip(*cases, strict=True)
    together = HASTY.rewards_under(profiles, {"accuracy": np.array(accuracy), "latency": np.array(latency)})
    apart = [HASTY.under(p).reward({"accuracy": a, "latency": s}).value for p, a, s in cases]
    assert np.allclose(together, apart)


def test_a_case_lacks_nothing_that_its_profile_does_not_weigh():
    raw = {"accuracy": np.array([1.0, np.nan]), "latency": np.array([1.0, 1.0])}
    assert HASTY.rewards_under(["even", "hasty"], raw).tolist() == [0.75, 0.5]


@pytest.mark.parametrize(
    ("profiles", "told"),
    [
        ({"x": {"energy": 1.0}}, "profile 'x' weighs energy; the contract has accuracy, latency"),
        ({"x": {}}, "profile 'x': the weights sum to 0"),
        ({"x": {"latency": -1.0}}, "profile 'x': latency: weight -1.0 must be"),
        ({"default": {"latency": 1.0}}, "profile 'default' is the contract itself"),
    ],
)
def test_a_profile_that_weighs_nothing_or_what_is_not_there_is_refused(profiles, told):
    with pytest.raises(BandmasterError, match=told):
        Contract.of(Metric("accuracy", 1.0), Metric("latency", 0.0), profiles=profiles)


def test_a_profile_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(BandmasterError, match="no profile 'fats'; use one of default, hasty, even"):
        HASTY.under("fats")


@given(contracts(), st.floats(0.0, 1.0), st.data())
def test_a_metric_weighed_anew_leaves_the_others_their_proportions(contract, weight, data):
    name = data.draw(st.sampled_from([n for n in contract.names if n != "explainability"] or list(contract.names)))
    if len(contract.names) == 1:
        weight = 1.0
    found = contract.weighing(name, weight)
    assert found.weight(name) == weight
    assert math.isclose(math.fsum(m.weight for m in found.metrics), 1.0)
    rest = 1.0 - contract.weight(name)
    for other in set(contract.names) - {name}:
        assert found.weight(other) == pytest.approx(contract.weight(other) / rest * (1.0 - weight))


def test_where_one_metric_is_all_that_is_weighed_no_other_can_take_the_rest():
    alone = Contract.of(Metric("accuracy", 1.0), Metric("explainability", 0.0))
    assert alone.weighing("accuracy", 1.0) == alone
    with pytest.raises(BandmasterError, match="no other metric can take the rest"):
        alone.weighing("accuracy", 0.5)
    with pytest.raises(BandmasterError, match=r"latency: the contract weighs no such metric, but accuracy, expl"):
        alone.weighing("latency", 0.5)
