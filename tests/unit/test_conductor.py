"""An exported agent decides, window by window, who is in the ensemble: live as in training, and across restarts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bandmaster import build
from bandmaster.agents import METADATA, Agent
from bandmaster.changes import CHANGES, LEVELS, Picks, Steps, Weights
from bandmaster.conductor import ConductedPolicy, Conductor
from bandmaster.config import load
from bandmaster.core import BandmasterError, Ensemble
from bandmaster.policies.traditional import ConstantPolicy, RandomPolicy
from bandmaster.replay import processes, replay
from bandmaster.seen import Seen
from bandmaster.testing import sample_experiences, sample_learner, sample_log
from bandmaster.windows import Windows
from tests.unit.test_windows import CONTRACT

LOG = sample_log(600, seed=3)
ALL = "m0+m1+m2+m3"
WINDOW = 40


def usual(ensemble: Ensemble) -> np.ndarray:
    """What is seen of half of the ensemble, so that actions depend on what is different from it."""
    windows = Windows(sample_log(WINDOW, members=len(ensemble.names)), CONTRACT, WINDOW)
    windows.play((np.arange(len(ensemble.names)) + 1.0) % 2)
    return windows.seen().vector()


def exported(folder: Path, ensemble: Ensemble, changes: str, seed: int = 0) -> Path:
    """An agent with random weights, as training exports them: its actions depend on all that it sees."""
    sizes, rng = CHANGES[changes](len(ensemble.names)).sizes, np.random.default_rng(seed)
    size = Seen.size(len(ensemble.names), len(ensemble.classes))
    weights = rng.standard_normal((size, sum(sizes))).astype(np.float32)
    bias = rng.standard_normal(sum(sizes)).astype(np.float32) - weights.T @ usual(ensemble)
    return written(folder / f"{changes}{seed}.onnx", ensemble, changes, weights, bias)


def always(folder: Path, ensemble: Ensemble, *members: str, window: int = WINDOW) -> Path:
    """An agent that wants these members, whatever it sees."""
    wanted = np.array([(0.0, 1.0) if name in members else (1.0, 0.0) for name in ensemble.names], dtype=np.float32)
    weights = np.zeros((Seen.size(len(ensemble.names), len(ensemble.classes)), wanted.size), dtype=np.float32)
    return written(folder / f"always_{'_'.join(members)}.onnx", ensemble, "picks", weights, wanted.ravel(), window)


def weighing(folder: Path, ensemble: Ensemble, window: int = WINDOW, **counts: float) -> Path:
    """An agent that has members count for that, whatever it sees; who is not named is out."""
    wanted = np.array([[level == counts.get(name, 0.0) for level in LEVELS] for name in ensemble.names], np.float32)
    weights = np.zeros((Seen.size(len(ensemble.names), len(ensemble.classes)), wanted.size), dtype=np.float32)
    return written(folder / f"weighing_{'_'.join(counts)}.onnx", ensemble, "weights", weights, wanted.ravel(), window)


def written(
    path: Path, ensemble: Ensemble, changes: str, weights: np.ndarray, bias: np.ndarray, window: int = WINDOW
) -> Path:
    """An agent that prefers the actions with the greatest ``observation @ weights + bias``."""
    sizes, size = CHANGES[changes](len(ensemble.names)).sizes, len(weights)
    constants = [
        helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.ravel()),
        helper.make_tensor("bias", TensorProto.FLOAT, bias.shape, bias.ravel()),
        helper.make_tensor("sizes", TensorProto.INT64, [len(sizes)], sizes),
    ]
    parts = [f"part{k}" for k in range(len(sizes))]
    nodes = [
        helper.make_node("Gemm", ["observation", "weights", "bias"], ["preferences"]),
        helper.make_node("Split", ["preferences", "sizes"], parts, axis=1),
        *(helper.make_node("ArgMax", [part], [f"best_{part}"], axis=1, keepdims=1) for part in parts),
        helper.make_node("Concat", [f"best_{part}" for part in parts], ["action"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "agent",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["rows", size])],
        [
            helper.make_tensor_value_info("action", TensorProto.INT64, ["rows", len(sizes)]),
            helper.make_tensor_value_info("preferences", TensorProto.FLOAT, ["rows", sum(sizes)]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    about = {
        "algorithm": "ppo", "members": ensemble.names, "classes": [str(c) for c in ensemble.classes],
        "changes": changes, "window": window, "steps": 7,
    }  # fmt: skip
    helper.set_model_props(model, {METADATA: json.dumps(about)})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("changes", "seed"), [("steps", 30), ("picks", 10), ("weights", 10)])  # that change much
def test_what_an_agent_earns_live_it_earned_in_training(changes: str, seed: int, tmp_path: Path) -> None:
    agent = Agent(exported(tmp_path, LOG.ensemble, changes, seed))
    learner = sample_learner(lambda plans, *_: ConstantPolicy(plans, ALL), LOG, contract=CONTRACT)
    learner.manager.conductor = conductor = Conductor(agent, LOG.ensemble, CONTRACT)
    if agent.changes.weighs:
        learner.manager.policy = ConductedPolicy(conductor, LOG.ensemble)
    earned, active = [], []
    for experience in sample_experiences(learner, LOG):
        earned.append(experience.own)
        active.append(experience.known[0].tolist())
    windows = Windows(LOG, CONTRACT, WINDOW)
    trained, played = [], []
    while not windows.over:
        seen = windows.seen()
        played.append(agent.changes.after(seen.weights, agent.act(seen.vector())))
        trained.append(windows.play(played[-1]))
    np.testing.assert_allclose(np.reshape(earned, (-1, WINDOW)).mean(axis=1), trained, atol=1e-12)
    assert np.array_equal(active, np.repeat(np.array(played) > 0.0, WINDOW, axis=0))
    assert conductor.windows == len(LOG) // WINDOW
    assert len({tuple(weights) for weights in played}) > 2  # it does change the ensemble
    assert agent.changes.weighs == bool(set(np.ravel(played)) - {0.0, 1.0})


def test_an_agent_that_weighs_plays_in_replays_what_it_played_in_training(tmp_path: Path) -> None:
    path = exported(tmp_path, LOG.ensemble, "weights", seed=10)
    members = ", ".join(f"{name}: {{}}" for name in LOG.ensemble.names)
    (tmp_path / "config.yaml").write_text(
        f"orchestration: {{contract: {{accuracy: {{weight: 1}}}}, members: {{{members}}}}}"
    )
    read = load(tmp_path / "config.yaml")
    bench = build.bench(read, [LOG])
    (results,) = replay(bench, [f"agent:{path}", f"constant:{ALL}"], 1, spread=processes(1))
    windows, agent = Windows(LOG, read.contract, WINDOW), Agent(path)
    trained = []
    while not windows.over:
        seen = windows.seen()
        trained.append(windows.play(agent.changes.after(seen.weights, agent.act(seen.vector()))))
    assert results.policies[f"agent:{path}"].measures.reward == pytest.approx(np.mean(trained), abs=1e-12)
    with pytest.raises(BandmasterError, match=r"other policies go by weights .*; write agent:.*weights10\.onnx$"):
        replay(bench, [f"agent:{path}+bandit"], 1)


def test_whoever_is_not_in_the_ensemble_runs_for_no_policy_and_no_probe(tmp_path: Path) -> None:
    learner = sample_learner(lambda plans, *_: RandomPolicy(plans), LOG)
    conductor = Conductor(Agent(exported(tmp_path, LOG.ensemble, "picks", 10)), LOG.ensemble, CONTRACT)
    learner.manager.conductor = conductor
    out = conductor.out
    for experience in sample_experiences(learner, LOG):
        assert experience.joined.decision.state.out == out
        ran = {said.name for said in (*experience.joined.answer.ran, *experience.joined.answer.probes)}
        assert not ran & {n for n, gone in zip(LOG.ensemble.names, out, strict=bool(out)) if gone}
        out = conductor.out


def test_a_snapshot_goes_on_in_the_middle_of_a_window(tmp_path: Path) -> None:
    agent = Agent(exported(tmp_path, LOG.ensemble, "picks", 10))

    def fresh():
        learner = sample_learner(lambda plans, *_: ConstantPolicy(plans, ALL), LOG)
        learner.manager.conductor = Conductor(agent, LOG.ensemble, CONTRACT)
        return learner

    first, second = fresh(), fresh()
    experiences = list(sample_experiences(first, LOG))
    other = fresh()
    for experience in experiences[: WINDOW + 13]:
        other.manager.conductor.learn(experience)
    second.load(other.dump())
    for experience in experiences[WINDOW + 13 :]:
        second.manager.conductor.learn(experience)
    assert second.manager.conductor.dump() == first.manager.conductor.dump()


def test_another_agent_does_not_take_over_what_the_one_before_saw(tmp_path: Path) -> None:
    one, two = (
        Conductor(Agent(exported(tmp_path, LOG.ensemble, "picks", seed)), LOG.ensemble, CONTRACT) for seed in (10, 11)
    )
    before = two.dump()
    two.load(one.dump())
    assert two.dump() == before


def test_an_agent_is_refused_where_it_cannot_decide(tmp_path: Path) -> None:
    agent = Agent(exported(tmp_path, LOG.ensemble, "steps"))
    others = Ensemble(("x", *LOG.ensemble.names[1:]), LOG.ensemble.classes)
    with pytest.raises(BandmasterError, match=r"was trained for the members m0, m1, m2, m3, not x, m1, .*train one"):
        Conductor(agent, others, CONTRACT)
    regression = Ensemble(LOG.ensemble.names, ("value",), task="regression")
    with pytest.raises(BandmasterError, match=r"was trained for the classes 0, 1, 2, not value"):
        Conductor(agent, regression, CONTRACT)


def test_a_file_that_is_no_agent_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(BandmasterError, match=r"gone\.onnx: cannot be read \(No such file"):
        Agent(tmp_path / "gone.onnx")
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    with pytest.raises(BandmasterError, match=r"noise\.onnx: cannot be loaded as an agent"):
        Agent(tmp_path / "noise.onnx")
    path = exported(tmp_path, LOG.ensemble, "steps")
    model = onnx.load(path)
    helper.set_model_props(model, {"other": "{}"})
    onnx.save(model, tmp_path / "plain.onnx")
    with pytest.raises(BandmasterError, match=r"plain\.onnx: is no agent; train one: bandmaster train"):
        Agent(tmp_path / "plain.onnx")
    wider = Ensemble((*LOG.ensemble.names, "m4"), LOG.ensemble.classes)
    model = onnx.load(exported(tmp_path, wider, "picks"))
    described = {"algorithm": "ppo", "members": LOG.ensemble.names, "classes": ["0", "1", "2"], "changes": "picks",
                 "window": 5}  # fmt: skip
    helper.set_model_props(model, {METADATA: json.dumps(described)})
    onnx.save(model, tmp_path / "wider.onnx")
    with pytest.raises(BandmasterError, match=r"wider\.onnx: does not act on what is seen of its ensemble"):
        Agent(tmp_path / "wider.onnx")


def test_steps_add_remove_replace_and_keep_but_never_remove_the_last() -> None:
    steps, both = Steps(5), np.array([1.0, 1.0, 0.0, 0.0, 0.0])

    def after(weights: np.ndarray, action: int) -> list[float]:
        return steps.after(weights, np.array([action])).tolist()

    assert after(both, 0) == both.tolist()
    assert after(both, 3) == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert after(both, 6) == [0.0, 1.0, 0.0, 0.0, 0.0]
    alone = np.array([1.0, 0.0, 0.0, 0.0, 0.0])
    assert after(alone, 6) == alone.tolist()
    replaced = {tuple(after(alone, action)) for action in range(11, steps.sizes[0])}
    assert replaced == {tuple(np.eye(5)[k].tolist()) for k in range(5)}  # by any other one, or kept
    assert both.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]  # what it was given it leaves alone


def test_picks_choose_the_whole_ensemble_and_picking_nobody_keeps_it() -> None:
    picks, both = Picks(3), np.array([1.0, 1.0, 0.0])
    assert picks.after(both, np.array([0, 0, 1])).tolist() == [0.0, 0.0, 1.0]
    assert picks.after(both, np.array([0, 0, 0])).tolist() == both.tolist()


def test_weights_are_chosen_for_all_at_once_and_raised_so_that_the_greatest_is_1() -> None:
    weights, before = Weights(3), np.array([1.0, 0.25, 0.0])
    assert weights.sizes == (4, 4, 4)
    assert weights.after(before, np.array([0, 1, 3])).tolist() == [0.0, 0.25, 1.0]
    assert weights.after(before, np.array([1, 2, 0])).tolist() == [0.5, 1.0, 0.0]
    assert weights.after(before, np.array([0, 0, 0])).tolist() == before.tolist()


def test_what_others_decided_is_taken_over_on_the_agents_own_scale(tmp_path: Path) -> None:
    decided = np.array([4.0, 1.0, 0.0, 1e-6])
    for changes, scaled in (("picks", [1.0, 1.0, 0.0, 1.0]), ("weights", [1.0, 0.25, 0.0, 1e-3])):
        conductor = Conductor(Agent(exported(tmp_path, LOG.ensemble, changes)), LOG.ensemble, CONTRACT)
        conductor.adopt(decided)
        assert conductor.weights.tolist() == scaled
        assert conductor.out == (False, False, True, False)
