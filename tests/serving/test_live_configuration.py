"""The configuration changes under a learner and a worker that run: by edits, by hand, by an agent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml

from bandmaster import hosting
from bandmaster.combine import pool
from bandmaster.config import load
from bandmaster.core import Answer, BandmasterError, Decision, Ensemble, MemberFailure, Request
from bandmaster.serving.learning import LearningLoop
from bandmaster.serving.live import Made
from bandmaster.serving.pages import Report
from bandmaster.serving.worker import Worker
from tests.serving.tiny import CLASSES, LABELS, POISON, ROWS, block, made_of, models, project
from tests.unit.test_conductor import WINDOW, always, exported, weighing

NAMES = ("linear", "tree", "bayes", "fragile")


class Running:
    """A learner that runs, and workers as they are asked for."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder, self.file = folder, folder / "bentofile.yaml"
        config = load(project(folder, seed=3, **changes) / "bentofile.yaml")
        self.made: Made = made_of(config, hosting.host(config))
        self.edits = self.made.manager
        self.loop = LearningLoop(self.made)

    def learner_keeps_up(self) -> None:
        if self.loop.live.changed() and (found := self.loop.live.newer()):
            self.loop.keep_up(found)

    def write(self, **changes: Any) -> None:
        """By hand."""
        document = yaml.safe_load(self.file.read_text())
        document["args"]["orchestration"] = block(**changes)
        self.file.write_text(yaml.safe_dump(document, sort_keys=False))

    def work(self, script: Callable[[Worker], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            worker = Worker(self.made, worker=1)
            try:
                return await script(worker)
            finally:
                await worker.close()

        return asyncio.run(run())

    def settle(self, decisions: list[Decision], labels: np.ndarray) -> None:
        self.loop.settle(
            [Report(decision_id=d.id, at=time.time(), labels=(int(y),)) for d, y in zip(decisions, labels, strict=True)]
        )
        self.loop.tick()

    def play(self, rows: np.ndarray, labels: np.ndarray) -> list[Decision]:
        """Have a worker answer that has kept up, settle its decisions, and have the learner keep up."""
        return self.play_whole(rows, labels)[0]

    def play_whole(self, rows: np.ndarray, labels: np.ndarray) -> tuple[list[Decision], list[Answer]]:
        """The same; the answers, too."""

        async def script(worker: Worker) -> list[tuple[Decision, Answer]]:
            await worker.keep_up()
            return [await worker.answer(Request(r[None].astype(np.float32), r, time.time())) for r in rows]

        decisions, answers = map(list, zip(*self.work(script), strict=True))
        self.settle(decisions, labels)
        self.learner_keeps_up()
        return decisions, answers


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def run(**changes: Any) -> Running:
        made.append(Running(tmp_path, **changes))
        return made[-1]

    yield run
    for each in made:
        each.loop.close()


async def asked(worker: Worker, rows: np.ndarray) -> list[Decision]:
    return [(await worker.answer(Request(r[None].astype(np.float32), r, time.time())))[0] for r in rows]


def test_whom_an_edit_takes_out_is_asked_by_nobody_and_whom_it_brings_back_is(running: Callable[..., Running]) -> None:
    service = running(probes={"share": 0.5, "adapt": False})

    async def script(worker: Worker) -> None:
        service.edits.apply({"members.tree.active": False}, "cli:ann", "")
        await worker.keep_up()
        decisions = await asked(worker, ROWS[:30])
        assert all(decision.state.out == (False, True, False, False) for decision in decisions)
        assert not any("tree" in decision.plan for decision in decisions)
        assert worker.page(0.0)["config"]["version"] == 1
        service.edits.revert(0, "cli:ann")
        await worker.keep_up()
        assert all(decision.state.out == () for decision in await asked(worker, ROWS[:3]))

    service.work(script)
    service.learner_keeps_up()
    assert service.loop.state().config.version == 2


def test_a_new_member_is_loaded_and_tried_before_it_serves_and_a_broken_one_changes_nothing(
    running: Callable[..., Running],
) -> None:
    service = running()
    (service.folder / "extra.onnx").write_bytes(models()["bayes"])
    (service.folder / "broken.onnx").write_bytes(b"no model")

    async def script(worker: Worker) -> None:
        service.edits.apply({"members.extra.onnx": "broken.onnx"}, "cli:ann", "")
        await worker.keep_up()
        page = worker.page(0.0)["config"]
        assert "extra: " in page["error"]
        assert page["version"] == 0
        assert len((await asked(worker, ROWS[:1]))[0].state.members.accuracy) == 4
        service.edits.apply({"members.extra.onnx": "extra.onnx"}, "cli:ann", "")
        await worker.keep_up()
        mended = worker.page(0.0)["config"]
        assert (mended["version"], mended["error"]) == (2, None)
        assert mended["digest"] != page["digest"]
        assert len((await asked(worker, ROWS[:1]))[0].state.members.accuracy) == 5

    service.work(script)
    service.learner_keeps_up()
    assert [member.name for member in service.loop.state().members] == [*NAMES, "extra"]


def test_members_that_stay_as_they_were_are_not_loaded_again(running: Callable[..., Running]) -> None:
    service = running()
    before = service.made.hosted.members
    service.write(members={name: {"onnx": f"{name}.onnx"} for name in NAMES[:3]}, seed=3)
    service.learner_keeps_up()
    after = service.loop.live.hosted.members
    assert list(after) == list(NAMES[:3])
    assert all(after[name] is before[name] for name in after)


def test_what_was_learned_stays_where_it_fits(running: Callable[..., Running]) -> None:
    service = running()
    decisions = service.work(lambda worker: asked(worker, ROWS[:60]))
    service.settle(decisions, LABELS[:60])
    before = service.loop.state()
    service.edits.apply({"members.tree.weight": 2, "members.fragile.active": False}, "cli:ann", "")
    service.learner_keeps_up()
    after = service.loop.state()
    assert after.members == before.members
    assert after.reward == before.reward
    assert after.snapshot_version > before.snapshot_version


def test_for_another_policy_the_newest_outcomes_are_learned_from_again(running: Callable[..., Running]) -> None:
    service = running()
    decisions = service.work(lambda worker: asked(worker, ROWS[:60]))
    service.settle(decisions, LABELS[:60])
    service.edits.apply({"policy.use": "thompson"}, "cli:ann", "")
    service.learner_keeps_up()
    page = service.loop.state()
    assert page.config.error is None
    assert page.policy == "thompson"
    assert page.members[0].labelled > 0


def test_requests_under_way_end_by_the_configuration_that_they_began_by(running: Callable[..., Running]) -> None:
    service = running()

    async def script(worker: Worker) -> None:
        by = worker._serving
        decision = by.orchestrator.decide(Request(ROWS[:1].astype(np.float32), ROWS[0], time.time()))
        by.under_way += 1
        service.edits.apply({"members.tree.active": False}, "cli:ann", "")
        await worker.keep_up()
        assert worker._leaving == [by]
        _, answer = by.orchestrator.run(decision, Request(ROWS[:1].astype(np.float32), ROWS[0], time.time()))
        assert answer.ran
        by.under_way -= 1
        await worker.keep_up()
        assert worker._leaving == []

    service.work(script)


def test_requests_that_wait_for_their_turn_are_decided_by_the_configuration_that_they_came_under(
    running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = running(profiles={"fast": {"latency": 1.0}, "right": {"accuracy": 1.0}})

    async def script(worker: Worker) -> None:
        make, asked = worker._made, [Request(ROWS[:1].astype(np.float32), ROWS[0], time.time(), profile="fast")] * 2
        begun = [worker.answer(request) for request in asked]

        def made(*arguments: Any) -> Any:
            for each in begun:  # they come in the turn of the event loop in which the configuration changes
                waiting.append(each.send(None))
            return make(*arguments)

        waiting: list[Any] = []
        monkeypatch.setattr(worker, "_made", made)
        service.write(profiles={"right": {"accuracy": 1.0}})
        await worker.keep_up()
        await asyncio.wait(waiting)
        for each in begun:
            with pytest.raises(StopIteration) as answered:
                each.send(None)
            assert answered.value.value[0].state.profile == "fast"

    service.work(script)


def test_isolated_members_go_once_nobody_needs_them(running: Callable[..., Running]) -> None:
    members = {name: {"onnx": f"{name}.onnx", "isolated": name in ("tree", "bayes")} for name in NAMES}
    service = running(members=members)

    async def script(worker: Worker) -> None:
        tree, bayes = (worker._serving.hosted.members[name] for name in ("tree", "bayes"))
        await asked(worker, ROWS[:10])
        members.pop("tree")
        service.write(members=members, seed=3)
        await worker.keep_up()
        await worker.keep_up()
        assert tree._child is None  # type: ignore[union-attr]
        assert worker._serving.hosted.members["bayes"] is bayes
        assert all("tree" not in decision.plan for decision in await asked(worker, ROWS[:10]))

    service.work(script)


def test_isolated_members_that_stay_keep_their_process(running: Callable[..., Running]) -> None:
    service = running(members={name: {"onnx": f"{name}.onnx", "isolated": name == "tree"} for name in NAMES})

    async def script(worker: Worker) -> None:
        tree = worker._serving.hosted.members["tree"]
        await asked(worker, ROWS[:10])
        before = tree._child  # type: ignore[union-attr]
        assert before is not None
        service.edits.apply({"members.linear.weight": 2}, "cli:ann", "")
        await worker.keep_up()
        assert worker.page(0.0)["config"]["version"] == 1
        assert tree._child is before  # type: ignore[union-attr]
        assert before.process.poll() is None

    service.work(script)


def test_of_a_model_that_is_replaced_that_member_alone_is_loaded_anew(running: Callable[..., Running]) -> None:
    service = running()

    async def script(worker: Worker) -> None:
        before = worker._serving.hosted
        (service.folder / "tree.onnx").write_bytes(models()["bayes"])
        await worker.keep_up()
        after = worker._serving.hosted
        assert [after.members[name] is before.members[name] for name in NAMES] == [True, False, True, True]
        rows = ROWS.astype(np.float32)
        np.testing.assert_array_equal(after.members["tree"].predict(rows), before.members["bayes"].predict(rows))
        await worker.keep_up()
        assert worker._serving.hosted is after

    service.work(script)


def test_the_process_of_a_model_that_is_replaced_is_ready_before_anybody_asks_it(
    running: Callable[..., Running],
) -> None:
    service = running(members={name: {"onnx": f"{name}.onnx", "isolated": name == "tree"} for name in NAMES})

    async def script(worker: Worker) -> None:
        before = worker._serving.hosted.members["tree"]
        (service.folder / "tree.onnx").write_bytes(models()["bayes"])
        await worker.keep_up()
        after = worker._serving.hosted.members["tree"]
        assert after is not before
        assert after._child.ready  # type: ignore[union-attr]

    service.work(script)


def test_a_process_that_is_begun_anew_does_not_answer_with_a_model_of_other_classes(
    running: Callable[..., Running],
) -> None:
    other = onnx.load_from_string(models()["tree"])
    onnx.helper.set_model_props(other, {"classes": '["a", "b", "c"]'})
    service = running(members={name: {"onnx": f"{name}.onnx", "isolated": name == "tree"} for name in NAMES})

    async def script(worker: Worker) -> None:
        tree = worker._serving.hosted.members["tree"]
        tree.predict(ROWS[:1])
        (service.folder / "tree.onnx").write_bytes(other.SerializeToString())
        tree._child.process.kill()  # type: ignore[union-attr]
        with pytest.raises(MemberFailure, match="its process died"):
            tree.predict(ROWS[:1])
        with pytest.raises(MemberFailure, match="its file holds another model by now"):
            tree.predict(ROWS[:1])

    service.work(script)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"method": "one_by_one"},
            "orchestration.method: cannot be changed while the service runs; start it anew",
        ),
        ({"feedback": {"window": "1 s"}}, "args.orchestration.feedback: cannot be changed while the service runs"),
        ({"contract": {}}, "args.orchestration.contract"),
        (
            {"members": {"linear": {"onnx": "linear.onnx"}, "other": {"bento": "service:Other"}}},
            "members.other.bento: a service is connected with others when it starts; start it anew",
        ),
    ],
)
def test_what_cannot_change_while_it_runs_leaves_all_as_it_was_and_is_shown(
    running: Callable[..., Running], changes: dict[str, Any], why: str
) -> None:
    service = running()
    before = service.loop.state().config
    service.write(seed=3, **changes)
    service.learner_keeps_up()
    page = service.loop.state().config
    assert page.error is not None
    assert why in page.error
    assert page.digest == before.digest
    service.write(seed=3)
    service.learner_keeps_up()
    assert service.loop.state().config == before


