"""The chronicle adds up what happened, no request twice and none left out, and gives it back by any window."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bandmaster.core import Answer, BandmasterError, Decision, Exposure, Joined, Outcome
from bandmaster.guard import Guarding
from bandmaster.journal.keys import Keys
from bandmaster.journal.sqlite import SqliteJournal
from bandmaster.learner import Learner
from bandmaster.policies.traditional import RandomPolicy
from bandmaster.testing import sample_experiences, sample_learner, sample_log
from bandmaster.visualizer.chronicle import (
    LEVELS,
    Chronicle,
    Courses,
    Window,
    chronicle_file,
    read_courses,
    read_extent,
)
from bandmaster.visualizer.keeper import PAGE, Keeper
from bandmaster.visualizer.tallies import DECIDED, SETTLED, Tally

START = 1_700_000_000.0
LOG = sample_log(600, seed=3)


def learner(share: float = 0.3) -> Learner:
    """One that probes, though its policy learns nothing from that."""
    made = sample_learner(lambda plans, *_: RandomPolicy(plans), LOG, probe_share=share)
    made.manager.compares = True
    return made


def recorded() -> tuple[Learner, list[Joined]]:
    """What a service would have recorded, one request every seven seconds."""
    made = learner()
    found = [experience.joined for experience in sample_experiences(made, LOG)]
    return made, [
        replace(j, decision=replace(j.decision, at=START + 7.0 * k, id=f"d{k:04}"),
                outcome=replace(j.outcome, at=START + 7.0 * k + 5.0))
        for k, j in enumerate(found)
    ]  # fmt: skip


class Service:
    """A journal with the keeper of its chronicle, as the learner has them."""

    def __init__(self, folder: Path, made: Learner) -> None:
        self.path, self.made = folder / "journal.db", made
        self.keeper = Keeper(self.path)
        self.journal = SqliteJournal(self.path, Keys(b"k" * 32), complete=self._decided)
        self.now = START

    def _decided(self, answered: Sequence[tuple[Decision, Answer]]) -> None:
        for decision, answer in answered:
            self.keeper.decided(self.made, decision, answer)

    def play(self, joined: Joined, *, settled: bool = True) -> None:
        self.journal.record(joined.decision, joined.answer)
        if settled:
            found = self.journal.settle(joined.decision.id, joined.outcome).joined
            assert found is not None
            self.keeper.learned(self.made, found, self.made.experience(found))
        self.now = joined.outcome.at

    def tick(self) -> None:
        self.now += 1.0
        self.keeper.tick(self.made, self.journal, self.now)

    def close(self) -> None:
        self.keeper.close()
        self.journal.close()


@pytest.fixture(scope="module")
def whole() -> tuple[Learner, list[Joined]]:
    return recorded()


@pytest.fixture
def service(tmp_path: Path, whole: tuple[Learner, list[Joined]]) -> Iterator[Service]:
    made = Service(tmp_path, whole[0])
    yield made
    made.close()


def everything(journal: Path, **asked: str) -> Courses:
    return read_courses(journal, Window(START - 60.0, START + 86400.0, **asked))


def figures(courses: Courses) -> dict[tuple[str, str], tuple[int, float | None]]:
    return {
        (series, name): (course.whole.n, course.whole.mean)
        for series, named in courses.series.items()
        for name, course in named.items()
    }


def alike(one: Courses, other: Courses) -> None:
    first, second = figures(one), figures(other)
    assert first.keys() == second.keys()
    for key, (n, mean) in first.items():
        assert second[key] == (n, pytest.approx(mean, rel=1e-5)), key


def test_what_is_read_is_what_happened(service: Service, whole: tuple[Learner, list[Joined]]) -> None:
    made, joined = whole
    for k, j in enumerate(joined):
        service.play(j, settled=k % 3 > 0)
    service.tick()
    found = figures(everything(service.path))
    settled = [j for k, j in enumerate(joined) if k % 3]
    rewards = [made.reward(j).value for j in settled]
    assert found["reward", settled[0].decision.policy] == (len(settled), pytest.approx(np.mean(rewards), rel=1e-5))
    probed = [j.decision.probed for j in joined]
    assert found["probed", ""] == (len(joined), pytest.approx(np.mean(probed), rel=1e-5))
    for name in made.ensemble.names:
        took = [said.latency_s for j in joined for said in j.answer.ran if said.name == name]
        assert found["ran", name] == (len(took), pytest.approx(np.mean(took), rel=1e-5))
    terms = sum(n * mean for (series, _), (n, mean) in found.items() if series == "term" and mean is not None)
    assert terms / len(settled) == pytest.approx(np.mean(rewards), rel=1e-4)
    assert {series for series, _ in found} <= DECIDED.keys() | SETTLED.keys()


def test_points_are_as_fine_as_a_window_allows_and_hold_what_fell_into_them(
    service: Service, whole: tuple[Learner, list[Joined]]
) -> None:
    for j in whole[1]:
        service.play(j)
    service.tick()
    at = np.array([j.decision.at for j in whole[1]])
    for length, step in ((600.0, 10), (3600.0, 10), (6 * 3600.0, 60), (86400.0, 600), (30 * 86400.0, 21600)):
        window = Window(START, START + length)
        courses = read_courses(service.path, window)
        assert courses.step == window.step == step
        assert step in LEVELS
        latency = courses.series["latency"][""]
        for when, n in zip(courses.at, latency.n, strict=True):
            assert n == ((at >= when) & (at < when + step)).sum()


def test_what_the_policy_or_a_plan_alone_would_have_earned_is_what_replaying_finds(
    service: Service, whole: tuple[Learner, list[Joined]]
) -> None:
    """Every request is probed here, so that what is known of the probed is known of all."""
    made = learner(1.0)
    scores = LOG.scores[LOG.rows]
    single = ((scores.argmax(axis=2) == LOG.truth[:, None]) & (scores.max(axis=2) > 0.0)).mean(axis=0)
    service.made = made
    for k, experience in enumerate(sample_experiences(made, LOG)):
        decision = replace(experience.joined.decision, at=START + k, id=f"d{k}")
        service.play(replace(experience.joined, decision=decision))
    service.tick()
    found = figures(everything(service.path))
    for m, name in enumerate(LOG.ensemble.names):
        assert found["alone accuracy", name] == (len(LOG), pytest.approx(single[m], rel=1e-5))
    assert found["alone", "the policy's choice"][1] == pytest.approx(
        found["reward", made.manager.policy.name][1], abs=0.1
    )


def test_with_a_guard_its_baseline_is_among_those_who_might_have_answered(tmp_path: Path) -> None:
    guarding = Guarding("shadow", "all~declared")
    made = sample_learner(lambda plans, *_: RandomPolicy(plans), LOG, probe_share=1.0, guarding=guarding)
    made.manager.compares = True
    service = Service(tmp_path, made)
    for k, experience in enumerate(sample_experiences(made, LOG.part(slice(0, 20)))):
        exposure = Exposure("m0", 0.5, 0.0, exposed=False, most=0.1)
        decision = replace(experience.joined.decision, at=START + k, id=f"d{k}", exposure=exposure)
        service.play(replace(experience.joined, decision=decision))
    service.tick()
    found = everything(service.path).series
    everybody = "+".join(LOG.ensemble.names)
    assert found["alone"].keys() == {*LOG.ensemble.names, everybody, f"{everybody}~declared", "the policy's choice"}
    assert found["alone"]["the policy's choice"].mean == found["alone"]["m0"].mean
    assert all(name.startswith("baseline: ") or name == made.manager.policy.name for name in found["reward"])
    service.close()


def test_a_service_that_was_killed_counts_nothing_twice_and_leaves_nothing_out(
    tmp_path: Path, whole: tuple[Learner, list[Joined]]
) -> None:
    """Killed after any number of requests since it flushed last: with what the journal has, and its chronicle not."""
    made, joined = whole
    for folder in ("killed", "whole"):
        (tmp_path / folder).mkdir()
    undisturbed = Service(tmp_path / "whole", made)
    for j in joined:
        undisturbed.play(j)
    undisturbed.tick()
    service, rng = Service(tmp_path / "killed", made), np.random.default_rng(0)
    for j in joined:
        service.play(j)
        if rng.random() < 0.1:
            service.tick()
        if rng.random() < 0.05:
            service.journal.close()
            service.keeper.chronicle.close()  # without a flush
            service = Service(tmp_path / "killed", made)
    for _ in range(2 * len(joined) // PAGE):
        service.tick()
    alike(everything(service.path), everything(undisturbed.path))
    service.close()
    undisturbed.close()


@pytest.mark.parametrize("damage", ["gone", "noise", "of another version"])
def test_a_chronicle_that_is_lost_is_made_anew_from_the_journal(
    service: Service, whole: tuple[Learner, list[Joined]], damage: str
) -> None:
    for k, j in enumerate(whole[1]):
        service.play(j, settled=k % 3 > 0)
    service.tick()
    before, file = everything(service.path), chronicle_file(service.path)
    service.keeper.close()
    if damage == "gone":
        file.unlink()
    elif damage == "noise":
        file.write_bytes(b"noise" * 1000)
    else:
        connection = sqlite3.connect(file)
        connection.execute("PRAGMA user_version = 77")
        connection.close()
    service.keeper = Keeper(service.path)
    for _ in range(2 * len(whole[1]) // PAGE):
        service.tick()
    alike(everything(service.path), before)


def test_a_window_can_be_of_one_policy_or_profile(service: Service, whole: tuple[Learner, list[Joined]]) -> None:
    for k, j in enumerate(whole[1][:90]):
        service.play(replace(j, decision=replace(j.decision, policy=("one", "two", "two")[k % 3])))
    service.tick()
    extent = read_extent(service.path)
    assert (extent.policies, extent.profiles) == (["one", "two"], ["default"])
    assert extent.about is not None
    assert extent.about.members == LOG.ensemble.names
    assert (extent.start, extent.end) == (START // 10 * 10, (START + 7.0 * 89) // 10 * 10 + 10)
    counted = {of: everything(service.path, policy=of).series["latency"][""].whole.n for of in ("one", "two")}
    assert counted == {"one": 30, "two": 60}
    assert everything(service.path, profile="none").series == {}


def test_what_cannot_be_added_costs_nobody_a_lesson(
    service: Service, whole: tuple[Learner, list[Joined]], caplog: pytest.LogCaptureFixture
) -> None:
    service.keeper.chronicle.close()
    for j in whole[1][:3]:
        service.play(j)
    service.tick()
    assert "the dashboard lacks something" in caplog.text


def test_intervals_hold_the_truth_as_often_as_they_say(tmp_path: Path, whole: tuple[Learner, list[Joined]]) -> None:
    """Values that are seen the more rarely the higher they are, each weighed by that. Of 200 95 % intervals 178 or
    fewer hold the mean with probability .0005.
    """
    rng, decision, held = np.random.default_rng(1), whole[1][0].decision, 0
    values = rng.random(400)
    p = 0.1 + 0.8 * (1.0 - values)
    for run in range(200):
        journal = tmp_path / f"{run}.db"
        chronicle = Chronicle(journal)
        seen = np.flatnonzero(rng.random(400) < p)
        for k in seen:
            told = [Tally("alone", "x", float(values[k]), float(1.0 / p[k]))]
            chronicle.decided(replace(decision, id=f"{k}", at=START), told)
        chronicle.flush()
        chronicle.close()
        mean = everything(journal).series["alone"]["x"].whole
        assert mean.low is not None
        assert mean.high is not None
        held += mean.low <= values.mean() <= mean.high
    assert held > 178


def test_where_there_is_no_chronicle_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(BandmasterError, match=r"journal\.db\.chronicle: is not there; a service makes it"):
        everything(tmp_path / "journal.db")


def test_an_outcome_is_added_once_only(service: Service, whole: tuple[Learner, list[Joined]]) -> None:
    service.play(whole[1][0])
    with pytest.raises(AssertionError, match="outcome 1 was added before"):
        service.keeper.chronicle.settled(replace(whole[1][0], seq=1), [])
    assert isinstance(whole[1][0].outcome, Outcome)
