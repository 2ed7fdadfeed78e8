"""Whatever is sent, the answer is a 4xx with a sentence, nothing of it is recorded, and the next request is served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bandmaster.journal.ids import DecisionIds
from bandmaster.journal.keys import Keys
from tests.end_to_end.servers import Server, environment, served
from tests.serving.tiny import LABELS, POISON, ROWS, project

HEADER = "x-orchestration-decision"
JSON = {"content-type": "application/json"}
ROW = ROWS[0].tolist()


def classify(client: httpx.Client, rows: Any) -> httpx.Response:
    return client.post("/classify", json={"input_series": rows})


@pytest.fixture
def unharmed(iris: Server) -> Iterator[Server]:
    """The shared server; afterwards it must have recorded no outcome, and answer as before."""
    before = iris.counts()
    yield iris
    after = iris.counts()
    outcomes = ("joined", "early", "late", "duplicate")
    assert [after[name] for name in outcomes] == [before[name] for name in outcomes]
    assert after["decisions"] == before["decisions"]
    assert classify(iris.client, [ROW]).status_code == 200


def refused(response: httpx.Response, status: int, *words: str) -> None:
    assert response.status_code == status, response.text
    for word in words:
        assert word in response.text


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"input_series": [[1, 2, 3]]}', ["takes rows of 4 numbers", "shape [1, 3]"]),
        ('{"input_series": [[[1, 2, 3, 4]]]}', ["shape [1, 1, 4]"]),
        ('{"input_series": 5}', ["shape []"]),
        ('{"input_series": []}', ["takes rows of 4 numbers"]),
        ('{"input_series": [[1, 2, 3, NaN]]}', ["finite numbers"]),
        ('{"input_series": [[1, 2, 3, -Infinity]]}', ["finite numbers"]),
        ('{"input_series": [[1, 2, 3, 1e999]]}', ["finite numbers"]),
        ('{"input_series": [[1, 2, 3, 1e39]]}', ["finite numbers"]),
        ('{"input_series": [[1, 2, 3, "NaN"]]}', ["nothing but numbers"]),
        ('{"input_series": [[1, 2, 3, null]]}', ["nothing but numbers"]),
        ('{"input_series": [[1, 2], [3]]}', []),
        ('{"input_series": {"a": 1}}', ["nothing but numbers"]),
        ('{"input_series": [[1, 2, 3, 4]', ["json_invalid"]),
        ('{"series": [[1, 2, 3, 4]]}', ["input_series"]),
        ("[1, 2, 3, 4]", []),
        ("", ["input_series"]),
        ("\x00", []),
        ("[" * 100_000, []),
        ('{"input_series": ' + "[" * 300 + "1" + "]" * 300 + "}", []),
    ],
)
def test_rows_that_no_member_can_take_are_refused(unharmed: Server, body: str, words: list[str]) -> None:
    refused(unharmed.client.post("/classify", content=body, headers=JSON), 400, *words)


@pytest.mark.parametrize(
    ("content_type", "content"),
    [
        ("application/json", b'{"input_series": "\xff"}'),
        ("multipart/form-data", b"no boundary"),
        ("multipart/form-data; boundary=x", b"--x\r\nbroken"),
        ("application/x-www-form-urlencoded", b"input_series=%5B%5D%5D"),
        ("text/plain", b"hello"),
        ("application/vnd.bentoml+pickle", b"cos\nsystem\n."),
    ],
)
def test_a_body_that_is_not_what_it_says_is_refused(unharmed: Server, content_type: str, content: bytes) -> None:
    response = unharmed.client.post("/classify", content=content, headers={"content-type": content_type})
    assert response.status_code in (400, 415), response.text


@pytest.mark.parametrize("path", ["/classify", "/feedback"])
def test_a_body_over_one_mebibyte_is_refused_whether_its_length_is_told_or_not(unharmed: Server, path: str) -> None:
    body = b'{"input_series": [[' + b"1," * (1 << 19) + b"1]]}"
    refused(unharmed.client.post(path, content=body, headers=JSON), 413, "at most 1048576 bytes")
    pieces = (body[i : i + 65536] for i in range(0, len(body), 65536))  # without a length: chunked
    refused(unharmed.client.post(path, content=pieces, headers=JSON), 413, "at most 1048576 bytes")


@pytest.mark.parametrize("decision_id", ["", "no id", "A" * 32, "é" * 32, "\x00" * 32, "A" * 5000, "../../etc/passwd"])
def test_feedback_for_a_malformed_or_forged_id_is_not_found_and_counted(unharmed: Server, decision_id: str) -> None:
    before = unharmed.counts()["unknown"]
    response = unharmed.client.post("/feedback", json={"decision_id": decision_id, "label": "setosa"})
    refused(response, 404, "was made here; send what the answer's header")
    assert unharmed.counts()["unknown"] == before + 1


def test_an_id_signed_with_another_key_is_not_found(unharmed: Server) -> None:
    forged = DecisionIds(Keys(b"another key, as long as it must be")).new(1_700_000_000.0)
    refused(unharmed.client.post("/feedback", json={"decision_id": forged, "reward": 1.0}), 404)


@pytest.fixture(scope="module")
def decided(iris: Server) -> str:
    """A decision that stays without an outcome."""
    return classify(iris.client, [ROW]).headers[HEADER]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ('"label": "rose"', ["'rose' is none of the classes; use one of 'setosa', 'versicolor', 'virginica'"]),
        ('"label": 0', ["0 is none of the classes"]),
        ('"label": 0.5', []),
        ('"label": true', []),
        ('"label": []', ["at least 1 item"]),
        ('"label": ["setosa", "setosa"]', ["answered 1 rows, but 2 labels came"]),
        ('"label": "setosa", "reward": 1', ["exactly one of them"]),
        ('"reward": null', ["exactly one of them"]),
        ('"reward": 1.5', ["less than or equal to 1"]),
        ('"reward": -0.1', ["greater than or equal to 0"]),
        ('"reward": NaN', []),
        ('"reward": 1e999', []),
        ('"reward": "1"', ["valid number"]),
        ('"reward": 1, "alpha": 2', ["alpha"]),
    ],
)
def test_feedback_that_cannot_be_an_outcome_is_refused(
    unharmed: Server, decided: str, fields: str, words: list[str]
) -> None:
    body = f'{{"decision_id": "{decided}", {fields}}}'
    refused(unharmed.client.post("/feedback", content=body, headers=JSON), 400, *words)


@pytest.mark.parametrize("body", ["", "null", "[]", "[[]]", "{}", "5", '"text"', "{", "[" * 100_000, '[{"label": 1}]'])
def test_feedback_that_is_none_is_refused(unharmed: Server, body: str) -> None:
    refused(unharmed.client.post("/feedback", content=body, headers=JSON), 400)


@pytest.mark.parametrize("spoiler", [{"label": "rose"}, {"label": ["setosa"] * 3}, {"reward": 7}])
def test_of_a_list_with_one_bad_outcome_nothing_is_recorded(
    unharmed: Server, decided: str, spoiler: dict[str, Any]
) -> None:
    good = {"decision_id": decided, "label": "setosa"}
    response = unharmed.client.post("/feedback", json=[good, {"decision_id": decided, **spoiler}])
    assert response.status_code == 400, response.text


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip"])
def test_feedback_through_a_proxy_needs_a_token(unharmed: Server, decided: str, header: str) -> None:
    response = unharmed.client.post(
        "/feedback", json={"decision_id": decided, "reward": 1}, headers={header: "127.0.0.1"}
    )
    refused(response, 401, "BANDMASTER_FEEDBACK_TOKEN")


@pytest.mark.extras  # test_access.py has it, for two of four services
def test_where_there_is_a_token_it_must_be_the_right_one(tmp_path: Path) -> None:
    folder = project(tmp_path)
    env = environment(folder / "home", BANDMASTER_FEEDBACK_TOKEN="open-sesame-please")
    with served(".", folder=folder, env=env) as server:
        feedback = {"decision_id": classify(server.client, [ROW]).headers[HEADER], "label": "setosa"}
        for headers in ({}, {"authorization": "Bearer simsim-simsim-simsim"}, {"authorization": "open-sesame-please"}):
            refused(server.client.post("/feedback", json=feedback, headers=headers), 401, "missing or wrong")
        assert server.counts()["joined"] == 0
        response = server.client.post(
            "/feedback", json=feedback, headers={"authorization": "Bearer open-sesame-please"}
        )
        assert (response.status_code, response.json()["decision_id"]) == (200, feedback["decision_id"])


def test_a_member_that_answers_nan_is_left_out_and_the_rest_answer(iris: Server) -> None:
    rows = ROWS[:3].copy()
    rows[:, 0] = 2 * POISON  # enough requests that every plan of the catalogue comes up: exploration is 10 %
    answers = [classify(iris.client, rows.tolist()) for _ in range(60)]
    assert {answer.status_code for answer in answers} == {200}
    assert classify(iris.client, [ROW]).json() in (["setosa"], ["versicolor"], ["virginica"])


def test_labels_of_the_right_kind_are_still_taken_after_all_that(iris: Server) -> None:
    decision = classify(iris.client, ROWS[:2].tolist()).headers[HEADER]
    label = [("setosa", "versicolor", "virginica")[i] for i in LABELS[:2]]
    response = iris.client.post(
        "/feedback", content=json.dumps({"decision_id": decision, "label": label}), headers=JSON
    )
    assert response.status_code in (200, 202)
