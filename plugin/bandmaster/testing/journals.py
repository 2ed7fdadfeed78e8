"""The contract suite of journals, and small valid records to feed one.

>>> from bandmaster.journal.memory import MemoryJournal
>>> check_journal(lambda: MemoryJournal(window_s=600.0))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise

import numpy as np

from bandmaster.core import (
    Answer,
    Counts,
    Decision,
    DriftEvent,
    Joined,
    Journal,
    MemberAnswer,
    MemberStatistics,
    Outcome,
    Reward,
    Settlement,
    Snapshot,
    State,
    Status,
)

CHECKED_WINDOW_S = 600.0
"""The window of every journal that a factory gives to ``check_journal``."""

_START = 1_700_000_000.0


def sample_decision(n: int = 0, *, at: float = _START, probed: bool = False) -> Decision:
    """A valid decision over three plans of two members, the ``n``-th of a repeatable series."""
    rng = np.random.default_rng(n)
    statistics = MemberStatistics(*(rng.random(2) for _ in fields(MemberStatistics)))
    return Decision(
        id=f"{n:032x}",
        at=at,
        plans=("linear", "forest", "linear+forest"),
        probabilities=rng.dirichlet(np.ones(3)),
        chosen=int(rng.integers(3)),
        policy="sample",
        policy_version="1",
        state=State(n, rng.normal(size=4), ("country=NL",), statistics, rng.dirichlet(np.ones(3)), rng.random()),
        probe_p=0.5 if probed else 0.0,
        lot=0.25,
    )


def sample_answer(n: int = 0, *, probes: bool = False) -> Answer:
    """A valid answer with three classes to one row, by ``linear``; with ``probes``, ``forest`` was asked too."""
    rng = np.random.default_rng(n)
    scores = rng.dirichlet(np.ones(3), size=1)
    said = MemberAnswer("linear", np.arange(1), scores, 0.002, 0.01, "declared")
    failed = MemberAnswer("forest", np.arange(1), None, 0.2, 0.5, "measured", "it timed out")
    return Answer(
        scores=scores,
        labels=scores.argmax(axis=1),
        confidence=scores.max(axis=1),
        ran=(said,),
        stages_run=1,
        weights=np.ones(2),
        probes=(failed,) if probes else (),
    )


def same(a: object, b: object) -> bool:
    """Whether two records are equal to the last bit, arrays with shape and dtype. ``==`` cannot tell."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if type(a) is not type(b):
        return False
    if is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def check_journal(factory: Callable[[], Journal]) -> None:
    """Assert the rules of ``Journal`` on what ``factory`` gives: an empty journal with a window of 600 s.

    Raises ``AssertionError``, which says in a sentence what was broken.
    """
    for rule in JOURNAL_RULES:
        journal = factory()
        try:
            rule(journal)
        finally:
            journal.close()


def _settle(journal: Journal, n: int, *, after_s: float = 1.0, label: int = 0, start: float = _START) -> Settlement:
    return journal.settle(f"{n:032x}", Outcome(at=start + after_s, labels=(label,)))


def _expect(settlement: Settlement, status: Status, why: str) -> None:
    assert settlement.status is status, f"{why}: expected {status}, got {settlement.status}"
    joined = settlement.joined is not None
    assert joined == (status is Status.JOINED), "a settlement carries a joined decision if it joined, else none"


def _numbers(joined: object) -> list[tuple[int, str]]:
    assert isinstance(joined, (list, tuple)), "due() returns a sequence"
    return [(j.seq, j.decision.id) for j in joined]


def _a_stored_decision_joins_its_outcome(journal: Journal) -> None:
    decision, answer, outcome = sample_decision(1), sample_answer(1), Outcome(at=_START + 1, labels=(2,))
    journal.record(decision, answer)
    settlement = journal.settle(decision.id, outcome)
    _expect(settlement, Status.JOINED, "the first outcome of a stored decision joins")
    expected = Joined(1, decision, answer, outcome)
    assert same(settlement.joined, expected), "what is joined is what was recorded and reported, with seq 1"
    assert same(list(journal.since(0)), [expected]), "since(0) gives what was joined"
    assert journal.counts() == Counts(decisions=1, joined=1), "counts() counts the decision and the joined outcome"


def _the_order_is_that_of_settlement(journal: Journal) -> None:
    for n in (1, 2, 3):
        journal.record(sample_decision(n, at=_START + n), sample_answer(n))
    for n in (3, 1, 2):
        _settle(journal, n, after_s=5.0)
    expected = [(1, f"{3:032x}"), (2, f"{1:032x}"), (3, f"{2:032x}")]
    assert _numbers(list(journal.since(0))) == expected, "since() follows the order of settlement, from 1, no gaps"
    assert _numbers(list(journal.since(2))) == expected[2:], "since(seq) starts right after seq"
    assert not list(journal.since(3)), "since(the last seq) is empty"


