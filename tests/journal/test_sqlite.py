"""What the SQLite journal adds to the contract: spools, snapshots for other processes, and clear refusals."""

import logging
import os
import sqlite3
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bandmaster.core import BandmasterError, Counts, DriftEvent, Outcome, Reward, Settlement, Snapshot, Status
from bandmaster.journal import spool as spool_module
from bandmaster.journal.checkup import look_over
from bandmaster.journal.keys import Keys
from bandmaster.journal.opening import open_journal, open_spool
from bandmaster.journal.places import locate
from bandmaster.journal.schema import SCHEMA_VERSION
from bandmaster.journal.snapshots import SnapshotReader
from bandmaster.journal.spool import Spool
from bandmaster.journal.sql import Stored
from bandmaster.journal.sqlite import SqliteJournal
from bandmaster.testing import same, sample_answer, sample_decision

KEY = Keys(b"k" * 32)
START = sample_decision().at


@pytest.fixture
def path(tmp_path):
    return tmp_path / "main.db"


@pytest.fixture
def journal(path):
    journal = SqliteJournal(path, KEY)
    yield journal
    journal.close()


def worker(journal: SqliteJournal, name: str = "w") -> Spool:
    return Spool(journal.spools, name)


def record(recorder, n, **kwargs):
    decision, answer = sample_decision(n, **kwargs), sample_answer(n)
    recorder.record(decision, answer)
    return decision, answer


def outcome(label=0, after_s=1.0):
    return Outcome(at=START + after_s, labels=(label,))


def test_what_two_workers_spooled_is_drained_once(journal):
    workers = worker(journal, "a"), worker(journal, "b")
    for n in range(10):
        record(workers[n % 2], n)
    assert (journal.drain(), journal.drain()) == (10, 0)
    assert journal.counts().decisions == 10
    for w in workers:
        w.close()


def test_settling_finds_what_still_lies_in_a_spool(journal):
    spool = worker(journal)
    decision, answer = record(spool, 1)
    settlement = journal.settle(decision.id, outcome())
    assert settlement.status is Status.JOINED
    assert same((settlement.joined.decision, settlement.joined.answer), (decision, answer))
    spool.close()


def test_settling_finds_probes_that_still_lie_in_a_spool(journal):
    spool = worker(journal)
    decision, _ = record(spool, 1, probed=True)
    journal.drain()
    spool.record(decision, sample_answer(1, probes=True))
    assert len(journal.settle(decision.id, outcome()).joined.answer.probes) == 1
    spool.close()


def test_an_outcome_that_overtakes_its_spool_is_due_later(journal):
    decision = sample_decision(1)
    assert journal.settle(decision.id, outcome()).status is Status.EARLY
    spool = worker(journal)
    record(spool, 1)
    assert [joined.seq for joined in journal.due()] == [1]
    spool.close()


def test_a_spool_is_removed_only_after_its_worker_let_go_of_it(journal):
    spool = worker(journal)
    record(spool, 1)
    journal.drain()
    assert spool.path.exists()
    record(spool, 2)
    spool.close()
    assert journal.drain() == 1
    assert not list(journal.spools.iterdir())
    assert journal.counts().decisions == 2


def test_a_spool_without_its_lock_is_drained_and_kept(journal):
    spool = worker(journal)
    record(spool, 1)
    spool.path.with_suffix(".lock").unlink()
    assert journal.drain() == 1
    assert spool.path.exists()
    spool.close()


def test_a_crash_between_moving_and_removing_moves_nothing_twice(path):
    first = SqliteJournal(path, KEY)
    spool = worker(first)
    for n in range(3):
        record(spool, n)
    spool.close()
    assert first._relay.move(spool.path) == 3  # and here the process dies, before it removes the file
    first.settle(sample_decision(1).id, outcome())
    first.close()
    second = SqliteJournal(path, KEY)
    assert second.drain() == 0
    assert not list(second.spools.iterdir())
    assert second.counts() == Counts(decisions=3, joined=1)
    second.close()


