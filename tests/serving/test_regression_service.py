"""A service that answers values, orchestrated: its members are regressors, its labels numbers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skl2onnx
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.tree import DecisionTreeRegressor

from bandmaster.core import BandmasterError
from bandmaster.members.onnx import OnnxMember
from bandmaster.serving.front import DECISION_HEADER
from tests.serving.test_plain_services import service, start  # noqa: F401 - a fixture
from tests.serving.tiny import LABELS, ROWS

LENGTH = ROWS.sum(axis=1)
BLOCK: dict[str, Any] = {
    "task": "regression",
    "contract": {"accuracy": {"weight": 1, "error": [0, 5]}},
    "members": {name: {"onnx": f"{name}.onnx"} for name in ("ridge", "stump")},
    "plans": {"subsets": 2},
    "policy": {"use": "constant", "plan": "ridge+stump"},
}


def exported(model: Any, path: Path, labels: Any = LENGTH) -> Any:
    model.fit(ROWS, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # skl2onnx reads attributes that scikit-learn will retire
        path.write_bytes(skl2onnx.to_onnx(model, ROWS[:1].astype(np.float32), target_opset=17).SerializeToString())
    return model


def test_an_onnx_regressor_answers_one_value_a_row(tmp_path):
    model = exported(Ridge(), tmp_path / "ridge.onnx")
    member = OnnxMember("ridge", tmp_path / "ridge.onnx", "regression")
    said = member.predict(ROWS[:5].astype(np.float32))
    assert said.shape == (5, 1)
    assert said[:, 0] == pytest.approx(model.predict(ROWS[:5]), rel=1e-4)


def test_a_classifier_is_refused_as_a_member_of_a_regression(tmp_path):
    exported(LogisticRegression(max_iter=500), tmp_path / "classes.onnx", LABELS)
    with pytest.raises(BandmasterError, match="exactly one, its value"):
        OnnxMember("classes", tmp_path / "classes.onnx", "regression")


@pytest.mark.parametrize(
    ("returns", "shown"),
    [("np.ndarray", lambda v: v), ("list[float]", lambda v: v), ("list[list[float]]", lambda v: [[x] for x in v])],
)
def test_values_are_served_and_judged_by_the_numbers_that_feedback_brings(start, tmp_path, returns, shown):  # noqa: F811
    folder = tmp_path / "project"
    folder.mkdir()
    ridge = exported(Ridge(), folder / "ridge.onnx")
    stump = exported(DecisionTreeRegressor(max_depth=1), folder / "stump.onnx")
    method = service(f"@bentoml.api\ndef classify(self, input_series: np.ndarray) -> {returns}: ...")
    client = start(method, returns="scores" if "list[list" in returns else "label", **BLOCK)
    reply = client.post("/classify", json={"input_series": ROWS[:2].tolist()})
    expected = (ridge.predict(ROWS[:2]) + stump.predict(ROWS[:2])) / 2
    assert np.array(reply.json()) == pytest.approx(np.array(shown(expected.tolist())), rel=1e-4)
    decision = reply.headers[DECISION_HEADER]
    wrong = client.post("/feedback", json={"decision_id": decision, "label": ["long", "short"]})
    assert wrong.status_code == 400
    assert "is no number" in wrong.json()["error"]
    told = client.post("/feedback", json={"decision_id": decision, "label": [expected[0] + 1.0, int(expected[1])]})
    assert told.status_code == 200
    error = np.array([1.0, abs(int(expected[1]) - expected[1])])
    assert told.json()["reward"] == pytest.approx((1 - error / 5).mean(), abs=1e-3)
    page = client.get("/orchestration/state").json()
    assert page["label_mix"] == {}
    assert page["repeats"] == 0.0
    assert page["contract"]["accuracy"]["error"] == [0.0, 5.0]
