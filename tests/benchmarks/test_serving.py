"""What is measured of real servers, in small: the same processes, turns of a fraction of a second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bandmaster.replay.playing import run
from bandmaster.replay.traffic import Traffic, draw
from bandmaster.testing import sample_decision
from benchmarks import stale
from benchmarks.scenario import Made, ServingCost, Stale
from benchmarks.serving import cost, members, scale
from benchmarks.serving.load import Load, load
from benchmarks.serving.servers import UNTRACED, project, served
from benchmarks.sources import Place, logs_of


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    path = tmp_path_factory.mktemp("load") / "requests.npz"
    members.write_requests(path)
    with load(path) as ask:
        yield ask


@pytest.mark.extras
def test_both_services_are_asked_by_turns_and_their_processors_read(
    ask: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "WARM_UP_S", 0.5)
    scenario = ServingCost(id="c", why="x", turns=2, turn_s=0.3)
    at = project(tmp_path / "equal", members.small(), "Inline")
    found = cost._compared(scenario, ask, at, "equal", "Inline", equal=True, labels=False)
    for callers in cost.CALLERS:
        for who in (cost.THEIRS, cost.OURS):
            assert found[f"equal_{who}_per_s_{callers}"] > 0.0
            assert found[f"equal_{who}_worker_us_{callers}"] > 0.0
            assert found[f"equal_{who}_accuracy"] > 0.5
        assert found[f"equal_theirs_learner_us_{callers}"] == 0.0


def test_of_several_starts_the_median_is_told_and_of_one_figure_the_spread() -> None:
    found = cost._over([{"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 9.0}, {"a": 6.0, "b": 1.0}], "b")
    assert found == {"a": 2.0, "b": 3.0, "b_least": 1.0, "b_most": 9.0}


@pytest.mark.extras
def test_rewards_are_reported_until_the_learner_has_all(ask: Load, tmp_path: Path) -> None:
    at = project(tmp_path / "rewards", members.small(), "Inline")
    with served(".", at, "ours", settings=UNTRACED) as server:
        found = scale._rewards(ask, server, 1000, 2)
        late = scale._lag(ask, server, at / "ours" / "journal" / "orchestration.db", 1.0)
    assert (found["rewards"], found["rewards_counted"]) == (1000.0, 1.0)
    assert (found["rewards_per_s"] or 0.0) >= (found["rewards_per_s_least"] or 0.0) > 0.0
    assert 0.5 < (late["lag_seen"] or 0.0) <= 1.0
    assert 0.0 <= (late["lag_p50_s"] or 0.0) <= (late["lag_p99_s"] or 0.0) <= (late["lag_max_s"] or 0.0) < 30.0


def test_a_decision_is_late_by_how_long_there_had_been_a_newer_snapshot() -> None:
    published, decision = scale._Published(at=[10.0, 12.0], state=[3, 7]), sample_decision(at=15.0)
    versions = ((0, 5.0), (2, 5.0), (3, 3.0), (6, 3.0), (7, 0.0), (9, 0.0))  # the state's, and how late
    late = [published.late(replace(decision, state=replace(decision.state, version=v))) for v, _ in versions]
    assert late == [expected for _, expected in versions]
    assert published.late(replace(decision, at=11.0, state=replace(decision.state, version=5))) == 0.0


def test_a_follower_that_is_never_behind_earns_what_the_learner_would(config_file: Path, place: Place) -> None:
    scenario = Stale(
        id="s", why="x", source=Made(rows=300, classes=4, features=3), config=str(config_file), policy="bandit",
        lags_s=(0.0, 1.0), per_s=50,
    )  # fmt: skip
    config = scenario.read_config()
    (log, *_) = logs_of(scenario, config, place, 1, lambda line: None)
    drawn = draw(log, Traffic(), 0)
    known, every, late = (run(drawn, stale.StaleFactory(config, n), "bandit", 0).reward for n in (0, 1, 50))
    np.testing.assert_array_equal(known, every)
    assert not np.array_equal(known, late)
    figures = stale.measure(scenario, config, [log], 2, lambda line: None)
    assert figures.keys() == {"reward_0", "reward_1", "lost_1", "lost_1_low", "lost_1_high"}
