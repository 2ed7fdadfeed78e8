"""What an administrator does over HTTP: pin, and have a decision forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from bandmaster.journal.keys import Keys, rotate
from bandmaster.journal.sqlite import SqliteJournal
from bandmaster.pin import Pin
from bandmaster.serving.door import HEADERS, MAX_BODY, Scope
from bandmaster.serving.front import DECISION_HEADER
from tests.end_to_end.servers import eventually
from tests.serving.test_plain_services import made
from tests.serving.tiny import IRIS, ROWS

BODY = {"input_series": [ROWS[0].tolist()]}


@contextmanager
def serving(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Iterator[TestClient]:
    for scope in Scope:
        monkeypatch.setenv(scope.variable, "open-sesame-please")
    orchestrated = made(folder, IRIS, **changes)
    orchestrated.config["metrics"] = {"enabled": False}
    with TestClient(orchestrated.to_asgi(), headers={"authorization": "Bearer open-sesame-please"}) as client:
        yield client


def test_the_switch_is_set_and_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path, monkeypatch, guard={"mode": "live", "baseline": "linear"}) as client:
        said = client.put("/orchestration/pin", json={"why": " too\nslow "})
        assert (said.status_code, said.json()) == (200, {"pinned": "too slow, says admin"})
        assert Pin(tmp_path / "orchestration.db").why == "too slow, says admin"
        assert {h: said.headers[h] for h in HEADERS} == HEADERS
        assert client.delete("/orchestration/pin").json() == {"pinned": None, "was_pinned": True}
        assert client.delete("/orchestration/pin").json() == {"pinned": None, "was_pinned": False}


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b'{"why": "x"}', "text/plain", 415),
        (b"why=x", "application/x-www-form-urlencoded", 415),
        (b'{"why": 7}', "application/json", 400),
        (b'{"because": "x"}', "application/json", 400),
        (b"\xff", "application/json", 400),
        (b'{"why": "' + b"x" * MAX_BODY + b'"}', "application/json", 413),
    ],
)
def test_what_is_no_reason_sets_no_switch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, content_type: str, status: int
) -> None:
    with serving(tmp_path, monkeypatch, guard={"mode": "live", "baseline": "linear"}) as client:
        said = client.put("/orchestration/pin", content=content, headers={"content-type": content_type})
        assert said.status_code == status
        assert "error" in said.json()
        assert not Pin(tmp_path / "orchestration.db")


def test_where_there_is_no_guard_nobody_could_answer_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path, monkeypatch) as client:
        assert client.put("/orchestration/pin", json={}).status_code == 409


def test_a_decision_is_forgotten_over_http_and_a_stranger_s_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, monkeypatch) as client:
        one, other = (client.post("/classify", json=BODY).headers[DECISION_HEADER] for _ in range(2))
        said = client.delete(f"/orchestration/decisions/{one}")
        assert said.json() == {"decision_id": one, "was_there": True}
        assert client.delete(f"/orchestration/decisions/{one}").json()["was_there"] is False
        assert client.post("/feedback", json={"decision_id": one, "label": "setosa"}).json()["status"] == "late"
        assert client.delete("/orchestration/decisions/stranger").status_code == 404
    journal = SqliteJournal(tmp_path / "orchestration.db", Keys.of(tmp_path))
    assert [d.id for d, _ in journal.decisions(10)] == [other]
    journal.close()


def test_whoever_has_no_token_is_told_so_whatever_he_sends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path, monkeypatch) as client:
        for content, kind in ((b"{", "application/json"), (b"x" * 2 * MAX_BODY, "text/plain"), (b"[]", "text/json")):
            headers = {"authorization": "Bearer nobody", "content-type": kind}
            said = client.post("/feedback", content=content, headers=headers)
            assert said.status_code == 401
            assert Scope.FEEDBACK.variable in said.json()["error"]


def test_a_decision_that_a_key_long_gone_has_signed_can_be_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, monkeypatch) as client:
        decision = client.post("/classify", json=BODY).headers[DECISION_HEADER]
        rotate(tmp_path, drop=True)
        report = {"decision_id": decision, "label": "setosa"}
        eventually(
            lambda: client.post("/feedback", json=report).status_code == 404, "the worker knows the new key only"
        )
        assert client.delete(f"/orchestration/decisions/{decision}").json()["was_there"] is True
        assert client.delete(f"/orchestration/decisions/{decision}").status_code == 404


def test_of_columns_that_are_not_allowed_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path, monkeypatch, features=[1]) as client:
        client.post("/classify", json=BODY)
    journal = SqliteJournal(tmp_path / "orchestration.db", Keys.of(tmp_path))
    ((decision, _),) = journal.decisions(10)
    journal.close()
    np.testing.assert_array_equal(decision.state.features, [0.0, ROWS[0, 1], 0.0, 0.0])


def test_whoever_reports_too_much_at_once_is_told_when_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, monkeypatch, feedback={"rate": 0.2}) as client:  # one in five seconds
        decision = client.post("/classify", json=BODY).headers[DECISION_HEADER]
        report = {"decision_id": decision, "label": "setosa"}
        first, second = (client.post("/feedback", json=report) for _ in range(2))
    assert (first.status_code in (200, 202), second.status_code) == (True, 429)
    assert 1 <= int(second.headers["retry-after"]) <= 5
    assert {h: first.headers[h] for h in HEADERS} == {h: second.headers[h] for h in HEADERS} == HEADERS


def test_the_guards_mode_and_baseline_are_edits_which_say_who_made_them_and_go_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, monkeypatch, guard={"mode": "live", "baseline": "linear"}) as client:
        asked = {"mode": "off", "baseline": "tree", "why": "a\nbad week"}
        assert client.put("/orchestration/guard", json=asked).json() == {"version": 1}
        assert client.put("/orchestration/guard", json=asked).json() == {"version": None}
        (edit,) = client.get("/orchestration/edits").json()
        assert (edit["author"], edit["reason"]) == ("http:admin", "a bad week")
        changed = {change["path"]: (change["before"], change["after"]) for change in edit["changes"]}
        assert changed == {"guard.mode": ("live", "off"), "guard.baseline": ("linear", "tree")}
        assert client.post("/orchestration/edits/revert", json={"version": 0}).json() == {"version": 2}


@pytest.mark.parametrize(
    ("method", "path", "body", "why"),
    [
        ("PUT", "guard", {"baseline": "nobody"}, "nobody"),
        ("PUT", "guard", {"mode": "wild"}, "mode Input should be 'off', 'shadow', 'canary' or 'live'"),
        ("PUT", "guard", {"why": "x"}, "send mode or baseline, or both"),
        ("PUT", "guard", {"mode": "off", "journal": "x"}, "nothing else"),
        ("POST", "edits/revert", {"version": 9}, "there is no version 9; the last is 0"),
        ("POST", "edits/revert", {"version": -1}, "version Input should be greater than or equal to 0"),
        ("POST", "edits/revert", {"version": "1"}, "version Input should be a valid integer"),
    ],
)
def test_what_the_guard_or_the_edits_cannot_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, path: str, body: dict[str, Any], why: str
) -> None:
    with serving(tmp_path, monkeypatch, guard={"mode": "live", "baseline": "linear"}) as client:
        said = client.request(method, f"/orchestration/{path}", json=body)
        assert said.status_code == 400
        assert why in said.json()["error"]
        assert client.get("/orchestration/edits").json() == []
