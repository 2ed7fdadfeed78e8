"""Services written as BentoML's documentation writes them keep their signatures when they are orchestrated."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from _bentoml_sdk import Service
from starlette.testclient import TestClient

from bandmaster.config import read_block
from bandmaster.core import BandmasterError
from bandmaster.serving.door import Scope
from bandmaster.serving.front import DECISION_HEADER
from bandmaster.serving.service import wrap
from tests.serving.tiny import IRIS, LABELS, ROWS, project

HEAD = """
from __future__ import annotations
import bentoml
import numpy as np
import pydantic
from typing import Annotated, Any
from bentoml.validators import DType, Shape
from pathlib import Path


class Flower(pydantic.BaseModel):
    sepal_length: float
    sepal_width: float
    petal_length: float
    petal_width: float


class Answer(pydantic.BaseModel):
    label: str
    confidence: float
    note: str = "none"


class Answers(pydantic.BaseModel):
    labels: list[str]
    probabilities: list[list[float]]


@bentoml.service
class Iris:
"""
_numbers = itertools.count()


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Orchestrates a service given as text and starts it in this process, as ``--development`` would."""
    for scope in Scope:
        monkeypatch.setenv(scope.variable, "open-sesame-please")
    running: list[TestClient] = []

    def run(text: str, **changes: Any) -> TestClient:
        orchestrated = made(tmp_path / "project", text, **changes)
        orchestrated.config["metrics"] = {"enabled": False}  # there is one registry a process
        client = TestClient(orchestrated.to_asgi(), headers=TOKEN)
        client.__enter__()
        running.append(client)
        return client

    yield run
    for client in running:
        client.__exit__(None, None, None)


TOKEN = {"authorization": "Bearer open-sesame-please"}


