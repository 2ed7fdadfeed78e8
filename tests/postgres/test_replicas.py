"""Two replicas of a real service over one PostgreSQL: feedback at either, one that learns, edits that both follow."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.servers import Server, environment, eventually, served
from tests.postgres.servers import Postgres, postgres
from tests.serving.tiny import LABELS, ROWS, project

pytestmark = pytest.mark.extras

KEY = secrets.token_hex(32)
NAMES = ("setosa", "versicolor", "virginica")


def replica(database: str, folder: Path) -> AbstractContextManager[Server]:
    project(folder, journal=database, seed=3, probes={"share": 0.2}, guard={"mode": "live", "baseline": "linear"})
    env = environment(folder / "home", BANDMASTER_KEY=KEY, BENTOML_API_WORKERS="1")
    return served(".", folder=folder, env=env)


@pytest.fixture
def replicas(database: str, tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    with ExitStack() as stack:
        first, second = (stack.enter_context(replica(database, tmp_path / str(k))) for k in range(2))
        yield first, second


def ask(server: Server, n: int) -> str:
    answer = server.client.post("/classify", json={"input_series": ROWS[n : n + 1].tolist()})
    return str(answer.raise_for_status().headers["x-orchestration-decision"])


def report(server: Server, id_: str, n: int) -> int:
    """The status with which feedback is answered."""
    return server.client.post("/feedback", json={"decision_id": id_, "label": NAMES[LABELS[n]]}).status_code


def status(server: Server, id_: str, n: int) -> str:
    """What has become of it."""
    answer = server.client.post("/feedback", json={"decision_id": id_, "label": NAMES[LABELS[n]]})
    return str(answer.raise_for_status().json()["status"])


def following(server: Server) -> int:
    """The snapshot that a worker of this replica follows."""
    worker = server.state()["worker"]
    assert isinstance(worker, dict)
    return int(worker["snapshot_version"])


def leader(servers: tuple[Server, ...]) -> Server | None:
    leading = [server for server in servers if server.state()["leads"]]
    assert len(leading) <= 1, "two replicas learn"
    return leading[0] if leading else None


def kill(server: Server) -> None:
    """``kill -9`` of every process of a replica, as when its machine dies."""
    whole = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    for process in whole:
        os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs(whole, timeout=20)


def test_feedback_counts_at_whichever_replica_and_what_is_learned_reaches_both(
    replicas: tuple[Server, Server],
) -> None:
    asked = [(n, ask(replicas[n % 2], n)) for n in range(60)]
    for n, id_ in asked:
        assert report(replicas[n // 2 % 2], id_, n) in (200, 202)
    for server in replicas:
        eventually(lambda server=server: server.counts()["joined"] == 60, "all is joined")
    assert status(replicas[0], asked[1][1], 1) == "duplicate"
    assert leader(replicas) is not None
    eventually(lambda: following(replicas[0]) == following(replicas[1]) > 1, "both follow the same snapshot")
    pages = [server.state() for server in replicas]
    assert pages[0]["members"] == pages[1]["members"]
    assert pages[0]["policy_version"] == pages[1]["policy_version"]


def test_an_edit_and_the_switch_are_in_force_at_every_replica(replicas: tuple[Server, Server]) -> None:
    first, second = replicas
    edited = first.client.put("/orchestration/guard", json={"mode": "canary", "why": "with care"})
    assert edited.raise_for_status().json() == {"version": 1}

    def mode(server: Server) -> str:
        guard = server.state()["guard"]
        assert isinstance(guard, dict)
        return str(guard["mode"])

    for server in replicas:
        eventually(lambda server=server: mode(server) == "canary", "the edit is in force")
    assert second.client.get("/orchestration/edits").json()[0]["reason"] == "with care"
    again = second.client.put("/orchestration/guard", json={"mode": "live", "why": "well"})
    assert again.raise_for_status().json() == {"version": 2}
    eventually(lambda: mode(first) == "live", "the other's edit is in force")

    def pinned(server: Server) -> bool:
        return (Path(server.log).parents[1] / "replica.db.pin").exists()

    second.client.put("/orchestration/pin", json={"why": "odd answers"}).raise_for_status()
    eventually(lambda: pinned(first) and pinned(second), "the baseline answers alone, everywhere")
    first.client.delete("/orchestration/pin").raise_for_status()
    eventually(lambda: not pinned(first) and not pinned(second), "the guard decides again, everywhere")


def test_when_the_replica_that_learns_dies_another_does_and_no_outcome_is_lost(
    replicas: tuple[Server, Server],
) -> None:
    found = eventually(lambda: leader(replicas), "one learns")
    (other,) = (server for server in replicas if server is not found)
    asked = [(n, ask(other, n)) for n in range(40)]
    for n, id_ in asked[:20]:
        assert report(found, id_, n) in (200, 202)
    kill(found)
    for n, id_ in asked[20:]:
        assert report(other, id_, n) in (200, 202)
    eventually(lambda: other.state()["leads"], "the other learns")
    eventually(lambda: other.counts()["joined"] == 40, "all is joined")
    before = following(other)
    id_ = ask(other, 41)
    assert report(other, id_, 41) in (200, 202)
    eventually(lambda: following(other) > before, "it publishes what it learns")


def test_while_the_database_is_away_requests_are_answered_and_nothing_is_lost(tmp_path: Path) -> None:
    with postgres(tmp_path / "server") as server, replica(server.database("journal"), tmp_path / "replica") as only:
        first = ask(only, 0)
        assert report(only, first, 0) in (200, 202)
        server.kill()
        asked = [(n, ask(only, n)) for n in range(1, 20)]
        assert report(only, *asked[0][::-1]) == 503
        server.start()
        eventually(lambda: report(only, *asked[0][::-1]) != 503, "the database is back")
        for n, id_ in asked:
            assert report(only, id_, n) in (200, 202)
        eventually(lambda: only.counts()["joined"] == 20, "all is joined")
        assert status(only, first, 0) == "duplicate"


def test_a_replica_without_the_shared_key_does_not_start(server: Postgres, tmp_path: Path) -> None:
    project(tmp_path / "replica", journal=server.database("keyless"))
    env = environment(tmp_path / "home")
    with (
        pytest.raises(AssertionError, match="BANDMASTER_KEY is not set"),
        served(".", folder=tmp_path / "replica", env=env),
    ):
        pass
