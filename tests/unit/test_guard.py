"""The ledger of a guard: what it says was lost at most is so, and what may be lost is never exceeded by it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandmaster.guard import Allowance, AtLeast, Ledger

ALLOWANCE = Allowance(per_request=0.1, burn=2.0)


def ledger(requests=0):
    made = Ledger(ALLOWANCE)
    for _ in range(requests):
        made.decided()
    return made


# ---- What a sum is at least --------------------------------------------------------------------------------------


def test_of_nothing_nothing_is_known():
    found = AtLeast(0.01)
    assert found.value == 0.0
    found.add(0.0)
    assert found.value == 0.0


def test_of_many_alike_nearly_all_is_sure():
    found = AtLeast(0.01)
    for _ in range(10_000):
        found.add(0.5)
    assert 4_600 < found.value < 5_000


def test_one_estimate_however_great_proves_little():
    found = AtLeast(0.01)
    found.add(1e9)
    assert found.value == 0.0


@given(st.lists(st.floats(0.0, 1e3), max_size=60))
def test_what_was_sure_stays_so_and_is_no_more_than_was_seen(estimates):
    found, before = AtLeast(0.05), 0.0
    for estimate in estimates:
        found.add(estimate)
        assert before <= found.value <= sum(estimates)
        before = found.value


# ---- The ledger --------------------------------------------------------------------------------------------------


def test_there_is_room_for_the_burn_and_for_a_little_more_with_every_request():
    assert ledger().room == 2.0
    assert ledger(10).room == pytest.approx(3.0)


def test_who_has_no_outcome_yet_is_taken_for_the_worst():
    book = ledger()
    book.expose("a", 0.8)
    book.expose("b", 0.8)
    assert book.lost == pytest.approx(1.6)
    with pytest.raises(ValueError, match=r"c may cost 0\.8, and there is room for 0\.4"):
        book.expose("c", 0.8)
    book.settle("a", -0.3)
    assert book.lost == pytest.approx(0.5)
    book.expire("b")
    assert book.lost == pytest.approx(-0.3)


def test_an_outcome_that_comes_twice_or_of_another_changes_nothing():
    book = ledger()
    book.expose("a", 0.8)
    for _ in range(2):
        book.settle("a", 0.5)
        book.settle("another", 0.7)
        book.expire("a")
    assert book.lost == pytest.approx(0.5)


def test_slack_counts_in_the_order_of_decisions_whichever_outcome_comes_first():
    book = ledger(1000)
    for i in range(200):
        book.expose(str(i), 0.3)
    for i in reversed(range(1, 200)):
        book.settle(str(i), 0.3, slack=0.3)
    assert book.lost == pytest.approx(200 * 0.3)
    book.settle("0", 0.3, slack=0.3)
    assert 0.0 < book.lost < 100 * 0.3


def test_what_was_won_may_not_be_lost_again():
    book = ledger()
    for i in range(100):
        book.expose(str(i), 0.5)
        book.settle(str(i), -0.5)
        assert book.room <= 2.0 * 2.0 + 0.5  # neither credit nor requests are hoarded
    for i in range(4):
        book.expose(f"bad {i}", 0.5)
        book.settle(f"bad {i}", 0.5)
    assert book.room < 2.5


moves = st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(0, 3)), max_size=80)


@given(moves)
def test_whatever_comes_of_it_no_more_is_lost_than_was_agreed(drawn):
    """Without probes nothing is a matter of chance: the worst that may happen is all counted."""
    book, truly, waiting = Ledger(ALLOWANCE), 0.0, []
    for i, (most, share, delay) in enumerate(drawn):
        book.decided()
        if most <= book.room:
            book.expose(str(i), most)
            waiting.append((i + delay, str(i), most * share))
            truly += most * share
        for due in [w for w in waiting if w[0] <= i]:
            waiting.remove(due)
            book.settle(due[1], due[2])
        assert truly <= ALLOWANCE.per_request * (i + 1) + ALLOWANCE.burn + 1e-9
