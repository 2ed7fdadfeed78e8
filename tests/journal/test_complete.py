"""The journal tells of every decision once: when it holds all that will come of it before its outcome."""

import logging
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandmaster.core import Outcome, Status
from bandmaster.journal.keys import Keys
from bandmaster.journal.rules import PROBE_WAIT_S
from bandmaster.journal.spool import Spool
from bandmaster.journal.sqlite import SqliteJournal
from bandmaster.testing import sample_answer, sample_decision

KEY = Keys(b"k" * 32)
START = sample_decision().at


class Told(list):
    """Notes of each decision its number and how many probes it came with."""

    def __call__(self, answered):
        self += [(int(decision.id, 16), len(answer.probes)) for decision, answer in answered]


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def journal(tmp_path, told):
    journal = SqliteJournal(tmp_path / "main.db", KEY, complete=told)
    yield journal
    journal.close()


@pytest.fixture
def spool(journal):
    spool = Spool(journal.spools, "w")
    yield spool
    spool.close()


def record(recorder, n, *, probed=False, probes=False):
    recorder.record(sample_decision(n, probed=probed), sample_answer(n, probes=probes))


def outcome(after_s=1.0):
    return Outcome(at=START + after_s, labels=(0,))


def test_a_decision_is_told_when_it_is_taken_over_and_never_again(journal, spool, told):
    for n in range(3):
        record(spool, n)
    assert told == []
    journal.drain()
    journal.drain()
    for n in range(3):
        journal.settle(sample_decision(n).id, outcome())
    assert told == [(0, 0), (1, 0), (2, 0)]


def test_a_probed_one_is_told_when_its_probe_has_come_and_with_it(journal, spool, told):
    record(spool, 1, probed=True)
    record(spool, 2)
    journal.drain()
    assert told == [(2, 0)]
    record(spool, 1, probed=True, probes=True)
    journal.drain()
    assert told == [(2, 0), (1, 1)]
    record(spool, 1, probed=True, probes=True)
    journal.drain()
    assert told == [(2, 0), (1, 1)]


def test_a_decision_and_its_probe_that_are_taken_over_together_are_told_once(journal, spool, told):
    record(spool, 1, probed=True)
    record(spool, 1, probed=True, probes=True)
    journal.drain()
    assert told == [(1, 1)]


def test_a_first_record_that_comes_again_takes_no_probe_away(journal, spool, told):
    for probes in (False, True, False):
        record(spool, 1, probed=True, probes=probes)
        journal.drain()
    assert told == [(1, 1)]
    joined = journal.settle(sample_decision(1).id, outcome()).joined
    assert len(joined.answer.probes) == 1
    assert told == [(1, 1)]


def test_one_whose_probe_never_comes_is_told_as_it_is_settled(journal, spool, told):
    record(spool, 1, probed=True)
    assert journal.settle(sample_decision(1).id, outcome()).status is Status.EARLY
    assert told == []
    (joined,) = journal.due(START + PROBE_WAIT_S + 1.0)
    assert told == [(1, 0)]
    record(spool, 1, probed=True, probes=True)  # too late
    journal.drain()
    assert told == [(1, 0)]
    assert joined.answer.probes == ()


def test_it_is_told_before_its_settlement_returns(journal, spool, told):
    record(spool, 1)
    assert told == []
    assert journal.settle(sample_decision(1).id, outcome()).status is Status.JOINED
    assert told == [(1, 0)]


def test_what_is_recorded_without_a_spool_is_told_too(journal, told):
    record(journal, 1, probed=True)
    record(journal, 1, probed=True, probes=True)
    record(journal, 2)
    assert told == [(1, 1), (2, 0)]


def test_a_move_that_fails_tells_nothing_and_its_repetition_everything(journal, spool, told, monkeypatch):
    for n in range(5):
        record(spool, n)
    real = journal._store

    def failing(rows):
        real(rows[:3])
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(journal, "_store", failing)
        with pytest.raises(Exception, match="disk is full"):
            journal.drain()
    assert told == []
    journal.drain()
    assert told == [(n, 0) for n in range(5)]


def test_who_opens_the_journal_later_is_told_only_what_is_new(tmp_path, told):
    path, second = tmp_path / "main.db", Told()
    journal = SqliteJournal(path, KEY, complete=told)
    record(journal, 1)
    record(journal, 2, probed=True)
    journal.close()
    journal = SqliteJournal(path, KEY, complete=second)
    record(journal, 2, probed=True, probes=True)
    record(journal, 3)
    journal.close()
    assert (told, second) == ([(1, 0)], [(2, 1), (3, 0)])


def test_a_spool_row_that_nobody_can_read_hides_none_of_the_others(journal, spool, told, caplog):
    record(spool, 1)
    spool._segment.append(("bad", START, False, b"no decision", b"no answer"))
    record(spool, 2)
    with caplog.at_level(logging.ERROR):
        journal.drain()
    assert told == [(1, 0), (2, 0)]
    assert "these bytes are no Decision" in caplog.text


EVENTS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["decide", "probe", "drain", "settle", "due"])))


@settings(max_examples=30, deadline=None)
@given(EVENTS, st.booleans())
def test_in_whatever_order_things_happen_each_decision_is_told_at_most_once_and_before_it_is_joined(
    tmp_path_factory, events, spooled
):
    told = Told()
    journal = SqliteJournal(tmp_path_factory.mktemp("any") / "main.db", KEY, complete=told)
    spool = Spool(journal.spools, "w")
    recorder = spool if spooled else journal
    decided = set()
    for n, what in [*events, *((n, "settle") for n in range(4)), (0, "drain")]:
        if what == "decide":
            record(recorder, n, probed=n % 2 == 0)
            decided.add(n)
        elif what == "probe" and n in decided and n % 2 == 0:
            record(recorder, n, probed=True, probes=True)
        elif what == "drain":
            journal.drain()
        elif what == "settle":
            joined = journal.settle(sample_decision(n).id, outcome()).joined
            assert joined is None or n in [i for i, _ in told]
        elif what == "due":
            for joined in journal.due(START + PROBE_WAIT_S + 1.0):
                assert int(joined.decision.id, 16) in [i for i, _ in told]
    journal.due(START + PROBE_WAIT_S + 1.0)
    assert sorted(i for i, _ in told) == sorted(decided)
    spool.close()
    journal.close()
