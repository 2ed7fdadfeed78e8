"""Regression: members that give values, combined by weighted means and judged by their absolute errors."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandmaster import build, hosting
from bandmaster.combine import inverse_errors, mean_value, value_verdict
from bandmaster.config import ConfigError, Source, parse
from bandmaster.contract import Contract, Metric
from bandmaster.core import NO_ANSWER, VALUE, BandmasterError, Ensemble, MemberAnswer, Outcome
from bandmaster.journal.codec import decode, encode
from bandmaster.plans import parse_plan
from bandmaster.recorded import RecordedMember, RecordedMeter
from bandmaster.replay import Traffic, draw, fixed_plans, processes, replay, run

BLOCK = {
    "task": "regression",
    "contract": {
        "accuracy": {"weight": 0.8, "error": [0, 10]},
        "energy": {"weight": 0.2, "range": ["1 mJ", "100 mJ"], "scale": "log", "from": "profile"},
    },
    "members": {
        "cheap": {"profile": {"latency": "1 ms", "energy": "1 mJ"}},
        "mid": {"profile": {"latency": "5 ms", "energy": "5 mJ"}, "weight": 3},
        "dear": {"profile": {"latency": "9 ms", "energy": "60 mJ"}},
    },
    "plans": {"subsets": 2, "include": ["cheap+mid~declared"]},
    "probes": {"share": 0.1},
}
ENSEMBLE = Ensemble(("a", "b", "c"), (VALUE,), task="regression", weights={"b": 3.0})


def frame(rows=240, seed=0):
    """Members err by noise of their own; cheap is far off where x0 is above 0, mid where it is below."""
    rng = np.random.default_rng(seed)
    x, label = rng.normal(size=rows), rng.normal(scale=20.0, size=rows)
    off = {"cheap": np.where(x > 0, 9.0, 1.0), "mid": np.where(x > 0, 1.0, 9.0), "dear": np.full(rows, 0.5)}
    columns = {f"{name}__pred": label + rng.normal(scale=scale) for name, scale in off.items()}
    columns["mid__pred"] = [None if rng.random() < 0.05 else v for v in columns["mid__pred"]]
    known = [None if rng.random() < 0.05 else v for v in label]
    return pl.DataFrame({"label": known, "label_delay": rng.integers(0, 6, size=rows), "x0": x, **columns})


@pytest.fixture(scope="module")
def config():
    return parse(BLOCK, Source("test"))


@pytest.fixture(scope="module")
def log(config, tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    frame().write_parquet(path)
    return build.recorded_log(config, path)


# ---- Pure functions ------------------------------------------------------------------------------------------

values = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(values, st.floats(0.01, 100.0)), min_size=1, max_size=6))
def test_the_mean_lies_between_the_members_values_and_is_the_weighted_one(said):
    x, w = np.array(said).T
    (mean,) = mean_value(x[:, None], w)
    assert x.min() - 1e-6 <= mean <= x.max() + 1e-6
    assert mean == pytest.approx(np.average(x, weights=w), abs=1e-6)


def test_a_member_that_gave_no_value_counts_for_nothing_and_a_zero_is_a_value():
    pooled = mean_value(np.array([[[np.nan], [4.0]], [[0.0], [4.0]], [[np.nan], [np.nan]]]), np.array([1.0, 1.0]))
    assert pooled[:2, 0].tolist() == [4.0, 2.0]
    labels, confidence = value_verdict(pooled)
    assert labels.tolist() == [0, 0, NO_ANSWER]
    assert confidence.tolist() == [1.0, 1.0, 0.0]


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=5))
def test_who_errs_less_weighs_more_by_the_square(accuracy):
    a = np.array(accuracy)
    weights = inverse_errors(a)
    assert np.isfinite(weights).all()
    assert (np.diff(weights[np.argsort(a)]) >= 0.0).all()
    assert inverse_errors(np.array([0.5, 0.75])).tolist() == [4.0, 16.0]


@given(st.floats(0.0, 5.0), st.floats(0.1, 50.0), values)
def test_accuracy_falls_evenly_from_the_small_error_to_the_large_one(low, width, error):
    contract = Contract.of(Metric("accuracy", 1.0, error=(low, low + width)))
    (close,) = contract.closeness(np.array([error]))
    assert 0.0 <= close <= 1.0
    assert close == pytest.approx(min(1.0, max(0.0, 1.0 - (abs(error) - low) / width)), abs=1e-9)
    assert contract.closeness(np.array([np.nan])).tolist() == [0.0]


def test_a_range_of_errors_is_accuracys_alone_and_goes_up():
    for name, error in (("latency", (0.0, 1.0)), ("accuracy", (1.0, 1.0)), ("accuracy", (-1.0, 1.0))):
        with pytest.raises(BandmasterError, match="error"):
            Metric(name, 1.0, error=error)


def test_cascades_need_classes_and_are_refused():
    with pytest.raises(BandmasterError, match="in regression write"):
        parse_plan("a>b@0.9", ENSEMBLE)


# ---- The request path ----------------------------------------------------------------------------------------


def answered(config, log, plan, i=0):
    parts = build.ReplayFactory(config)(f"constant:{plan}", log, 0)
    return parts, *parts.orchestrator.answer(log.request(i))


def test_an_answer_is_the_members_weighted_mean(config, log):
    i = int(np.flatnonzero(~np.isnan(log.scores[:, :, 0]).any(axis=1))[0])
    cheap, mid, dear = log.scores[i, :, 0]
    for plan, expected in (
        ("cheap", cheap),
        ("cheap+mid+dear", (cheap + mid + dear) / 3),
        ("cheap+mid~declared", (cheap + 3 * mid) / 4),
        ("cheap+dear~recent", (cheap + dear) / 2),  # nothing is known of either yet
    ):
        _, _, answer = answered(config, log, plan, i)
        assert answer.scores[0, 0] == pytest.approx(expected)
        assert answer.labels.tolist() == [0]


def test_a_logged_null_is_a_failure_of_which_the_others_take_no_notice(config, log):
    i = int(np.flatnonzero(np.isnan(log.scores[:, 1, 0]))[0])
    _, _, answer = answered(config, log, "cheap+mid", i)
    assert answer.scores[0, 0] == pytest.approx(log.scores[i, 0, 0])
    assert [said.error for said in answer.ran] == [None, "gave no value, as logged"]
    _, _, alone = answered(config, log, "mid", i)
    assert alone.labels.tolist() == [NO_ANSWER]
    assert np.isfinite(alone.scores).all()


def test_what_a_regression_decides_and_is_told_survives_the_journal(config, log):
    _, _, answer = answered(config, log, "cheap+mid", int(np.flatnonzero(np.isnan(log.scores[:, 1, 0]))[0]))
    for record in (answer, Outcome(1.0, labels=(-3.25, 7.0)), Outcome(1.0, labels=(3, 4))):
        again = decode(encode(record), type(record))
        assert encode(again) == encode(record)
    assert decode(encode(Outcome(1.0, labels=(3, 7.5))), Outcome).labels == (3, 7.5)


def test_the_learner_judges_the_answer_and_every_member_by_their_errors(config, log):
    i = int(np.flatnonzero(~np.isnan(log.values) & ~np.isnan(log.scores[:, :, 0]).any(axis=1))[0])
    parts, decision, answer = answered(config, log, "cheap+mid", i)
    answer = parts.orchestrator.probe(decision, answer, log.request(i))
    settled = parts.journal.settle(decision.id, Outcome(log.at[i], labels=log.labels(i)))
    experience = parts.learner.learn(parts.learner.lesson(settled.joined))
    error = np.abs(log.scores[i, :, 0] - log.values[i])
    assert experience.correct == pytest.approx(np.clip(1 - error / 10, 0, 1))
    combined = abs(log.scores[i, :2, 0].mean() - log.values[i])
    assert experience.reward.raw["accuracy"] == pytest.approx(max(0.0, 1 - combined / 10))
    assert experience.truth is None
    assert experience.values.tolist() == [log.values[i]]


# ---- Replay --------------------------------------------------------------------------------------------------


def test_every_plan_in_hindsight_earns_what_playing_it_does(config, log):
    catalogue = build.catalogue(config, log.ensemble)
    assert "cheap+mid~declared" in catalogue.names
    assert not any(">" in name for name in catalogue.names)
    drawn = draw(log, Traffic(), 0)
    fixed = fixed_plans(drawn, catalogue, config.contract, build.tracking(config))
    for k, name in enumerate(catalogue.names):
        trace = run(drawn, build.ReplayFactory(config), f"constant:{name}", 0)
        np.testing.assert_allclose(trace.reward, fixed.rewards[:, k], rtol=1e-9)


def test_a_replay_of_values_can_be_recomputed_from_its_trace(config, log, tmp_path):
    bench = build.bench(config, [log], Traffic("shuffled"))
    policies = ["random", "scoring", "bandit", "exp4", "blast"]
    (found,) = replay(bench, policies, 2, spread=processes(1), trace=tmp_path / "t.parquet")
    results = found.as_json()
    assert results["contract"]["accuracy"]["error"] == [0.0, 10.0]
    trace = pl.read_parquet(tmp_path / "t.parquet").drop_nulls("truth")
    near = (1.0 - (pl.col("label") - pl.col("truth")).abs() / 10.0).clip(0.0, 1.0).fill_null(0.0)
    assert trace.select((near - pl.col("accuracy")).abs().max()).item() < 1e-9
    assert results["policies"]["scoring"]["reward"] > results["policies"]["random"]["reward"]
    bandit = results["policies"]["bandit"]
    assert bandit["reward"] > results["policies"]["random"]["reward"]


def test_what_is_for_classes_alone_cannot_be_played_in_regression(config, log):
    for name in ("knora-e", "dynamic-weighted-majority", "frugalml-offline"):
        with pytest.raises(BandmasterError, match=name):
            replay(build.bench(config, [log]), [name], seeds=1, spread=processes(1))


def test_labels_that_are_no_numbers_are_refused_with_their_place(config, tmp_path):
    frame(20).with_columns(label=pl.lit("seven")).write_csv(tmp_path / "log.csv")
    with pytest.raises(BandmasterError, match=r"log\.csv: row 0, column 'label': seven must be a number"):
        build.recorded_log(config, tmp_path / "log.csv")


def test_a_streams_members_learn_values_too(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    y = [None if i % 50 == 7 else 3.0 * a - b for i, (a, b) in enumerate(x)]
    pl.DataFrame({"x0": x[:, 0], "x1": x[:, 1], "y": y}).write_parquet(tmp_path / "s.parquet")
    block = {**BLOCK, "members": {n: {"profile": {"energy": "1 mJ"}} for n in ("linear", "linear_late", "tree")}}
    block.pop("plans")
    config = parse(block, Source("test"))
    (log,) = build.recorded_logs(config, [tmp_path / "s.parquet"], tmp_path / "cache")
    assert log.scores.shape == (160, 3, 1)
    known = ~np.isnan(log.values)
    assert known.sum() == 157
    assert np.abs(log.scores[known, 0, 0] - log.values[known]).max() < 0.5
    again = build.recorded_logs(config, [tmp_path / "s.parquet"], tmp_path / "cache")[0]
    assert again.scores.tolist() == log.scores.tolist()


# ---- Configuration -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"contract": {"accuracy": {"weight": 1}}}, r"contract\.accuracy\.error.* is missing; add error: \[0, 50\]"),
        ({"contract": {"latency": {"weight": 1, "range": ["1 ms", "2 ms"]}}}, r"contract\.accuracy.* is missing"),
        ({"contract": {"accuracy": {"weight": 1, "error": [5, 1]}}}, "is not a small and a larger error"),
        ({"contract": {"accuracy": {"weight": 1, "error": [-1, 1]}}}, r"is outside \[0"),
        ({"contract": {"accuracy": {"weight": 1, "error": [0, 1], "from": "consensus"}}}, "consensus is among classes"),
        ({"contract": {**BLOCK["contract"], "confidence": {"weight": 1}}}, "values have none"),
        ({"classes": [0, 1]}, "are not there in regression"),
        ({"plans": {"cascades": 3}}, "stops at a confidence"),
        ({"plans": {"include": ["cheap>mid@0.9"]}}, r"plans\.include\.0.*in regression write"),
        ({"plans": {"include": ["cheap+mid~learned"]}}, r"plans\.include\.0.*the bandit's own"),
        ({"task": "classification"}, "is for values; write task: regression"),
        ({"task": "ranking"}, "classification or regression"),
        ({"members": {"cheap": {"weight": 0}}}, r"is outside \(0"),
    ],
)
def test_what_does_not_fit_a_regression_is_refused_with_the_place_and_the_fix(change, told):
    with pytest.raises(ConfigError, match=told):
        parse({**BLOCK, **change}, Source("test"))


def test_a_declared_weight_makes_plans_of_its_own_and_none_where_all_weigh_the_same(config):
    plans = build.catalogue(config, hosting.ensemble_of(config, ()))
    assert {n for n in plans.names if n.endswith("~declared")} == {
        "cheap+mid~declared", "cheap+mid+dear~declared", "mid+dear~declared"
    }  # fmt: skip
    alike = replace(config, members=tuple(replace(m, weight=2.0) for m in config.members), plans=type(config.plans)())
    assert not any("~declared" in n for n in build.catalogue(alike, hosting.ensemble_of(alike, ())).names)


def test_recorded_values_are_played_back_to_the_last_bit(log):
    member = RecordedMember("dear", log.scores[:, 2])
    answer = RecordedMeter(log).run(member, np.array([[7]]), np.array([0]))
    assert isinstance(answer, MemberAnswer)
    assert answer.scores.tolist() == [[log.scores[7, 2, 0]]]
