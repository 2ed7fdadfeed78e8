"""What callers get where no member can answer: an error that says so, or the configured fallback."""

from typing import Any

import numpy as np
import pytest

from bandmaster.core import NO_ANSWER, VALUE, Answer, Ensemble
from bandmaster.serving.front import FALLBACK_HEADER, filled
from tests.serving.test_plain_services import start  # noqa: F401 - a fixture
from tests.serving.tiny import IRIS, POISON, ROWS

GOOD, BAD = ROWS[0].tolist(), [2 * POISON, 0.0, 0.0, 0.0]
FRAGILE = {"members": {"fragile": {"onnx": "fragile.onnx"}}}


@pytest.mark.parametrize(("faults", "status"), [(None, 503), ({"fallback": "virginica"}, 200)])
def test_where_nobody_can_answer_there_is_the_fallback_or_an_error(start: Any, faults: Any, status: int) -> None:  # noqa: F811
    service = start(IRIS, **FRAGILE, faults=faults)
    answer = service.post("/classify", json={"input_series": [GOOD]})
    assert (answer.status_code, FALLBACK_HEADER in answer.headers) == (200, False)
    for _ in range(8):  # the only member stays in service
        answer = service.post("/classify", json={"input_series": [BAD]})
        assert answer.status_code == status
    if faults is None:
        assert "no member could answer this request" in answer.json()["error"]
    else:
        assert (answer.json(), answer.headers[FALLBACK_HEADER]) == (["virginica"], "1")
    assert service.get("/orchestration/state").json()["worker"]["out_of_service"] == {}
    assert service.post("/classify", json={"input_series": [GOOD]}).status_code == 200


def test_only_rows_that_nobody_answered_get_the_fallback() -> None:
    scores = np.array([[0.1, 0.9], [0.0, 0.0]])
    answer = Answer(scores, np.array([1, NO_ANSWER]), np.array([0.9, 0.0]), (), 1, np.ones(1))
    found = filled(answer, "no", Ensemble(("a",), ("no", "yes")))
    assert (found.labels.tolist(), found.confidence.tolist()) == ([1, 0], [0.9, 0.0])


def test_in_regression_the_fallback_is_a_value() -> None:
    answer = Answer(np.array([[3.5], [0.0]]), np.array([0, NO_ANSWER]), np.array([1.0, 0.0]), (), 1, np.ones(1))
    found = filled(answer, -1.5, Ensemble(("a",), (VALUE,), task="regression"))
    assert (found.scores[:, 0].tolist(), found.labels.tolist()) == ([3.5, -1.5], [0, 0])
