"""The ways in which a service is served, and what of it the user's own clients see."""

from __future__ import annotations

import re
from pathlib import Path

import bentoml as bento
import httpx
import numpy as np
import pytest

from tests.end_to_end.servers import Server, bentoml, environment, eventually, served
from tests.serving.tiny import CLASSES, IRIS, LABELS, ROWS, project

HEADER = "x-orchestration-decision"


def classify(client: httpx.Client, rows: np.ndarray) -> httpx.Response:
    response = client.post("/classify", json={"input_series": rows.tolist()})
    assert response.status_code == 200, response.text
    return response


def teach(client: httpx.Client, requests: int) -> int:
    """Ask and label that many times; return how many labels joined at once."""
    joined = 0
    for i in range(requests):
        decision = classify(client, ROWS[[i % 150]]).headers[HEADER]
        receipt = client.post("/feedback", json={"decision_id": decision, "label": CLASSES[LABELS[i % 150]]})
        joined += receipt.status_code == 200
    return joined


def test_the_openapi_page_shows_the_users_signature_and_ours(iris: Server) -> None:
    page = iris.client.get("/docs.json").json()
    assert {"/classify", "/one_by_one", "/version", "/feedback"} <= page["paths"].keys()
    schema = page["paths"]["/classify"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"].keys() == {"input_series"}
    assert page["info"]["title"] == "Iris"
    assert "decision_id" in str(page["components"]["schemas"])
    routes = iris.client.get("/schema.json").json()["routes"]
    assert {route["name"]: route["route"] for route in routes}["classify"] == "/classify"


def test_bentomls_own_client_calls_the_service_as_before(iris: Server) -> None:
    with bento.SyncHTTPClient(iris.url) as client:
        found = client.classify(input_series=ROWS[:3])
        assert len(found) == 3
        assert set(found) <= set(CLASSES)
        assert client.version() == {"version": 7}
        decision = classify(iris.client, ROWS[:1]).headers[HEADER]
        receipt = client.feedback({"decision_id": decision, "reward": 0.5})
        assert receipt["decision_id"] == decision


def test_one_reply_carries_one_decision_whatever_its_number_of_rows(iris: Server) -> None:
    before = iris.counts()["decisions"]
    ids = {classify(iris.client, ROWS[:n]).headers[HEADER] for n in (1, 5, 150)}
    assert len(ids) == 3
    assert iris.counts()["decisions"] == before + 3


def test_many_outcomes_may_be_reported_at_once(iris: Server) -> None:
    decisions = [classify(iris.client, ROWS[[i]]).headers[HEADER] for i in (0, 60)]
    body = [{"decision_id": d, "reward": r} for d, r in zip(decisions, (0.25, 1), strict=True)]
    receipts = iris.client.post("/feedback", json=body).json()
    assert [r["decision_id"] for r in receipts] == decisions
    assert {r["status"] for r in receipts} <= {"joined", "early"}
    assert [r["status"] for r in iris.client.post("/feedback", json=body).json()] == ["duplicate"] * 2


def test_what_is_learned_reaches_the_worker(iris: Server) -> None:
    before = iris.state()["snapshot_version"]
    teach(iris.client, 30)

    def followed() -> bool:
        state = iris.state()
        return state["worker"]["snapshot_version"] == state["snapshot_version"] > before  # type: ignore[index, operator]

    eventually(followed, "the worker has the learner's snapshot", 15)
    assert "cannot be taken over" not in iris.log.read_text()


def test_a_killed_learner_comes_back_and_has_lost_nothing_that_was_acknowledged(iris: Server) -> None:
    before = iris.counts()
    ids = [classify(iris.client, ROWS[[i]]).headers[HEADER] for i in range(0, 150, 10)]
    for decision in ids[:8]:
        assert iris.client.post("/feedback", json={"decision_id": decision, "reward": 1}).is_success
    (learner,) = iris.processes("IrisLearner")
    learner.kill()
    classify(iris.client, ROWS[:1])  # answering does not need the learner

    def taken(decision: str) -> bool:
        response = iris.client.post("/feedback", json={"decision_id": decision, "reward": 1})
        assert response.status_code in (200, 202, 503), response.text
        assert response.is_success or "send it again" in response.json()["error"]
        return response.is_success

    for decision in ids[8:]:
        eventually(lambda d=decision: taken(d), "feedback is taken again")
    after = iris.counts()
    assert sum(after[status] - before[status] for status in ("joined", "early")) == len(ids)
    state = iris.state()
    assert state["reward"] > 0.5  # type: ignore[operator] # it learned on, from where it was


def test_two_workers_answer_follow_one_learner_and_share_a_budget(tmp_path: Path) -> None:
    two = IRIS.replace("@bentoml.service", "@bentoml.service(workers=2)")
    folder = project(tmp_path, two, limits={"energy": "1 kJ / 1 h"})
    with served(".", folder=folder, env=environment(folder / "home")) as server:
        followed: dict[int, int] = {}

        def both() -> bool:
            with httpx.Client(base_url=server.url) as client:  # a connection each: they share the port
                teach(client, 2)
                state = client.get("/orchestration/state").json()
            followed[state["worker"]["number"]] = state["worker"]["snapshot_version"]
            assert 400.0 < state["worker"]["left"]["energy"] < 500.0, "half of it, less what it has spent"
            return len(followed) == 2 and min(followed.values()) > 0

        eventually(both, "both workers have answered and follow the learner")
        assert len(server.processes("IrisLearner")) == 1


@pytest.mark.extras  # tests/serving has most services in one process, without BentoML's command
def test_development_mode_answers_and_learns_in_one_process(folder: Path) -> None:
    env = environment(folder / "home")
    with served("bandmaster.auto:svc", "--development", folder=folder, env=env) as server:
        assert teach(server.client, 5) > 0
        assert server.processes("IrisLearner") == []


DECORATED = """
import bentoml
import numpy as np
from bandmaster.serving import orchestrate


@bentoml.service
@orchestrate(config="bentofile.yaml")
class Iris:
    @bentoml.api
    def classify(self, input_series: np.ndarray) -> np.ndarray:
        return np.zeros(len(input_series))
"""


@pytest.mark.extras
def test_the_decorator_works_below_bentomls_too(tmp_path: Path) -> None:  # above it: examples/01
    folder = project(tmp_path, DECORATED, service=None)
    with served("service:Iris", folder=folder, env=environment(folder / "home")) as server:
        assert teach(server.client, 3) > 0
        assert "/feedback" in server.client.get("/docs.json").json()["paths"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("weight: 0.8", "weight: -1"), [r"bentofile\.yaml:\d+: args\.orchestration\.contract\.accuracy\.weight: -1"]),
        (("linear.onnx", "../linear.onnx"), [r"bentofile\.yaml:\d+: .*members\.linear\.onnx", "put the model inside"]),
        (("sqlite:///orchestration.db", "sqlite:////proc/orchestration.db"), ["journal: /proc"]),
    ],
)
def test_a_block_that_cannot_be_used_stops_the_start_with_its_place_and_the_fix(
    folder: Path, change: tuple[str, str], words: list[str]
) -> None:
    file = folder / "bentofile.yaml"
    assert change[0] in file.read_text()
    file.write_text(file.read_text().replace(*change))
    found = bentoml("serve", ".", "--host", "127.0.0.1", "--port", "1", folder=folder, env=environment(folder / "home"))
    assert found.returncode == 2, found.stdout + found.stderr
    for word in words:
        assert re.search(word, found.stderr), found.stderr
    assert "Traceback" not in found.stderr
    assert not list(folder.glob("orchestration.db*"))


def test_a_second_service_on_the_same_journal_does_not_start(iris: Server, tmp_path: Path) -> None:
    folder = project(tmp_path)
    journal = iris.log.parent.parent / "orchestration.db"
    env = environment(folder / "home", BANDMASTER_JOURNAL=f"sqlite:///{journal}")
    found = bentoml("serve", ".", "--host", "127.0.0.1", "--port", "1", folder=folder, env=env)
    assert found.returncode == 2
    assert "another learner holds its lease" in found.stderr
