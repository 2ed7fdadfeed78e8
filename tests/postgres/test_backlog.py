"""More than one learner keeps up with: it learns a bit at a time, in order, and nobody takes its place meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from bandmaster.core import Joined
from bandmaster.journal import postgres
from bandmaster.journal.keys import KEY_VARIABLE, Keys
from bandmaster.journal.postgres import PostgresJournal
from bandmaster.serving import learning
from tests.postgres.replicas import KEY
from tests.serving.test_live_configuration import Running
from tests.serving.tiny import LABELS, ROWS

pytestmark = pytest.mark.extras


@pytest.fixture
def replica(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Running]]:
    """Makes replicas of one service, the first of which leads until it is said to be dead."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.setattr(postgres, "LEASE_S", 60.0)
    monkeypatch.setattr(postgres, "RENEW_S", 0.0)
    made: list[Running] = []

    def make() -> Running:
        made.append(Running(tmp_path / str(len(made)), journal=database))
        return made[-1]

    yield make
    for each in made[::-1]:
        each.loop.close()


def learned(database: str) -> list[int]:
    """The numbers of the outcomes that have been learned from."""
    with psycopg.connect(database) as connection:
        return [seq for (seq,) in connection.execute("SELECT seq FROM bandmaster.rewards ORDER BY seq")]


def test_a_learner_that_is_behind_learns_a_bit_at_every_tick_and_publishes_it(
    replica: Callable[[], Running], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = replica(), replica()
    second.play(ROWS[:8], LABELS[:8])
    monkeypatch.setattr(learning, "CATCH_UP_S", 0.0)
    monkeypatch.setattr(learning, "AT_ONCE", 1)
    monkeypatch.setattr(learning, "SNAPSHOT_EVERY_S", 0.0)
    for k in range(1, 9):
        first.loop.tick()
        assert learned(database) == list(range(1, k + 1))
        assert first.loop.state().snapshot_version == k


def test_requests_are_noticed_before_their_outcomes_are_learned_from_though_that_takes_several_ticks(
    replica: Callable[[], Running], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = replica(), replica()
    second.play(ROWS[:8], LABELS[:8])
    monkeypatch.setattr(postgres, "TELLING_S", 0.0)
    first.loop.tick()
    assert learned(database) == []
    monkeypatch.setattr(postgres, "TELLING_S", 60.0)
    first.loop.tick()
    assert learned(database) == list(range(1, 9))


def test_nobody_takes_over_while_a_new_leader_catches_up_however_long_that_takes(
    replica: Callable[[], Running], database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica()
    second = replica()
    second.play(ROWS[:6], LABELS[:6])
    third = PostgresJournal(database, tmp_path / "third.db", Keys(bytes.fromhex(KEY)))
    learn, led = second.loop._learn, []

    def slowly(joined: Sequence[Joined]) -> object:
        led.extend(third.lead() for _ in joined)
        found = learn(joined)
        if joined:
            lapse()
        return found

    def lapse() -> None:
        """As if nobody had been heard of for as long as a lease is."""
        with psycopg.connect(database) as connection:
            connection.execute("UPDATE bandmaster.owner SET until = '-infinity'")

    monkeypatch.setattr(second.loop, "_learn", slowly)
    lapse()
    second.loop.tick()
    assert led == [False] * 6
    assert second.loop.state().leads
    third.close()
