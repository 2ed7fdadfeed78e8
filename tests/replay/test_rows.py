"""Logs whose requests have several rows: one decision a request, later stages see only the rows that need them."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from bandmaster import build
from bandmaster.core import BandmasterError, Outcome
from bandmaster.references import previous_label
from bandmaster.replay import Mix, Traffic, draw, fixed_plans, run
from tests.replay.conftest import Lab, make_frame

COLUMN = {"latency": "latency_s", "energy": "energy_j"}


def grouped(frame, seed=1):
    """The frame's rows in requests of one to four; what belongs to a request is alike on its rows."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, size=len(frame))
    request = np.repeat(np.arange(len(frame)), sizes)[: len(frame)]
    return frame.with_columns(request=pl.Series([f"r{i}" for i in request]), ts=1000.0 + request)


@pytest.fixture(scope="module")
def several(lab, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "log.parquet"
    grouped(make_frame()).write_parquet(path)
    log = build.recorded_log(lab.config, path)
    return Lab(lab.config, (log, log), lab.catalogue)


def test_rows_of_one_request_are_one_request(several):
    log = several.logs[0]
    frame = grouped(make_frame())
    assert len(log) == frame["request"].n_unique() < len(frame) == len(log.truth)
    for i, (_, rows) in enumerate(frame.group_by("request", maintain_order=True)):
        request = log.request(i)
        assert request.at == rows["ts"][0]
        assert len(request.rows) == len(rows)
        assert request.features[0] == pytest.approx(rows["x0"].mean())
        assert log.labels(i) == tuple(rows["label"].fill_null(-1).to_list())
        assert log.labelled[i] == (rows["label"].null_count() == 0)


def test_requests_stay_whole_in_another_order(several):
    log = several.logs[0]
    order = np.random.default_rng(3).permutation(len(log))
    other = log.redrawn(order).redrawn(np.arange(len(log))[::-1])
    for i in range(len(log)):
        was = int(order[::-1][i])
        assert other.request(i).rows.tolist() == log.request(was).rows.tolist()
        assert other.labels(i) == log.labels(was)


@pytest.mark.parametrize("order", ["kept", "shuffled"])
def test_every_request_earns_what_the_learner_says_it_does(several, order):
    """The trace is computed for all requests at once; the learner judges them one by one, probes charged."""
    drawn = draw(several.logs[0], Traffic(order, label_share=0.0), 4)  # so that nothing learns
    log, contract = drawn.log, several.config.contract
    trace = run(drawn, build.ReplayFactory(several.config), "random", 4)
    parts = build.ReplayFactory(several.config)("random", log, 4)
    checked = 0
    for i in range(len(log)):
        request = log.request(i)
        decision, answer = parts.orchestrator.answer(request)
        decision = replace(decision, probe_p=float(i % 3 == 0), lot=0.5)
        if decision.probed:
            answer = parts.orchestrator.probe(decision, answer, request)
        settled = parts.journal.settle(decision.id, Outcome(request.at, labels=log.labels(i)))
        if not log.labelled[i]:
            continue
        reward = parts.learner.reward(settled.joined)
        assert decision.plan == trace.plans[trace.plan[i]]
        assert reward.raw["accuracy"] == pytest.approx(trace.raw["accuracy"][i])
        if decision.probed:
            assert reward.raw["energy"] > trace.raw["energy"][i] or all(trace.ran[i])
        else:
            assert reward.value == pytest.approx(trace.reward[i])
            for metric in ("latency", "energy", "cost", "explainability", "confidence"):
                assert reward.raw[metric] == pytest.approx(trace.raw[metric][i]), metric
            checked += 1
    assert checked > 50
    assert contract.weight("energy") > 0.0


def test_a_probe_is_charged_for_every_row_of_who_had_not_seen_them_all(several):
    drawn = draw(several.logs[0], Traffic(), 0)
    log = drawn.log
    trace = run(drawn, build.ReplayFactory(several.config), "scoring", 0)
    energy = np.array([0.002, 0.01, 0.07])
    sizes = np.diff(log.bounds)
    alone = np.array([len(p.split(">")) == 1 for p in trace.plans])[trace.plan]
    probed = trace.probed & alone
    assert probed.sum() > 3
    expected = sizes * energy.sum()
    # The contract takes energy from the profile, which is what a row takes: in one stage everybody sees all rows.
    assert trace.raw["energy"][probed] == pytest.approx(expected[probed])
    assert trace.raw["energy"][alone & ~probed] == pytest.approx((sizes * (trace.ran @ energy))[alone & ~probed])


def test_every_plan_in_hindsight_earns_what_playing_it_does(several):
    drawn = draw(several.logs[0], Traffic(delay=2), 1)
    config, catalogue = several.config, several.catalogue
    fixed = fixed_plans(drawn, catalogue, config.contract, build.tracking(config))
    for name in ("cheap", "cheap+mid+dear~recent", "cheap>mid>dear@0.8~recent", "mid>cheap+dear@0.7~recent",
                 "cheap>mid@0.6", "cheap>mid>dear@0.8"):  # fmt: skip
        k = catalogue.index(name)
        trace = run(drawn, build.ReplayFactory(config), f"constant:{name}", 0)
        np.testing.assert_allclose(trace.reward, fixed.rewards[:, k], rtol=1e-9)
        assert fixed.measures[k].energy_j == pytest.approx(trace.raw["energy"].mean())
        assert fixed.measures[k].members_per_request == pytest.approx(trace.ran.sum(axis=1).mean())


def test_the_trace_has_a_row_a_request_with_lists_of_labels(several, tmp_path):
    several.replay("random", "bandit", seeds=1, trace=tmp_path / "t.parquet")
    trace = pl.read_parquet(tmp_path / "t.parquet").filter(pl.col("policy") == "random")
    log = several.logs[0]
    assert trace["rows"].to_list() == np.diff(log.bounds).tolist()
    assert trace["request"].to_list() == log.bounds[:-1].tolist()
    for row in trace.drop_nulls("reward").to_dicts():
        assert len(row["label"]) == len(row["truth"]) == row["rows"]
        right = [a == b for a, b in zip(row["label"], row["truth"], strict=True)]
        assert row["accuracy"] == pytest.approx(np.mean(right))


def test_the_previous_label_is_that_of_the_last_row_known(several):
    drawn = draw(several.logs[0], Traffic(delay=0), 0)
    log = drawn.log
    known, right = None, []
    for i in range(len(log)):
        labels = log.labels(i)
        if log.labelled[i]:
            right.append(np.mean([known == label for label in labels]))
            known = labels[-1]
    assert previous_label(log, drawn.arrivals, several.config.contract) == pytest.approx(np.mean(right))


def test_what_cannot_be_played_with_several_rows_a_request_is_refused(several):
    with pytest.raises(BandmasterError, match="one row a request"):
        several.replay("dynamic-weighted-majority", seeds=1)
    with pytest.raises(BandmasterError, match="no mix of them"):
        several.replay("random", seeds=1, order="mixed", mix=Mix(2, 10, 20))


@pytest.mark.parametrize(("request_of", "row"), [(["a", "b", "a"], 2), (["a", None, "b"], 1)])
def test_rows_of_one_request_must_follow_each_other(lab, tmp_path, request_of, row):
    names = [*request_of, *(f"r{i}" for i in range(27))]
    make_frame(30).with_columns(request=pl.Series(names)).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(BandmasterError, match=f"row {row}, column 'request'.*must follow each other"):
        build.recorded_log(lab.config, tmp_path / "log.parquet")


def test_a_log_that_names_every_row_a_request_of_its_own_is_as_one_without(lab, tmp_path):
    make_frame().with_columns(request=pl.int_range(pl.len())).write_parquet(tmp_path / "log.parquet")
    log = build.recorded_log(lab.config, tmp_path / "log.parquet")
    assert log.bounds is None
    assert log.truth.tolist() == lab.logs[0].truth.tolist()
