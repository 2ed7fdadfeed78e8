"""Agents are trained, go on after they were cut off, and act the same without torch as they did with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.extras
pytest.importorskip("stable_baselines3")

from click.testing import CliRunner  # noqa: E402

from bandmaster.agents import Agent  # noqa: E402
from bandmaster.changes import CHANGES  # noqa: E402
from bandmaster.cli import main  # noqa: E402
from bandmaster.core import BandmasterError  # noqa: E402
from bandmaster.environment import EnsembleEnv, Recorded, source_of  # noqa: E402
from bandmaster.replay import Traffic  # noqa: E402
from bandmaster.testing import sample_log  # noqa: E402
from bandmaster.training import ALGORITHMS, Progress, Training, best_constant, played, train  # noqa: E402
from tests.unit.test_windows import CONTRACT  # noqa: E402

CONFIG = """
simulation:
  requests: 1000
  classes: [cat, dog]
  phases: [{classes: {cat: 1}}, {start: 500, classes: {dog: 1}}]
  members:
    cats: {accuracy: {all: 0.5, cat: 0.99}, latency: 20 ms, energy: 50 mJ}
    dogs: {accuracy: {all: 0.5, dog: 0.99}, latency: 20 ms, energy: 50 mJ}
orchestration:
  contract:
    accuracy: {weight: 0.6}
    energy: {weight: 0.4, range: [40 mJ, 110 mJ]}
  members: {cats: {}, dogs: {}}
"""
QUICK = Training(steps=600, window=50, every=200, episodes=1, environments=2, changes="steps",
                 settings={"n_steps": 32, "batch_size": 32})  # fmt: skip
OF_ALGORITHM = {
    "ppo": QUICK.settings,
    "a2c": {"n_steps": 8},
    "dqn": {"learning_starts": 50, "buffer_size": 1000},
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("training") / "simulated.yaml"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
@pytest.mark.parametrize("changes", list(CHANGES))
def test_every_algorithm_trains_and_is_exported(algorithm: str, changes: str, file: Path, tmp_path: Path) -> None:
    source, told = source_of(file), list[Progress]()
    how = replace(QUICK, algorithm=algorithm, changes=changes, settings=OF_ALGORITHM[algorithm])
    if algorithm == "dqn" and changes != "steps":
        with pytest.raises(BandmasterError, match=r"dqn: cannot be set up so: .*Discrete"):
            train(source, source, how, tmp_path, told.append, resume=False)
        return
    agent = Agent(train(source, source, how, tmp_path, told.append, resume=False))  # parity is tested in there
    assert agent.about.algorithm == algorithm
    assert agent.about.members == ("cats", "dogs")
    assert (tmp_path / "tensorboard").is_dir()
    looks = [step for step in told if step.looked]
    assert looks[-1].best == max(step.reward for step in looks)


def test_an_agent_learns_to_follow_the_classes_and_beats_every_constant_ensemble(file: Path, tmp_path: Path) -> None:
    """Each of two members is made for one class, and which class comes changes halfway. One alone is right on three
    quarters, both together cost twice as much; who changes over in time has .14 to gain. Seeds are fixed, so that it is
    deterministic.
    """
    source = source_of(file)
    how = replace(QUICK, steps=12_000, every=3000, patience=99, changes="picks", environments=4,
                  settings={"n_steps": 64, "batch_size": 64})  # fmt: skip
    told = list[Progress]()
    train(source, source, how, tmp_path, told.append, resume=False)
    assert told[-1].best > best_constant(source, how)[1] + 0.05


def test_training_that_was_cut_off_goes_on_from_its_last_checkpoint(file: Path, tmp_path: Path) -> None:
    source, first, rest = source_of(file), list[Progress](), list[Progress]()
    train(source, source, replace(QUICK, steps=300), tmp_path, first.append, resume=False)
    agent = train(source, source, QUICK, tmp_path, rest.append, resume=True)
    assert rest[0].steps > first[-1].steps
    assert rest[-1].steps >= 600
    assert rest[-1].best >= first[-1].best
    assert Agent(agent).about.steps in {step.steps for step in (*first, *rest) if step.looked}
    with pytest.raises(BandmasterError, match="holds a run of ppo; name another folder, or that algorithm"):
        train(source, source, replace(QUICK, algorithm="a2c"), tmp_path, rest.append, resume=True)


def test_settings_that_an_algorithm_does_not_have_are_refused(file: Path, tmp_path: Path) -> None:
    source = source_of(file)
    with pytest.raises(BandmasterError, match=r"ppo: cannot be set up so: .*learning_rat"):
        train(source, source, replace(QUICK, settings={"learning_rat": 1}), tmp_path, print, resume=False)


def test_requests_that_are_held_out_are_never_trained_on() -> None:
    log = sample_log(500)
    taught, judged = Recorded(log, CONTRACT, Traffic("shuffled")).split(0.2)
    parts = [set(source.log(3).rows.tolist()) for source in (taught, judged)]
    assert [len(part) for part in parts] == [400, 100]
    assert parts[0] | parts[1] == set(range(500))


def test_the_command_trains_and_what_it_exports_can_be_simulated(file: Path, tmp_path: Path) -> None:
    args = [
        "train", str(file), "--steps", "400", "--every", "200", "--window", "50", "--envs", "2",
        "--folder", str(tmp_path),
        "--set", "n_steps=32", "--set", "batch_size=32",
    ]  # fmt: skip
    ran = CliRunner().invoke(main, args)
    assert ran.exit_code == 0, ran.output
    assert "ppo: 448/400 windows, earns " in ran.output
    assert "the best constant ensemble, " in ran.output
    agent = f"agent:{tmp_path}/agent.onnx"
    policies = ["--policies", f"constant,{agent},{agent}+bandit"]
    simulated = CliRunner().invoke(
        main, ["simulate", str(file), *policies, "--seeds", "1", "--requests", "300", "--jobs", "1"]
    )
    assert simulated.exit_code == 0, simulated.output
    assert f"{agent}+bandit" in simulated.output


def test_the_exported_agent_is_as_good_as_the_network(file: Path, tmp_path: Path) -> None:
    """What is exported is the best that was seen, not the last."""
    source, told = source_of(file), list[Progress]()
    agent = Agent(train(source, source, replace(QUICK, steps=2000), tmp_path, told.append, resume=False))
    env = EnsembleEnv(source, window=50)
    again = played(env, 1, lambda seen: agent.act(seen)[0])
    assert again == pytest.approx(max(step.reward for step in told if step.looked), abs=1e-9)
    assert np.isfinite(again)