def _the_first_outcome_wins(journal: Journal) -> None:
    journal.record(sample_decision(1), sample_answer(1))
    _settle(journal, 1, label=0)
    _expect(_settle(journal, 1, label=1), Status.DUPLICATE, "a second outcome is a duplicate")
    _settle(journal, 2, label=0)
    _expect(_settle(journal, 2, label=1), Status.DUPLICATE, "a second outcome is a duplicate while the first waits")
    journal.record(sample_decision(2), sample_answer(2))
    labels = [j.outcome.labels for j in (*journal.since(0), *journal.due())]
    assert labels == [(0,), (0,)], "a duplicate has no effect on what is joined"
    assert journal.counts() == Counts(decisions=2, joined=2, duplicate=2), "duplicates are counted"


def _an_early_outcome_waits_for_its_decision(journal: Journal) -> None:
    for n in (2, 1, 3):
        _expect(_settle(journal, n), Status.EARLY, "an outcome whose decision is not stored yet is early")
    assert not journal.due(), "nothing is due before its decision arrives"
    assert journal.counts() == Counts(early=3), "outcomes that wait count as early"
    for n in (1, 2):
        journal.record(sample_decision(n), sample_answer(n))
    due = journal.due()
    assert _numbers(due) == [(1, f"{2:032x}"), (2, f"{1:032x}")], "due() joins in the order the outcomes came"
    assert not journal.due(), "due() returns each joined decision once"
    assert same(list(journal.since(0)), list(due)), "what due() joined is in since()"
    assert journal.counts() == Counts(decisions=2, joined=2, early=1), "early counts only what still waits"


def _a_late_outcome_is_recorded_and_not_joined(journal: Journal) -> None:
    for n in (1, 2):
        journal.record(sample_decision(n), sample_answer(n))
    at_the_edge = _settle(journal, 1, after_s=CHECKED_WINDOW_S)
    _expect(at_the_edge, Status.JOINED, "an outcome at the very end of the window joins")
    _expect(_settle(journal, 2, after_s=CHECKED_WINDOW_S + 1), Status.LATE, "an outcome after the window is late")
    _expect(_settle(journal, 2), Status.DUPLICATE, "the outcome after a late one is a duplicate")
    _settle(journal, 3, after_s=CHECKED_WINDOW_S + 1)
    journal.record(sample_decision(3), sample_answer(3))
    assert not journal.due(), "an early outcome that turns out late is not joined"
    assert len(list(journal.since(0))) == 1, "late outcomes are not in since()"
    assert journal.counts() == Counts(decisions=3, joined=1, late=2, duplicate=1), "late outcomes are counted"


def _a_probed_decision_waits_for_its_probes(journal: Journal) -> None:
    decision, answer = sample_decision(1, probed=True), sample_answer(1, probes=True)
    journal.record(decision, replace(answer, probes=()))
    _expect(_settle(journal, 1), Status.EARLY, "a probed decision whose probes are to come is not joined yet")
    assert not journal.due(), "nor is it due"
    journal.record(decision, answer)
    due = journal.due()
    assert len(due) == 1, "once its probes are recorded, it is due"
    assert same(due[0].answer, answer), "the second record, with the probes, replaces the first"
    assert journal.counts() == Counts(decisions=1, joined=1), "both records are one decision"


def _probes_that_never_come_hold_nothing_up_for_long(journal: Journal) -> None:
    for n in (1, 2):
        journal.record(sample_decision(n, probed=True), sample_answer(n))
    _expect(_settle(journal, 1, after_s=9.0), Status.EARLY, "probes are awaited for 10 s")
    _expect(_settle(journal, 2, after_s=10.0), Status.JOINED, "10 s after its decision, an outcome joins without")
    assert _numbers(journal.due()) == [(2, f"{1:032x}")], "the newest outcome's time is due()'s clock"
    journal.record(sample_decision(3, at=_START + 5, probed=True), sample_answer(3))
    _expect(_settle(journal, 3, after_s=11.0), Status.EARLY, "probes are awaited for 10 s")
    assert not journal.due(now=_START + 14.9), "due(now) goes by the clock it is given"
    assert _numbers(journal.due(now=_START + 15)) == [(3, f"{3:032x}")], "due(now) goes by the clock it is given"


def _a_plan_that_ran_every_member_has_no_probes_to_wait_for(journal: Journal) -> None:
    answer = sample_answer(1, probes=True)
    everyone = replace(answer, ran=answer.ran + answer.probes, probes=())
    journal.record(sample_decision(1, probed=True), everyone)
    _expect(_settle(journal, 1), Status.JOINED, "a probed decision whose plan ran every member waits for nothing")


