"""``simulation:``: what may be described, and what is told of what may not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bandmaster.config import ConfigError, load
from bandmaster.config.simulation import load_simulation, simulation_text
from bandmaster.simulator import ModelRL, Simulation, Timing

EXAMPLE = Path(__file__).parents[2] / "configs" / "simulated.yaml"
MEMBERS = "members: {a: {accuracy: 0.9, latency: 20 ms}}"


def read(folder: Path, text: str) -> Simulation:
    path = folder / "simulation.yaml"
    path.write_text(text)
    return load_simulation(path)


def test_the_example_is_read_whole() -> None:
    found = load_simulation(EXAMPLE)
    assert (found.classes, found.regions) == (("car", "bus", "bicycle", "pedestrian"), ("day", "night"))
    phases = [(p.name, p.start, p.over) for p in found.phases]
    assert phases == [("roads", 0, 0), ("streets", 4000, 500), ("nights", 7000, 500)]
    large = found.members[-1]
    assert (large.host, large.energy_j) == ("cuda", {"cpu": 2.5, "cuda": 0.9})
    assert large.timing == Timing(0.12, 0.06, 2.0, 0.3)
    np.testing.assert_allclose(large.accuracy, [[0.95] * 4, [0.85] * 4])
    highway = found.members[1].accuracy
    np.testing.assert_allclose(highway[0], [0.97, 0.95, 0.6, 0.6])
    odds = 0.97 / 0.03 * (0.5 / 0.5) / (0.6 / 0.4)  # a car's, times the night's against all
    assert highway[1, 0] == pytest.approx(odds / (1.0 + odds))
    assert (found.rate, found.delay, found.overlap) == (50.0, 100, 0.3)


def test_little_need_be_said(tmp_path: Path) -> None:
    log = ModelRL(read(tmp_path, f"simulation: {{classes: [0, 1], {MEMBERS}}}")).log(0, 200)
    assert (len(log), log.features.shape, set(log.phases or ())) == (200, (200, 0), {"phase 0"})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    first = load_simulation(EXAMPLE)
    again = read(tmp_path, simulation_text(first))
    one, other = (ModelRL(s).log(3, 3000) for s in (first, again))
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
    np.testing.assert_allclose(one.latency_s, other.latency_s, rtol=1e-4)
    np.testing.assert_array_equal(one.truth, other.truth)
    assert one.phases == other.phases


def test_a_model_on_another_host_answers_alike_and_is_written_and_read_back(tmp_path: Path) -> None:
    members = (
        "members: {gpu: {accuracy: 0.8, fails: 0.1, latency: 2 ms, energy: {cuda: 1 J}},"
        " other: {accuracy: 0.8, latency: 2 ms}, cpu: {like: gpu, latency: {mean: 9 ms, noise: 0.1}, energy: 3 J}}"
    )
    first = read(tmp_path, f"simulation: {{classes: [0, 1], {members}}}")
    for simulation in (first, read(tmp_path, simulation_text(first))):
        log = ModelRL(simulation).log(0, 500)
        np.testing.assert_array_equal(log.scores[:, 2], log.scores[:, 0])
        assert not np.array_equal(log.scores[:, 1], log.scores[:, 0])
        assert log.latency_s[:, 2].min() > log.latency_s[:, 0].max()
        assert log.energy_j.mean(axis=0) == pytest.approx([1.0, 0.0, 3.0], rel=0.05)


def test_confidence_by_class_and_region_is_written_and_read_back(tmp_path: Path) -> None:
    member = "a: {accuracy: 0.9, latency: 1 ms, confidence: {right: {all: 0.8, x: 0.95, night: 0.6}, wrong: 0.7}}"
    first = read(tmp_path, f"simulation: {{classes: [x, y], regions: [day, night], members: {{{member}}}}}")
    odds = 0.95 / 0.05 * (0.6 / 0.4) / (0.8 / 0.2)
    np.testing.assert_allclose(first.members[0].right, [[0.95, 0.8], [odds / (1.0 + odds), 0.6]])
    again = read(tmp_path, simulation_text(first))
    np.testing.assert_allclose(again.members[0].right, first.members[0].right, atol=1e-5)
    assert (again.members[0].wrong == 0.7).all()


def test_requests_come_as_those_of_a_log_that_is_named(tmp_path: Path) -> None:
    pl.DataFrame({"ts": [10.0, 10.5, 12.0, 12.0]}).write_csv(tmp_path / "traffic.csv")
    text = f"simulation: {{classes: [0, 1], {MEMBERS}, arrivals: {{trace: traffic.csv, queues: true}}}}"
    first = read(tmp_path, text)
    assert first.gaps.tolist() == [0.5, 1.5, 0.0]
    other = tmp_path / "other"
    other.mkdir()
    assert read(other, simulation_text(first)).gaps.tolist() == first.gaps.tolist()
    pl.DataFrame({"label": [1, 0]}).write_csv(tmp_path / "traffic.csv")
    with pytest.raises(ConfigError, match=r"traffic\.csv tells no times; name a log of several requests with a column"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{}", "simulation: is missing; add it with classes: and members:"),
        ("simulation: {classes: [0, 1]}", "simulation.members: is missing; add members: {a:"),
        (
            "simulation: {classes: [0, 1], members: {a: {like: b, latency: 1 ms}, b: {like: a, latency: 1 ms}}}",
            "members.a.like: is no member with answers of its own",
        ),
        (
            "simulation: {classes: [0, 1], members: {a: {accuracy: 1, latency: 1 s},"
            " b: {like: a, fails: 1, latency: 1 s}}}",
            "members.b.fails: 1 is that of the member it is like; take it out",
        ),
        (f"simulation: {{{MEMBERS}}}", "simulation.classes: is missing; add classes: [cat, dog]"),
        (f"simulation: {{classes: [0, 1], {MEMBERS}, phase: []}}", "is an unknown key; did you mean phases?"),
        ("simulation: {classes: [0, 1], members: {}}", "has no member; write {a: {accuracy: 0.9"),
        ("simulation: {classes: [0, 1], members: {a: {latency: 1 ms}}}", "members.a.accuracy: is missing; add"),
        ("simulation: {classes: [0, 1], members: {a: {accuracy: 2, latency: 1 ms}}}", "2 is outside [0, 1]"),
        (
            "simulation: {classes: [x, y], members: {a: {accuracy: {z: 0.5}, latency: 1 ms}}}",
            "members.a.accuracy.z: is none of all, x, y",
        ),
        (
            "simulation: {classes: [x, y], members: {a: {accuracy: {x: 0.5}, latency: 1 ms}}}",
            "members.a.accuracy.all: is missing; add all: 0.9, for what is not named",
        ),
        (
            "simulation: {classes: [x, y], members: {a: {accuracy: 0.9, latency: {mean: 1 ms, range: [2 s, 1 s]}}}}",
            "is not a least and a longest time; write [1 ms, 200 ms]",
        ),
        (
            "simulation: {classes: [x, y], members: {a: {accuracy: 0.9, latency: 1 ms, host: tpu, energy: 1 J}}}",
            "members.a.host: tpu has no energy; write one of cpu, or its energy too",
        ),
        (f"simulation: {{classes: [0, 1], {MEMBERS}, arrivals: {{rate: 5}}}}", "5 is no rate; write a number of"),
        (f"simulation: {{classes: [0, 1], {MEMBERS}, arrivals: {{rate: 5 / 0 s}}}}", "is endless; write a period"),
        (
            f"simulation: {{classes: [0, 1], {MEMBERS}, arrivals: {{trace: gone.parquet}}}}",
            "arrivals.trace: gone.parquet cannot be read: ",
        ),
        (
            f"simulation: {{classes: [0, 1], {MEMBERS}, arrivals: {{trace: gone.parquet, rate: 5 / 1 s}}}}",
            "says when requests come, and so does rate; keep one of them",
        ),
        (
            f"simulation: {{classes: [0, 1], {MEMBERS}, phases: [{{start: 5}}]}}",
            "phases[0].start: 5 is where the first phase starts; leave it out",
        ),
        (
            f"simulation: {{classes: [0, 1], {MEMBERS}, phases: [{{}}, {{start: 9}}, {{start: 7}}]}}",
            "phases[2].start: 7 is not after the phase before, which starts at 9; write a later one",
        ),
        (
            f"simulation: {{classes: [0, 1], {MEMBERS}, phases: [{{classes: {{0: 0}}}}]}}",
            "leaves nothing; write a proportion above 0 for one of 0, 1",
        ),
        (f"simulation: {{classes: [0, 1], {MEMBERS}, regions: [all]}}", "all is no region's name"),
    ],
)
def test_what_cannot_be_simulated_is_refused_with_its_place_and_the_fix(
    tmp_path: Path, written: str, said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, written)
    assert any(said in problem for problem in refused.value.problems), refused.value.problems


@pytest.mark.parametrize("path", sorted(EXAMPLE.parent.glob("*.yaml")), ids=lambda path: path.name)
def test_every_simulation_that_comes_along_can_be_played(path: Path) -> None:
    if "\nsimulation:" not in path.read_text():
        return
    log = ModelRL(load_simulation(path)).log(seed=0, requests=50)
    assert log.ensemble.names == tuple(member.name for member in load(path).members)