def test_an_agent_edits_the_configuration_window_by_window(running: Callable[..., Running], tmp_path: Path) -> None:
    agent = exported(tmp_path, Ensemble(NAMES, CLASSES), "picks", seed=3)
    service = running(policy={"use": "constant", "agent": agent.name})
    for start in range(0, 3 * WINDOW, WINDOW):
        benched = service.edits.effective().benched
        decisions = service.play(ROWS[start : start + WINDOW], LABELS[start : start + WINDOW])
        assert all(decision.state.out == benched for decision in decisions)
    edits = service.edits.edits.history()
    assert edits
    assert all(edit.author.startswith("policy:ppo@") for edit in edits)
    assert all(edit.reason.endswith(f" of {WINDOW} requests") for edit in edits)
    assert all(edit.predicted is not None for edit in edits)
    assert all(change.path.endswith(".active") for edit in edits for change in edit.changes)
    conductor = service.loop._learner.manager.conductor
    assert conductor is not None
    assert conductor.windows == 3
    assert tuple(not on for on in conductor.active) == (service.edits.effective().benched or (False,) * 4)


def test_an_agent_that_weighs_edits_what_members_count_for(running: Callable[..., Running], tmp_path: Path) -> None:
    agent = exported(tmp_path, Ensemble(NAMES, CLASSES), "weights", seed=3)
    service = running(policy={"use": "constant", "plan": "all~declared", "agent": agent.name})
    seen: set[tuple[float, ...]] = set()
    for start in range(0, 3 * WINDOW, WINDOW):
        before = service.edits.effective()
        rows = ROWS[start : start + WINDOW]
        decisions, answers = service.play_whole(rows, LABELS[start : start + WINDOW])
        assert {decision.plan for decision in decisions} == {"linear+tree+bayes+fragile~declared"}
        said = np.stack([_said(answer) for answer in answers])
        weights = np.array([member.weight if member.active else 0.0 for member in before.members])
        np.testing.assert_allclose([answer.scores[0] for answer in answers], pool(said, weights), atol=1e-9)
        seen.add(tuple(weights.tolist()))
    assert len(seen) > 1
    conductor, members = service.loop._learner.manager.conductor, service.edits.effective().members
    assert conductor is not None
    assert conductor.weights.tolist() == [member.weight if member.active else 0.0 for member in members]
    edits = service.edits.edits.history()
    assert {change.path.rpartition(".")[2] for edit in edits for change in edit.changes} == {"active", "weight"}
    for edit in edits:  # of weights alone, members' statistics say nothing
        assert (edit.predicted is None) == all(change.path.endswith(".weight") for change in edit.changes)


