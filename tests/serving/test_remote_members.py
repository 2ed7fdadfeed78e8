"""Members on model servers in a service: side by side, within their time, and down when it starts."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandmaster import hosting
from bandmaster.config import Config, ConfigError, load
from bandmaster.core import Answer, Decision, Request
from bandmaster.serving.worker import Worker
from tests.members import servers
from tests.members.servers import Served, metadata, saying, serving, softmax
from tests.serving.tiny import CLASSES, ROWS, made_of, project

PATIENT = {"deadline": "60 s"}
NOWHERE = "http://127.0.0.1:9"
"""Where nobody listens."""


def far(served: Served, model: str = "m", **other: Any) -> dict[str, Any]:
    return {"open_inference": served.url, "model": model, **other}


def configured(folder: Path, plan: str, members: dict[str, Any], **changes: Any) -> Config:
    always = {"policy": {"use": "constant", "plan": plan}, "probes": {"share": 0}}
    return load(project(folder, members=members, **(always | changes)) / "bentofile.yaml")


def worked(config: Config, script: Callable[[Worker], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        worker = Worker(made_of(config, hosting.host(config)), worker=1)
        try:
            return await script(worker)
        finally:
            await worker.close()

    return asyncio.run(run())


async def ask(worker: Worker) -> tuple[Decision, Answer]:
    rows = ROWS[:1].astype(np.float32)
    return await worker.answer(Request(rows, rows[0], time.time()))


def test_members_on_servers_are_asked_side_by_side(tmp_path: Path) -> None:
    """Each waits until the other has been asked, too."""
    both = threading.Barrier(2)

    def meeting(rows: np.ndarray) -> np.ndarray:
        if rows.any():  # not the row of zeros that is tried at start
            both.wait(60.0)
        return softmax(rows)

    with serving(Served(models={"m": meeting})) as one, serving(Served(models={"m": meeting})) as other:
        config = configured(tmp_path, "one+other", {"one": far(one, **PATIENT), "other": far(other, **PATIENT)})
        for _, answer in [worked(config, ask) for _ in range(3)]:
            assert [said.error for said in answer.ran] == [None, None]


def test_a_server_is_asked_over_connections_that_stay_and_let_go_when_the_worker_ends(tmp_path: Path) -> None:
    async def script(worker: Worker) -> int:
        for _ in range(30):
            await ask(worker)
        return served.connections

    with serving() as served:
        config = configured(tmp_path, "one", {"one": far(served)})
        assert worked(config, script) == 2  # one to find out what it is, one to answer
        assert sum(path.endswith("/infer") for path, _ in served.seen) >= 30


def test_a_server_that_hangs_is_out_of_service_and_the_others_answer(tmp_path: Path) -> None:
    async def script(worker: Worker) -> tuple[list[Answer], dict[str, Any]]:
        served.fault = servers.hang
        return [(await ask(worker))[1] for _ in range(4)], worker.page(0.0)["out_of_service"]

    with serving() as served:
        members = {"linear": {"onnx": "linear.onnx"}, "one": far(served, deadline="100 ms")}
        config = configured(tmp_path, "linear+one", members, faults={"eject_after": 3, "cooldown": "10 min"})
        answers, out = worked(config, script)
    assert out["one"]["error"].startswith("did not answer within 0.")  # a tenth of a second, less what had passed
    assert [len(answer.ran) for answer in answers] == [2, 2, 2, 1]
    assert all(answer.confidence[0] > 0.0 for answer in answers)


def test_a_server_that_is_down_at_start_keeps_nobody_from_serving_and_answers_once_it_is_up(tmp_path: Path) -> None:
    async def script(worker: Worker) -> tuple[Answer, Answer]:
        before = (await ask(worker))[1]
        served.fault = None
        return before, (await ask(worker))[1]

    with serving(Served(fault=saying({"error": "loading"}, 503))) as served:
        members = {"one": far(served), "linear": {"onnx": "linear.onnx"}}
        config = configured(tmp_path, "linear+one", members)
        before, after = worked(config, script)
    assert {said.name: said.error for said in before.ran} == {
        "linear": None,
        "one": "the server answered 503: loading",
    }
    assert all(said.error is None for said in after.ran)


def test_where_nobody_tells_what_rows_look_like_nothing_is_served_and_all_of_it_is_said(tmp_path: Path) -> None:
    members = {name: {"open_inference": NOWHERE, "model": "m"} for name in ("one", "other")}
    config = configured(tmp_path, "one", members, classes=list(CLASSES))
    with pytest.raises(ConfigError) as refused:
        hosting.host(config)
    said = str(refused.value)
    for name in members:
        assert f"members.{name}: ClientConnectorError: Cannot connect to host 127.0.0.1:9" in said
    assert "no other member tells what rows and answers look like" in said


def test_one_server_that_is_up_tells_for_another_that_is_down(tmp_path: Path) -> None:
    with serving() as served:
        members = {"down": {"open_inference": NOWHERE, "model": "m"}, "up": far(served)}
        hosted = hosting.host(configured(tmp_path, "up", members, classes=list(CLASSES)))
        hosted.stop()
    assert (hosted.input_shape, hosted.ensemble.classes) == ((4,), CLASSES)
    assert hosted.slow == {"down", "up"}


def test_a_model_that_does_not_fit_the_others_is_refused(tmp_path: Path) -> None:
    with serving(Served(metadata=metadata(shape=(-1, 5)))) as served:
        config = configured(tmp_path, "linear", {"one": far(served), "linear": {"onnx": "linear.onnx"}})
        with pytest.raises(ConfigError, match=r"members\.one: has rows of shape \(5,\), but 'linear' \(4,\)"):
            hosting.host(config)
    with serving(Served(models={"m": lambda rows: np.full((len(rows), 2), 0.5)})) as served:
        config = configured(tmp_path, "linear", {"one": far(served), "linear": {"onnx": "linear.onnx"}})
        with pytest.raises(ConfigError, match=r"members\.one: has classes 2, but 'linear' 3"):
            hosting.host(config)


def test_what_is_declared_of_its_energy_is_what_a_request_is_charged(tmp_path: Path) -> None:
    contract = {"accuracy": {"weight": 0.5}, "energy": {"weight": 0.5, "range": ["1 mJ", "10 J"]}}
    with serving() as served:
        members = {"one": far(served, profile={"energy": "2 J"}), "linear": {"onnx": "linear.onnx"}}
        _, answer = worked(configured(tmp_path, "linear+one", members, contract=contract), ask)
    linear, one = answer.ran
    assert (one.energy_j, one.energy_from) == (2.0, "declared")
    assert linear.energy_from in ("estimated", "measured")
