"""Whatever others wrote, as names, labels, causes and reasons, shows as text and runs nowhere."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from starlette.applications import Starlette

from bandmaster.core import DriftEvent, Outcome, Reward
from bandmaster.edits import Change, Edit, Edits
from bandmaster.journal.keys import Keys
from bandmaster.journal.sqlite import SqliteJournal
from bandmaster.testing import sample_answer, sample_decision
from bandmaster.visualizer.chronicle import About, Chronicle
from bandmaster.visualizer.dashboard import Views
from bandmaster.visualizer.tallies import DECIDED, SETTLED, Tally
from tests.browser.conftest import Tab, opened, until
from tests.end_to_end.servers import eventually
from tests.visualizer.test_dashboard import guarded

pytestmark = pytest.mark.extras

RUN = "window.ran=1"
PAYLOADS = [
    *(f"<{tag} src=x on{event}={RUN}>" for tag in ("img", "video", "audio", "iframe", "embed")
      for event in ("error", "load")),
    *(f"<{tag} on{event}={RUN} autofocus tabindex=1>" for tag in ("svg", "body", "input", "select", "details open")
      for event in ("load", "focus", "toggle")),
    f"<script>{RUN}</script>", f"</script><script>{RUN}</script>", f"<SCRIPT>{RUN}</SCRIPT>",
    f"<svg><script>{RUN}</script>", f"\"><script>{RUN}</script>", f"'><img src=x onerror={RUN}>", f"javascript:{RUN}",
    f"<a href=javascript:{RUN}>x</a>", f"<math><mi//xlink:href='data:x,<script>{RUN}</script>'>",
    "<iframe srcdoc='<script>parent.ran=1</script>'>", f"<style>@import 'javascript:{RUN}'</style>",
    f"<link rel=stylesheet href=javascript:{RUN}>", f"<meta http-equiv=refresh content='0;url=javascript:{RUN}'>",
    f"<form action=javascript:{RUN}><button>x</button></form>", f"<object data=javascript:{RUN}>",
    f"<base href=javascript:{RUN}//>", "{{constructor.constructor('window.ran=1')()}}", "${window.ran=1}",
    "<!--><script>window.ran=1</script>", "<![CDATA[<script>window.ran=1</script>]]>",
    "&lt;script&gt;window.ran=1&lt;/script&gt;", "\u202e<script>window.ran=1</script>",
    "{b|<img src=x onerror=window.ran=1>}", "__proto__", "constructor", "toString",
]  # fmt: skip
LAST = 1_700_000_000.0


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A journal in which every text is somebody's attempt, shown."""
    assert len(PAYLOADS) >= 50
    path = tmp_path_factory.mktemp("hostile") / "journal.db"
    journal, chronicle = SqliteJournal(path, Keys(b"k" * 32)), Chronicle(path)
    chronicle.describe(About(tuple(PAYLOADS), tuple(PAYLOADS), "classification", {}))
    for k, text in enumerate(PAYLOADS):
        decision, answer = sample_decision(k, at=LAST + k), sample_answer(k)
        state = replace(decision.state, tags=(text,))
        decision = replace(decision, plans=(text, "b", "c"), chosen=0, policy=text, state=state)
        said = replace(answer.ran[0], name=text, error=text)
        answer = replace(answer, ran=(said,), labels=np.array([k]))
        journal.record(decision, answer)
        joined = journal.settle(decision.id, Outcome(LAST + k, (k,), source=text)).joined
        assert joined is not None
        journal.save_reward(joined, Reward(0.5, {text: 0.5}, {text: 0.5}))
        journal.save_event(DriftEvent(text, LAST + k, text))
        chronicle.decided(decision, [Tally(series, text, 0.5) for series in (*DECIDED, *SETTLED)])
        Edits(path).commit(Edit(k + 1, LAST + k, text, text, (Change(text, text, text),), None, ""))
    chronicle.flush()
    chronicle.close()
    journal.close()
    yield from _shown(path)


def _shown(path: Path) -> Iterator[str]:
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=Views(path).routes(guarded)), log_level="warning"))
    running = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    running.start()
    eventually(lambda: server.started, "the page is served")
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    server.force_exit = True
    running.join(timeout=10)


def test_all_of_it_shows_as_text(tab: Tab, address: str) -> None:
    page = tab.page
    page.on("dialog", lambda dialog: tab.wrong.append(f"a dialog: {dialog.message}"))
    opened(tab, address)
    page.uncheck("[name=live]")
    page.select_option("[name=span]", "0")
    until(page, "text => document.getElementById('events').textContent.includes(text)", PAYLOADS[0])
    for details in page.query_selector_all("details summary"):
        details.click()
    for place in ("#events", "#edits", "#decisions"):
        text = page.text_content(place)
        assert all(payload in text for payload in PAYLOADS if not payload.startswith("\u202e")), place
    assert set(PAYLOADS) <= {
        option.get_attribute("value") for option in page.query_selector_all("[name=policy] option")
    }
    members = page.text_content("#members details")
    assert all(payload in members for payload in PAYLOADS)
    for row in range(1, len(PAYLOADS) + 1, 7):
        page.click(f"#decisions tbody tr:nth-child({row}) button")
        page.wait_for_selector("#decision[open]")
        assert PAYLOADS[len(PAYLOADS) - row] in page.text_content("#decision")
        page.keyboard.press("Escape")
    for panel in page.query_selector_all("#panels .chart"):
        panel.hover()  # tooltips draw names, too
    page.wait_for_timeout(300)
    assert page.evaluate("window.ran") is None
