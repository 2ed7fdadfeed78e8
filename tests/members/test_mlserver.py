"""Members on a real MLServer: scikit-learn's models, served by it, in an ensemble that is served by BentoML."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest

from bandmaster.core import BandmasterError, MemberFailure
from bandmaster.demo import free_port
from bandmaster.members.open_inference import Endpoint, Unavailable
from bandmaster.members.remote import RemoteMember
from bandmaster.testing import check_member
from tests.end_to_end.servers import environment, eventually, served, stop
from tests.serving.tiny import ROWS, project

pytestmark = pytest.mark.extras

MLSERVER = Path(__file__).parents[2] / ".venv" / "mlserver" / "bin"
"""Its own environment, which `make test-extras` makes: what it needs does not go together with BentoML."""

TRAIN = """
import joblib, sys
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
rows, labels = load_iris(return_X_y=True)
for name, model in {"bayes": GaussianNB(), "linear": LogisticRegression(max_iter=500)}.items():
    joblib.dump(model.fit(rows, labels), f"{name}/model.joblib")
"""
Running = tuple[str, "subprocess.Popen[bytes]"]
TELLS = {
    "inputs": [{"name": "rows", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [
        {"name": "predict", "datatype": "INT64", "shape": [-1, 1]},
        {"name": "predict_proba", "datatype": "FP64", "shape": [-1, 3]},
    ],
}


@dataclass
class MlServer:
    """Of the model ``bayes`` it tells what that takes, of ``linear`` nothing."""

    folder: Path
    urls: dict[str, str]
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [MLSERVER / "mlserver", "start", "."], cwd=self.folder, stdout=log, stderr=log
            )
        eventually(self._ready, "MLServer is ready")

    def _ready(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()
        models = f"{self.urls['http']}/v2/models"
        try:
            return all(httpx.get(f"{models}/{name}/ready").status_code == 200 for name in ("bayes", "linear"))
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            stop(self.process)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlServer]:
    folder = tmp_path_factory.mktemp("mlserver")
    ports = {of: free_port() for of in ("http", "grpc", "metrics")}
    settings = {"host": "127.0.0.1", "parallel_workers": 0, **{f"{of}_port": port for of, port in ports.items()}}
    (folder / "settings.json").write_text(json.dumps(settings))
    for name, tells in {"bayes": TELLS, "linear": {}}.items():
        (folder / name).mkdir()
        described = {"name": name, "implementation": "mlserver_sklearn.SKLearnModel", **tells}
        described["parameters"] = {"uri": "./model.joblib", "version": "1"}
        (folder / name / "model-settings.json").write_text(json.dumps(described))
    subprocess.run([MLSERVER / "python", "-c", TRAIN], cwd=folder, check=True)
    server = MlServer(folder, {of: f"{of}://127.0.0.1:{port}" for of, port in ports.items()})
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(params=["http", "grpc"])
def mlserver(running: MlServer, request: pytest.FixtureRequest) -> Running:
    """Its address and its process."""
    return running.urls[request.param], running.process


def test_a_model_of_mlserver_keeps_every_rule_of_a_member(mlserver: Running) -> None:
    member = RemoteMember("bayes", Endpoint(mlserver[0], "bayes", "1", output="predict_proba"))
    assert (member.input_shape, member.width, member.unmet) == ((4,), 3, None)
    check_member(lambda: member, ROWS[:8].astype(np.float32))
    member.stop()


def test_what_mlserver_does_not_tell_of_a_model_can_be_said(mlserver: Running) -> None:
    with pytest.raises(BandmasterError, match="does not tell what the model takes; name its tensor, as in input:"):
        RemoteMember("linear", Endpoint(mlserver[0], "linear"))
    with pytest.raises(BandmasterError, match=r"(the server answered 404|NOT_FOUND): Model nobody .*not found"):
        RemoteMember("nobody", Endpoint(mlserver[0], "nobody"))
    member = RemoteMember("linear", Endpoint(mlserver[0], "linear", input="rows", output="predict_proba"))
    member.suppose((4,), 3)
    assert member.width == 3
    assert np.allclose(member.predict(ROWS[:5]).sum(axis=1), 1.0)
    member.stop()


def test_an_ensemble_of_models_there_and_here_is_served_and_outlives_a_server_that_stands_still(
    mlserver: Running, tmp_path: Path
) -> None:
    url, process = mlserver
    far = {"open_inference": url, "output": "predict_proba", "deadline": "2 s"}
    members = {
        "here": {"onnx": "tree.onnx"},
        "bayes": {**far, "model": "bayes", "version": 1, "profile": {"energy": "1 J"}},
        "linear": {**far, "model": "linear", "input": "rows", "profile": {"energy": "1 J"}},
    }
    contract = {"accuracy": {"weight": 0.8}, "energy": {"weight": 0.2, "range": ["1 mJ", "10 J"]}}
    policy = {"use": "constant", "plan": "here+bayes+linear"}
    folder = project(tmp_path / "iris", members=members, contract=contract, policy=policy)
    with served(".", folder=folder, env=environment(tmp_path / "home")) as server:

        def ask(k: int) -> tuple[str, dict[str, tuple[str, str | None]]]:
            """The label, and of each member whence its energy is known, and how it failed."""
            response = server.client.post("/classify", json={"input_series": [ROWS[k].tolist()]}).raise_for_status()
            path = f"/orchestration/decisions/{response.headers['x-orchestration-decision']}"

            def told() -> dict[str, tuple[str, str | None]] | None:
                found = server.client.get(path)
                if found.status_code != 200:
                    return None
                return {said["member"]: (said["energy_from"], said["error"]) for said in found.json()["said"]}

            return response.json()[0], eventually(told, "the decision is in the journal")

        for k, label in ((0, "setosa"), (60, "versicolor"), (120, "virginica")):
            assert ask(k) == (
                label,
                {"here": ("estimated", None), "bayes": ("declared", None), "linear": ("declared", None)},
            )
        process.send_signal(signal.SIGSTOP)
        late = ("declared", "did not answer within 2 s")
        assert ask(0) == ("setosa", {"here": ("estimated", None), "bayes": late, "linear": late})
        process.send_signal(signal.SIGCONT)
        eventually(lambda: all(error is None for _, error in ask(0)[1].values()), "they answer again")


def test_a_server_that_is_killed_fails_and_answers_again_when_it_is_back(running: MlServer) -> None:
    members = [
        RemoteMember(way, Endpoint(running.urls[way], "bayes", output="predict_proba")) for way in ("http", "grpc")
    ]
    answers = [member.predict(ROWS[:5]) for member in members]
    np.testing.assert_array_equal(*answers)
    running.process.kill()
    running.process.wait()
    for member in members:
        with pytest.raises(Unavailable):
            member.predict(ROWS[:5])
    running.start()

    def same(member: RemoteMember) -> bool:
        try:
            return np.array_equal(member.predict(ROWS[:5]), answers[0])
        except MemberFailure:
            return False

    for member in members:
        eventually(lambda member=member: same(member), "it answers again")
        member.stop()
