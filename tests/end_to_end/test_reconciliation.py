"""What the client sent and what the journal counts agree to the last outcome, whatever order things come in."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bandmaster.core import Answer, Decision
from bandmaster.journal.codec import decode
from bandmaster.journal.ids import DecisionIds
from bandmaster.journal.keys import Keys
from bandmaster.journal.opening import open_journal, open_spool
from tests.end_to_end.servers import Server, environment, eventually, served
from tests.serving.tiny import CLASSES, LABELS, ROWS, project

HEADER = "x-orchestration-decision"
REQUESTS = 600
WINDOW_S = 5
STRANGE_EVERY = 50
JOURNAL = "sqlite:///orchestration.db"


def classify(client: httpx.Client, i: int) -> str:
    response = client.post("/classify", json={"input_series": [ROWS[i % len(ROWS)].tolist()]})
    assert response.status_code == 200, response.text
    return response.headers[HEADER]


class Caller:
    """Sends feedback and keeps count of what it was told."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.told: Counter[str] = Counter()

    def report(self, decision_id: str, i: int) -> str:
        label = CLASSES[LABELS[i % len(LABELS)]]
        response = self.client.post("/feedback", json={"decision_id": decision_id, "label": label})
        status: str = "unknown" if response.status_code == 404 else response.json()["status"]
        assert response.status_code == {"early": 202, "unknown": 404}.get(status, 200)
        self.told[status] += 1
        return status


def deliver_late_decisions(folder: Path, ids: list[str]) -> None:
    """Record decisions under ``ids`` as one more worker would: copies of one that was really made."""
    with sqlite3.connect(f"{(folder / 'orchestration.db').as_uri()}?mode=ro", uri=True) as database:
        query = "SELECT decision, answer FROM decisions WHERE NOT waits ORDER BY at DESC LIMIT 1"
        raw_decision, raw_answer = database.execute(query).fetchone()
    decision, answer = decode(raw_decision, Decision), decode(raw_answer, Answer)
    spool = open_spool(JOURNAL, folder, "late")
    for id_ in ids:
        spool.record(replace(decision, id=id_, at=DecisionIds(Keys.of(folder)).verify(id_) or 0.0, probe_p=0.0), answer)
    spool.close()


def test_hundreds_of_requests_with_labels_early_late_twice_and_never_reconcile(tmp_path: Path) -> None:
    folder = project(tmp_path, feedback={"window": f"{WINDOW_S} s"})
    with served(".", folder=folder, env=environment(folder / "home")) as server:
        expected, told = send_everything(server, folder)
        counts = eventually(lambda: server.counts() if server.counts() == expected else None, f"counts {expected}", 20)
        assert counts["decisions"] == REQUESTS + told["delivered"]
    check_database(folder, expected)


def send_everything(server: Server, folder: Path) -> tuple[dict[str, int], Counter[str]]:
    """Send it all; return the counts that the journal must come to, and what the caller did."""
    rng, caller = np.random.default_rng(5), Caller(server.client)
    ids = DecisionIds(Keys.of(folder))
    pending: list[tuple[int, str, int]] = []  # due at request number, id, row
    kept_back: list[tuple[str, int]] = []
    did: Counter[str] = Counter()
    for i in range(REQUESTS):
        decision_id, fate = classify(server.client, i), rng.random()
        did["requests"] += 1
        if fate < 0.10:
            did["never"] += 1
        elif fate < 0.15:
            kept_back.append((decision_id, i))
        else:
            pending += [(i + int(rng.integers(20)), decision_id, i)] * (2 if fate < 0.25 else 1)
            did["twice"] += fate < 0.25
        if i % STRANGE_EVERY == 0:
            assert caller.report("A" * 32, i) == "unknown"
        for due in [p for p in pending if p[0] <= i]:
            pending.remove(due)
            caller.report(due[1], due[2])
    for _, decision_id, i in pending:
        caller.report(decision_id, i)
    assert caller.told["duplicate"] >= did["twice"]

    for decision_id, i in kept_back:
        eventually(lambda d=decision_id: age(ids, d) > WINDOW_S, "the window is over")
        assert caller.report(decision_id, i) == "late"
    asked_early = caller.told["early"]  # probes were still running: these join by themselves
    strangers = [ids.new(time.time()) for _ in range(30)]
    assert {caller.report(stranger, 0) for stranger in strangers} == {"early"}
    deliver_late_decisions(folder, strangers[:10])
    did["delivered"] = 10
    expected = {
        "decisions": REQUESTS + 10,
        "joined": caller.told["joined"] + asked_early + 10,
        "early": 20,
        "late": caller.told["late"],  # those kept back, and where the machine is busy others
        "duplicate": caller.told["duplicate"],
        "unknown": REQUESTS // STRANGE_EVERY,
    }
    sent = REQUESTS - did["never"] + did["twice"] + expected["unknown"] + 30
    assert sum(caller.told.values()) == sent == sum(expected.values()) - expected["decisions"]
    return expected, did


def age(ids: DecisionIds, decision_id: str) -> float:
    return time.time() - (ids.verify(decision_id) or 0.0)


def check_database(folder: Path, expected: dict[str, int]) -> None:
    """The stopped service's database, read by itself, says the same, and every join has its reward."""
    journal = open_journal(JOURNAL, folder, Keys.of(folder))
    try:
        journal.drain()  # what a worker recorded as the learner was already stopping
        counts = journal.counts()
        assert {name: getattr(counts, name) for name in expected} == expected
        joined = list(journal.since(0))
        assert [j.seq for j in joined] == list(range(1, expected["joined"] + 1))
        rewards: list[Any] = [journal.reward(j.decision.id) for j in joined]
        assert all(0.0 <= reward.value <= 1.0 for reward in rewards)
        snapshot = journal.latest_snapshot()
        assert snapshot is not None
        assert snapshot.cursor == expected["joined"]
    finally:
        journal.close()
    with sqlite3.connect(folder / "orchestration.db") as database:
        rows = dict(database.execute("SELECT status, count(*) FROM outcomes GROUP BY status").fetchall())
        (decisions,) = database.execute("SELECT count(*) FROM decisions").fetchone()
    assert rows == {name: expected[name] for name in ("joined", "early", "late")}
    assert decisions == expected["decisions"]
