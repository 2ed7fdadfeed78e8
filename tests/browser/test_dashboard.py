"""The dashboard in a real browser, of a real service under traffic."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
import pytest

from bandmaster.guard import Mode
from bandmaster.journal.reading import JournalReader
from benchmarks.browser import IS_SHOWN
from tests.browser.conftest import Tab, opened, until
from tests.end_to_end.servers import Server, environment, eventually, served
from tests.serving.tiny import CLASSES, LABELS, ROWS, project

pytestmark = pytest.mark.extras

AXE = "axe.min.js"
"""In the package axe-playwright-python."""

EACH_S = 0.02
"""Between two requests."""


class Traffic(threading.Thread):
    """Requests with their labels, which are ``shifted`` to the next class once the world is to have changed."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.shifted, self.over, self.sent = url, False, False, 0

    def run(self) -> None:
        rng = np.random.default_rng(0)
        with httpx.Client(base_url=self.url, timeout=20) as client:
            while not self.over:
                k = int(rng.integers(len(ROWS)))
                answer = client.post("/classify", json={"input_series": [ROWS[k].tolist()]})
                label = CLASSES[(LABELS[k] + self.shifted) % 3]
                decision = answer.headers["x-orchestration-decision"]
                client.post("/feedback", json={"decision_id": decision, "label": label})
                self.sent += 1
                time.sleep(EACH_S)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Traffic, Path]]:
    folder = project(tmp_path_factory.mktemp("iris"), seed=1, guard={"mode": "live", "baseline": "all"},
                     probes={"share": 0.3, "adapt": False})  # fmt: skip
    with served(".", folder=folder, env=environment(folder / "home")) as server:
        traffic = Traffic(server.url)
        traffic.start()
        eventually(lambda: traffic.sent > 150, "traffic has begun")
        yield server, traffic, folder / "orchestration.db"
        traffic.over = True
        traffic.join()


HIDDEN = """() => {
  Object.defineProperty(document, 'hidden', { configurable: true, get: () => true });
  document.dispatchEvent(new Event('visibilitychange'));
}"""
"""As where another tab is in front: a browser without a screen shows all of them."""


def test_more_tabs_can_be_open_than_a_browser_has_connections(tab: Tab, service: tuple[Server, Traffic, Path]) -> None:
    pages = [tab.page, *(tab.page.context.new_page() for _ in range(8))]
    for page in pages:
        opened(Tab(page), f"{service[0].url}/orchestration/").evaluate(HIDDEN)


DRAWN = """id => {
  const drawn = echarts.getInstanceByDom(document.getElementById(`${id}-chart`)).getOption().series;
  return Object.fromEntries(drawn.map((s) => [s.name ?? '', s.data.map((d) => d.value ?? d)]));
}"""


def asks_for(url: str, seconds: int) -> bool:
    """Whether it asks for the figures of such a window."""
    asked = httpx.URL(url)
    return asked.path.endswith("/series") and float(asked.params["to"]) - float(asked.params["from"]) == seconds


SHOWN = """([first, points]) => {
  const [line] = echarts.getInstanceByDom(document.getElementById('members-chart')).getOption().series;
  return line.data.length === points && line.data[0][0] === 1000 * first;
}"""


def test_every_panel_shows_what_the_api_tells(tab: Tab, service: tuple[Server, Traffic, Path]) -> None:
    page = opened(tab, f"{service[0].url}/orchestration/")
    page.uncheck("[name=live]")
    with page.expect_response(lambda response: asks_for(response.url, 900)) as asked:
        page.select_option("[name=span]", "900")
    told = asked.value.json()
    until(page, SHOWN, [told["at"][0], len(told["at"])])
    assert page.text_content("#verdict") == " ".join(told["summary"])
    shown = {
        "reward": "reward", "terms": "term", "weights": "weight", "right": "right", "energy": "energy",
        "failures": "failed",
    }  # fmt: skip
    for panel, series in shown.items():
        drawn = page.evaluate(DRAWN, panel)
        for name, course in told["series"][series].items():
            assert [value for _, value in drawn[name]] == course["mean"], (panel, name)
            assert [at for at, _ in drawn[name]] == [1000 * at for at in told["at"]]
    members = page.evaluate(DRAWN, "members")
    answered = told["series"]["rows"][""]["n"]
    for name, course in told["series"]["ran"].items():
        for (_, share), n, of in zip(members[name], course["n"], answered, strict=True):
            assert share == (pytest.approx(n / of) if of else None)
    points = page.evaluate(DRAWN, "frontier")[""]
    wanted = {tuple(told["series"][s][n]["whole"]["mean"] for s in ("alone energy", "alone accuracy"))
              for n in told["series"]["alone accuracy"]}  # fmt: skip
    assert {tuple(point) for point in points} == wanted
    for panel in page.query_selector_all("#panels section"):
        assert panel.query_selector("canvas") is not None
        assert "nothing yet" not in (panel.query_selector("[role=img]").get_attribute("aria-label") or "")