def _said(answer: Answer) -> np.ndarray:
    """What every member said of one row, (M, C); zeros of those that did not run."""
    scores = {reply.name: reply.scores[0] for reply in answer.ran if reply.scores is not None}
    return np.stack([scores.get(name, np.zeros(len(CLASSES))) for name in NAMES])


def test_an_agent_that_weighs_members_plays_them_all_and_is_compared_with_others_that_do(tmp_path: Path) -> None:
    weighs, picks, declared = "weights0.onnx", "picks0.onnx", {"use": "constant", "plan": "all~declared"}
    refused: list[tuple[dict[str, Any], str]] = [
        (
            {"use": "constant", "agent": weighs},
            "what members count for, .*write use: constant, plan: all~declared",
        ),
        ({"use": "bandit", "agent": weighs}, "other policies go by weights of their own"),
        ({**declared, "agent": picks}, "decides who is in the ensemble, .*; write use: constant, plan: all$"),
        ({"use": "constant", "agent": picks, "shadows": [weighs]}, "--changes weights, and policy.agent with picks"),
        ({**declared, "agent": weighs, "shadows": [picks]}, "--changes picks, and policy.agent with weights"),
    ]
    for k, (policy, why) in enumerate(refused):
        folder = tmp_path / str(k)
        folder.mkdir()
        for changes in ("weights", "picks"):
            exported(folder, Ensemble(NAMES, CLASSES), changes)
        with pytest.raises(BandmasterError, match=why):
            Running(folder, policy=policy)