def test_a_move_that_fails_half_way_is_undone_and_repeated_whole(journal, monkeypatch):
    spool = worker(journal)
    for n in range(5):
        record(spool, n)
    real = journal._store

    def failing(rows):
        real(rows[:3])
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(journal, "_store", failing)
    with pytest.raises(BandmasterError, match=r"main\.db.*full"):
        journal.drain()
    monkeypatch.undo()
    assert journal.counts().decisions == 0
    assert journal.drain() == 5
    spool.close()


def test_two_owners_drain_each_row_once(path):
    owners = SqliteJournal(path, KEY), SqliteJournal(path, KEY)
    spool = worker(owners[0])
    moved = []
    threads = [threading.Thread(target=lambda o=o: [moved.append(o.drain()) for _ in range(100)]) for o in owners]
    for thread in threads:
        thread.start()
    for n in range(300):
        record(spool, n)
    spool.close()
    for thread in threads:
        thread.join()
    assert sum(moved) + sum(o.drain() for o in owners) == 300
    assert owners[0].counts().decisions == 300
    assert not list(owners[0].spools.iterdir())
    for owner in owners:
        owner.close()


def test_a_long_spool_goes_on_in_another_file(journal, monkeypatch):
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 10_000)
    spool = worker(journal)
    for n in range(40):
        record(spool, n)
    assert len(list(journal.spools.glob("*.log"))) > 2
    assert journal.drain() == 40
    assert list(journal.spools.glob("*.log")) == [spool.path]
    spool.close()


def test_a_damaged_spool_is_named_kept_and_holds_up_nothing(journal, caplog):
    journal.spools.mkdir()
    damaged = journal.spools / "spool-a-1-x.log"
    damaged.write_bytes(b"this is no spool" * 100)
    damaged.with_suffix(".lock").touch()
    spool = worker(journal, "b")
    record(spool, 1)
    assert (journal.drain(), journal.drain()) == (1, 0)
    assert damaged.exists()
    assert [r.levelno for r in caplog.records if damaged.name in r.getMessage()] == [logging.ERROR]
    spool.close()


def test_what_lies_before_the_damage_in_a_spool_is_taken_over_and_the_file_kept(journal, caplog):
    spool = worker(journal)
    for n in range(3):
        record(spool, n)
    spool.close()
    raw = bytearray(spool.path.read_bytes())
    raw[-10] ^= 1
    spool.path.write_bytes(raw)
    journal.drain()
    assert journal.counts().decisions == 2
    assert not journal.whole
    assert spool.path.exists()
    assert "damaged at byte" in caplog.text


def test_half_a_record_waits_for_its_other_half(journal):
    spool = worker(journal)
    record(spool, 1)
    journal.drain()
    before = spool.path.read_bytes()
    record(spool, 2)
    whole = spool.path.read_bytes()
    for end in (len(before) + 3, len(before) + 100, len(whole) - 1):
        spool.path.write_bytes(whole[:end])
        assert journal.drain() == 0
    spool.path.write_bytes(whole)
    assert journal.drain() == 1
    spool.close()


def test_half_a_record_of_a_dead_worker_is_given_up_and_said_so(journal, caplog):
    spool = worker(journal)
    for n in range(2):
        record(spool, n)
    spool.path.write_bytes(spool.path.read_bytes()[:-5])
    spool.close()
    assert journal.drain() == 1
    assert not list(journal.spools.iterdir())
    assert journal.whole
    assert "given up" in caplog.text


def test_a_spool_that_lost_what_was_taken_over_in_a_power_cut_is_empty(journal):
    spool = worker(journal)
    for n in range(3):
        record(spool, n)
    assert journal.drain() == 3
    spool.path.write_bytes(spool.path.read_bytes()[:500])
    assert journal.drain() == 0
    spool.close()
    assert journal.drain() == 0
    assert journal.whole
    assert not list(journal.spools.iterdir())


