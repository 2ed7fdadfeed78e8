"""``bandmaster doctor`` finds what is really broken, says so in a sentence, and changes nothing."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bandmaster import hosting
from bandmaster.cli import main
from bandmaster.config import load
from bandmaster.core import Request
from bandmaster.journal.sqlite import SqliteJournal
from bandmaster.serving.learning import LearningLoop
from bandmaster.serving.pages import Report
from bandmaster.serving.worker import Worker
from tests.serving.tiny import LABELS, ROWS, made_of, project

DECISIONS, LABELLED = 30, 20


def doctor(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["doctor", str(folder / "bentofile.yaml"), *arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose service has answered and learned, and has stopped."""
    folder = project(tmp_path_factory.mktemp("doctor"), seed=1)
    config = load(folder / "bentofile.yaml")
    hosted = hosting.host(config)

    async def serve() -> None:
        loop, worker = LearningLoop(made_of(config, hosted)), Worker(made_of(config, hosted), worker=1)
        made = [(await worker.answer(Request(r[None], r, time.time())))[0] for r in ROWS[:DECISIONS].astype("float32")]
        await worker.close()
        labelled = zip(made[:LABELLED], LABELS, strict=False)
        loop.settle([Report(decision_id=d.id, at=time.time(), labels=(int(y),)) for d, y in labelled])
        assert "learner: is running" in doctor(folder, "--no-models").output
        loop.close()

    asyncio.run(serve())
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    for path in made.rglob("*"):
        if path.is_file():
            copy = tmp_path / path.relative_to(made)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
    (tmp_path / "bandmaster.key").chmod(0o600)
    return tmp_path


def test_a_service_that_is_well_is_found_so(folder: Path) -> None:
    found = doctor(folder)
    assert found.exit_code == 0, found.output
    assert all(line.startswith(("ok", "warning")) for line in found.output.splitlines())
    assert f"all of {DECISIONS} decisions can be read" in found.output
    assert f"balances: {DECISIONS} decisions, {LABELLED} joined" in found.output
    assert "learner: is not running" in found.output


def sql(statement: str) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        with closing(sqlite3.connect(folder / "orchestration.db")) as database, database:
            database.execute(statement)

    return run


def damaged(folder: Path) -> None:
    """As a disk that loses a page."""
    path = folder / "orchestration.db"
    raw = bytearray(path.read_bytes())
    raw[4096:8192] = bytes(4096)
    path.write_bytes(raw)


def nonsense(name: str, content: bytes = b"nonsense") -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return write


@pytest.mark.parametrize(
    ("breaks", "told"),
    [
        (nonsense("bentofile.yaml", b"args: {orchestration: {}}"), "configuration: "),
        (nonsense("tree.onnx"), "models: "),
        (lambda folder: (folder / "bandmaster.key").chmod(0o644), "can be read by others (mode 644); chmod 600"),
        (nonsense("orchestration.db"), "journal: "),
        (damaged, "is damaged"),
        (sql("UPDATE decisions SET answer = x'00' WHERE id = (SELECT min(id) FROM decisions)"), "1 of 30 decisions"),
        (sql("UPDATE tally SET n = n + 1 WHERE name = 'joined'"), "counts 21 joined, and holds 20"),
        (sql("UPDATE snapshots SET sealed = x'00'"), "snapshots: 1 (the seal is broken"),
        (nonsense("orchestration.db.spools/spool-w9-1-abc.log"), "spools: "),
        (sql("PRAGMA user_version = 99"), "upgrade bandmaster"),
    ],
    ids=["configuration", "model", "key", "no journal", "page", "row", "ledger", "snapshot", "spool", "schema"],
)
def test_what_is_broken_is_a_problem_and_said_in_a_sentence(
    folder: Path, breaks: Callable[[Path], None], told: str
) -> None:
    breaks(folder)
    before = (folder / "orchestration.db").read_bytes()
    found = doctor(folder)
    assert found.exit_code == 1
    (problem,) = [line for line in found.output.splitlines() if line.startswith("PROBLEM")]
    assert told in problem
    assert (folder / "orchestration.db").read_bytes() == before


def test_what_is_not_there_yet_is_no_problem_and_the_rest_is_told_as_json(tmp_path: Path) -> None:
    found = doctor(project(tmp_path), "--json")
    assert found.exit_code == 0
    findings = {finding["what"]: finding["health"] for finding in json.loads(found.output)}
    assert findings["journal"] == findings["key"] == "warning"
    assert findings["learner"] == "ok"


def test_it_may_look_on_while_the_journal_is_written_to(folder: Path) -> None:
    key = bytes.fromhex((folder / "bandmaster.key").read_text().strip())
    journal = SqliteJournal(folder / "orchestration.db", key)
    journal.reject()
    assert doctor(folder, "--no-models").exit_code == 0
    journal.close()


def test_it_makes_no_key(folder: Path) -> None:
    (folder / "bandmaster.key").unlink()
    found = doctor(folder, "--no-models")
    assert "snapshots: cannot be opened without the key" in found.output
    assert not (folder / "bandmaster.key").exists()


def test_a_key_in_the_environment_that_is_none_is_a_problem(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDMASTER_KEY", "nonsense")
    assert "PROBLEM  key: BANDMASTER_KEY is no key" in doctor(folder, "--no-models").output