PICKS_OR_WEIGHS = pytest.mark.parametrize("weighs", [False, True], ids=["picks", "weighs"])


def _wanting(folder: Path, name: str, window: int, *, weighs: bool) -> tuple[Path, dict[str, str]]:
    """An agent that always wants a member, with a little of tree where it weighs linear; and how it is served."""
    ensemble = Ensemble(NAMES, CLASSES)
    if not weighs:
        return always(folder, ensemble, name, window=window), {"use": "constant"}
    counts = {"linear": 1.0, "tree": 0.25} if name == "linear" else {name: 1.0}
    return weighing(folder, ensemble, window, **counts), {"use": "constant", "plan": "all~declared"}


@PICKS_OR_WEIGHS
def test_a_shadow_that_is_surely_better_takes_the_agents_place(
    running: Callable[..., Running], tmp_path: Path, weighs: bool
) -> None:
    (bad, use), (good, _) = (_wanting(tmp_path, name, 10, weighs=weighs) for name in ("fragile", "linear"))
    policy = {**use, "agent": bad.name, "shadows": [good.name], "promote": True}
    service = running(policy=policy, probes={"share": 0.5, "adapt": False})
    rows = ROWS.copy()
    rows[::2, 0] = POISON + 1.0  # what fragile fails at
    rng = np.random.default_rng(0)
    for _ in range(40):
        chosen = rng.integers(len(rows), size=40)
        service.play(rows[chosen], LABELS[chosen])
        if service.edits.effective().policy.agent == good:
            break
    else:
        raise AssertionError(service.loop.state().agent)
    assert service.edits.effective().policy.shadows == (bad,)
    edit = service.edits.edits.history()[-1]
    page = service.loop.state().agent
    assert page is not None
    assert edit.author == f"policy:{page.agent}"
    assert edit.reason.startswith(f"surely better than {page.shadows[0].agent}: at least 0.")
    assert {change.path for change in edit.changes} == {"policy.agent", "policy.shadows"}
    assert page.windows > 0  # what it saw in the shadow stays with it
    assert page.shadows[0].requests == 0  # against this one nothing is known of the other
    service.edits.promote(bad, "cli:me", "back")
    assert service.edits.effective().policy.agent == bad
    with pytest.raises(BandmasterError, match="is no shadow of the configuration in force"):
        service.edits.promote(bad, "cli:me", "again")


