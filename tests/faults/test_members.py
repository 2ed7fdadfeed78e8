"""What becomes of members that raise, hang, answer nonsense or die: real models, told by the requests to do so."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from bandmaster import hosting
from bandmaster.config import Config, ConfigError, load
from bandmaster.core import NO_ANSWER, Answer, BandmasterError, Decision, FloatArray, MemberFailure, Request
from bandmaster.members.deadline import Deadline
from bandmaster.members.isolated import IsolatedMember
from bandmaster.members.onnx import OnnxMember
from bandmaster.meter import CpuTimeMeter
from bandmaster.serving.learning import LearningLoop
from bandmaster.serving.pages import Report
from bandmaster.serving.worker import Worker
from tests.end_to_end.servers import eventually
from tests.faults.chaotic import CLASSES, FEATURES, MEMBERS, Fault, models, project, requests
from tests.serving.tiny import made_of

ROOT = Path(__file__).parents[2]
WITHIN_S = 0.5
PATIENT_S = 60.0
HEALTHY, TRUTH = requests(50)


def row(**faults: Fault) -> FloatArray:
    """One request at which these members have these faults."""
    rows = HEALTHY[:1].astype(np.float32)
    for name, fault in faults.items():
        rows[0, FEATURES + MEMBERS.index(name)] = fault
    return rows


@pytest.fixture(params=[OnnxMember, IsolatedMember])
def member(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    (tmp_path / "ash.onnx").write_bytes(models()["ash"])
    made = request.param("ash", tmp_path / "ash.onnx")
    made.predict(row())  # it has started
    yield made
    getattr(made, "stop", lambda: None)()


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.NAN, "no distribution over classes"),
        (Fault.RAISE, "indices element out of data bounds"),
        (Fault.HANG, "did not answer within 0.5 s"),
        (Fault.SHAPE, "shape (1, 2)"),
    ],
)
def test_every_fault_is_an_answer_that_says_so_and_the_next_request_is_answered(
    member: Any, fault: Fault, error: str
) -> None:
    meter = CpuTimeMeter(len(CLASSES))
    failed = meter.run(member, row(ash=fault), np.arange(1), WITHIN_S)
    assert failed.scores is None
    assert error in str(failed.error)
    assert meter.run(member, row(), np.arange(1), PATIENT_S).error is None


def test_a_call_that_is_ended_ends_no_other(tmp_path: Path) -> None:
    (tmp_path / "ash.onnx").write_bytes(models()["ash"])
    member, meter = OnnxMember("ash", tmp_path / "ash.onnx"), CpuTimeMeter(len(CLASSES))
    with ThreadPoolExecutor(4) as threads:
        hanging = [threads.submit(meter.run, member, row(ash=Fault.HANG), np.arange(1), 0.3) for _ in range(2)]
        answers = [threads.submit(meter.run, member, row(), np.arange(1), PATIENT_S) for _ in range(200)]
    assert all("did not answer" in str(h.result().error) for h in hanging)
    assert all(a.result().error is None for a in answers)


def test_an_isolated_member_that_dies_says_of_what_and_is_started_again(tmp_path: Path) -> None:
    (tmp_path / "ash.onnx").write_bytes(models()["ash"])
    member = IsolatedMember("ash", tmp_path / "ash.onnx")
    wanted = member.predict(row())
    for _ in range(3):
        assert member._child is not None
        os.kill(member._child.process.pid, signal.SIGSEGV)
        with pytest.raises(MemberFailure, match="its process died of SIGSEGV"):
            member.predict(row())
        np.testing.assert_array_equal(member.predict(row()), wanted)
    member.stop()


def test_a_caller_in_a_hurry_costs_an_isolated_member_neither_its_process_nor_the_next_answer(tmp_path: Path) -> None:
    (tmp_path / "ash.onnx").write_bytes(models()["ash"])
    member = IsolatedMember("ash", tmp_path / "ash.onnx", deadline=Deadline(PATIENT_S))
    wanted = member.predict(row())
    before = member._child
    with pytest.raises(MemberFailure, match=r"did not answer within 0\.001 s"):
        member.predict_within(row(ash=Fault.SLOW), 0.001)
    np.testing.assert_array_equal(member.predict(row()), wanted)  # not the answer that was owed
    assert member._child is before
    member.stop()


def test_who_waits_for_his_turn_in_vain_says_nothing_of_the_member(tmp_path: Path) -> None:
    (tmp_path / "ash.onnx").write_bytes(models()["ash"])
    member, meter = IsolatedMember("ash", tmp_path / "ash.onnx", deadline=Deadline(2.0)), CpuTimeMeter(len(CLASSES))
    member.predict(row())
    with ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(meter.run, member, row(ash=Fault.HANG), np.arange(1), 2.0)
        eventually(member._lock.locked, "the member is at it")
        waiting = meter.run(member, row(), np.arange(1), 0.05)
    assert "answered others" in str(waiting.error)
    assert not waiting.teaches
    assert "did not answer within 2 s" in str(hanging.result().error)
    assert hanging.result().energy_j > 5.0  # two seconds at ten watts
    member.stop()


def test_a_process_that_stands_still_is_killed_though_its_link_is_full(tmp_path: Path) -> None:
    (tmp_path / "ash.onnx").write_bytes(models()["ash"])
    member = IsolatedMember("ash", tmp_path / "ash.onnx", deadline=Deadline(1.0))
    wanted = member.predict(row())
    assert member._child is not None
    os.kill(member._child.process.pid, signal.SIGSTOP)
    with pytest.raises(MemberFailure, match="did not answer within 1 s"):
        member.predict(np.repeat(row(), 100_000, axis=0))
    np.testing.assert_array_equal(member.predict(row()), wanted)
    member.stop()


def test_a_process_whose_worker_is_killed_does_not_outlive_it(tmp_path: Path) -> None:
    (tmp_path / "ash.onnx").write_bytes(models()["ash"])
    code = (
        "import sys, threading, pathlib; from bandmaster.members.isolated import IsolatedMember;"
        "from tests.faults.test_members import row, Fault;"
        "m = IsolatedMember('ash', pathlib.Path(sys.argv[1])); m.predict(row());"
        "print(m._child.process.pid, flush=True); m.predict(row(ash=Fault.HANG))"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code, str(tmp_path / "ash.onnx")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True, cwd=ROOT) as worker:
        assert worker.stdout is not None
        child = psutil.Process(int(worker.stdout.readline()))
        worker.kill()
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the child is gone")


def test_a_stopped_one_begins_nothing_until_it_is_started(tmp_path: Path) -> None:
    (tmp_path / "ash.onnx").write_bytes(models()["ash"])
    member = IsolatedMember("ash", tmp_path / "ash.onnx")
    member.stop()
    with pytest.raises(MemberFailure, match="is stopped"):
        member.predict(row())
    member.start()
    assert len(member.predict(row())) == 1
    member.stop()


def test_an_isolated_member_s_energy_is_what_its_process_spent(tmp_path: Path) -> None:
    (tmp_path / "ash.onnx").write_bytes(models()["ash"])
    member = IsolatedMember("ash", tmp_path / "ash.onnx")
    meter = CpuTimeMeter(len(CLASSES), watts=1.0)
    meter.run(member, row(), np.arange(1))
    little, much = (meter.run(member, row(ash=f), np.arange(1)) for f in (Fault.NONE, Fault.SLOW))
    assert much.energy_j > 5 * little.energy_j  # the process's CPU time: a loop of 5,000 turns
    member.stop()


def test_a_file_that_is_no_model_is_refused_alike(tmp_path: Path) -> None:
    path = tmp_path / "ash.onnx"
    path.write_bytes(b"no model")
    for kind in (OnnxMember, IsolatedMember):
        with pytest.raises(BandmasterError, match=r"ash\.onnx: ONNX Runtime cannot load member 'ash'"):
            kind("ash", path)


# ---- In a worker -------------------------------------------------------------------------------------------------


def configured(folder: Path, **changes: Any) -> Config:
    return load(project(folder, **changes) / "bentofile.yaml")


def worked(config: Config, script: Callable[[Worker], Awaitable[Any]]) -> Any:
    """What ``script`` makes of a worker, which is closed then."""

    async def run() -> Any:
        hosted = hosting.host(config)
        worker = Worker(made_of(config, hosted), worker=1)
        try:
            return await script(worker)
        finally:
            await worker.close()

    return asyncio.run(run())


async def ask(worker: Worker, rows: FloatArray, deadline_s: float | None = None) -> tuple[Decision, Answer]:
    return await worker.answer(Request(rows, rows[0], time.time(), deadline_s=deadline_s))


def named(answer: Answer) -> dict[str, bool]:
    """Who ran, and whether it answered."""
    return {reply.name: reply.scores is not None for reply in answer.ran}


def alone(plan: str, **changes: Any) -> dict[str, Any]:
    """A block in which this plan always answers."""
    return {"policy": {"use": "constant", "plan": plan}, "probes": {"share": 0}, **changes}


@pytest.mark.parametrize("fault", [Fault.NAN, Fault.RAISE, Fault.HANG, Fault.SHAPE])
def test_where_all_of_a_plan_fail_the_others_are_asked_until_one_answers(tmp_path: Path, fault: Fault) -> None:
    config = configured(tmp_path, **alone("ash+birch"))

    async def script(worker: Worker) -> Answer:
        return (await ask(worker, row(ash=fault, birch=fault, cedar=fault)))[1]

    answer = worked(config, script)
    assert named(answer) | {"cedar": False} == {"ash": False, "birch": False, "cedar": False, "doum": True}
    assert not answer.down
    assert answer.labels[0] != NO_ANSWER
    assert answer.confidence[0] == answer.scores.max()


def test_a_member_that_keeps_failing_is_spared_and_tried_again_after_a_reply(tmp_path: Path) -> None:
    config = configured(tmp_path, **alone("ash+birch", faults={"eject_after": 3, "cooldown": "1 ms"}))

    async def script(worker: Worker) -> tuple[list[dict[str, bool]], int]:
        ran = [named((await ask(worker, row(ash=Fault.RAISE)))[1]) for _ in range(4)]
        assert "ash" in worker.page(0.0)["out_of_service"]
        requests = 0
        while worker.page(0.0)["out_of_service"]:
            ran.append(named((await ask(worker, row()))[1]))
            requests += 1
            await asyncio.sleep(0.002)
            assert requests < 1000
        return [*ran, named((await ask(worker, row()))[1])], requests

    ran, requests = worked(config, script)
    assert ran[:3] == [{"ash": False, "birch": True}] * 3
    assert ran[3 : 3 + requests] == [{"birch": True}] * requests
    assert ran[-1] == {"ash": True, "birch": True}


def test_plans_that_need_a_member_out_of_service_are_not_chosen_and_the_probabilities_say_so(tmp_path: Path) -> None:
    config = configured(tmp_path, policy={"use": "random"}, faults={"eject_after": 1, "cooldown": "10 min"})

    async def script(worker: Worker) -> list[tuple[Decision, Answer]]:
        while not worker.page(0.0)["out_of_service"]:
            await ask(worker, row(ash=Fault.NAN))
        return [await ask(worker, row()) for _ in range(200)]

    for decision, answer in worked(config, script):
        needs = np.array(["ash" in plan for plan in decision.plans])
        assert not decision.probabilities[needs].any()
        assert decision.probabilities.sum() == pytest.approx(1.0)
        assert decision.state.fits == tuple(~needs)
        assert "ash" not in {reply.name for reply in (*answer.ran, *answer.probes)}


def test_where_every_member_fails_nobody_answers_and_nothing_is_learned(tmp_path: Path) -> None:
    config = configured(tmp_path)
    hosted = hosting.host(config)
    loop = LearningLoop(made_of(config, hosted))

    async def script(worker: Worker) -> list[tuple[Decision, Answer]]:
        broken = row(**dict.fromkeys(MEMBERS, Fault.RAISE))
        return [await ask(worker, broken) for _ in range(12)]

    answers = worked(config, script)
    assert all(answer.down and answer.labels[0] == NO_ANSWER for _, answer in answers)
    assert all(set(named(answer)) == set(MEMBERS) for _, answer in answers)
    before = [m.accuracy for m in loop.state().members]
    reports = [Report(decision_id=d.id, at=time.time(), labels=(0,)) for d, _ in answers]
    eventually(lambda: all(r.status == "joined" or r.status == "duplicate" for r in loop.settle(reports)), "joined")
    assert [m.accuracy for m in loop.state().members] == before
    assert loop.state().counts["joined"] == len(answers)
    loop.close()


def test_a_request_s_deadline_ends_its_walk_with_what_was_said_until_then(tmp_path: Path) -> None:
    members = {name: {"onnx": f"{name}.onnx", "deadline": "60 s"} for name in MEMBERS}
    config = configured(tmp_path, **alone("ash>birch@1", members=members))

    async def script(worker: Worker) -> tuple[Answer, Answer, dict[str, Any]]:
        cut = (await ask(worker, row(birch=Fault.HANG), deadline_s=1.0))[1]
        for _ in range(10):
            late = (await ask(worker, row(ash=Fault.HANG), deadline_s=0.05))[1]
        return cut, late, worker.page(0.0)["out_of_service"]

    cut, late, out = worked(config, script)
    assert named(cut) == {"ash": True, "birch": False}
    assert cut.labels[0] == cut.ran[0].scores.argmax()
    assert [late.ran[0].name, named(late)["ash"], len(late.ran)] == ["ash", False, 2]  # one more was asked
    assert out == {}  # callers in a hurry put nobody out of service


def test_a_member_that_hangs_goes_out_of_service_though_the_limit_is_tighter_than_its_own_time(tmp_path: Path) -> None:
    members = {name: {"onnx": f"{name}.onnx"} for name in MEMBERS}
    config = configured(tmp_path, **alone("ash+birch", members=members, limits={"deadline": "300 ms"}))

    async def script(worker: Worker) -> dict[str, Any]:
        for _ in range(6):
            await ask(worker, row(ash=Fault.HANG))
        return worker.page(0.0)["out_of_service"]

    assert set(worked(config, script)) == {"ash"}


def test_rows_that_every_member_fails_at_put_nobody_out_of_service(tmp_path: Path) -> None:
    config = configured(tmp_path, faults={"eject_after": 1})

    async def script(worker: Worker) -> dict[str, Any]:
        for _ in range(10):
            await ask(worker, row(**dict.fromkeys(MEMBERS, Fault.NAN)))
        return worker.page(0.0)["out_of_service"]

    assert worked(config, script) == {}


def test_a_worker_whose_isolated_members_die_keeps_answering(tmp_path: Path) -> None:
    members = {name: {"onnx": f"{name}.onnx", "isolated": name in ("ash", "birch")} for name in MEMBERS}
    config = configured(tmp_path, **alone("ash+birch", members=members, faults={"cooldown": "1 ms"}))

    async def script(worker: Worker) -> int:
        down = 0
        for i in range(60):
            for member in worker._serving.hosted.isolated:
                if i % 10 == 5 and member._child is not None:
                    os.kill(member._child.process.pid, signal.SIGSEGV)
            down += (await ask(worker, row()))[1].down
        return down

    assert worked(config, script) == 0


def test_the_fallback_must_be_one_of_the_classes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"faults\.fallback: 'lowest' is none of the classes; use one of 'low', 'mi"):
        hosting.host(configured(tmp_path, faults={"fallback": "lowest"}))
