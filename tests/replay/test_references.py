"""Peers that only replay can play: they do what their papers say, and everything they run is charged."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from bandmaster.config import Source, parse
from bandmaster.core import NO_ANSWER, BandmasterError
from bandmaster.references import THETA, Course, fit, frugalml, previous_label, said, vote, weighted_majority
from bandmaster.replay import Traffic, draw, figures_of, refer

NAMES = ("dynamic-weighted-majority", "knora-u", "frugalml-offline")


@pytest.fixture(scope="module")
def course(lab):
    drawn = draw(lab.logs[0], Traffic(), 0)
    return Course(drawn.log, drawn.arrivals, lab.config.contract, figures_of(drawn.log, lab.config.contract), 0)


def test_the_previous_label_is_the_newest_that_had_arrived_before_the_request(lab):
    drawn = draw(lab.logs[0], Traffic(delay=3), 0)
    truth = drawn.log.truth
    right, asked = 0, 0
    for i in range(100, len(truth)):
        before = [t for t in truth[: i - 3] if t >= 0]  # the label of i - 4 arrived at i - 1
        asked += truth[i] >= 0
        right += truth[i] >= 0 and bool(before) and before[-1] == truth[i]
    assert previous_label(drawn.log, drawn.arrivals, lab.config.contract, 100) == pytest.approx(right / asked)


def test_where_no_label_ever_arrives_the_previous_label_is_always_wrong(lab):
    drawn = draw(lab.logs[0], Traffic(label_share=0.0), 0)
    assert previous_label(drawn.log, drawn.arrivals, lab.config.contract) == 0.0


def test_the_previous_label_is_always_reported(lab):
    drawn = draw(lab.logs[0], Traffic(), 0)
    results = lab.replay("random", seeds=1).as_json()
    found = previous_label(drawn.log, drawn.arrivals, lab.config.contract)
    assert results["previous_label"]["accuracy"] == pytest.approx(found, rel=1e-5)


def test_a_vote_goes_to_the_class_with_the_greatest_weight_and_abstentions_count_for_nothing():
    votes = np.array([[0, 1, 1], [2, NO_ANSWER, 0], [NO_ANSWER] * 3])
    label, share = vote(votes, np.array([[3.0, 1.0, 1.0], [1.0, 9.0, 3.0], [1.0, 1.0, 1.0]]), 3)
    assert label.tolist() == [0, 0, NO_ANSWER]
    assert share.tolist() == pytest.approx([0.6, 0.75, 0.0])


def test_a_mistake_halves_a_members_weight_down_to_the_least_and_the_best_weighs_one(course):
    weights = weighted_majority(course).weights
    assert weights[0].tolist() == [1.0, 1.0, 1.0]
    votes, now = said(course.log), np.ones(3)
    for i, arriving in enumerate(course.arrivals):
        assert weights[i] == pytest.approx(now)
        for j in arriving:
            wrong = votes[j] != course.log.truth[j]
            now = np.array([w / 2 if bad else w for w, bad in zip(now, wrong, strict=True)])
            now = np.maximum(now / now.max(), THETA)


def test_weighted_majority_follows_the_member_that_became_the_best_and_pays_for_all(lab):
    log = lab.logs[0]
    trace = refer(draw(log, Traffic(delay=0), 0), lab.config.contract, "dynamic-weighted-majority", 0)
    assert trace.ran.all()
    assert trace.raw["energy"] == pytest.approx(0.082)  # all three by profile, as the contract wants it
    late = np.array(log.phases) == "night"
    late[:100] = late[200:] = False  # the end of the first night, where cheap is almost always wrong and mid right
    mid = (said(log)[:, 1] == log.truth)[late].mean()
    assert np.nanmean(trace.raw["accuracy"][late]) > mid - 0.1


def test_knora_union_runs_those_with_a_vote_and_probes_are_charged(lab):
    trace = refer(draw(lab.logs[0], Traffic(), 0), lab.config.contract, "knora-u", 0)
    assert 0.0 < trace.probed.mean() < 0.5
    energy = np.array([0.002, 0.01, 0.07])
    charged = trace.ran | trace.probed[:, None]
    assert trace.raw["energy"] == pytest.approx(charged @ energy)
    assert trace.ran.any(axis=1).all()


def test_no_other_base_thresholds_and_add_ons_earn_more_on_what_frugalml_was_fitted_on(lab, course):
    requests = np.flatnonzero(course.log.truth >= 0)[:60]
    strategy = fit(course, requests)
    votes, sure = said(course.log), course.log.scores.max(axis=-1).astype(float)

    def earned(base, below, add_on):
        """Total reward of the requests, and by the base's answer."""
        total = np.zeros(4)
        for i in requests:
            k = votes[i, base]
            asked = [base] if sure[i, base] >= below[k] or add_on[k] == base else [base, int(add_on[k])]
            raw = {
                "accuracy": float(votes[i, asked[-1]] == course.log.truth[i]),
                "confidence": sure[i, asked[-1]],
                "latency": course.figures.latency_s[i, asked].sum(),
                "energy": course.figures.energy_j[i, asked].sum(),
                "cost": course.figures.cost[i, asked].sum(),
                "explainability": course.figures.explainability[i, asked[-1]],
            }
            total[k] += lab.config.contract.reward(raw).value
        return total

    best = -np.inf
    for base in range(3):
        choices = [
            earned(base, np.full(4, q), np.full(4, member))
            for member in range(3)
            for q in [*np.unique(sure[requests, base]), np.inf]
        ]
        best = max(best, np.max(choices, axis=0).sum())  # each answer's choice is its own
    assert earned(strategy.base, strategy.below, strategy.add_on).sum() == pytest.approx(best)


