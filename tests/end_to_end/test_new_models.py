"""A member's model is replaced while requests come: none is lost, and what does not fit changes nothing."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import bentoml as bento
import httpx
import numpy as np
import pytest
from bentoml._internal.models.model import ModelStore  # the only way to name a store other than the default
from onnx import helper
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

from tests.end_to_end.servers import Server, environment, eventually, served
from tests.serving.tiny import CLASSES, LABELS, ROWS, project

CALLERS = 3
ROW = {"input_series": [ROWS[0].tolist()]}
"""A setosa."""


@cache
def model(turned: int = 0, classes: tuple[str, ...] = CLASSES) -> bytes:
    """A classifier that says of a setosa that it is the class so many further on."""
    labels = (LABELS + turned) % len(classes)
    fitted = LogisticRegression(max_iter=500).fit(ROWS, labels)
    made = to_onnx(fitted, np.float32(ROWS[:1]), options={id(fitted): {"zipmap": False}}, target_opset=17)
    helper.set_model_props(made, {"classes": json.dumps(classes)})
    return bytes(made.SerializeToString())


@dataclass
class Load:
    """What callers were answered, in order, while they ask without pause."""

    url: str
    said: list[tuple[int, str]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def call(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self.over.is_set():
                answer = client.post("/classify", json=ROW)
                self.said.append((answer.status_code, answer.json()[0] if answer.status_code == 200 else answer.text))

    def until(self, label: str) -> None:
        """Wait until all that is answered is this label, for a hundred answers."""

        def only() -> bool:
            since = self.said[-100:]
            return len(since) == 100 and {said for _, said in since} == {label}

        eventually(only, f"{label} is answered")


@contextmanager
def load(server: Server) -> Iterator[Load]:
    """Callers, from here to there; every request of theirs must have been answered with 200."""
    under = Load(server.url)
    callers = [threading.Thread(target=under.call) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    try:
        yield under
    finally:
        under.over.set()
        for caller in callers:
            caller.join()
    assert {status for status, _ in under.said} == {200}, [said for said in under.said if said[0] != 200][:3]
    assert {label for _, label in under.said} <= set(CLASSES)


def put(path: Path, content: bytes) -> None:
    """As ``mv`` does: the file is there whole, or the one before."""
    path.with_suffix(".new").write_bytes(content)
    os.replace(path.with_suffix(".new"), path)


def store(home: Path, version: str, content: bytes) -> None:
    (home / "models").mkdir(parents=True, exist_ok=True)
    with bento.models.create(f"iris:{version}", _model_store=ModelStore(home / "models")) as made:
        Path(made.path_of("model.onnx")).write_bytes(content)


def worker(server: Server) -> dict[str, object]:
    """The page of the configuration that the worker serves by."""
    page = server.state()["worker"]
    assert isinstance(page, dict)
    found: dict[str, object] = page["config"]
    return found


def alone(member: dict[str, object]) -> dict[str, object]:
    """A block of this member alone, so that nobody stands in where it fails."""
    return {"members": {"one": member}, "policy": {"use": "constant", "plan": "one"}}


@pytest.mark.parametrize("isolated", [False, True], ids=["here", "isolated"])
def test_a_file_that_is_replaced_is_taken_up_and_one_that_does_not_fit_is_not(tmp_path: Path, isolated: bool) -> None:
    folder = project(tmp_path / "iris", **alone({"onnx": "one.onnx", "isolated": isolated}))
    put(folder / "one.onnx", model())
    with served(".", folder=folder, env=environment(tmp_path / "home")) as server, load(server) as under:
        under.until("setosa")
        put(folder / "one.onnx", model(turned=1))
        under.until("versicolor")
        put(folder / "one.onnx", model(classes=("a", "b", "c")))
        error = eventually(lambda: worker(server)["error"], "the page says that it does not fit")
        assert "have other classes or rows than those that the service was started with" in str(error)
        put(folder / "one.onnx", model()[: len(model()) // 2])
        eventually(lambda: "cannot load member 'one'" in str(worker(server)["error"]), "nor that it is half a model")
        under.until("versicolor")
        put(folder / "one.onnx", model(turned=2))
        under.until("virginica")
        eventually(lambda: worker(server)["error"] is None, "all is well again")
        assert str(server.state()["config"]).count("one.onnx of ") == 1  # the learner has taken it up, too


def test_the_latest_version_of_a_stored_model_is_taken_up_when_it_comes(tmp_path: Path) -> None:
    home = tmp_path / "home"
    store(home, "first", model())
    folder = project(tmp_path / "iris", **alone({"bento_model": "iris:latest"}))
    with served(".", folder=folder, env=environment(home)) as server, load(server) as under:
        under.until("setosa")
        assert worker(server)["models"] == {"one": "iris:first"}
        store(home, "second", model(turned=1))
        under.until("versicolor")
        assert worker(server)["models"] == {"one": "iris:second"}
        eventually(lambda: "model:one" in str(server.state()["drift"]), "it is among the alarms")
        assert "is iris:second now, and was iris:first" in str(server.state()["drift"])
        store(home, "third", b"no model at all")
        eventually(lambda: worker(server)["error"], "the page says that it is none")
        under.until("versicolor")
