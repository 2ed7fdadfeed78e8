"""Members that are other services of the same bento, each in a process of its own, by a real ``bentoml serve``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bandmaster.core import BandmasterError
from bandmaster.serving.discovery import find_block, load_service
from bandmaster.serving.service import wrap
from tests.end_to_end.servers import Server, environment, eventually, served
from tests.serving.tiny import IRIS, ROWS, project

HANG = 1000.0
"""A first column above this makes the service ``Other`` hang."""

OTHERS = '''
import asyncio
import pathlib

MEETING = pathlib.Path(__file__).parent / "meeting"


def softmax(rows):
    told = np.exp(rows[:, :3] - rows[:, :3].max(axis=1, keepdims=True))
    return told / told.sum(axis=1, keepdims=True)


async def meet(mine, its):
    """Wait until the other one has been asked, too; where there is a folder to meet in."""
    if MEETING.is_dir():
        (MEETING / mine).touch()
        for _ in range(3000):
            if (MEETING / its).exists():
                return
            await asyncio.sleep(0.01)
        raise RuntimeError(f"{mine} waited for {its} in vain")


@bentoml.service(traffic={"timeout": 300})
class Other:
    @bentoml.api
    async def judge(self, rows: np.ndarray) -> np.ndarray:
        if rows[0, 0] > 1000.0:
            await asyncio.sleep(3600)
        await meet("other", "third")
        return softmax(rows)


@bentoml.service
class Third:
    @bentoml.api
    async def predict(self, rows: list[list[float]]) -> list[list[float]]:
        await meet("third", "other")
        return softmax(np.array(rows)).tolist()
'''
MEMBERS = {
    "linear": {"onnx": "linear.onnx"},
    "other": {"bento": "service:Other", "method": "judge", "deadline": "60 s"},
    "third": {"bento": "service:Third", "deadline": "60 s"},
}


def bento(folder: Path, **changes: Any) -> Path:
    source = IRIS.replace("@bentoml.service\nclass Iris", OTHERS + "\n\n@bentoml.service\nclass Iris")
    policy = {"use": "constant", "plan": "linear+other+third"}
    return project(folder, source, **({"members": MEMBERS, "policy": policy} | changes))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = bento(tmp_path_factory.mktemp("bento"))
    with served(".", folder=folder, env=environment(folder / "home")) as up:
        yield up


def ask(server: Server, row: np.ndarray = ROWS[0], **headers: str) -> str:
    """The decision's id."""
    response = server.client.post("/classify", json={"input_series": [row.tolist()]}, headers=headers, timeout=60)
    return str(response.raise_for_status().headers["x-orchestration-decision"])


def errors(server: Server, decision: str) -> dict[str, str | None]:
    """How each member failed that ran."""
    told = eventually(lambda: server.client.get(f"/orchestration/decisions/{decision}").json().get("said"), "recorded")
    return {said["member"]: said["error"] for said in told}


ALL_WELL = {"linear": None, "other": None, "third": None}


def test_services_are_asked_side_by_side(server: Server) -> None:
    meeting = server.log.parents[1] / "meeting"
    meeting.mkdir()
    try:
        assert errors(server, ask(server)) == ALL_WELL
        assert {path.name for path in meeting.iterdir()} == {"other", "third"}
    finally:
        for path in meeting.iterdir():
            path.unlink()
        meeting.rmdir()


def test_no_call_is_lost_though_bentoml_s_client_would_renew_its_connections(server: Server) -> None:
    async def storm() -> list[str]:
        limits = httpx.Limits(max_connections=16)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as client:
            calls = [client.post("/classify", json={"input_series": [row.tolist()]}) for row in np.tile(ROWS, (3, 1))]
            return [
                answer.raise_for_status().headers["x-orchestration-decision"] for answer in await asyncio.gather(*calls)
            ]

    for decision in asyncio.run(storm()):
        assert errors(server, decision) == ALL_WELL


def test_a_service_that_hangs_costs_a_request_no_more_than_it_has_time(server: Server) -> None:
    hangs = np.array([HANG + 1.0, 1.0, 1.0, 1.0])
    found = errors(server, ask(server, hangs, **{"x-orchestration-deadline-ms": "400"}))
    assert str(found["other"]).startswith("did not answer within 0.")
    assert found["linear"] is None
    assert errors(server, ask(server)) == ALL_WELL


def test_a_service_whose_process_is_killed_is_missed_and_answers_again_once_it_is_back(server: Server) -> None:
    (process,) = [p for p in server.processes("_bentoml_impl.worker") if "Third" in p.cmdline()]
    process.kill()
    eventually(lambda: errors(server, ask(server)) == ALL_WELL, "all answer")


@pytest.mark.extras
def test_in_one_process_it_works_as_well(tmp_path: Path) -> None:
    folder = bento(tmp_path / "bento")
    with served(".", "--development", folder=folder, env=environment(tmp_path / "home")) as up:
        assert errors(up, ask(up)) == ALL_WELL


def refusal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Why nobody serves what lies in ``folder``; tests/end_to_end/test_serving.py has how a server says such things."""
    monkeypatch.delenv("BENTOML_CONFIG", raising=False)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop("service", None)
    try:
        with pytest.raises(BandmasterError) as refused:
            wrap(load_service(*find_block()), find_block)
    finally:
        sys.modules.pop("service", None)
    return str(refused.value)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"a": {"bento": "service:Nobody"}}, "members.a.bento: 'service:Nobody': service.py has no 'Nobody'"),
        ({"a": {"bento": "service:Iris"}}, "members.a.bento: is the service that is orchestrated; name another one"),
        ({"a": {"bento": "service:Other"}}, "members.a.method: Other has no API method 'predict'; it has judge"),
    ],
)
def test_a_service_that_cannot_be_a_member_is_refused_at_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: dict[str, Any], why: str
) -> None:
    folder = bento(tmp_path, members={"linear": MEMBERS["linear"], **members}, policy={"use": "bandit"})
    assert why in refusal(folder, monkeypatch)


def test_an_ensemble_of_services_alone_tells_nobody_what_rows_look_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bento(tmp_path, members={"third": MEMBERS["third"]}, policy={"use": "bandit"})
    why = "members.third: is asked only once the service runs; no other member tells what rows and"
    assert why in refusal(folder, monkeypatch)