@PICKS_OR_WEIGHS
def test_a_gate_lets_no_edit_into_force_that_may_cost_too_much(tmp_path: Path, weighs: bool) -> None:
    """Fragile alone is right on a third; linear alone is about as good as all together."""
    for name, better in (("fragile", False), ("linear", True)):
        folder = tmp_path / name
        folder.mkdir()
        agent, use = _wanting(folder, name, WINDOW, weighs=weighs)
        policy = {**use, "agent": agent.name, "gate": 0.1}
        service = Running(folder, policy=policy, probes={"share": 1.0, "adapt": False})
        for chosen in np.random.default_rng(0).permutation(len(ROWS))[: 3 * WINDOW].reshape(3, WINDOW):
            service.play(ROWS[chosen], LABELS[chosen])
        page, edits = service.loop.state().agent, service.edits.edits.history()
        service.loop.close()
        assert page is not None
        assert bool(edits) == better
        assert page.refused == (0 if better else 3)
        assert all(edit.predicted is not None and edit.predicted > -0.1 for edit in edits)


def test_an_agent_that_was_trained_for_others_is_refused_at_start(tmp_path: Path) -> None:
    agent = exported(tmp_path, Ensemble(("a", "b", "c", "d"), CLASSES), "picks")
    with pytest.raises(BandmasterError, match="was trained for the members a, b, c, d, not linear, tree"):
        Running(tmp_path, policy={"use": "constant", "agent": agent.name})
