"""Two replicas of a real service over one PostgreSQL: feedback at either, one that learns, edits that both follow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.end_to_end.servers import Server, environment, eventually, served
from tests.postgres.replicas import KEY, ask, following, kill, leads, replica, tell
from tests.postgres.servers import Postgres, postgres
from tests.serving.tiny import project

pytestmark = pytest.mark.extras


@pytest.fixture
def replicas(database: str, tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    with ExitStack() as stack:
        first, second = (stack.enter_context(replica(database, tmp_path / str(k))) for k in range(2))
        yield first, second


def bandmaster(*command: str, folder: Path) -> str:
    """What a command says in a replica's folder."""
    env = environment(folder / "home", BANDMASTER_KEY=KEY)
    done = subprocess.run(
        [sys.executable, "-m", "bandmaster", *command], cwd=folder, env=env, capture_output=True, text=True, check=True
    )
    return done.stdout


def leader(servers: tuple[Server, ...]) -> Server | None:
    leading = [server for server in servers if leads(server)]
    assert len(leading) <= 1, "two replicas learn"
    return leading[0] if leading else None


def test_feedback_counts_at_whichever_replica_and_what_is_learned_reaches_both(
    replicas: tuple[Server, Server],
) -> None:
    asked = [(n, ask(replicas[n % 2], n)) for n in range(60)]
    for n, id_ in asked:
        assert tell(replicas[n // 2 % 2], id_, n).status_code in (200, 202)
    for server in replicas:
        eventually(lambda server=server: server.counts()["joined"] == 60, "all is joined")
    assert tell(replicas[0], asked[1][1], 1).json()["status"] == "duplicate"
    assert leader(replicas) is not None
    eventually(lambda: following(replicas[0]) == following(replicas[1]) > 1, "both follow the same snapshot")
    looked = bandmaster("doctor", "bentofile.yaml", folder=replicas[0].log.parents[1])
    assert "ledger: balances: 60 decisions, 60 joined" in looked
    assert "exported.parquet: 60 decisions" in bandmaster(
        "export", "exported.parquet", "--config", "bentofile.yaml", folder=replicas[1].log.parents[1]
    )
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
        assert tell(found, id_, n).status_code in (200, 202)
    kill(found)
    for n, id_ in asked[20:]:
        assert tell(other, id_, n).status_code in (200, 202)
    eventually(lambda: other.state()["leads"], "the other learns")
    eventually(lambda: other.counts()["joined"] == 40, "all is joined")
    before = following(other)
    id_ = ask(other, 41)
    assert tell(other, id_, 41).status_code in (200, 202)
    eventually(lambda: following(other) > before, "it publishes what it learns")


def test_while_the_database_is_away_requests_are_answered_and_nothing_is_lost(tmp_path: Path) -> None:
    with postgres(tmp_path / "server") as server, replica(server.database("journal"), tmp_path / "replica") as only:
        first = ask(only, 0)
        assert tell(only, first, 0).status_code in (200, 202)
        server.kill()
        asked = [(n, ask(only, n)) for n in range(1, 20)]
        assert tell(only, *asked[0][::-1]).status_code == 503
        server.start()
        eventually(lambda: tell(only, *asked[0][::-1]).status_code != 503, "the database is back")
        for n, id_ in asked:
            assert tell(only, id_, n).status_code in (200, 202)
        eventually(lambda: only.counts()["joined"] == 20, "all is joined")
        assert tell(only, first, 0).json()["status"] == "duplicate"


def test_a_replica_without_the_shared_key_does_not_start(server: Postgres, tmp_path: Path) -> None:
    project(tmp_path / "replica", journal=server.database("keyless"))
    env = environment(tmp_path / "home")
    with (
        pytest.raises(AssertionError, match="BANDMASTER_KEY is not set"),
        served(".", folder=tmp_path / "replica", env=env),
    ):
        pass
