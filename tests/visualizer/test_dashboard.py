"""What the dashboard asks for: the same as is recorded, read once for all who ask, and refused with a sentence."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Iterator
from importlib import resources
from pathlib import Path

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.testclient import TestClient

from bandmaster.core import BandmasterError, Joined
from bandmaster.learner import Learner
from bandmaster.visualizer import dashboard
from bandmaster.visualizer.chronicle import Window, chronicle_file, read_courses
from bandmaster.visualizer.dashboard import NotThereError, Views
from bandmaster.visualizer.summary import summary
from tests.visualizer.test_chronicle import START, Service, recorded

STATIC = resources.files("bandmaster.visualizer") / "static"


def guarded(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def answered(request: Request) -> Response:
        try:
            return await answer(request)
        except BandmasterError as problem:
            return JSONResponse({"error": str(problem)}, 404 if isinstance(problem, NotThereError) else 400)

    return answered


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Learner, list[Joined], Path]:
    made, joined = recorded()
    service = Service(tmp_path_factory.mktemp("played"), made)
    for j in joined[:200]:
        service.play(j)
    service.tick()
    service.close()
    return made, joined[:200], service.path


@pytest.fixture
def client(played: tuple[Learner, list[Joined], Path]) -> Iterator[TestClient]:
    with TestClient(Starlette(routes=Views(played[2]).routes(guarded))) as client:
        yield client


def test_a_window_is_what_the_chronicle_tells(client: TestClient, played: tuple[Learner, list[Joined], Path]) -> None:
    told = client.get("/series", params={"from": START, "to": START + 3600.0}).raise_for_status().json()
    courses = read_courses(played[2], Window(START, START + 3600.0))
    assert told == msgspec.to_builtins(courses) | {"summary": summary(courses)}
    assert client.get("/about").json()["about"]["members"] == ["m0", "m1", "m2", "m3"]
    assert client.get("/series", params={"from": START, "to": START + 9.0, "policy": "nobody"}).json()["series"] == {}


def test_decisions_are_listed_the_newest_first_and_each_can_be_asked_for(
    client: TestClient, played: tuple[Learner, list[Joined], Path]
) -> None:
    newest = [j.decision.id for j in played[1]][::-1]
    first = client.get("/decisions", params={"limit": 30}).json()
    assert [d["id"] for d in first] == newest[:30]
    then = client.get("/decisions", params={"limit": 30, "before": first[-1]["at"]}).json()
    assert [d["id"] for d in then] == newest[30:60]
    one = client.get(f"/decisions/{newest[0]}").json()
    assert (one["id"], one["plan"]) == (newest[0], played[1][-1].decision.plan)
    assert one["labels"] == played[1][-1].answer.labels.tolist()  # the sample's classes are 0, 1, 2


@pytest.mark.parametrize(
    ("path", "status", "why"),
    [
        ("/series?from=soon", 400, "from: 'soon' is no number; send Unix time in seconds"),
        ("/series?from=nan", 400, "from: 'nan' is no number"),
        ("/series?from=5&to=4", 400, "from 5 to 4 is no window; it ends after it starts, and within 241920000 s"),
        ("/series?from=-1e300&to=4", 400, "is no window"),
        ("/decisions?limit=0", 400, "limit: 0 must lie in 1 … 200"),
        ("/decisions?limit=201", 400, "limit: 201 must lie in 1 … 200"),
        ("/decisions/none", 404, "no decision 'none' is recorded; it may be on its way, or have been removed"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_sentence(client: TestClient, path: str, status: int, why: str) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert why in answer.json()["error"]


def test_many_who_ask_the_same_at_once_are_served_by_one_look(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def look(*asked: object) -> object:
        looks.append(asked)
        return read_courses(*asked)  # type: ignore[arg-type]

    monkeypatch.setattr(dashboard, "read_courses", look)
    monkeypatch.setattr(dashboard, "DEAR_FRESH_S", 60.0)
    answers = [client.get("/series", params={"from": START, "to": START + 60.0}).content for _ in range(10)]
    assert len(set(answers)) == 1
    assert len(looks) == 1


def test_the_page_runs_no_script_and_no_style_but_its_files_and_asks_nobody_else(client: TestClient) -> None:
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=|https?://", page.text)
    for name in re.findall(r'(?:src|href)="(static/[^"]+)"', page.text):
        assert client.get(f"/{name}").status_code == 200
    for script in ("app", "api", "charts", "decision", "elements"):
        text = client.get(f"/static/{script}.js").text
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?://", text), script
    for name in ("nothing.js", "..%2fdashboard.py", "%2e%2e/dashboard.py", "../dashboard.py"):
        assert client.get(f"/static/{name}").status_code == 404


def test_the_library_that_draws_is_the_one_that_was_published() -> None:
    """ECharts 5.6.0, ``dist/echarts.min.js`` of the npm package."""
    sha256 = hashlib.sha256((STATIC / "echarts.min.js").read_bytes()).hexdigest()
    assert sha256 == "bf4a223524e40b77c304bec67e1222cf551f14880cf42c69dc046558e11c07b1"
    assert "Apache License" in (STATIC / "echarts.LICENSE").read_text()


def test_a_stream_tells_when_there_is_news(
    tmp_path: Path, played: tuple[Learner, list[Joined], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "FRESH_S", 0.01)
    monkeypatch.setattr(dashboard, "STREAM_S", 2.0)
    service = Service(tmp_path, played[0])
    with TestClient(Starlette(routes=Views(service.path).routes(guarded))) as client:
        with client.stream("GET", "/stream") as stream:
            news = 0
            for line in stream.iter_lines():
                if line == "event: news":
                    news += 1
                    if news < 3:
                        service.play(played[1][news])
        assert news >= 3
    service.close()


def test_a_journal_without_a_chronicle_is_refused_and_its_decisions_are_there(
    tmp_path: Path, played: tuple[Learner, list[Joined], Path]
) -> None:
    service = Service(tmp_path, played[0])
    service.play(played[1][0])
    service.close()
    chronicle_file(service.path).unlink()
    with TestClient(Starlette(routes=Views(service.path).routes(guarded))) as client:
        assert "is not there; a service makes it" in client.get("/about").json()["error"]
        assert client.get(f"/decisions/{played[1][0].decision.id}").status_code == 200
