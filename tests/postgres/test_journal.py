"""The journal in PostgreSQL: the contract, replicas that write at once, one that learns, a database that dies."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psycopg
import pytest

from bandmaster.core import BandmasterError, Counts, DriftEvent, Outcome, Reward, Snapshot, Status
from bandmaster.journal import postgres as postgres_module
from bandmaster.journal.keys import Keys
from bandmaster.journal.postgres import PostgresJournal, shown
from bandmaster.journal.relay import BATCH
from bandmaster.journal.snapshots import SnapshotReader
from bandmaster.journal.spool import Spool
from bandmaster.testing import CHECKED_WINDOW_S, JOURNAL_RULES, same, sample_answer, sample_decision
from tests.end_to_end.servers import eventually
from tests.postgres.replicas import cable
from tests.postgres.servers import postgres

pytestmark = pytest.mark.extras

KEY = Keys(b"k" * 32)
START = sample_decision().at


class Told(list[str]):
    """The ids of decisions that became complete."""

    def __call__(self, answered):
        self += [decision.id for decision, _ in answered]


def opened(url: str, folder: Path, told: Told | None = None) -> PostgresJournal:
    folder.mkdir(exist_ok=True)
    return PostgresJournal(url, folder / "replica.db", KEY, CHECKED_WINDOW_S, told)


@pytest.fixture
def journal(database, tmp_path):
    journal = opened(database, tmp_path)
    assert journal.lead()
    yield journal
    journal.close()


@pytest.fixture
def replicas(database, tmp_path):
    """Two, of which the first leads."""
    told = Told(), Told()
    both = [opened(database, tmp_path / str(k), told[k]) for k in range(2)]
    assert [each.lead() for each in both] == [True, False]
    yield both, told
    for each in both:
        each.close()


def record(recorder, n, **kwargs):
    decision, answer = sample_decision(n, **kwargs), sample_answer(n)
    recorder.record(decision, answer)
    return decision


def outcome(label=0, after_s=1.0):
    return Outcome(at=START + after_s, labels=(label,))


@pytest.mark.parametrize("rule", JOURNAL_RULES, ids=lambda rule: rule.__name__.strip("_"))
def test_it_keeps_every_rule_of_journals(rule, journal):
    rule(journal)


def test_what_two_replicas_record_and_settle_is_one_journal(replicas):
    (first, second), _ = replicas
    decisions = [record((first, second)[n % 2], n) for n in range(10)]
    for n, decision in enumerate(decisions):
        assert (second, first)[n % 2].settle(decision.id, outcome()).status is Status.JOINED
    assert [joined.seq for joined in first.since(0)] == list(range(1, 11))
    assert same(list(first.since(0)), list(second.since(0)))
    assert first.counts() == second.counts() == Counts(decisions=10, joined=10)


def test_numbers_have_no_gap_and_no_double_while_many_settle_at_once(database, tmp_path):
    journals = [opened(database, tmp_path / str(k)) for k in range(4)]

    def work(k):
        for n in range(k * 25, k * 25 + 25):
            decision = record(journals[k], n)
            assert journals[(k + 1) % 4].settle(decision.id, outcome()).status is Status.JOINED

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [joined.seq for joined in journals[0].since(0)] == list(range(1, 101))
    assert journals[0].counts() == Counts(decisions=100, joined=100)
    for journal in journals:
        journal.close()


def test_an_outcome_that_is_reported_at_two_replicas_at_once_counts_once(replicas):
    (first, second), _ = replicas
    for n in range(20):
        record(first, n)
    found = []
    threads = [
        threading.Thread(target=lambda j=j: found.extend(j.settle(f"{n:032x}", outcome()).status for n in range(20)))
        for j in (first, second)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (found.count(Status.JOINED), found.count(Status.DUPLICATE)) == (20, 20)


def test_the_leader_is_told_once_of_what_any_replica_has_recorded_and_others_of_nothing(replicas):
    (first, second), told = replicas
    spool = Spool(second.spools, "w")
    ids = [record(spool, n).id for n in range(5)]
    assert second.drain() == 5
    ids.append(record(first, 7).id)
    first.drain()
    first.drain()
    second.drain()
    assert (sorted(told[0]), told[1]) == (sorted(ids), [])
    spool.close()


def test_more_than_one_command_takes_is_recorded_and_settled_at_once(journal):
    spool, many = Spool(journal.spools, "w"), range(2 * BATCH + 1)
    ids = [record(spool, n).id for n in many]
    assert journal.drain() == len(many)
    settled = journal.settle_all([(id_, outcome(), None) for id_ in ids])
    assert [found.joined.seq for found in settled] == [n + 1 for n in many]
    with journal.rewards_together():
        for found in settled:
            journal.save_reward(found.joined, Reward(0.5, {}, {}))
    assert journal.counts() == Counts(decisions=len(many), joined=len(many))
    assert journal.reward(ids[-1]).value == 0.5
    assert journal.rows([*ids, "unknown"]) == dict.fromkeys(ids, 1)
    spool.close()


def test_only_one_leads_and_another_does_as_soon_as_that_has_stopped(database, tmp_path):
    first, second = (opened(database, tmp_path / str(k)) for k in range(2))
    assert (first.lead(), second.lead()) == (True, False)
    first.close()
    assert eventually(second.lead, "the other leads")
    second.close()


def test_one_that_dies_is_followed_once_its_lease_has_run_out(database, tmp_path, monkeypatch):
    monkeypatch.setattr(postgres_module, "RENEW_S", 0.0)
    first, second = (opened(database, tmp_path / str(k)) for k in range(2))
    assert first.lead()
    first._drop()  # as a process that is killed
    began = time.monotonic()
    assert eventually(second.lead, "the other leads")
    assert time.monotonic() - began > postgres_module.LEASE_S / 2
    assert not first.lead()
    first.close()
    assert second.lead()  # whoever does not lead any more takes the lease from nobody
    second.close()


def test_who_leads_no_more_can_write_nothing_that_only_the_leader_may_and_settles_all_the_same(
    database, tmp_path, monkeypatch
):
    first, second = (opened(database, tmp_path / str(k)) for k in range(2))
    assert first.lead()
    joined = first.settle(record(first, 1).id, outcome()).joined
    first._all("UPDATE owner SET until = '-infinity' RETURNING 1")  # as if it had been stopped for long
    assert second.lead()
    for attempt in (
        lambda: first.save_snapshot(Snapshot(1, 0, START, b"x")),
        lambda: first.save_event(DriftEvent("reward", START, "it fell")),
        lambda: first.expire(START + 100),
    ):
        first._epoch = first._epoch or 1  # as it still believes
        with pytest.raises(BandmasterError, match="another replica learns by now"):
            attempt()
    assert joined is not None
    assert first.settle(record(first, 2).id, outcome()).status is Status.JOINED
    assert second.counts() == Counts(decisions=2, joined=2)
    first.close()
    second.close()


def test_the_newest_snapshot_reaches_the_workers_of_every_replica(replicas):
    (first, second), _ = replicas
    readers = [SnapshotReader(each.path, KEY) for each in (first, second)]
    assert [reader.latest_after(0) for reader in readers] == [None, None]
    for version in range(1, 8):
        first.save_snapshot(Snapshot(version, version, START, b"learned %d" % version))
    for each in (first, second):
        each.drain()
    assert [reader.latest_after(0).payload for reader in readers] == [b"learned 7"] * 2
    assert second.latest_snapshot().version == second.last_snapshot_version() == 7
    for reader in readers:
        reader.close()


def test_the_leader_is_told_what_another_was_asked_to_forget(replicas):
    (first, second), _ = replicas
    decision = record(second, 1)
    assert len(first.forgotten()) == 0
    assert second.forget(decision.id)
    assert eventually(first.forgotten, "the notice comes") == [decision.id]
    assert not first.forgotten()
    assert first.find(decision.id) is None


def test_while_the_database_is_away_it_says_so_and_goes_on_when_it_returns(tmp_path):
    with postgres(tmp_path / "server") as server:
        journal = opened(server.database("journal"), tmp_path)
        spool = Spool(journal.spools, "w")
        ids = [record(spool, n).id for n in range(3)]
        assert journal.lead()
        assert journal.settle(ids[0], outcome()).status is Status.JOINED
        server.kill()
        ids.append(record(spool, 3).id)  # workers go on
        for attempt in (lambda: journal.settle(ids[1], outcome()), journal.drain, journal.lead, journal.counts):
            with pytest.raises(BandmasterError, match=r"postgresql://127\.0\.0\.1:\d+/journal: .*is there"):
                attempt()
        server.start()
        eventually(lambda: _works(journal.drain), "the database is back")
        assert journal.lead()
        assert journal.settle(ids[0], outcome()).status is Status.DUPLICATE
        assert journal.settle(ids[1], outcome()).status is Status.JOINED
        assert journal.counts() == Counts(decisions=4, joined=2, duplicate=1)
        spool.close()
        journal.close()


def _works(call) -> bool:
    try:
        call()
    except BandmasterError:
        return False
    return True


def test_an_acknowledged_outcome_survives_kill_9_of_the_database(tmp_path):
    with postgres(tmp_path / "server") as server:
        journal = opened(server.database("journal"), tmp_path)
        acknowledged, stop = [], threading.Event()

        def work():
            n = 0
            while not stop.is_set():
                n += 1
                try:
                    journal.record(sample_decision(n), sample_answer(n))
                    if journal.settle(sample_decision(n).id, outcome()).status is Status.JOINED:
                        acknowledged.append(sample_decision(n).id)
                except BandmasterError:
                    continue

        thread = threading.Thread(target=work)
        thread.start()
        for _ in range(3):
            before = len(acknowledged)
            eventually(lambda before=before: len(acknowledged) > before + 50, "outcomes are settled")
            server.kill()
            server.start()
        stop.set()
        thread.join()
        eventually(lambda: _works(journal.counts), "the database is back")
        there = [joined.decision.id for joined in journal.since(0)]
        assert set(acknowledged) <= set(there)
        assert [joined.seq for joined in journal.since(0)] == list(range(1, len(there) + 1))
        journal.close()


def test_a_journal_of_a_newer_version_that_this_one_cannot_use_is_refused(database, tmp_path):
    opened(database, tmp_path).close()
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE bandmaster.about SET needs = 99")
    with pytest.raises(BandmasterError, match=r"newer Bandmaster \(schema 99, this one knows 1\)"):
        opened(database, tmp_path)


def test_a_database_that_is_not_there_is_refused_without_its_password(tmp_path):
    with pytest.raises(BandmasterError) as refused:
        opened("postgresql://ann:secret@127.0.0.1:1/journal", tmp_path)
    assert "postgresql://127.0.0.1:1/journal" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_what_is_shown_of_a_url_has_no_secret():
    assert shown("postgresql://ann:secret@db/journal?sslpassword=secret") == "postgresql://db/journal"
    assert shown("postgresql://[") == "postgresql://…"


def test_a_database_that_stands_still_holds_nobody_up_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(postgres_module, "PATIENCE_S", 1)
    with postgres(tmp_path / "server") as server, cable(server.port) as network:
        url = server.database("journal").replace(f":{server.port}", f":{network.port}")
        journal = opened(url, tmp_path)
        decision = record(journal, 1)
        network.cut()
        with pytest.raises(BandmasterError, match="check that the database is there"):
            journal.settle(decision.id, outcome())
        network.mend()
        eventually(lambda: _works(journal.counts), "the network is whole")
        assert journal.settle(decision.id, outcome()).status in (Status.JOINED, Status.DUPLICATE)
        assert journal.counts().joined == 1
        journal.close()
