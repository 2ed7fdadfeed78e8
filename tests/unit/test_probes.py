"""The share of requests that is probed: within bounds, falling as probes are made, rising again after doubt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandmaster.probes import ANYWHERE, ProbeShare, Probing, aimed

shares = st.floats(0.001, 1.0)


def after(probing, made, price=ProbeShare.PRICE):
    share = ProbeShare(probing)
    for _ in range(made):
        share.learn()
    for _ in range(min(made, 1000) if price != ProbeShare.PRICE else 0):
        share.pay(price)
    return share


@given(st.just(0.0) | shares, st.booleans(), st.integers(0, 3000), st.floats(0.0, 1.0))
def test_it_is_a_probability_never_far_from_what_is_configured(share, adapt, made, price):
    value = after(Probing(share, adapt), made, price).value
    assert 0.0 <= value <= 1.0
    if share == 0.0 or not adapt:
        assert value == share
    else:
        assert share / 10.0 <= value <= max(share, ProbeShare.FIRST)


@given(shares, st.integers(0, 1000), st.integers(0, 1000))
def test_the_more_probes_were_made_the_smaller_it_is(share, made, more):
    assert after(Probing(share), made + more).value <= after(Probing(share), made).value


@given(st.floats(0.001, 0.2))
def test_it_starts_high_is_what_is_configured_once_settled_and_a_tenth_of_it_in_the_end(share):
    settled = int(ProbeShare.SETTLED)
    assert after(Probing(share), 0).value == ProbeShare.FIRST
    assert after(Probing(share), settled - 1).value == pytest.approx(share)
    assert after(Probing(share), 12 * settled).value == pytest.approx(share / 10)


def test_of_dear_probes_fewer_are_made_in_proportion_down_to_an_eighth_and_of_cheap_ones_no_more():
    usual, twice, many, none = (
        after(Probing(0.02), 640, price * ProbeShare.PRICE).value for price in (1.0, 2.0, 100.0, 0.0)
    )
    assert twice == pytest.approx(usual / 2, rel=0.05)
    assert many == pytest.approx(usual / 8)
    assert none == pytest.approx(usual)


@given(shares, st.integers(0, 2000))
def test_after_doubt_it_is_twice_as_large_within_its_bounds(share, made):
    probing = after(Probing(share), made)
    before = probing.value
    probing.doubt()
    assert before <= probing.value <= max(share, ProbeShare.FIRST)
    unbound = share * ProbeShare.SETTLED / (made / 2 + 1)
    assert probing.value == pytest.approx(min(max(unbound, share / 10), max(ProbeShare.FIRST, share)))


def test_in_the_middle_of_its_range_doubt_doubles_it():
    probing = after(Probing(0.02), 400)
    before = probing.value
    probing.doubt()
    assert probing.value == pytest.approx(2 * before, rel=0.01)


def test_a_share_that_does_not_adapt_knows_no_doubt():
    probing = after(Probing(0.1, adapt=False), 1000)
    probing.doubt()
    assert probing.value == 0.1


def test_it_goes_on_from_what_was_dumped():
    probing, again = after(Probing(0.02), 300, 0.2), ProbeShare(Probing(0.02))
    for doubt in (0.3, 0.0, 0.1):
        probing.answered(doubt)
    again.load(probing.dump())
    assert (again.value, again.made, again.usual_doubt) == (probing.value, probing.made, probing.usual_doubt)


doubts = st.floats(0.0, 1.0)


@given(doubts, doubts, doubts)
def test_a_probe_is_aimed_with_a_probability_that_is_never_far_below_the_share(share, doubt, usual):
    p = aimed(share, doubt, usual)
    assert 0.0 <= p <= 1.0
    assert p >= ANYWHERE * share * (1.0 - 1e-9) - 1e-15  # no probe stands for more than five requests


@given(st.floats(0.001, 0.5), doubts, doubts, st.floats(0.01, 1.0))
def test_the_less_sure_an_answer_is_the_likelier_is_its_probe(share, one, other, usual):
    assert (aimed(share, one, usual) - aimed(share, other, usual)) * (one - other) >= 0.0


@given(st.lists(doubts, min_size=1, max_size=30), st.floats(0.001, 0.02))
def test_as_many_are_probed_as_the_share_says_wherever_they_fall(answers, share):
    usual = sum(answers) / len(answers)
    mean = sum(aimed(share, doubt, usual) for doubt in answers) / len(answers)
    assert 0.7 * share <= mean <= share * (1.0 + 1e-9)


def test_all_or_none_stay_all_or_none_and_without_adapting_all_requests_are_alike():
    assert (aimed(0.0, 0.9, 0.1), aimed(1.0, 0.0, 0.1)) == (0.0, 1.0)
    share = ProbeShare(Probing(0.1, adapt=False))
    share.answered(0.3)
    assert share.usual_doubt == 0.0
    assert aimed(0.1, 0.9, share.usual_doubt) == 0.1


def test_how_unsure_answers_are_of_late_follows_them():
    share = ProbeShare(Probing(0.02))
    for _ in range(1000):
        share.answered(0.07)
    assert share.usual_doubt == pytest.approx(0.07, abs=0.001)