def test_a_decisions_page_tells_what_the_journal_holds(tab: Tab, service: tuple[Server, Traffic, Path]) -> None:
    page = opened(tab, f"{service[0].url}/orchestration/")
    page.uncheck("[name=live]")
    page.click("#decisions tbody tr:nth-child(3) button")
    page.wait_for_selector("#decision[open]")
    text = page.text_content("#decision")
    id_ = page.text_content("#decision dl dd")
    with JournalReader(service[2]) as journal:
        found = journal.find(id_)
    assert found is not None
    assert found.decision.plan in text
    for said in (*found.answer.ran, *found.answer.probes):
        assert said.name in text
    assert CLASSES[int(found.answer.labels[0])] in text
    explored = found.decision.propensity < found.decision.probabilities.max()
    assert ("This was exploration" in text) == (explored and found.decision.exposure is None)
    page.keyboard.press("Escape")
    assert page.query_selector("#decision[open]") is None


def test_drift_is_on_the_page_within_five_seconds_of_its_alarm(tab: Tab, service: tuple[Server, Traffic, Path]) -> None:
    server, traffic, _ = service
    page = opened(tab, f"{server.url}/orchestration/")
    before = len(server.client.get("/orchestration/events").json())
    traffic.shifted = True
    events = eventually(
        lambda: (found := server.client.get("/orchestration/events").json())[before:] and found, "an alarm"
    )
    cause = events[before]["cause"]
    until(page, "cause => document.getElementById('events').textContent.includes(cause)", cause, within_s=5.0)
    assert [1000 * events[before]["at"], events[before]["name"]] in page.evaluate(DRAWN, "drift")[""]
    traffic.shifted = False


def test_the_kill_switch_has_the_baseline_answer_and_is_written_down(
    tab: Tab, service: tuple[Server, Traffic, Path]
) -> None:
    server = service[0]
    page = opened(tab, f"{server.url}/orchestration/")
    acted(page, "#pin", why="complaints")
    until(page, "document.getElementById('pin').textContent.includes('guard decide again')")
    answer = server.client.post("/classify", json={"input_series": [ROWS[0].tolist()]})
    id_ = answer.headers["x-orchestration-decision"]
    decision = eventually(lambda: _decision(server, id_), "the decision is recorded")
    assert decision["plan"] == "linear+tree+bayes+fragile"
    until(page, "document.getElementById('events').textContent.includes('complaints, says local')")
    acted(page, "#pin")
    until(page, "document.getElementById('pin').textContent.includes('baseline answer everything')")
    assert server.client.get("/orchestration/state").json()["guard"]["pinned"] is None


def test_the_guard_is_changed_and_changed_back_and_both_are_written_down(
    tab: Tab, service: tuple[Server, Traffic, Path]
) -> None:
    server = service[0]
    page = opened(tab, f"{server.url}/orchestration/")
    page.click("#guard")
    assert page.eval_on_selector_all("#act option", "found => found.map((o) => o.value)") == list(get_args(Mode))
    page.keyboard.press("Escape")  # nothing was asked for
    acted(page, "#guard", mode="canary", baseline="linear+tree", why="a trial")
    eventually(lambda: guard(server) == ("canary", "linear+tree"), "the guard is as the page says")
    until(page, "document.getElementById('health').textContent.includes('canary, baseline linear+tree')")
    until(page, "document.getElementById('edits').textContent.includes('a trial')")
    acted(page, "#revert-0", why="it is over")
    eventually(lambda: guard(server) == ("live", "all"), "the guard is as it was")
    until(page, "document.getElementById('edits').textContent.includes('it is over')")
    trial, over = server.client.get("/orchestration/edits").json()
    assert [edit["reason"] for edit in (trial, over)] == ["a trial", "it is over"]
    assert {edit["author"] for edit in (trial, over)} == {"http:local"}


