"""``dashboard`` and ``report``: a journal in a browser, and on a page that needs nothing else."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from click.testing import CliRunner, Result

from bandmaster.cli import main
from bandmaster.visualizer.chronicle import chronicle_file
from tests.serving.test_live_configuration import Running
from tests.serving.tiny import LABELS, ROWS


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose service has answered 120 requests."""
    folder = tmp_path_factory.mktemp("watched")
    service = Running(folder, guard={"mode": "live", "baseline": "all"}, probes={"share": 0.3, "adapt": False})
    chosen = np.random.default_rng(0).integers(len(ROWS), size=120)
    service.play(ROWS[chosen], LABELS[chosen])
    service.loop.close()
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_report_tells_the_verdict_first_and_needs_nothing_from_elsewhere(project: Path, tmp_path: Path) -> None:
    out, plots = tmp_path / "report.html", tmp_path / "plots"
    said = run("report", project / "orchestration.db", "--out", out, "--plots", plots)
    assert said.exit_code == 0, said.output
    page = out.read_text()
    first = re.search(r"<h1>What was served</h1>\s*<p>(.*?)</p>", page)
    assert first is not None
    assert first[1] == said.output.splitlines()[0]
    assert "earned" in first[1]
    for shown in ("Accuracy and its price", "What the reward is made of", "the policy&#x27;s choice", "Alarms"):
        assert shown in page
    assert not re.search(r"<(script|link|img|iframe)|(src|href)=.?https?:", page)
    drawn = sorted(path.name for path in plots.iterdir())
    assert {name.rpartition(".")[0] for name in drawn} >= {"reward", "terms", "members", "frontier", "alone"}
    assert all((plots / name.replace(".png", ".svg")).exists() for name in drawn)
    assert (plots / "reward.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_journal_gives_the_same_report(project: Path, tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        run("report", project / "orchestration.db", "--out", tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_what_nobody_added_up_is_added_up_by_a_configuration(project: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    copy.write_bytes((project / "orchestration.db").read_bytes())
    said = run("report", copy, "--out", tmp_path / "report.html")
    assert said.exit_code == 2
    assert "copy.db.chronicle: is not there: nothing is added up yet; give --config bentofile.yaml" in said.output
    whole = run("report", project / "orchestration.db", "--out", tmp_path / "first.html")
    said = run("report", copy, "--config", project / "bentofile.yaml", "--out", tmp_path / "report.html")
    assert said.exit_code == 0, said.output
    assert chronicle_file(copy).exists()
    told = said.output.splitlines()[-len(whole.output.splitlines()) : -1]
    assert told == whole.output.splitlines()[:-1]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--last", "soon"), "--last: 'soon' is no figure with a unit"),
        (("--out", "."), "is a directory"),
    ],
)
def test_what_cannot_be_reported_is_refused(project: Path, arguments: tuple[str, ...], why: str) -> None:
    said = run("report", project / "orchestration.db", *arguments)
    assert said.exit_code == 2
    assert why in said.output
    assert run("report", project / "gone.db").exit_code == 2


def test_a_stored_journal_is_shown_in_a_browser(project: Path) -> None:
    command = [sys.executable, "-m", "bandmaster", "dashboard", str(project / "orchestration.db"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        with httpx.Client(base_url=address, timeout=20, transport=httpx.HTTPTransport(retries=20)) as client:
            assert "Bandmaster" in client.get("").text
            assert client.get("about").json()["live"] is False
            (newest,) = client.get("decisions", params={"limit": 1}).json()
            assert client.get(f"decisions/{newest['id']}").json()["plan"] == newest["plan"]
            assert client.get("about", headers={"x-forwarded-for": "1.2.3.4"}).status_code == 401
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
