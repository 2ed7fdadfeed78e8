"""What was learned goes live only where it can be loaded and decides as it was learned; else what was before does."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bandmaster import build, hosting
from bandmaster.config import Config, load
from bandmaster.core import BandmasterError, DriftEvent, Experience, Outcome
from bandmaster.journal.places import locate
from bandmaster.serving import learning
from bandmaster.serving.learning import LearningLoop
from tests.serving.test_worker_and_learner import ask, make_loop, report
from tests.serving.tiny import LABELS, ROWS, project


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(learning, "SNAPSHOT_EVERY_S", 0.0)
    guard = {"mode": "live", "baseline": "linear"}
    return load(project(tmp_path, seed=3, probes={"share": 0.2}, guard=guard) / "bentofile.yaml")


@pytest.fixture
def loop(config: Config, hosted: hosting.Hosted) -> Iterator[LearningLoop]:
    """One that has published something."""
    loop = make_loop(config, hosted)
    teach(config, hosted, loop, 0)
    assert loop.state().snapshot_version == 1
    yield loop
    loop.close()


def teach(config: Config, hosted: hosting.Hosted, loop: LearningLoop, start: int) -> None:
    rows = slice(start, start + 10)
    made = ask(config, hosted, ROWS[rows])
    loop.settle([report(d, int(label)) for (d, _), label in zip(made, LABELS[rows], strict=True)])
    loop.tick()


def payload(loop: LearningLoop, version: int) -> bytes:
    found = loop._journal.latest_snapshot()
    assert found is not None
    assert found.version == version
    return found.payload


def version_of(config: Config, hosted: hosting.Hosted, snapshot: bytes) -> str:
    """The version of the policy in a snapshot."""
    learner = build.learner(
        config, build.catalogue(config, hosted.ensemble), np.random.default_rng(0), guarding=config.guarding
    )
    learner.load(snapshot)
    return learner.manager.policy.version


BREAKS = {
    "gives no distribution": ("probabilities", lambda state: np.full(3, np.nan)),
    "cannot be dumped so that it loads": ("dump", lambda: b"junk"),
    "raises": ("probabilities", lambda state: 1 / 0),
    "cannot be dumped": ("dump", lambda: 1 / 0),
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_policy_that_breaks_never_reaches_the_workers_and_what_was_before_stays_live(
    config: Config, hosted: hosting.Hosted, loop: LearningLoop, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, policy = payload(loop, 1), loop._learner.manager.policy
    name, broken = BREAKS[how]
    with monkeypatch.context() as patch:
        patch.setattr(policy, name, broken)
        teach(config, hosted, loop, 10)
        teach(config, hosted, loop, 20)
    after = payload(loop, 3)
    assert version_of(config, hosted, after) == version_of(config, hosted, good) == policy.version
    (alarm,) = (event for event in loop._journal.events() if event.name == "learner")
    assert alarm.cause.startswith("what was learned since snapshot 1 is given up, as it could not go live: ")
    teach(config, hosted, loop, 30)  # it is whole again
    assert version_of(config, hosted, payload(loop, 4)) != version_of(config, hosted, good)


def test_states_of_another_catalogue_or_configuration_are_no_reason_to_give_anything_up(
    config: Config, hosted: hosting.Hosted, loop: LearningLoop
) -> None:
    ((decision, answer),) = ask(config, hosted, ROWS[:1])
    others = (
        replace(decision, state=replace(decision.state, fits=(True, False), out=(True,) * 4)),
        replace(decision, state=replace(decision.state, profile="renamed")),
        replace(decision, plans=("gone",)),
    )
    loop._notice([(other, answer) for other in others])
    teach(config, hosted, loop, 10)
    assert not [event for event in loop._journal.events() if event.name == "learner"]


def test_an_alarm_that_cannot_be_kept_costs_no_lesson(
    config: Config, hosted: hosting.Hosted, loop: LearningLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(event: object) -> None:
        raise BandmasterError("the disk is full")

    monkeypatch.setattr(loop._journal, "save_event", full)
    monkeypatch.setattr(loop, "_report", lambda joined: DriftEvent("feedback:a", 0.0, "because"))
    teach(config, hosted, loop, 10)
    assert loop._journal.counts().joined == 20
    assert loop._learner.manager.policy.version.startswith("20")


def test_of_outcomes_reported_together_one_that_a_policy_fails_at_costs_no_other(
    config: Config, hosted: hosting.Hosted, loop: LearningLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, made = loop._learner.manager.policy, ask(config, hosted, ROWS[10:20])
    learn = policy.learn

    def fails_at_one(experience: Experience) -> None:
        if experience.joined.decision.id == made[4][0].id:
            raise ZeroDivisionError
        learn(experience)

    monkeypatch.setattr(policy, "learn", fails_at_one)
    receipts = loop.settle([report(d, int(label)) for (d, _), label in zip(made, LABELS[10:20], strict=True)])
    assert [receipt.status for receipt in receipts] == ["joined"] * 10
    assert [receipt.reward is None for receipt in receipts] == [k == 4 for k in range(10)]
    assert policy.version.startswith("19")


def test_what_is_learned_of_outcomes_reported_together_is_what_is_learned_of_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "AT_ONCE", 7)
    guard = {"mode": "live", "baseline": "linear"}
    block = project(tmp_path / "one", seed=3, probes={"share": 0.3}, guard=guard)
    config = load(block / "bentofile.yaml")
    hosted = hosting.host(config)
    reports = [report(d, int(label)) for (d, _), label in zip(ask(config, hosted, ROWS[:20]), LABELS, strict=False)]
    reports[5] = reports[5].model_copy(update={"labels": None, "reward": 0.25})
    shutil.copytree(block, tmp_path / "other")
    learned = []
    for root, posts in ((block, [[each] for each in reports]), (tmp_path / "other", [reports])):
        loop = make_loop(load(root / "bentofile.yaml"), hosted)
        for post in posts:
            loop.settle(post)
        learned.append(loop._learner.dump())
        assert loop._journal.counts().joined == 20
        loop.close()
    assert learned[0] == learned[1]


def test_a_learner_starts_over_an_outcome_that_does_not_fit_its_decision(
    config: Config, hosted: hosting.Hosted
) -> None:
    loop = make_loop(config, hosted)
    teach(config, hosted, loop, 0)
    ((decision, _),) = ask(config, hosted, ROWS[10:11])
    loop._journal.settle(decision.id, Outcome(time.time(), labels=(0, 0), source="a"))
    teach(config, hosted, loop, 11)
    loop.close()
    make_loop(config, hosted).close()


def test_a_probe_that_awaits_its_label_is_in_no_snapshot_once_it_is_forgotten(tmp_path: Path) -> None:
    block = project(tmp_path, seed=3, probes={"share": 1.0, "adapt": False})
    config = load(block / "bentofile.yaml")
    hosted = hosting.host(config)
    loop = make_loop(config, hosted)
    made = ask(config, hosted, ROWS[:4])
    loop._journal.drain()
    loop.tick()
    name = made[0][0].id
    assert name.encode() in loop._learner.dump()
    assert loop.forget(name, None)
    assert name.encode() not in loop._learner.dump()
    snapshots = loop._journal._all("SELECT sealed FROM snapshots")
    assert len(snapshots) == 1
    assert name.encode() not in snapshots[0][0]
    loop.close()


def test_what_is_forgotten_does_not_come_back_with_the_last_good_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(project(tmp_path, seed=3, probes={"share": 1.0, "adapt": False}) / "bentofile.yaml")
    hosted = hosting.host(config)
    loop = make_loop(config, hosted)
    name = ask(config, hosted, ROWS[:4])[0][0].id
    loop._journal.drain()
    loop.tick()
    assert name.encode() in loop._good
    with monkeypatch.context() as patch:
        patch.setattr(loop._learner.manager.policy, "probabilities", lambda state: np.full(3, np.nan))
        assert loop.forget(name, None)
    assert name.encode() not in loop._good
    assert name.encode() not in loop._learner.dump()
    assert all(name.encode() not in sealed for (sealed,) in loop._journal._all("SELECT sealed FROM snapshots"))
    loop.close()


def test_what_the_guard_has_counted_is_not_taken_back(
    config: Config, hosted: hosting.Hosted, loop: LearningLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = loop._learner.guard
    assert guard is not None
    with monkeypatch.context() as patch:
        patch.setattr(loop._learner.manager.policy, "dump", lambda: b"junk")
        made = ask(config, hosted, ROWS[10:20])
        loop._journal.drain()
        counted = guard.dump()
        loop.tick()
    assert guard.dump()["ledger"] == counted["ledger"]
    assert len(made) == 10


def test_a_restart_after_a_rollback_does_not_learn_again_what_broke_it(
    config: Config, hosted: hosting.Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = make_loop(config, hosted)
    teach(config, hosted, loop, 0)
    with monkeypatch.context() as patch:
        patch.setattr(loop._learner.manager.policy, "dump", lambda: b"junk")
        teach(config, hosted, loop, 10)
    version = loop._learner.manager.policy.version
    loop.close()
    again = make_loop(config, hosted)
    assert again._learner.manager.policy.version == version
    again.close()


def test_a_learner_that_lost_its_lease_changes_nothing_more(
    config: Config, hosted: hosting.Hosted, loop: LearningLoop
) -> None:
    path = locate(config.journal, config.root)
    path.with_name(f"{path.name}.lease").unlink()  # somebody tidied up: the lock is on a file that is gone
    other = make_loop(config, hosted)
    made = ask(config, hosted, ROWS[10:12])
    with pytest.raises(BandmasterError, match="another learner has taken this journal over"):
        loop.settle([report(made[0][0], int(LABELS[10]))])
    (receipt,) = other.settle([report(made[0][0], int(LABELS[10]))])
    assert receipt.status == "joined"
    other.close()
    loop._journal.take_over()  # so that it can be closed


def test_what_was_kept_long_enough_is_removed_as_time_goes_by(config: Config, hosted: hosting.Hosted) -> None:
    loop = make_loop(replace(config, retention_s=3600.0), hosted)
    made = ask(config, hosted, ROWS[:4])
    loop.settle([report(made[0][0], 0)])
    with sqlite3.connect(loop._journal.path) as database:
        database.execute("UPDATE decisions SET at = at - 7200 WHERE id <= ?", (sorted(d.id for d, _ in made)[2],))
    loop._expires = 0.0
    loop.tick()
    assert len(loop._journal.decisions(10)) == 1
    assert loop._expires == 0.0  # there may be more
    loop.tick()
    assert loop._expires > time.time()
    assert loop.state().counts["decisions"] == 4
    loop.close()
