"""Commands that look at a journal in PostgreSQL, from wherever somebody is."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from bandmaster.cli import main
from bandmaster.journal.keys import KEY_VARIABLE
from tests.postgres.replicas import KEY
from tests.serving.test_live_configuration import Running
from tests.serving.tiny import LABELS, ROWS

pytestmark = pytest.mark.extras


@pytest.fixture
def service(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a replica that has answered 50 requests, and is gone. Somebody is elsewhere."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    replica = Running(tmp_path / "replica", journal=database, guard={"mode": "live", "baseline": "all"})
    replica.play(ROWS[::3], LABELS[::3])
    replica.loop.close()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return replica.folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_report_of_a_database_tells_what_its_replica_would(service: Path, database: str) -> None:
    there = run("report", f"{database}#{service / 'replica.db'}")
    assert there.exit_code == 0, there.output
    lacking = run("report", database)
    assert lacking.exit_code == 2
    assert "replica.db.chronicle: is not there: nothing is added up yet; give --config bentofile.yaml" in lacking.output
    here = run("report", database, "--config", service / "bentofile.yaml")
    assert here.exit_code == 0, here.output
    assert here.output.splitlines()[-len(there.output.splitlines()) :] == there.output.splitlines()
    assert Path("replica.db.chronicle").exists()
    again = run("report", f"{database}#other.db", "--config", service / "bentofile.yaml", "--out", "other.html")
    assert again.exit_code == 0, again.output
    assert Path("other.db.chronicle").exists()


def test_a_database_is_shown_in_a_browser_and_its_password_to_nobody(service: Path, database: str) -> None:
    url = database.replace("ann@", "ann:secret@")
    command = [sys.executable, "-m", "bandmaster", "dashboard", url, "--config", service / "bentofile.yaml", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert "shows postgresql://127.0.0.1:" in said
        assert "secret" not in said
        with httpx.Client(base_url=said.split()[0], timeout=20, transport=httpx.HTTPTransport(retries=20)) as client:
            assert client.get("about").json()["live"] is False
            (newest,) = client.get("decisions", params={"limit": 1}).json()
            assert client.get(f"decisions/{newest['id']}").json()["plan"] == newest["plan"]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0


def test_a_database_that_is_named_goes_before_that_of_the_configuration(service: Path, database: str) -> None:
    looked = run("doctor", service / "bentofile.yaml", "--journal", database)
    assert "ledger: balances: 50 decisions, 50 joined" in looked.output
    exported = run("export", "out.parquet", "--config", service / "bentofile.yaml", "--journal", database)
    assert exported.output.splitlines()[-1] == "out.parquet: 50 decisions"
    assert run("report", "postgresql://127.0.0.1:1/gone").exit_code == 2
