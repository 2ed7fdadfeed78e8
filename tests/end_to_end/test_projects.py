"""The projects that ship with the repository, each served for real: `bento/` and the examples."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import bentoml as bento
import httpx
import numpy as np
import pytest
import yaml
from bentoml._internal.models.model import ModelStore  # the only way to name a store other than the default
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from models.members import MEMBERS
from tests.end_to_end.servers import bentoml, environment, eventually, served

ROOT = Path(__file__).parents[2]
HEADER = "x-orchestration-decision"


@pytest.fixture
def example(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the example, its models trained."""
    folder = tmp_path / "example"
    shutil.copytree(ROOT / "examples" / request.param, folder, ignore=shutil.ignore_patterns("*.onnx", "*.db*"))
    subprocess.run([sys.executable, "train.py"], cwd=folder, check=True, timeout=60)
    return folder


@pytest.mark.parametrize("example", ["01_orchestrate_in_code"], indirect=True)
def test_example_1_orchestrates_in_code(example: Path) -> None:
    with served("service:Iris", folder=example, env=environment(example / "home")) as server:
        response = server.client.post("/classify", json={"input_series": [[5.1, 3.5, 1.4, 0.2]]})
        assert response.json() == ["setosa"]
        feedback = {"decision_id": response.headers[HEADER], "label": "setosa"}
        assert server.client.post("/feedback", json=feedback).status_code in (200, 202)


@pytest.mark.parametrize("example", ["02_custom_rows"], indirect=True)
def test_example_2_makes_its_own_rows_and_replies(example: Path) -> None:
    with served(".", folder=example, env=environment(example / "home")) as server:
        response = server.client.post("/describe", json={"text": "sepal 5.1 by 3.5 cm, petal 1.4 by 0.2 cm"})
        assert response.json()["species"] == "setosa"
        assert HEADER in response.headers
        response = server.client.post("/describe", json={"text": "a blue one"})
        assert (response.status_code, response.json()["error"][:5]) == (400, "0 siz")


@pytest.mark.parametrize("example", ["03_remote_members"], indirect=True)
def test_example_3_asks_a_model_server_and_answers_without_it(example: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    bentofile = example / "bentofile.yaml"
    assert bentofile.read_text().count(":8080") == 2
    bentofile.write_text(bentofile.read_text().replace(":8080", f":{port}"))
    with subprocess.Popen([sys.executable, "model_server.py", str(port)], cwd=example) as models:
        eventually(lambda: is_up(f"http://127.0.0.1:{port}/v2/health/ready"), "the model server is up")
        with served(".", folder=example, env=environment(example / "home")) as server:

            def ask() -> set[str]:
                """Who answered."""
                response = server.client.post("/classify", json={"input_series": [[5.1, 3.5, 1.4, 0.2]]})
                assert response.json() == ["setosa"]
                path = f"/orchestration/decisions/{response.headers[HEADER]}"
                told = eventually(lambda: server.client.get(path).json().get("said"), "it is in the journal")
                return {said["member"] for said in told if said["error"] is None}

            assert ask() == {"linear", "tree", "bayes"}  # in the shadow all members answer
            models.kill()
            assert ask() == {"linear"}


def is_up(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def store(home: Path, tag: str, content: bytes) -> None:
    (home / "models").mkdir(parents=True, exist_ok=True)
    with bento.models.create(tag, _model_store=ModelStore(home / "models")) as model:
        Path(model.path_of("model.onnx")).write_bytes(content)


def stand_in() -> bytes:
    """A classifier of digits that trains in no time, in the place of all ten members."""
    rows, labels = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=30).fit(rows[:500] / 16, labels[:500])
    exported = to_onnx(model, np.float32(rows[:1]), options={id(model): {"zipmap": False}}, target_opset=17)
    content: bytes = exported.SerializeToString()
    return content


@pytest.mark.filterwarnings("ignore")  # thirty iterations do not converge, and need not
def test_the_built_bento_carries_the_very_models_it_was_built_with_and_keeps_its_journal_outside(
    tmp_path: Path,
) -> None:
    home, content = tmp_path / "home", stand_in()
    env = environment(home)
    for name in MEMBERS:
        store(home, f"digits-{name}:first", content)
    built = bentoml("build", folder=ROOT / "bento", env=env)
    assert built.returncode == 0, built.stdout + built.stderr
    described = yaml.safe_load(next(home.glob("bentos/digits/*/bento.yaml")).read_text())
    assert {m["tag"] for service in described["services"] for m in service["models"]} == {
        f"digits-{name}:first" for name in MEMBERS
    }
    store(home, "digits-forest:newer", b"no model at all")  # what is stored later is none of the bento's business

    images = load_digits().images[:20].reshape(20, 64) / 16
    with served("digits:latest", folder=tmp_path, env=env) as server:
        for image, label in zip(images, load_digits().target[:20], strict=True):
            response = server.client.post("/predict", json={"images": image.tolist()})
            feedback = {"decision_id": response.headers[HEADER], "label": int(label)}
            assert server.client.post("/feedback", json=feedback).status_code in (200, 202)
        with bento.SyncHTTPClient(server.url) as client:
            assert len(client.predict(images=images)) == 20
    assert (home / "bandmaster/digits/orchestration.db").is_file()
    assert not list(home.glob("bentos/**/*.db"))