def made(folder: Path, text: str, **changes: Any) -> Service[Any]:
    """The service that ``text`` defines, wrapped."""
    path = project(folder, text, **changes) / "service.py"
    # Each under a name of its own: BentoML evaluates annotations in the module that sys.modules names.
    spec = importlib.util.spec_from_file_location(f"plain_service_{next(_numbers)}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return wrap(module.Iris, partial(read_block, folder / "bentofile.yaml"))


def service(method: str) -> str:
    return HEAD + "\n".join(f"    {line}" for line in method.splitlines())


FLOWER = dict(zip(("sepal_length", "sepal_width", "petal_length", "petal_width"), ROWS[0].tolist(), strict=True))


@pytest.mark.parametrize(
    ("method", "body", "expected"),
    [
        ("def classify(self, input_series: np.ndarray) -> np.ndarray: ...", {"input_series": [ROWS[0].tolist()]},
         ["setosa"]),
        ("def classify(self, input_series: np.ndarray) -> list[str]: ...",
         {"input_series": ROWS[[0, 149]].tolist()}, ["setosa", "virginica"]),
        ("def classify(self, rows: list[list[float]]): ...", {"rows": ROWS[:2].tolist()}, ["setosa", "setosa"]),
        ("def classify(self, flower: Flower) -> str: ...", {"flower": FLOWER}, "setosa"),
        ("def classify(self, flower: Flower, /) -> str: ...", FLOWER, "setosa"),
        ("def classify(self, flowers: list[Flower]) -> list[str]: ...", {"flowers": [FLOWER] * 2}, ["setosa"] * 2),
        ("def classify(self, a: float, b: float, c: float, d: float = 0.2) -> str: ...",
         {"a": 5.1, "b": 3.5, "c": 1.4}, "setosa"),
        ("async def classify(self, row: list[float], ctx: bentoml.Context) -> str: ...", {"row": ROWS[0].tolist()},
         "setosa"),
        ('def classify(self, rows: Annotated[np.ndarray, DType("float32"), Shape((1, 4))]) -> Any: ...',
         {"rows": [ROWS[0].tolist()]}, ["setosa"]),
    ],
)  # fmt: skip
def test_a_documented_signature_keeps_working(start: Any, method: str, body: Any, expected: Any) -> None:
    client = start(service(f"@bentoml.api\n{method}"), policy={"use": "constant", "plan": "linear"})
    response = client.post("/classify", json=body)
    assert response.status_code == 200, response.text
    got = response.text if isinstance(expected, str) else response.json()
    assert got == expected
    assert len(response.headers[DECISION_HEADER]) == 32


def test_a_pydantic_answer_is_filled_by_its_fields_names(start: Any) -> None:
    one = start(service("@bentoml.api\ndef classify(self, flower: Flower) -> Answer: ..."))
    answer = one.post("/classify", json={"flower": FLOWER}).json()
    assert (answer["label"], answer["note"]) == ("setosa", "none")
    assert 1 / 3 <= answer["confidence"] <= 1


def test_a_pydantic_answer_may_hold_many_rows(start: Any) -> None:
    many = start(
        service("@bentoml.api\ndef classify(self, rows: np.ndarray) -> Answers: ..."),
        policy={"use": "constant", "plan": "linear"},
    )
    answer = many.post("/classify", json={"rows": ROWS[[0, 149]].tolist()}).json()
    assert answer["labels"] == ["setosa", "virginica"]
    assert [round(sum(row), 6) for row in answer["probabilities"]] == [1.0, 1.0]


def test_a_method_that_gives_one_answer_refuses_several_rows(start: Any) -> None:
    client = start(service("@bentoml.api\ndef classify(self, rows: np.ndarray) -> str: ..."))
    response = client.post("/classify", json={"rows": ROWS[:2].tolist()})
    assert response.status_code == 400
    assert response.json() == {"error": "Iris.classify gives one answer; this request has 2 rows: send one row each"}


def test_scores_are_returned_where_the_block_says_so(start: Any) -> None:
    client = start(service("@bentoml.api\ndef classify(self, rows: np.ndarray) -> np.ndarray: ..."), returns="scores")
    scores = client.post("/classify", json={"rows": ROWS[:2].tolist()}).json()
    assert [len(row) for row in scores] == [3, 3]


def test_a_service_may_make_rows_and_answers_itself(start: Any) -> None:
    own = """
@bentoml.api
def classify(self, text: str) -> set: ...

def to_rows(self, text):
    return [float(word) for word in text.split()]

def from_answer(self, answer, classes):
    return {"it is": classes[answer.labels[0]]}
"""
    client = start(service(own.replace("-> set", "-> dict")), policy={"use": "constant", "plan": "linear"})
    assert client.post("/classify", json={"text": "5.1 3.5 1.4 0.2"}).json() == {"it is": "setosa"}
    response = client.post("/classify", json={"text": "five 3.5"})
    assert response.status_code == 400
    assert "could not convert string to float" in response.json()["error"]


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("def classify(self, rows: np.ndarray) -> int: ...", "does not fit"),
        ("def classify(self, rows: np.ndarray) -> list[int]: ...", "does not fit"),
        ("def classify(self, rows: np.ndarray) -> Flower: ...", "define from_answer"),
        ("def classify(self, rows: np.ndarray) -> Path: ...", "define from_answer"),
        ("def classify(self, rows: np.ndarray, threshold: float = 0.5) -> str: ...", "define to_rows"),
        ("def other(self, rows: np.ndarray) -> str: ...", "has no @bentoml.api method 'classify'"),
        ("def classify(self, rows: np.ndarray) -> str: ...\n@bentoml.api\ndef feedback(self) -> str: ...", "rename it"),
    ],
)
def test_a_signature_that_cannot_be_served_is_refused_at_start(tmp_path: Path, method: str, why: str) -> None:
    with pytest.raises(BandmasterError, match=why):
        made(tmp_path, service(f"@bentoml.api\n{method}"))


def test_the_services_other_methods_work_and_may_call_the_orchestrated_one(start: Any) -> None:
    client = start(IRIS, policy={"use": "constant", "plan": "linear"})
    assert client.post("/version").json() == {"version": 7}
    assert client.post("/one_by_one", json={"rows": ROWS[[0, 149]].tolist()}).json() == ["setosa", "virginica"]
    counts = client.get("/orchestration/state").json()["counts"]
    assert counts["decisions"] == 2


def test_in_one_process_feedback_is_learned_from_as_in_many(start: Any) -> None:
    client = start(IRIS, classes=[0, 1, 2], probes={"share": 0})
    first = client.post("/classify", json={"input_series": [ROWS[0].tolist()]})
    receipt = client.post("/feedback", json={"decision_id": first.headers[DECISION_HEADER], "label": int(LABELS[0])})
    assert (receipt.status_code, receipt.json()["status"]) == (200, "joined")


def test_by_consensus_the_service_learns_from_its_probes_and_nobody_reports_anything(start):
    contract = {"accuracy": {"weight": 1, "from": "consensus"}}
    client = start(IRIS, contract=contract, probes={"share": 1.0}, seed=1)
    for row in ROWS[::15]:
        client.post("/classify", json={"input_series": [row.tolist()]}).raise_for_status()
    for _ in range(2000):  # the probes come after the replies; a learner's tick takes them in
        state = client.get("/orchestration/state").json()
        if state["counts"]["joined"] == 10:
            break
    assert (state["counts"]["joined"], state["without_reward"]) == (10, 0)
    assert state["contract"]["accuracy"]["proxy"] is True
    assert sum(m["labelled"] for m in state["members"]) == 40