def test_a_record_that_finds_no_room_leaves_the_spool_as_it_was(journal, monkeypatch):
    spool, real = worker(journal), os.write
    record(spool, 1)
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[: len(data) // 2]))
    with pytest.raises(BandmasterError, match="no room"):
        record(spool, 2)
    monkeypatch.undo()
    record(spool, 3)
    assert journal.drain() == 2
    assert journal.find(sample_decision(3).id) is not None
    spool.close()


def test_a_record_larger_than_what_is_read_at_a_time_is_read(journal):
    spool = worker(journal)
    decision = replace(sample_decision(1), policy_version="v" * 100_000)
    spool.record(decision, sample_answer(1))
    assert journal.drain() == 1
    assert journal.find(decision.id)[0].policy_version == decision.policy_version
    spool.close()


def test_a_spool_whose_worker_died_while_making_it_is_removed(journal):
    journal.spools.mkdir()
    for suffix in (".new", ".lock"):
        (journal.spools / f"spool-a-1-x{suffix}").touch()
    assert journal.drain() == 0
    assert not list(journal.spools.iterdir())


def test_restarts_never_share_a_spool(journal):
    spools = [worker(journal) for _ in range(5)]
    assert len({s.path for s in spools}) == 5
    for spool in spools:
        spool.close()


@pytest.mark.parametrize("name", ["", "../up", "a b", "é", "x" * 65])
def test_a_worker_needs_a_plain_name(tmp_path, name):
    with pytest.raises(BandmasterError, match="no worker's name"):
        Spool(tmp_path, name)


def test_a_record_after_closing_is_an_error_that_names_the_file(journal):
    spool = worker(journal)
    spool.close()
    spool.close()
    with pytest.raises(BandmasterError, match=spool.path.name):
        record(spool, 1)


def test_threads_may_share_a_spool_and_a_journal(journal):
    spool = worker(journal)

    def work(first):
        for n in range(first, first + 25):
            decision, _ = record(spool, n)
            journal.settle(decision.id, outcome())

    threads = [threading.Thread(target=work, args=(25 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [joined.seq for joined in journal.since(0)] == list(range(1, 101))
    spool.close()


def test_everything_is_there_after_reopening(path):
    journal = SqliteJournal(path, KEY, window_s=60)
    for n in range(3):
        record(journal, n)
    for n, after_s in ((0, 1), (0, 2), (1, 61), (7, 3)):
        journal.settle(sample_decision(n).id, outcome(after_s=after_s))
    journal.reject()
    journal.save_event(DriftEvent("reward", START, "it fell"))
    journal.save_snapshot(Snapshot(1, 1, START, b"state"))
    before = journal.counts(), list(journal.since(0)), journal.events(), journal.latest_snapshot()
    journal.close()
    journal = SqliteJournal(path, KEY, window_s=60)
    assert same((journal.counts(), list(journal.since(0)), journal.events(), journal.latest_snapshot()), before)
    assert before[0] == Counts(decisions=3, joined=1, early=1, late=1, duplicate=1, unknown=1)
    record(journal, 7)
    assert [joined.seq for joined in journal.due()] == [2]
    journal.close()


def test_many_settlements_stream_in_order_over_pages(journal):
    with journal._transaction():
        raw = spool_module.encode(sample_decision(0)), spool_module.encode(sample_answer(0))
        journal._store([Stored(f"{n:032x}", START, False, *raw) for n in range(1100)])
    assert len(journal.settle_all([(f"{n:032x}", outcome(), None) for n in range(1100)])) == 1100
    assert [joined.seq for joined in journal.since(50)] == list(range(51, 1101))


def test_a_decision_is_found_with_and_without_its_outcome(journal):
    spool = worker(journal)
    decision, answer = record(spool, 1)
    assert journal.find(sample_decision(2).id) is None
    assert same(journal.find(decision.id), (decision, answer, None))
    journal.settle(decision.id, outcome(2))
    assert same(journal.find(decision.id), (decision, answer, outcome(2)))
    spool.close()


def test_decisions_are_listed_newest_first(journal):
    for n in range(5):
        record(journal, n, at=START + n)
    assert [d.at - START for d, _ in journal.decisions(2)] == [4, 3]
    assert [d.at - START for d, _ in journal.decisions(2, before=START + 3)] == [2, 1]


def test_rewards_that_are_saved_together_are_there_at_the_end_even_where_something_fails(journal):
    for n in range(2):
        record(journal, n)
    joined = [journal.settle(sample_decision(n).id, outcome()).joined for n in range(2)]
    with suppress(ZeroDivisionError), journal.rewards_together():
        journal.save_reward(joined[0], Reward(0.25, {}, {}))
        assert journal.reward(joined[0].decision.id) is None
        raise ZeroDivisionError
    journal.save_reward(joined[1], Reward(0.5, {}, {}))
    assert [journal.reward(j.decision.id).value for j in joined] == [0.25, 0.5]


def test_a_reward_is_kept_and_replaced_and_its_unknown_figures_left_out(journal):
    decision, _ = record(journal, 1)
    joined = journal.settle(decision.id, outcome()).joined
    assert journal.reward(decision.id) is None
    for value in (0.25, 0.5):
        journal.save_reward(joined, Reward(value, {"energy": 0.1, "cost": float("nan")}, {"energy": 0.9}))
    assert journal.reward(decision.id) == Reward(0.5, {"energy": 0.1}, {"energy": 0.9})


def snapshot(version):
    return Snapshot(version, cursor=version * 10, at=START + version, payload=b"state %d" % version)


def test_the_last_five_snapshots_are_kept(journal):
    for version in range(1, 9):
        journal.save_snapshot(snapshot(version))
    assert [row[0] for row in journal._all("SELECT version FROM snapshots ORDER BY version")] == [4, 5, 6, 7, 8]


@pytest.mark.parametrize("damage", ["substr(sealed, 1, 50)", "zeroblob(80)", "x''", "'text'"])
def test_a_corrupt_snapshot_is_passed_over_with_a_warning(path, caplog, damage):
    journal = SqliteJournal(path, KEY)
    for version in (1, 2):
        journal.save_snapshot(snapshot(version))
    journal._connection.execute(f"UPDATE snapshots SET sealed = {damage} WHERE version = 2")
    reader = SnapshotReader(path, KEY)
    assert journal.latest_snapshot() == reader.latest_after(0) == snapshot(1)
    assert reader.latest_after(1) is None
    assert [r.levelno for r in caplog.records if "snapshot 2" in r.getMessage()] == [logging.WARNING] * 2
    reader.close()
    journal.close()


def test_a_snapshot_under_another_version_is_refused(journal):
    for version in (1, 2):
        journal.save_snapshot(snapshot(version))
    journal._connection.execute(
        "UPDATE snapshots SET sealed = (SELECT sealed FROM snapshots WHERE version = 1) WHERE version = 2"
    )
    assert journal.latest_snapshot() == snapshot(1)


def test_snapshots_of_another_key_are_not_loaded(path):
    journal = SqliteJournal(path, Keys(b"o" * 32))
    journal.save_snapshot(snapshot(1))
    journal.close()
    journal = SqliteJournal(path, KEY)
    assert journal.latest_snapshot() is None
    journal.close()


def test_a_reader_waits_for_the_journal_and_follows_it(path):
    reader = SnapshotReader(path, KEY)
    assert reader.latest_after(0) is None
    path.touch()
    assert reader.latest_after(0) is None
    journal = SqliteJournal(path, KEY)
    assert reader.latest_after(0) is None
    journal.save_snapshot(snapshot(1))
    assert reader.latest_after(0) == snapshot(1)
    assert reader.latest_after(1) is None
    journal.save_snapshot(snapshot(2))
    journal.close()
    assert reader.latest_after(1) == snapshot(2)
    journal = SqliteJournal(path, KEY)
    journal.save_snapshot(snapshot(3))
    journal.close()
    assert reader.latest_after(2) == snapshot(3)
    reader.close()


def test_a_reader_names_a_file_that_is_no_journal(path):
    path.write_bytes(b"this is no spool" * 100)
    with pytest.raises(BandmasterError, match=r"main\.db cannot be read"):
        SnapshotReader(path, KEY).latest_after(0)


def test_a_folder_as_path_is_refused_with_an_example(tmp_path):
    with pytest.raises(BandmasterError, match=r"is a folder; name a file in it"):
        SqliteJournal(tmp_path, KEY)


def test_a_file_that_is_no_database_is_refused_and_kept(path):
    path.write_bytes(b"this is no spool" * 100)
    with pytest.raises(BandmasterError, match=r"main\.db.*not a database"):
        SqliteJournal(path, KEY)
    assert path.read_bytes() == b"this is no spool" * 100


def test_another_programs_database_is_refused(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(BandmasterError, match="another program's database"):
        SqliteJournal(path, KEY)


def test_a_newer_schema_is_refused(path):
    SqliteJournal(path, KEY).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 3")
    connection.close()
    with pytest.raises(BandmasterError, match=r"newer Bandmaster \(schema 3, this one knows 2\)"):
        SqliteJournal(path, KEY)


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for make in (SqliteJournal, lambda path, key: Spool(path, "w")):
        with pytest.raises(BandmasterError, match=r"file/main\.db.*written"):
            make(tmp_path / "file" / "main.db", KEY)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everything")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(BandmasterError, match="written"):
        SqliteJournal(tmp_path / "main.db", KEY)


def test_owners_that_start_at_once_make_one_journal(path):
    opened, barrier = [], threading.Barrier(4)

    def start():
        barrier.wait()
        opened.append(SqliteJournal(path, KEY))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    opened[0].reject()
    assert opened[3].counts() == Counts(unknown=1)
    for journal in opened:
        journal.close()


def test_a_url_names_a_file_relative_to_the_root_or_absolute():
    root = Path("/srv/app")
    assert locate("sqlite:///orchestration.db", root) == root / "orchestration.db"
    assert locate("sqlite:///sub/o.db", root) == root / "sub/o.db"
    assert locate("sqlite:////var/o.db", root) == Path("/var/o.db")


@pytest.mark.parametrize(
    "url", ["", "o.db", "sqlite://o.db", "sqlite:///", "sqlite:///o.db?mode=ro", "mysql://h/db", "redis://h"]
)
def test_any_other_url_is_refused_with_what_is_supported(url):
    with pytest.raises(BandmasterError, match=r"names no journal; write sqlite:///relative\.db"):
        open_journal(url, Path("."), KEY)


def test_a_journal_and_a_spool_of_the_same_url_meet(tmp_path):
    spool = open_spool("sqlite:///sub/o.db", tmp_path, "w")
    record(spool, 1)
    journal = open_journal("sqlite:///sub/o.db", tmp_path, KEY, window_s=60)
    assert journal.drain() == 1
    spool.close()
    journal.close()


def damage(journal, table, column, decision):
    """Alter a byte in the middle of what is stored, as a disk may."""
    ((raw,),) = journal._all(f"SELECT {column} FROM {table} WHERE id = ?", decision.id)
    altered = bytearray(raw)
    altered[len(raw) // 2] ^= 1
    with journal._transaction():
        journal._connection.execute(f"UPDATE {table} SET {column} = ? WHERE id = ?", (bytes(altered), decision.id))


@pytest.mark.parametrize("column", ["decision", "answer"])
def test_a_decision_that_is_damaged_before_its_outcome_comes_teaches_nothing_and_stops_nobody(journal, column):
    damaged, whole = (record(journal, n)[0] for n in (1, 2))
    damage(journal, "decisions", column, damaged)
    assert journal.settle(damaged.id, outcome(1)) == Settlement(Status.LATE)
    assert journal.settle(whole.id, outcome(2)).status is Status.JOINED
    assert journal.settle(damaged.id, outcome(3)).status is Status.DUPLICATE
    counts = journal.counts()
    assert (counts.joined, counts.late, counts.duplicate, counts.early) == (1, 1, 1, 0)


@pytest.mark.parametrize(
    ("table", "column"), [("decisions", "decision"), ("decisions", "answer"), ("outcomes", "outcome")]
)
def test_of_what_was_settled_the_rest_is_read_where_one_row_is_damaged(journal, table, column, caplog):
    decisions = [record(journal, n)[0] for n in (1, 2, 3)]
    for decision in decisions:
        journal.settle(decision.id, outcome(1))
    damage(journal, table, column, decisions[1])
    assert [joined.seq for joined in journal.since(0)] == [1, 3]
    assert "settlement 2 is damaged and passed over" in caplog.text


def test_an_early_outcome_that_is_damaged_holds_up_no_other(journal):
    early, other = sample_decision(1), sample_decision(2)
    for decision in (early, other):
        assert journal.settle(decision.id, outcome(1)).status is Status.EARLY
    damage(journal, "outcomes", "outcome", early)
    for n in (1, 2):
        record(journal, n)
    assert [joined.decision.id for joined in journal.due()] == [other.id]
    assert journal.due() == ()
    counts = journal.counts()
    assert (counts.joined, counts.late, counts.early) == (1, 1, 0)


def test_of_decisions_without_an_outcome_a_damaged_one_is_passed_over(journal):
    first, second = (record(journal, n)[0] for n in (1, 2))
    damage(journal, "decisions", "decision", first)
    assert [decision.id for decision in journal.unsettled(0.0)] == [second.id]


def test_a_journal_of_the_first_version_is_brought_up_to_date_and_loses_nothing(path):
    connection = sqlite3.connect(path)
    connection.executescript((Path(__file__).parent / "version1.sql").read_text())
    connection.close()
    journal = SqliteJournal(path, KEY, window_s=60)
    assert journal.counts() == Counts(decisions=4, joined=1, early=1, late=1, duplicate=1, unknown=1)
    assert [j.seq for j in journal.since(0)] == [1]
    assert journal.reward(f"{0:032x}").value == 0.5
    assert (journal.latest_snapshot().payload, journal.events()[0].cause) == (b"learned", "because")
    assert journal.settle(f"{2:032x}", outcome()).status is Status.JOINED
    assert journal.forget(f"{0:032x}")
    assert journal.expire(START + 1) > 0
    journal.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_whoever_took_a_journal_over_before_can_write_nothing_more(path):
    first, second = SqliteJournal(path, KEY), SqliteJournal(path, KEY)
    first.take_over()
    record(first, 1)
    second.take_over()
    decision, _ = sample_decision(2), sample_answer(2)
    for attempt in (
        lambda: record(first, 2),
        lambda: first.settle(decision.id, outcome()),
        lambda: first.save_snapshot(Snapshot(1, 0, START, b"x")),
        lambda: first.reject(),
    ):
        with pytest.raises(BandmasterError, match="another learner has taken this journal over; stop one"):
            attempt()
    record(second, 2)
    assert second.counts() == Counts(decisions=2)
    first.take_over()  # it has got its lease back
    record(first, 3)


def contents(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.glob("main.db*") if file.is_file())


def test_what_is_forgotten_is_nowhere_in_the_files_and_stays_counted(journal, path):
    for n in (1, 2):
        decision, answer = sample_decision(n), sample_answer(n)
        told = replace(decision, state=replace(decision.state, features=np.array([n * 1111.5])))
        journal.record(told, answer)
        journal.settle(decision.id, outcome())
    first, second = sample_decision(1).id, sample_decision(2).id
    assert journal.forget(first)
    assert not journal.forget(first)
    assert (journal.find(first), journal.reward(first)) == (None, None)
    assert [j.decision.id for j in journal.since(0)] == [second]
    assert journal.counts() == Counts(decisions=2, joined=2)
    assert journal.scrub()
    assert b"1111.5" not in contents(path)
    assert b"2223.0" in contents(path)


def test_nothing_brings_back_what_is_forgotten(journal):
    spool = worker(journal)
    decision, answer = record(spool, 1)
    assert journal.forget(decision.id)  # it was still in the spool
    spool.record(decision, answer)  # as a probe would
    assert journal.settle(decision.id, outcome()).status is Status.LATE
    assert journal.settle(decision.id, outcome()).status is Status.DUPLICATE
    assert journal.find(decision.id) is None
    assert list(journal.since(0)) == []
    spool.close()


def test_an_outcome_that_waits_for_what_is_forgotten_waits_no_more(journal):
    decision = sample_decision(1)
    assert journal.settle(decision.id, outcome()).status is Status.EARLY
    assert journal.forget(decision.id)
    record(journal, 1)
    assert journal.due() == ()
    assert journal.counts() == Counts(late=1)


def test_what_is_old_is_removed_with_all_that_belongs_to_it_and_stays_counted(path):
    journal = SqliteJournal(path, KEY, window_s=60)
    for n in range(6):
        decision = sample_decision(n)
        journal.record(replace(decision, at=START + n), sample_answer(n))
        if n < 3:
            journal.settle(decision.id, outcome(after_s=n + 1 if n else 99.0))
    journal.settle(sample_decision(77).id, outcome(after_s=1.0))  # its decision never comes
    before = journal.counts()
    assert [journal.expire(START + 4, limit=2) for _ in range(4)] == [2, 2, 1, 0]  # the outcome that is alone at last
    assert journal.counts() == replace(before, early=0, late=before.late + 1)
    assert [d.id for d, _ in journal.decisions(10)] == [sample_decision(n).id for n in (5, 4)]
    for table in ("rewards", "outcomes"):
        assert journal._all(f"SELECT count(*) FROM {table}") == [(0,)]
    journal.close()
    assert {f.what: f.health for f in look_over(path)}["ledger"] == "ok"


def test_in_the_ledger_what_was_removed_is_told_from_what_is_missing(journal, path):
    for n in (1, 2):
        record(journal, n)
        journal.settle(sample_decision(n).id, outcome())
    journal.forget(sample_decision(1).id)
    assert {f.what: f.health for f in look_over(path)}["ledger"] == "ok"
    journal._all("DELETE FROM decisions")
    assert {f.what: f.health for f in look_over(path)}["ledger"] == "problem"


def test_numbers_of_settlements_are_not_given_out_again_when_all_was_removed(journal):
    for n in range(5):
        record(journal, n)
        journal.settle(sample_decision(n).id, outcome())
    while journal.expire(START + 100):
        pass
    record(journal, 7)
    settlement = journal.settle(sample_decision(7).id, outcome())
    assert settlement.joined.seq == 6
    assert [j.seq for j in journal.since(5)] == [6]


def test_beside_a_reader_what_is_removed_is_overwritten_later_and_nobody_waits(journal, path):
    decision, answer = sample_decision(1), sample_answer(1)
    journal.record(replace(decision, state=replace(decision.state, features=np.array([1111.5]))), answer)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM decisions").fetchone()
    assert journal.forget(decision.id)
    assert not journal.scrub()
    reader.execute("COMMIT")
    reader.close()
    assert journal.scrub()
    assert b"1111.5" not in contents(path)


def test_an_outcome_whose_decision_was_removed_is_late_by_what_its_id_tells(path):
    journal = SqliteJournal(path, KEY, window_s=60)
    decision, _ = record(journal, 1)
    journal.settle(decision.id, outcome())
    while journal.expire(START + 100):
        pass
    assert journal.settle(decision.id, outcome(after_s=200.0), decided_at=START).status is Status.LATE
    assert journal.settle(sample_decision(2).id, outcome(after_s=200.0), decided_at=START + 190).status is Status.EARLY
    journal.close()


def test_of_an_id_that_nobody_signed_nothing_is_kept(journal):
    assert not journal.forget("a stranger's")
    assert journal._all("SELECT count(*) FROM forgotten") == [(0,)]
    assert not journal.forget(sample_decision(1).id, decided_at=START)
    assert journal._all("SELECT at FROM forgotten") == [(START,)]


def test_a_spool_begins_another_file_after_a_while_so_that_the_owner_can_remove_the_last(journal, monkeypatch):
    spool = worker(journal)
    spool.renew()
    first = spool.path
    record(spool, 1)
    spool.renew()
    assert spool.path == first
    monkeypatch.setattr(spool_module, "SEGMENT_S", -1.0)
    spool.renew()
    assert spool.path != first
    journal.drain()
    assert not first.exists()
    spool.close()


def test_a_damaged_alarm_is_passed_over_and_the_last_so_many_are_given(journal):
    for n in range(4):
        journal.save_event(DriftEvent(f"reward{n}", START + n, "because"))
    journal._all("UPDATE events SET event = x'00' WHERE n = 3")
    assert [event.name for event in journal.events()] == ["reward0", "reward1", "reward3"]
    assert [event.name for event in journal.events(last=2)] == ["reward3"]
