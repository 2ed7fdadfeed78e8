"""The projects that ship with the repository, each served for real: `bento/` and the examples.

Examples 1 and 3 and `bento/` are served with what the core promises; the others take a minute, show what cheaper tests
hold, and are served with the extras.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import bentoml as bento
import httpx
import numpy as np
import pytest
import yaml
from bentoml._internal.models.model import ModelStore  # the only way to name a store other than the default
from skl2onnx import to_onnx
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression

from bandmaster.demo import free_port
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


@pytest.mark.extras
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
    port = free_port()
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


@pytest.mark.extras
@pytest.mark.parametrize("example", ["05_tabular_bento"], indirect=True)
def test_example_5_answers_as_the_service_did_before_and_watches(example: Path) -> None:
    bentofile, body = example / "bentofile.yaml", {"application": {"income": 41, "debt": 12, "years": 3}}
    with served("service:Loans", folder=example, env=environment(example / "before")) as server:
        before = server.client.post("/decide", json=body).raise_for_status().json()
    assert "service:Loans" in bentofile.read_text()
    with served(".", folder=example, env=environment(example / "home")) as server:
        after = server.client.post("/decide", json=body)
        assert after.json() == pytest.approx(before, abs=1e-6)
        feedback = {"decision_id": after.headers[HEADER], "label": "yes"}
        assert server.client.post("/feedback", json=feedback).status_code in (200, 202)
        guard = server.state()["guard"]
        assert (guard["mode"], guard["baseline"]) == ("shadow", "scorecard")  # type: ignore[index]


@pytest.mark.extras
@pytest.mark.parametrize("example", ["06_image_ensemble"], indirect=True)
def test_example_6_reads_pictures(example: Path) -> None:
    with served(".", folder=example, env=environment(example / "home")) as server:
        picture = (example / "seven.png").read_bytes()
        response = server.client.post("/read", files={"image": ("seven.png", picture, "image/png")})
        assert response.json()["digit"] == 7, response.text
        assert HEADER in response.headers


@pytest.mark.extras
@pytest.mark.parametrize("example", ["07_label_free_consensus"], indirect=True)
def test_example_7_finds_the_broken_member_without_a_label(example: Path) -> None:
    with served(".", folder=example, env=environment(example / "home")) as server:
        for row in load_iris(return_X_y=True)[0]:
            server.client.post("/classify", json={"rows": [row.tolist()]}).raise_for_status()

        def judged() -> dict[str, float] | None:
            members: Any = server.state()["members"]
            enough = all(member["labelled"] >= 30 for member in members)
            return {member["name"]: member["accuracy"] for member in members} if enough else None

        accuracy = eventually(judged, "thirty probes are judged")
    assert accuracy["broken"] < 0.5 < min(accuracy[name] for name in ("linear", "bayes", "tree"))


@pytest.mark.extras
@pytest.mark.parametrize("example", ["08_custom_metric"], indirect=True)
def test_example_8_is_rewarded_by_a_metric_of_its_own(example: Path) -> None:
    with served(".", folder=example, env=environment(example / "home")) as server:
        rewards = []
        for label in ("setosa", "virginica"):
            response = server.client.post("/classify", json={"rows": [[5.1, 3.5, 1.4, 0.2]]})
            assert response.json() == ["setosa"]
            feedback = {"decision_id": response.headers[HEADER], "label": label}
            receipt = eventually(
                lambda report=feedback: _joined(server.client.post("/feedback", json=report)), "the outcome is joined"
            )
            rewards.append(receipt)
    assert rewards[0] - rewards[1] == pytest.approx(0.8, abs=0.1)  # all of the metric's weight, give or take latency


def _joined(receipt: httpx.Response) -> float | None:
    """The reward; ``None`` where the decision is on its way yet."""
    found = receipt.json()
    reward: float | None = found["reward"]
    return reward if found["status"] == "joined" else None


@pytest.mark.extras
@pytest.mark.parametrize("example", ["09_custom_policy"], indirect=True)
def test_example_9_is_decided_by_a_policy_of_its_own(example: Path) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "bandmaster", "check", "bentofile.yaml"], cwd=example, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    with served(".", folder=example, env=environment(example / "home")) as server:
        for row in load_iris(return_X_y=True)[0][:20]:
            server.client.post("/classify", json={"rows": [row.tolist()]}).raise_for_status()
        assert server.state()["policy"] == "cautious"
        assert server.counts()["decisions"] == 20


def test_the_policy_of_example_9_is_the_one_that_the_documentation_explains() -> None:
    shown = (ROOT / "docs/how-to/add-a-policy.md").read_text()
    code = (ROOT / "examples/09_custom_policy/my_policy.py").read_text().partition("\n\n")[2]
    assert code in shown


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