def test_frugalml_plays_each_half_with_what_was_fitted_on_the_other(course):
    played, half = frugalml(course), len(course.log) // 2
    for part, other in ((np.arange(half), np.arange(half, 2 * half)), (np.arange(half, 2 * half), np.arange(half))):
        strategy = fit(course, other)
        base = course.log.ensemble.names[strategy.base]
        assert all(played.plans[p].partition(">")[0] == base for p in played.plan[part])
    # What its second half learned from must not depend on the labels it is judged by.
    truth = course.log.truth.copy()
    truth[half:] = NO_ANSWER
    blind = frugalml(replace(course, log=replace(course.log, truth=truth)))
    assert [blind.plans[p] for p in blind.plan[half:]] == [played.plans[p] for p in played.plan[half:]]


def test_references_are_played_by_name_and_marked_where_they_are_hindsight(lab, tmp_path):
    results = lab.replay("random", *NAMES, order="shuffled", seeds=2, trace=tmp_path / "t.parquet").as_json()
    assert [n for n, r in results["policies"].items() if r.get("hindsight")] == ["frugalml-offline"]
    trace = pl.read_parquet(tmp_path / "t.parquet")
    for name in NAMES:
        rewards = trace.filter(pl.col("policy") == name).group_by("seed").agg(pl.col("reward").mean())["reward"]
        assert results["policies"][name]["reward"] == pytest.approx(rewards.mean(), rel=1e-5)


def test_references_are_refused_where_they_cannot_be_judged_or_have_nothing_to_go_by(lab):
    block = {"contract": {"accuracy": {"weight": 1, "from": "consensus"}}, "members": {n: {} for n in "abc"}}
    by_consensus = replace(lab, config=parse(block, Source("test")))
    with pytest.raises(BandmasterError, match="takes accuracy from consensus"):
        by_consensus.replay("dynamic-weighted-majority", seeds=1)
    bare = replace(lab.logs[0], features=np.zeros((len(lab.logs[0]), 0)))
    with pytest.raises(BandmasterError, match="no x0"):
        replace(lab, logs=(bare, bare)).replay("knora-u", seeds=1)
