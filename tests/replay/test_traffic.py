"""How a log becomes traffic: the class mix redrawn, and the last share of a run that figures are taken over."""

import math
from dataclasses import astuple, replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandmaster import build
from bandmaster.core import BandmasterError
from bandmaster.intervals import block_interval, t_interval
from bandmaster.replay import Mix, Traffic, draw, fixed_plans, run
from bandmaster.table import NO_LABEL

MIX = Mix(classes=2, every=90, requests=400)


def mixed(lab, mix=MIX, seed=0):
    return draw(lab.logs[0], Traffic("mixed", mix=mix), seed).log


# ---- The class mix -------------------------------------------------------------------------------------------


@given(st.integers(1, 3), st.integers(1, 120), st.integers(1, 700), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_every_phase_has_requests_of_its_few_classes_and_none_again_before_all_have_been(
    lab, classes, every, requests, seed
):
    log = mixed(lab, Mix(classes, every, requests), seed)
    assert len(log) == len(log.phases) == requests
    assert list(dict.fromkeys(log.phases)) == [f"mix {k}" for k in range(1, math.ceil(requests / every) + 1)]
    per_class = np.bincount(lab.logs[0].truth[lab.logs[0].truth != NO_LABEL])
    for start in range(0, requests, every):
        rows, truth = log.rows[start : start + every], log.truth[start : start + every]
        found = np.unique(truth)
        assert NO_LABEL not in found
        assert len(found) <= classes
        times = np.unique(rows, return_counts=True)[1]
        if len(found) == classes:
            assert times.max() == math.ceil(len(rows) / per_class[found].sum())
            assert times.max() - times.min() <= 1


def test_a_mixed_log_plays_the_rows_that_it_names(lab):
    log, given_log = mixed(lab), lab.logs[0]
    for i in (0, 7, 399):
        row = log.request(i).rows.item()
        assert log.truth[i] == given_log.truth[row]
        np.testing.assert_array_equal(log.features[i], given_log.features[row])
    assert (np.diff(log.at) > 0).all()  # 400 requests of a log of 300


def test_seeds_redraw_the_mix_and_one_seed_draws_it_once(lab):
    drawn = [mixed(lab, seed=seed).rows.tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_labels_are_as_late_in_a_mix_as_told(lab):
    drawn = draw(lab.logs[0], Traffic("mixed", delay=30, mix=MIX), seed=0)
    assert all(arriving == ((i - 30,) if i >= 30 else ()) for i, arriving in enumerate(drawn.arrivals))


def test_results_name_the_mix_and_its_phases(lab, tmp_path):
    results = lab.replay("random", order="mixed", mix=MIX, seeds=2, trace=tmp_path / "t.parquet").as_json()
    assert results["traffic"]["mix"] == {"classes": 2, "every": 90, "requests": 400}
    phases = results["policies"]["random"]["by_phase"]
    lengths = {"mix 1": 90, "mix 2": 90, "mix 3": 90, "mix 4": 90, "mix 5": 40}
    assert {p["phase"]: p["rows"] for p in phases} == lengths
    assert [p["phase"] for p in results["best_constant_plan"]["by_phase"]] == list(lengths)
    trace = pl.read_parquet(tmp_path / "t.parquet")
    assert trace.group_by("seed").len()["len"].to_list() == [400, 400]
    by_seed = trace.group_by("seed", maintain_order=True).agg(pl.col("reward").mean())["reward"].to_numpy()
    assert results["policies"]["random"]["interval"] == pytest.approx(t_interval(by_seed), rel=1e-4)


@pytest.mark.parametrize(
    ("order", "mix", "told"),
    [
        ("mixed", None, "mixed traffic has a mix"),
        ("kept", MIX, "mixed traffic has a mix"),
        ("mixed", Mix(0, 10, 10), "must be 1 or more"),
        ("mixed", Mix(2, 10, 0), "must be 1 or more"),
        ("mixed", Mix(4, 10, 10), "4 classes cannot be drawn from the 3"),
    ],
)
def test_a_mix_that_cannot_be_drawn_is_refused(lab, order, mix, told):
    with pytest.raises(BandmasterError, match=told):
        lab.replay("random", order=order, mix=mix, seeds=1)


# ---- The last share ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def last_third(lab, tmp_path_factory):
    trace = tmp_path_factory.mktemp("last") / "t.parquet"
    results = lab.replay("constant:mid", "scoring", order="shuffled", seeds=3, last=1 / 3, trace=trace).as_json()
    return results, pl.read_parquet(trace)


def test_figures_are_those_of_the_last_share(last_third):
    results, trace = last_third
    assert results["last"] == pytest.approx(1 / 3, rel=1e-5)
    assert len(trace) == 2 * 3 * 300  # warm-up is played and traced
    counted = trace.filter(pl.col("position") >= 200).with_columns(
        members_per_request=pl.col("ran").list.len(), probe_share=pl.col("probed").cast(float)
    )
    for name, result in results["policies"].items():
        played = counted.filter(pl.col("policy") == name)
        for figure in ("reward", "accuracy", "confidence", "latency_s", "members_per_request", "probe_share"):
            by_seed = played.group_by("seed", maintain_order=True).agg(pl.col(figure).mean())[figure]
            assert result[figure] == pytest.approx(by_seed.mean(), rel=1e-5), (name, figure)
        rewards = played.group_by("seed", maintain_order=True).agg(pl.col("reward").mean())["reward"].to_numpy()
        assert result["interval"] == pytest.approx(t_interval(rewards), rel=1e-4)
        for phase in result["by_phase"]:
            of = played.filter(pl.col("phase") == phase["phase"])
            assert phase["rows"] == round(len(of) / 3)
            by_seed = of.group_by("seed").agg(pl.col("reward").mean())["reward"]
            assert phase["reward"] == pytest.approx(by_seed.mean(), rel=1e-5)


def test_advantages_over_the_last_share_are_paired(last_third):
    results, trace = last_third
    counted = trace.filter(pl.col("position") >= 200)
    table = counted.group_by("policy", "seed").agg(pl.col("reward").mean()).pivot("policy", index="seed").sort("seed")
    paired = (table["scoring"] - table["constant:mid"]).to_numpy()
    advantage = results["policies"]["scoring"]["advantage"]["constant:mid"]
    assert advantage["interval"] == pytest.approx(t_interval(paired), abs=1e-6)


def test_yardsticks_of_the_last_share_are_constant_policies_that_have_learned_before(lab):
    plans = ("cheap", "mid", "dear", "cheap+mid+dear", "cheap+mid+dear~recent")
    results = lab.replay(*(f"constant:{plan}" for plan in plans), seeds=1, delay=3, last=0.25)
    singles = {plan: results.policies[f"constant:{plan}"].measures.reward for plan in plans[:3]}
    assert results.best_constant.plan == max(singles, key=singles.get)
    assert results.best_constant.measures.reward == pytest.approx(max(singles.values()))
    assert results.all_members.measures.reward == pytest.approx(
        results.policies["constant:cheap+mid+dear"].measures.reward
    )
    drawn = draw(lab.logs[0], Traffic(delay=3), seed=0)
    fixed = fixed_plans(drawn, lab.catalogue, lab.config.contract, build.tracking(lab.config), first=225)
    for plan in plans:
        played = results.policies[f"constant:{plan}"].measures
        assert astuple(fixed.measures[lab.catalogue.index(plan)]) == pytest.approx(astuple(played)), plan


def test_oracle_and_blocks_are_of_the_last_share(lab, tmp_path):
    singles = [f"constant:{name}" for name in ("cheap", "mid", "dear")]
    results = lab.replay(*singles, seeds=1, last=0.4, trace=tmp_path / "t.parquet").as_json()
    trace = pl.read_parquet(tmp_path / "t.parquet").filter(pl.col("position") >= 180)
    best = trace.group_by("request").agg(pl.col("reward").max())["reward"].mean()
    assert results["oracle"]["reward"] == pytest.approx(best, rel=1e-5)
    cheap = trace.filter(pl.col("policy") == "constant:cheap")["reward"].drop_nulls().to_numpy()
    assert results["policies"]["constant:cheap"]["interval"] == pytest.approx(block_interval(cheap), rel=1e-4)


def test_a_phase_that_was_over_before_the_last_share_has_no_figures(lab):
    log = lab.logs[0]
    once = replace(log, phases=("start",) * 150 + ("end",) * 150)
    results = replace(lab, logs=(once, once)).replay("random", seeds=1, last=0.2).as_json()
    assert [(p["phase"], p["rows"]) for p in results["policies"]["random"]["by_phase"]] == [("end", 60)]


def test_a_last_share_without_labels_or_that_is_no_share_is_refused(lab):
    log = lab.logs[0]
    mute = replace(log, truth=np.where(np.arange(len(log)) < 200, log.truth, NO_LABEL))
    with pytest.raises(BandmasterError, match=r"no label in its last 0\.2 of requests"):
        replace(lab, logs=(mute, mute)).replay("random", seeds=1, last=0.2)
    for last in (0.0, 1.5, math.nan):
        with pytest.raises(BandmasterError, match="is no share of the requests"):
            lab.replay("random", seeds=1, last=last)


# ---- Memory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("traffic", [Traffic(), Traffic("shuffled", delay=20, label_share=0.3)])
def test_a_replay_holds_no_more_decisions_than_still_await_their_label(lab, traffic):
    drawn, held, made = draw(lab.logs[0], traffic, seed=0), [], []

    def make(policy, log, seed):
        parts = build.ReplayFactory(lab.config)(policy, log, seed)
        record = parts.journal.record

        def spied(decision, answer):
            record(decision, answer)
            held.append(len(parts.journal._stored))

        parts.journal.record = spied
        made.append(parts.journal)
        return parts

    run(drawn, make, "random", seed=0)
    assert max(held) <= 22
    counts = made[0].counts()
    assert (counts.decisions, counts.joined) == (300, sum(map(len, drawn.arrivals)))
    assert (counts.early, counts.late, counts.duplicate) == (0, 0, 0)