def _a_settled_decision_stays_as_it_was(journal: Journal) -> None:
    for n in (1, 2):
        journal.record(sample_decision(n), sample_answer(n))
    _settle(journal, 1)
    _settle(journal, 2, after_s=CHECKED_WINDOW_S + 1)
    for n in (1, 2):
        journal.record(sample_decision(n), sample_answer(n, probes=True))
    (joined,) = journal.since(0)
    assert same(joined.answer, sample_answer(1)), "a record that comes after settlement changes nothing"
    assert not journal.due(), "nor does it make anything due"
    assert journal.counts() == Counts(decisions=2, joined=1, late=1), "nor does it count"


def _the_ledger_balances(journal: Journal) -> None:
    rng = np.random.default_rng(0)
    reported, joined = 0, []
    for step in range(300):
        n, action = int(rng.integers(60)), rng.choice(["record", "settle", "due", "reject"], p=[0.4, 0.4, 0.1, 0.1])
        if action == "record":
            journal.record(sample_decision(n, probed=n % 3 == 0), sample_answer(n, probes=bool(rng.integers(2))))
        elif action == "settle":
            late = CHECKED_WINDOW_S if n % 7 == 0 else 0.0
            settlement = _settle(journal, n, after_s=late + 1 + step / 20)
            joined += [settlement.joined] if settlement.joined is not None else []
        elif action == "due":
            joined += journal.due()
        else:
            journal.reject()
        reported += action in ("settle", "reject")
        counts = journal.counts()
        total = counts.joined + counts.early + counts.late + counts.duplicate + counts.unknown
        assert total == reported, f"after {reported} outcomes the ledger holds {total}: {counts}"
        assert counts.joined == len(joined), "joined counts what settle() and due() have returned"
    assert [j.seq for j in joined] == list(range(1, len(joined) + 1)), "seq counts settlements from 1, without gaps"
    assert len({j.decision.id for j in joined}) == len(joined), "a decision joins once"
    assert same(list(journal.since(0)), joined), "since(0) replays exactly what was returned"


def _snapshots_are_kept_by_version(journal: Journal) -> None:
    assert journal.latest_snapshot() is None, "a new journal has no snapshot"
    snapshots = [Snapshot(v, cursor=10 * v, at=_START + v, payload=bytes([v]) * v) for v in range(8)]
    for snapshot in snapshots:
        journal.save_snapshot(snapshot)
        assert journal.latest_snapshot() == snapshot, "latest_snapshot() gives the newest, whole"


def _events_are_kept_in_order(journal: Journal) -> None:
    assert not journal.events(), "a new journal has no events"
    events = [DriftEvent(f"accuracy:m{i}", _START + i, f"it fell to {i} %") for i in (2, 1)]
    for event in events:
        journal.save_event(event)
    assert list(journal.events()) == events, "events() gives what was saved, in that order"


def _rewards_are_accepted_for_what_is_joined(journal: Journal) -> None:
    journal.record(sample_decision(1), sample_answer(1))
    joined = _settle(journal, 1).joined
    assert joined is not None, "the first outcome of a stored decision joins"
    for value in (0.25, 0.75):  # another contract scores history again
        journal.save_reward(joined, Reward(value, {"accuracy": 1.0, "cost": float("nan")}, {"accuracy": 1.0}))
    assert same(list(journal.since(0)), [joined]), "a reward changes nothing about what was joined"
    assert journal.counts() == Counts(decisions=1, joined=1), "nor does it count"


def _reading_while_settling_is_allowed(journal: Journal) -> None:
    for n in range(4):
        journal.record(sample_decision(n), sample_answer(n))
    for n in range(3):
        _settle(journal, n)
    seen = []
    for joined in journal.since(0):
        seen.append(joined.seq)
        _settle(journal, 3)
    assert seen[:3] == [1, 2, 3], "an outcome that arrives while since() is read disturbs nothing"
    assert all(b == a + 1 for a, b in pairwise(seen)), "since() skips nothing"


JOURNAL_RULES: tuple[Callable[[Journal], None], ...] = (
    _a_stored_decision_joins_its_outcome,
    _the_order_is_that_of_settlement,
    _the_first_outcome_wins,
    _an_early_outcome_waits_for_its_decision,
    _a_late_outcome_is_recorded_and_not_joined,
    _a_probed_decision_waits_for_its_probes,
    _probes_that_never_come_hold_nothing_up_for_long,
    _a_plan_that_ran_every_member_has_no_probes_to_wait_for,
    _a_settled_decision_stays_as_it_was,
    _the_ledger_balances,
    _snapshots_are_kept_by_version,
    _events_are_kept_in_order,
    _rewards_are_accepted_for_what_is_joined,
    _reading_while_settling_is_allowed,
)