def test_a_wrong_baseline_is_told_where_it_was_asked_for(tab: Tab, service: tuple[Server, Traffic, Path]) -> None:
    page = opened(tab, f"{service[0].url}/orchestration/")
    acted(page, "#guard", baseline="nonsense")
    until(page, "document.querySelector('#act [role=alert]').textContent.includes('nonsense')")
    assert page.input_value("#act [name=baseline]") == "nonsense"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "guard"
    assert [said for said in tab.wrong if "400" not in said] == []
    tab.wrong.clear()  # the browser complains of any 400


def test_who_looks_with_one_token_acts_with_another(tab: Tab, tmp_path: Path) -> None:
    folder = project(tmp_path, seed=1, guard={"mode": "live", "baseline": "all"})
    tokens = {"BANDMASTER_DASHBOARD_TOKEN": "look" * 8, "BANDMASTER_ADMIN_TOKEN": "act" * 11}
    with served(".", folder=folder, env=environment(folder / "home", **tokens)) as server:
        page = tab.page
        page.goto(f"{server.url}/orchestration/")
        page.fill("#token [name=token]", tokens["BANDMASTER_DASHBOARD_TOKEN"])
        page.click("#token button")
        until(page, IS_SHOWN)
        acted(page, "#pin")
        page.fill("#act [name=token]", tokens["BANDMASTER_ADMIN_TOKEN"])
        page.click("#act [value=do]")
        until(page, "document.getElementById('pin').textContent.includes('guard decide again')")
        until(page, "document.activeElement.id === 'pin'")
        page.goto("about:blank")
    assert [said for said in tab.wrong if "401" not in said] == []
    tab.wrong.clear()


def acted(page: Any, button: str, **given: str) -> None:
    """Press a button, and in its dialog give what is asked for and have it done."""
    page.click(button)
    for name, value in given.items():
        place = f"#act [name={name}]"
        if name == "mode":
            page.select_option(place, value)
        else:
            page.fill(place, value)
    page.click("#act [value=do]")


def guard(server: Server) -> tuple[str, str]:
    found: Any = server.state()["guard"]
    return found["mode"], found["baseline"]


def _decision(server: Server, id_: str) -> Any:
    found = server.client.get(f"/orchestration/decisions/{id_}")
    return found.json() if found.status_code == 200 else None


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nobody_is_kept_out(tab: Tab, service: tuple[Server, Traffic, Path], scheme: str, width: int) -> None:
    """axe finds nothing serious, on a screen and on a phone, in the light and in the dark."""
    import axe_playwright_python

    tab.page.emulate_media(color_scheme=scheme)
    tab.page.set_viewport_size({"width": width, "height": 800})
    page = opened(tab, f"{service[0].url}/orchestration/")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    script = next(Path(axe_playwright_python.__file__).parent.glob("axe.min.js")).read_text()
    page.evaluate(script)  # as the debugger does, which no policy of the page forbids
    page.uncheck("[name=live]")
    assert grave(page, "document") == []
    page.click("#decisions tbody tr:first-child button")
    page.wait_for_selector("#decision[open]")
    assert grave(page, "document.getElementById('decision')") == []
    page.keyboard.press("Escape")
    page.click("#guard")
    assert grave(page, "document.getElementById('act')") == []


def grave(page: Any, part: str) -> list[tuple[str, str, list[str]]]:
    """What axe finds that keeps people out: which rule, what it says, and where."""
    found = page.evaluate(f"axe.run({part}).then((result) => result.violations)")
    bad = [violation for violation in found if violation["impact"] in ("serious", "critical")]
    return [(v["id"], v["help"], [node["html"] for node in v["nodes"]]) for v in bad]


def test_all_of_it_can_be_reached_by_keyboard(tab: Tab, service: tuple[Server, Traffic, Path]) -> None:
    page = opened(tab, f"{service[0].url}/orchestration/")
    page.uncheck("[name=live]")
    reached = set()
    for _ in range(150):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent.slice(0, 30)"))
        if page.evaluate(
            "document.activeElement.closest('#decisions') !== null && document.activeElement.tagName === 'BUTTON'"
        ):
            page.keyboard.press("Enter")
            break
    page.wait_for_selector("#decision[open]")
    assert {"Figures", "PNG", "SVG"} <= reached
