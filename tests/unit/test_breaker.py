"""Members that fail go out of service and come back; whatever happens, enough stay."""

from hypothesis import given
from hypothesis import strategies as st

from bandmaster.breaker import Breaker, Breaking


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def made(names="abcd", **breaking):
    clock, told = Clock(), []
    breaker = Breaker(list(names), Breaking(**breaking), clock, lambda name, absence: told.append((name, absence)))
    return breaker, clock, told


def fail(breaker, name, times):
    for _ in range(times):
        breaker.saw(name, "it broke")


def test_a_member_is_out_after_failures_in_a_row_and_not_before():
    breaker, _, told = made(after=3)
    fail(breaker, "b", 2)
    breaker.saw("b", None)
    fail(breaker, "b", 2)
    assert breaker.out == (False,) * 4
    fail(breaker, "b", 1)
    assert breaker.out == (False, True, False, False)
    assert [name for name, _ in told] == ["b"]
    assert (told[0][1].error, told[0][1].trial_in_s) == ("it broke", 10.0)


def test_it_is_given_to_one_caller_to_try_once_its_time_is_over_and_back_if_that_goes_well():
    breaker, clock, told = made(after=1, cooldown_s=10.0)
    fail(breaker, "b", 1)
    clock.now = 9.9
    assert breaker.due() is None
    clock.now = 10.0
    assert [breaker.due(), breaker.due()] == ["b", None]
    breaker.saw("b", None)
    assert (any(breaker.out), breaker.absent()) == (False, {})
    assert told[-1] == ("b", None)


def test_each_failed_trial_doubles_the_time_up_to_the_longest_and_a_success_forgets_that():
    breaker, clock, _ = made(after=1, cooldown_s=10.0)
    fail(breaker, "b", 1)
    waits = []
    for _ in range(9):
        waits.append(breaker.absent()["b"].trial_in_s)
        clock.now += waits[-1]
        assert breaker.due() == "b"
        fail(breaker, "b", 1)
    assert waits == [10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 600.0, 600.0, 600.0]
    breaker.saw("b", None)
    fail(breaker, "b", 1)
    assert breaker.absent()["b"].trial_in_s == 10.0


def test_failures_of_calls_that_were_under_way_when_it_went_out_make_its_absence_no_longer():
    breaker, clock, _ = made(after=2, cooldown_s=10.0)
    fail(breaker, "b", 8)
    assert breaker.absent()["b"].trial_in_s == 10.0
    clock.now = 9.0
    fail(breaker, "b", 1)
    assert breaker.absent()["b"].trial_in_s == 1.0


def test_a_cooldown_longer_than_the_longest_stays_what_it_is():
    breaker, clock, _ = made(after=1, cooldown_s=1200.0)
    fail(breaker, "b", 1)
    clock.now = 1200.0
    fail(breaker, "b", 1)
    assert breaker.absent()["b"].trial_in_s == 1200.0


def test_after_a_failure_one_is_wary_of_a_member_for_a_while():
    breaker, clock, _ = made()
    assert breaker.wary == frozenset()
    breaker.beware("b")
    breaker.saw("b", None)
    assert breaker.wary == {"b"}
    clock.now = Breaker.WARY_S
    assert breaker.wary == frozenset()


def test_one_that_answers_out_of_turn_is_back():
    breaker, _, _ = made(after=1)
    fail(breaker, "b", 1)
    breaker.saw("b", None)
    assert not any(breaker.out)


def test_the_only_member_and_the_last_one_stay_in_service():
    alone, _, _ = made("a", after=1, at_most=1.0)
    fail(alone, "a", 5)
    assert not any(alone.out)
    all_broken, _, _ = made("abc", after=1, at_most=1.0)
    for name in "abc":
        fail(all_broken, name, 5)
    assert sum(all_broken.out) == 2


def test_a_place_that_becomes_free_is_taken_by_the_next_failure():
    breaker, _, _ = made("abcd", after=2, at_most=0.25)
    for name in "ab":
        fail(breaker, name, 2)
    assert breaker.out == (True, False, False, False)
    breaker.saw("a", None)
    fail(breaker, "b", 1)
    assert breaker.out == (False, True, False, False)


calls = st.lists(st.tuples(st.sampled_from("abcdefg"), st.booleans(), st.floats(0, 30)), max_size=200)


@given(calls, st.floats(0, 1), st.integers(1, 4))
def test_whatever_happens_no_more_are_out_than_may_be_and_a_success_brings_back(happened, at_most, after):
    breaker, clock, _ = made("abcdefg", after=after, at_most=at_most)
    for name, well, seconds in happened:
        clock.now += seconds
        breaker.saw(name, None if well else "it broke")
        assert sum(breaker.out) <= at_most * 7
        assert sum(breaker.out) < 7
        assert not (well and breaker.out["abcdefg".index(name)])
