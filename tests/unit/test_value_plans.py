"""Plans with learned weights in regression: biases that are followed, covariances, and the sets that they recommend."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandmaster import build
from bandmaster.combine import corrected_mean
from bandmaster.config import Source, parse
from bandmaster.contract import Contract, Metric
from bandmaster.core import VALUE, Ensemble, Errors, Figures, Outcome
from bandmaster.counterfactual import revealed
from bandmaster.errors import ErrorBelief
from bandmaster.replay import Traffic, draw, run
from bandmaster.value_planner import ValuePlanner

ENSEMBLE = Ensemble(("a", "b", "c"), (VALUE,), task="regression")
CONTRACT = Contract.of(
    Metric("accuracy", 0.9, error=(0.0, 4.0)), Metric("cost", 0.1, goal="min", low=0.0, high=3.0, source="profile")
)
FIGURES = Figures(np.zeros(3), np.zeros(3), np.ones(3), np.zeros(3))


def errors(n, *, bias=(0.0, 0.0, 0.0), scale=(1.0, 1.0, 1.0), shared=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return np.array(bias) + np.array(scale) * rng.normal(size=(n, 3)) + shared * rng.normal(size=(n, 1))


def learned(rows):
    belief = ErrorBelief(3)
    for row in rows:
        belief.learn(row[None])
    return belief


# ---- What is believed of errors ------------------------------------------------------------------------------


def test_biases_and_the_covariance_of_what_is_left_are_found():
    now = learned(errors(2000, bias=(2.0, -1.0, 0.0), scale=(1.0, 2.0, 0.5))).now
    assert now.bias == pytest.approx([2.0, -1.0, 0.0], abs=0.35)
    assert np.sqrt(np.diag(now.covariance)) == pytest.approx([1.0, 2.0, 0.5], rel=0.2)


def test_a_bias_that_jumps_is_followed_within_a_few_outcomes():
    belief = learned(errors(600, scale=(0.1, 0.1, 0.1)))
    for row in errors(30, bias=(3.0, 0.0, 0.0), scale=(0.1, 0.1, 0.1), seed=1):
        belief.learn(row[None])
    assert belief.now.bias[0] == pytest.approx(3.0, abs=0.4)
    assert belief.now.bias[1:] == pytest.approx([0.0, 0.0], abs=0.2)


def test_members_that_err_together_are_corrected_where_only_one_of_them_ran():
    belief = learned(errors(600, scale=(0.1, 0.1, 1.0), shared=1.0))
    for _ in range(40):
        belief.learn(np.array([[5.0, np.nan, np.nan]]))
    assert belief.now.bias[0] == pytest.approx(5.0, abs=0.5)
    assert belief.now.bias[1] > 3.5
    assert belief.now.bias[2] > 1.5


def test_one_absurd_value_moves_nothing_far():
    belief = learned(errors(500))
    before = belief.now
    belief.learn(np.array([[1e6, 0.0, 0.0]]))
    assert abs(belief.now.bias[0] - before.bias[0]) < 2.0
    assert np.isfinite(belief.now.covariance).all()


@given(st.lists(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=3, max_size=3), max_size=30))
def test_whatever_is_learned_weights_are_an_average_over_the_members_of_a_set(rows):
    belief = learned(np.array([[np.nan if v is None else v for v in row] for row in rows], dtype=float).reshape(-1, 3))
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [1, 1, 1]], dtype=bool)
    weights = belief.now.weights(sets)
    assert (weights >= 0.0).all()
    assert (weights[~sets] == 0.0).all()
    assert weights.sum(axis=1) == pytest.approx(np.ones(4))


def test_who_errs_less_weighs_more_and_copies_share_a_weight():
    apart = Errors(np.zeros(3), np.diag([1.0, 4.0, 1.0]))
    assert apart.weights(np.array([[True, True, False]]))[0] == pytest.approx([0.8, 0.2, 0.0])
    twins = Errors(np.zeros(3), np.array([[1.0, 0.99, 0.0], [0.99, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    both = twins.weights(np.ones((1, 3), dtype=bool))[0]
    assert both[2] == pytest.approx(0.5, abs=0.01)


def test_a_mean_is_of_what_is_left_once_biases_are_taken_off_and_of_those_who_answered():
    belief = Errors(np.array([1.0, -1.0, 0.0]), np.eye(3))
    said = np.array([[[11.0], [9.0], [4.0]], [[11.0], [np.nan], [np.nan]], [[np.nan]] * 3])
    mean = corrected_mean(said, belief, np.array([[True, True, False]]))[:, 0, 0]
    assert mean[:2] == pytest.approx([10.0, 10.0])
    assert np.isnan(mean[2])


def test_a_belief_of_errors_goes_on_where_its_dump_was_made():
    rows = errors(120, bias=(1.0, 0.0, 0.0))
    rows[::3, 1] = np.nan
    belief, again = learned(rows[:100]), ErrorBelief(3)
    again.load(belief.dump())
    for row in rows[100:]:
        belief.learn(row[None])
        again.learn(row[None])
    assert again.now.bias.tolist() == belief.now.bias.tolist()
    assert again.now.covariance.tolist() == belief.now.covariance.tolist()
    for broken in (b"", ErrorBelief(4).dump()):
        with pytest.raises(ValueError, match="errors"):
            again.load(broken)


# ---- Which sets are offered ----------------------------------------------------------------------------------


def planned(rows):
    belief, planner = ErrorBelief(3), ValuePlanner(3)
    for row in rows:
        planner.learn(row[None], belief.now, FIGURES)
        planner.hear(CONTRACT.closeness(row - belief.now.bias))
        belief.learn(row[None])
    return planner, belief.now


def test_independent_errors_are_worth_averaging_and_copies_are_not_worth_their_price():
    planner, now = planned(errors(400))
    assert len(planner.propose(now, CONTRACT, limit=3).plans[0].chain[0]) > 1
    planner, now = planned(errors(400, scale=(0.05, 0.05, 0.05), shared=1.0))
    assert len(planner.propose(now, CONTRACT, limit=3).plans[0].chain[0]) == 1


def test_a_member_that_is_off_by_the_same_everywhere_is_as_good_as_one_that_is_not():
    planner, now = planned(errors(400, bias=(50.0, 0.0, 0.0), scale=(0.2, 2.0, 2.0)))
    assert planner.propose(now, CONTRACT, limit=3).plans[0].chain == ((0,),)


def test_few_rows_propose_nothing_and_a_restored_planner_proposes_the_same():
    planner, now = planned(errors(4))
    assert planner.propose(now, CONTRACT, limit=3) is None
    planner, now = planned(errors(60))
    again = ValuePlanner(3)
    again.load(planner.dump())
    one, other = (p.propose(now, CONTRACT, limit=5) for p in (planner, again))
    assert [v.chain for v in one.plans] == [v.chain for v in other.plans]
    assert one.doubt.tolist() == other.doubt.tolist()
    with pytest.raises(ValueError, match="planner of values"):
        again.load(b"")


def test_a_member_that_has_become_bad_is_left_before_probes_tell():
    planner, now = planned(errors(200, scale=(0.5, 0.8, 0.8)))
    assert planner.propose(now, CONTRACT, limit=1).plans[0].chain[0][0] == 0
    for _ in range(60):
        planner.hear(np.array([0.0, np.nan, np.nan]))
    assert 0 not in planner.propose(now, CONTRACT, limit=1).plans[0].chain[0]


# ---- In the engine -------------------------------------------------------------------------------------------

BLOCK = {
    "task": "regression",
    "contract": {"accuracy": {"weight": 0.9, "error": [0, 4]}, "cost": {"weight": 0.1, "range": [0, 3]}},
    "members": {n: {"profile": {"cost": 1.0}} for n in "abc"},
    "probes": {"share": 0.1},
}


@pytest.fixture(scope="module")
def config():
    return parse(BLOCK, Source("test"))


@pytest.fixture(scope="module", params=[1, 3])
def log(config, request, tmp_path_factory):
    """Members that are all off by much, and by something else later; each row a request, or three."""
    said = errors(1200, bias=(3.0, 4.0, -3.0), scale=(0.5, 1.0, 1.0), seed=5)
    said[600:] += [-5.0, 0.0, 1.0]
    label = np.random.default_rng(6).normal(scale=10.0, size=len(said))
    columns = {f"{n}__pred": label + said[:, m] for m, n in enumerate("abc")}
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    frame = pl.DataFrame({"label": label, "request": np.arange(len(said)) // request.param, **columns})
    frame.write_parquet(path)
    return build.recorded_log(config, path)


def test_the_bandit_corrects_what_no_choice_among_members_could(config, log):
    drawn = draw(log, Traffic(), 0)
    earned = {p: run(drawn, build.ReplayFactory(config), p, 0) for p in ("bandit", "scoring", "constant:a")}
    late = len(log) // 4
    mean = {name: trace.reward[late:].mean() for name, trace in earned.items()}
    assert mean["bandit"] > mean["scoring"] + 0.1
    assert mean["bandit"] > mean["constant:a"] + 0.1
    assert {p.rpartition("~")[2] for p in np.array(earned["bandit"].plans)[earned["bandit"].plan[late:]]} == {"learned"}


def test_what_a_learned_set_would_have_earned_is_what_it_does_earn(config, log):
    parts = build.ReplayFactory(config)("bandit", log, 0)
    for i in range(60):
        request = log.request(i)
        decision, answer = parts.orchestrator.answer(request)
        answer = parts.orchestrator.probe(decision, answer, request)
        settled = parts.journal.settle(decision.id, Outcome(log.at[i], labels=log.labels(i)))
        experience = parts.learner.experience(settled.joined)
        if decision.plan.endswith("~learned"):
            offer = parts.learner.manager.policy.catalogue
            # The chosen plan keeps what came of it: named otherwise, it is computed.
            stranger = replace(experience, joined=replace(settled.joined, decision=replace(decision, plans=("a", "b"),
                               probabilities=np.array([0.5, 0.5]), chosen=0)))  # fmt: skip
            told = revealed(offer, config.contract, stranger).rewards[offer.index(decision.plan)]
            assert told == pytest.approx(experience.own)
        parts.learner.learn(parts.learner.lesson(settled.joined))
    assert decision.plan.endswith("~learned")
