"""Services as BentoML's documentation has one write them: served by BentoML alone, and then under the block, unchanged.

Each has the form of one of its pages: a scikit-learn model of the model store behind an array with a shape and a
default (examples/iris_classification), a pydantic model at the top level (build-with-bentoml/iotypes), adaptive
batching (get-started/adaptive-batching), and a predictor of probabilities (examples/xgboost).
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bentoml as bento
import httpx
import joblib
import pytest
from bentoml._internal.models.model import ModelStore  # the only way to name a store other than the default
from sklearn.neighbors import KNeighborsClassifier

from tests.end_to_end.servers import environment, served
from tests.serving.tiny import LABELS, ROWS, project

HEADER = "x-orchestration-decision"

STORED = '''
import joblib
import numpy as np
from pydantic import Field
from typing_extensions import Annotated

import bentoml
from bentoml.validators import Shape


@bentoml.service(resources={"cpu": "1"})
class IrisClassifier:
    """A model of the store, found in the class's scope."""

    stored = bentoml.models.get("iris-neighbours:latest")

    def __init__(self):
        self.model = joblib.load(self.stored.path_of("model.pkl"))

    @bentoml.api
    def classify(
        self,
        input_series: Annotated[np.ndarray, Shape((-1, 4))] = Field(default=[[5.2, 2.3, 5.0, 0.7]]),
    ) -> np.ndarray:
        """What kinds of iris these are."""
        return self.model.predict(input_series)
'''

TOP_LEVEL = """
import typing as t

import bentoml
from pydantic import BaseModel, Field


class Sizes(BaseModel):
    sepal_length: float = Field(description="in cm")
    sepal_width: float = Field(description="in cm")
    petal_length: float = Field(description="in cm")
    petal_width: float = Field(default=0.2, description="in cm")


@bentoml.service
class Florist:
    @bentoml.api(input_spec=Sizes)
    def name(self, **params: t.Any) -> str:
        return "setosa" if params["petal_length"] < 2.5 else "virginica"
"""

BATCHABLE = """
import typing as t

import bentoml
import numpy as np


@bentoml.service(traffic={"timeout": 60})
class BatchService:
    @bentoml.api(batchable=True, batch_dim=(0, 0), max_batch_size=32, max_latency_ms=1000)
    def classify(self, rows: np.ndarray) -> t.List[str]:
        return ["setosa" if row[2] < 2.5 else "virginica" for row in rows]
"""

PROBABILITIES = """
import bentoml
import numpy as np


@bentoml.service(resources={"cpu": "2"}, traffic={"timeout": 10})
class Cancer:
    @bentoml.api
    def predict(self, data: np.ndarray) -> np.ndarray:
        return np.full((len(data), 3), 1 / 3)
"""

ROW, OTHER = ROWS[0].tolist(), ROWS[149].tolist()


@dataclass(frozen=True)
class Documented:
    """A service's text, the block's keys that say what of it is orchestrated, and what it is asked."""

    source: str
    service: str
    method: str
    body: Any
    answered: Callable[[httpx.Response], bool]
    further: dict[str, Any] = field(default_factory=dict)


DOCUMENTED = {
    "stored": Documented(
        STORED, "IrisClassifier", "classify", {"input_series": [ROW, OTHER]}, lambda r: r.json() == [0, 2]
    ),
    "top level": Documented(
        TOP_LEVEL,
        "Florist",
        "name",
        dict(zip(("sepal_length", "sepal_width", "petal_length"), ROW, strict=False)),
        lambda r: r.text == "setosa",
    ),
    "batchable": Documented(
        BATCHABLE, "BatchService", "classify", {"rows": [ROW, OTHER]}, lambda r: r.json() == ["setosa", "virginica"]
    ),
    "probabilities": Documented(
        PROBABILITIES,
        "Cancer",
        "predict",
        {"data": [ROW, OTHER]},
        lambda r: [round(sum(row), 5) for row in r.json()] == [1.0, 1.0],
        {"returns": "scores"},
    ),
}


def store_neighbours(home: Path) -> None:
    (home / "models").mkdir(parents=True)
    with bento.models.create("iris-neighbours", _model_store=ModelStore(home / "models")) as model:
        joblib.dump(KNeighborsClassifier().fit(ROWS, LABELS), model.path_of("model.pkl"))


@pytest.mark.parametrize(
    "name",
    # tests/serving/test_plain_services.py has the others' signatures in one process.
    [pytest.param(name, marks=() if name == "stored" else pytest.mark.extras) for name in DOCUMENTED],
)
def test_a_documented_service_runs_under_the_block_unchanged(tmp_path: Path, name: str) -> None:
    case = DOCUMENTED[name]
    classes = [0, 1, 2] if name == "stored" else None  # scikit-learn's own labels, as the service gives them
    folder = project(
        tmp_path / "project",
        case.source,
        service=f"service:{case.service}",
        method=case.method,
        classes=classes,
        policy={"use": "constant", "plan": "linear"},
        **case.further,
    )
    env = environment(tmp_path / "home")
    store_neighbours(tmp_path / "home")
    described = {}
    for what in (f"service:{case.service}", "."):
        with served(what, folder=folder, env=env) as server:
            answer = server.client.post(f"/{case.method}", json=case.body)
            assert answer.status_code == 200, answer.text
            assert case.answered(answer)
            described[what] = server.client.get("/docs.json").json()["paths"][f"/{case.method}"]
            if what == ".":
                label: Any = classes[0] if classes else "setosa"
                labels = [label, label] if name != "top level" else label
                told = {"decision_id": answer.headers[HEADER], "label": labels}
                assert server.client.post("/feedback", json=told).status_code in (200, 202)
    alone, orchestrated = described.values()
    assert orchestrated == alone


def test_requests_of_a_batchable_service_are_decisions_of_their_own(tmp_path: Path) -> None:
    case = DOCUMENTED["batchable"]
    folder = project(tmp_path / "project", case.source, service=f"service:{case.service}", method=case.method)
    with served(".", folder=folder, env=environment(tmp_path / "home")) as server:

        def ask(n: int) -> str:
            answer = httpx.post(f"{server.url}/classify", json={"rows": [ROWS[n].tolist()]}, timeout=20)
            assert len(answer.raise_for_status().json()) == 1
            return answer.headers[HEADER]

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            decisions = list(pool.map(ask, range(24)))
    assert len(set(decisions)) == 24
