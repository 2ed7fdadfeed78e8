"""Calls of a member that wait for each other run as one, and each has what it would have had alone."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bandmaster.core import MemberFailure
from bandmaster.members.batched import BatchedMember
from bandmaster.meter import CpuTimeMeter


class Slow:
    """Doubles rows of non-negative numbers, one batch at a time; holds its first call until it is let go."""

    name = "slow"

    def __init__(self):
        self.batches, self.under_way, self.go = [], threading.Event(), threading.Event()

    def predict(self, rows):
        return self.predict_within(rows, np.inf)[0]

    def predict_within(self, rows, seconds):
        self.batches.append(len(rows))
        self.under_way.set()
        self.go.wait(10.0)
        if (rows < 0).any():
            raise ValueError("a negative number")
        return rows * 2.0, 0.0


def answers(batched, slow, rows, seconds=10.0):
    """What each of ``rows`` is answered, all but the first asked while the first is under way."""
    with ThreadPoolExecutor(len(rows)) as threads:
        first = threads.submit(batched.predict_within, rows[0], seconds)
        slow.under_way.wait(10.0)
        others = []
        for n, each in enumerate(rows[1:], start=1):
            others.append(threads.submit(batched.predict_within, each, seconds))
            while len(batched._waiting) < n:
                time.sleep(0.001)
        slow.go.set()
        return [first, *others]


def test_calls_that_wait_run_as_one_and_each_has_its_own_answer():
    slow = Slow()
    rows = [np.full((n, 2), float(n)) for n in (1, 2, 3, 4)]
    found = answers(BatchedMember(slow, 100), slow, rows)
    for asked, future in zip(rows, found, strict=True):
        np.testing.assert_array_equal(future.result()[0], asked * 2.0)
    assert slow.batches == [1, 9]


def test_a_batch_has_no_more_rows_than_it_may_and_rows_of_one_shape():
    slow = Slow()
    rows = [np.ones((1, 2)), np.ones((3, 2)), np.ones((2, 2)), np.ones((2, 5)), np.ones((1, 2)), np.ones((9, 2))]
    found = answers(BatchedMember(slow, 4), slow, rows)
    assert [len(future.result()[0]) for future in found] == [1, 3, 2, 2, 1, 9]
    assert sorted(slow.batches) == [1, 2, 2, 4, 9]


def test_nobody_fails_of_anothers_rows():
    slow = Slow()
    found = answers(BatchedMember(slow, 100), slow, [np.ones((1, 2)), -np.ones((1, 2)), np.ones((2, 2))])
    assert found[0].result() and found[2].result()  # noqa: PT018
    with pytest.raises(ValueError, match="negative"):
        found[1].result()


def test_who_waits_too_long_has_had_no_turn_and_holds_up_nobody():
    slow = Slow()
    batched = BatchedMember(slow, 100)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(batched.predict, np.ones((1, 2)))
        slow.under_way.wait(10.0)
        with pytest.raises(MemberFailure, match=r"within 0\.05 s") as failure:
            batched.predict_within(np.ones((1, 2)), 0.05)
        assert failure.value.no_turn
        slow.go.set()
        assert len(first.result()) == 1
    assert len(batched.predict(np.ones((3, 2)))) == 3
    assert slow.batches == [1, 3]


def test_everybody_is_charged_a_share_of_the_time_that_was_spent():
    class Busy(Slow):
        def predict_within(self, rows, seconds):
            scores = super().predict_within(rows, seconds)
            end = time.thread_time() + 0.02
            while time.thread_time() < end:
                pass
            return scores

    slow, meter = Busy(), CpuTimeMeter(2, watts=1.0)
    batched = BatchedMember(slow, 100)

    class Metered:
        _waiting = property(lambda self: batched._waiting)

        def predict_within(self, rows, seconds):
            return meter.run(batched, rows, np.arange(len(rows)), seconds)

    rows = [np.full((n, 2), 0.25) for n in (1, 3, 1)]
    spent = [future.result().energy_j for future in answers(Metered(), slow, rows)]
    assert slow.batches == [1, 4]
    assert spent[0] == pytest.approx(0.02, rel=0.5)
    assert spent[1] / spent[2] == pytest.approx(3.0, rel=0.3)
    assert spent[1] + spent[2] == pytest.approx(0.02, rel=0.5)


def test_many_threads_lose_no_call():
    slow = Slow()
    slow.go.set()
    batched = BatchedMember(slow, 7)
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda n: batched.predict(np.full((1 + n % 3, 1), float(n))), range(2000)))
    assert [(len(f), float(f[0, 0])) for f in found] == [(1 + n % 3, 2.0 * n) for n in range(2000)]
    assert sum(slow.batches) == sum(1 + n % 3 for n in range(2000))
