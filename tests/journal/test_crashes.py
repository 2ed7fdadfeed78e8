"""``kill -9`` of real processes under load: what was acknowledged is there."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import bandmaster
from bandmaster.core import Outcome, Snapshot, Status
from bandmaster.journal.keys import Keys
from bandmaster.journal.sqlite import SqliteJournal
from bandmaster.testing import sample_decision

KEY = Keys(b"k" * 32)

WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from bandmaster.journal import spool
from bandmaster.testing import sample_answer, sample_decision
spool.SEGMENT_BYTES = 1_000_000
worker = spool.Spool(Path(sys.argv[1]), "w")
decision, answer = sample_decision(), sample_answer()
for n in range(int(sys.argv[2]), 10**9):
    id_ = f"{n:032x}"
    worker.record(replace(decision, id=id_), answer)
    print(id_, flush=True)
"""

OWNER = """
import sys
from dataclasses import replace
from pathlib import Path
from bandmaster.core import Outcome
from bandmaster.journal.keys import Keys
from bandmaster.journal.sqlite import SqliteJournal
from bandmaster.testing import sample_answer, sample_decision
journal = SqliteJournal(Path(sys.argv[1]), Keys(b"k" * 32))
decision, answer = sample_decision(), sample_answer()
for n in range(int(sys.argv[2]), 10**9):
    id_ = f"{n:032x}"
    if n % 4:
        journal.record(replace(decision, id=id_), answer)
    status = journal.settle(id_, Outcome(at=decision.at + 1, labels=(0,))).status
    print(id_, flush=True)
    if n % 5 == 0:
        journal.reject()
        print("unknown", flush=True)
"""


class Victim:
    """A process that reports each line after what it says is stored, until it is killed."""

    def __init__(self, code: str, target: Path, first: int) -> None:
        self._said = target.with_name(f"said-{first}")  # a pipe would fill up and hold the load back
        env = os.environ | {"PYTHONPATH": str(Path(bandmaster.__file__).parents[1])}
        command = [sys.executable, "-c", code, str(target), str(first)]
        with self._said.open("w") as file:
            self._process = subprocess.Popen(command, stdout=file, env=env)
        while not self._said.stat().st_size:
            assert self._process.poll() is None, "the process died before it began"
            time.sleep(0.005)

    def kill(self) -> list[str]:
        """``kill -9``; returns what had been reported."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=20)
        return [line.strip() for line in self._said.read_text().splitlines(keepends=True) if line.endswith("\n")]


def test_every_acknowledged_decision_survives_kill_9_of_its_worker(tmp_path):
    journal = SqliteJournal(tmp_path / "main.db", KEY)
    acknowledged = []
    for attempt in range(4):
        victim = Victim(WRITER, journal.spools, attempt * 10**6)
        time.sleep(0.05 + 0.1 * attempt)
        acknowledged += victim.kill()
        journal.drain()
    assert len(acknowledged) > 400
    assert [id_ for id_ in acknowledged if journal.find(id_) is None] == []
    assert journal.counts().decisions - len(acknowledged) in range(5)  # one a kill may be stored, not reported
    assert not list(journal.spools.iterdir())
    journal.close()


def test_a_worker_killed_while_it_is_being_drained_loses_nothing(tmp_path):
    journal = SqliteJournal(tmp_path / "main.db", KEY)
    victims = [Victim(WRITER, journal.spools, first) for first in (0, 10**6)]
    deadline = time.monotonic() + 0.4
    while time.monotonic() < deadline:
        journal.drain()
    acknowledged = [id_ for victim in victims for id_ in victim.kill()]
    journal.drain()
    assert len(acknowledged) > 200
    assert [id_ for id_ in acknowledged if journal.find(id_) is None] == []
    assert not list(journal.spools.iterdir())
    journal.close()


def test_the_ledger_survives_kill_9_of_the_owner(tmp_path):
    path, acknowledged = tmp_path / "main.db", []
    for attempt in range(3):
        victim = Victim(OWNER, path, attempt * 10**6)
        time.sleep(0.1 + 0.1 * attempt)
        acknowledged += victim.kill()
    journal = SqliteJournal(path, KEY)
    counts = journal.counts()
    ledger = counts.joined + counts.early + counts.late + counts.duplicate + counts.unknown
    assert ledger - len(acknowledged) in range(4)  # one a kill may be stored, not reported
    assert counts.unknown - acknowledged.count("unknown") in range(4)
    assert [joined.seq for joined in journal.since(0)] == list(range(1, counts.joined + 1))
    again = Outcome(at=sample_decision().at + 2, labels=(1,))
    settled = [id_ for id_ in acknowledged if id_ != "unknown"][:200]
    assert {journal.settle(id_, again).status for id_ in settled} == {Status.DUPLICATE}
    journal.close()


@pytest.mark.parametrize("call", ["settle", "save_snapshot"])
def test_what_must_survive_power_loss_is_synced(tmp_path, call):
    journal = SqliteJournal(tmp_path / "main.db", KEY)
    statements = []
    journal.reject()
    journal._connection.set_trace_callback(statements.append)
    if call == "settle":
        journal.settle(sample_decision().id, Outcome(at=1.0, labels=(0,)))
    else:
        journal.save_snapshot(Snapshot(1, 0, 0.0, b""))
    expected = ["PRAGMA synchronous = FULL", "BEGIN IMMEDIATE", "COMMIT"]
    assert [s for s in statements if s.startswith(("PRAGMA", "BEGIN", "COMMIT"))] == expected
    journal.close()
