"""A member's model is replaced while requests come: none is lost, and what does not fit changes nothing."""

from __future__ import annotations

from pathlib import Path

import bentoml as bento
import pytest
from bentoml._internal.models.model import ModelStore  # the only way to name a store other than the default

from tests.end_to_end.servers import environment, eventually, served
from tests.faults.replaced_models import alone, load, model, put, worker
from tests.serving.tiny import project


def store(home: Path, version: str, content: bytes) -> None:
    (home / "models").mkdir(parents=True, exist_ok=True)
    with bento.models.create(f"iris:{version}", _model_store=ModelStore(home / "models")) as made:
        Path(made.path_of("model.onnx")).write_bytes(content)


@pytest.mark.parametrize(
    "isolated",  # tests/serving/test_live_configuration.py has both in one worker
    [pytest.param(False, id="here"), pytest.param(True, id="isolated", marks=pytest.mark.extras)],
)
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
    assert under.failed == []


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
    assert under.failed == []
