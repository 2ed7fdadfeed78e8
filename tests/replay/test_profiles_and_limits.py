"""Replays in which requests bring preferences of their own, and in which limits hold by the log's own clock."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bandmaster import build, config
from bandmaster.core import BandmasterError
from bandmaster.replay import Traffic, draw, fixed_plans, run
from tests.replay.conftest import CONFIG, make_frame

PROFILES = "  profiles: {sure: {accuracy: 1}, clear: {explainability: 1}}\n"
NAMES = ["default", "sure", "clear"]


def made(folder: Path, more: str, frame: pl.DataFrame):
    (folder / "config.yaml").write_text(CONFIG + more)
    frame.write_parquet(folder / "log.parquet")
    read = config.load(folder / "config.yaml")
    return read, build.recorded_log(read, folder / "log.parquet")


@pytest.fixture
def asked(tmp_path):
    frame = make_frame()
    named = [NAMES[i % 3] for i in range(len(frame))]
    return made(
        tmp_path, PROFILES, frame.with_columns(profile=pl.Series([n if i % 7 else None for i, n in enumerate(named)]))
    )


def test_each_request_is_judged_by_its_own_profile_and_its_trace_says_which(asked):
    read, log = asked
    drawn = draw(log, Traffic("shuffled"), 0)
    trace = run(drawn, build.ReplayFactory(read), "scoring", 0)
    assert set(trace.profiles) == set(NAMES)
    assert trace.profiles == tuple(log.profiles[row] for row in trace.row)
    for i in np.flatnonzero(~np.isnan(trace.reward)):
        weights = {m.name: m.weight for m in read.contract.under(trace.profiles[i]).metrics if m.weight}
        assert trace.reward[i] == pytest.approx(sum(w * trace.terms[name][i] for name, w in weights.items()))


def test_scoring_takes_for_each_profile_what_its_weights_prefer(asked):
    read, log = asked
    trace = run(draw(log, Traffic(), 0), build.ReplayFactory(read), "scoring", 0)
    clear = np.array(trace.profiles) == "clear"
    assert (trace.raw["explainability"][clear] == 0.9).all(), "the cheap member's alone"
    assert (trace.raw["explainability"][~clear] < 0.9).any()


@pytest.mark.parametrize("policy", ["constant:mid", "constant:cheap>dear@0.8"])
def test_a_constant_plan_earns_what_hindsight_says_under_every_requests_profile(asked, policy):
    read, log = asked
    drawn, plans = draw(log, Traffic(), 0), build.catalogue(read, log.ensemble)
    trace = run(drawn, build.ReplayFactory(read), policy, 0)
    fixed = fixed_plans(drawn, plans, read.contract, build.tracking(read))
    assert np.allclose(trace.reward, fixed.rewards[:, plans.index(policy.partition(":")[2])], equal_nan=True)


def test_a_learner_is_taught_each_rewards_under_the_profile_of_its_request(asked):
    read, log = asked
    seen = {}

    def make(spec, log, seed):
        parts = build.ReplayFactory(read)(spec, log, seed)
        learn = parts.learner.manager.learn

        def spied(experience):
            seen[experience.joined.decision.id] = experience
            learn(experience)

        parts.learner.manager.learn = spied
        return parts

    trace = run(draw(log, Traffic(), 0), make, "vw", 0)
    assert len(seen) > 200
    for name, experience in seen.items():
        assert experience.joined.decision.profile == trace.profiles[int(name)]
        assert experience.reward.value == pytest.approx(trace.reward[int(name)])


def test_an_unknown_profile_is_refused_with_its_row_and_the_known_ones(tmp_path):
    frame = make_frame().with_columns(profile=pl.Series(["sure"] * 299 + ["fats"]))
    with pytest.raises(BandmasterError, match=r"log\.parquet: row 299, column 'profile'.*'fats'.*default, sure, clear"):
        made(tmp_path, PROFILES, frame)


def test_a_column_called_profile_may_mean_anything_where_the_config_has_none(tmp_path):
    _, log = made(tmp_path, "", make_frame().with_columns(profile=pl.lit("gold customer")))
    assert log.profiles is None
    assert "profile" in log.unused


def test_a_budget_holds_by_the_logs_own_clock(tmp_path):
    read, log = made(tmp_path, "  limits: {cost: 0.6 / 5 s}\n", make_frame())
    trace = run(draw(log, Traffic(), 0), build.ReplayFactory(read), "random", 0)
    assert trace.over_limits.any()
    assert not trace.over_limits.all()
    for i in np.flatnonzero(~trace.over_limits):
        assert trace.raw["cost"][max(0, i - 4) : i + 1].sum() <= 0.6 + 1e-9  # a request a second


def test_a_deadline_holds_by_the_members_recent_latency(tmp_path):
    frame = make_frame()
    frame = frame.with_columns(
        pl.lit(s).alias(f"{n}__latency_s") for n, s in (("cheap", 0.002), ("mid", 0.01), ("dear", 0.06))
    )
    read, log = made(tmp_path, "  limits: {deadline: 13 ms}\n", frame)
    trace = run(draw(log, Traffic(), 0), build.ReplayFactory(read), "bandit", 0)
    assert trace.raw["latency"].max() <= 0.013
    assert not trace.over_limits.any()
    assert {"cheap", "mid"} <= {m for name in trace.plans for m in build.parse_plan(name, log.ensemble).members}
