"""The share of requests that is probed: within bounds, falling as probes are made, rising again after doubt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandmaster.probes import ProbeShare, Probing

shares = st.floats(0.001, 1.0)
members = st.integers(1, 32)


def after(probing, size, made):
    share = ProbeShare(probing, size)
    for _ in range(made):
        share.learn()
    return share


@given(st.just(0.0) | shares, st.booleans(), members, st.integers(0, 3000))
def test_it_is_a_probability_never_far_from_what_is_configured(share, adapt, size, made):
    value = after(Probing(share, adapt), size, made).value
    assert 0.0 <= value <= 1.0
    if share == 0.0 or not adapt:
        assert value == share
    else:
        assert share / 10.0 <= value <= max(share, ProbeShare.FIRST)


@given(shares, members, st.integers(0, 1000), st.integers(0, 1000))
def test_the_more_probes_were_made_the_smaller_it_is(share, size, made, more):
    assert after(Probing(share), size, made + more).value <= after(Probing(share), size, made).value


@given(st.floats(0.001, 0.2), members)
def test_it_starts_high_is_what_is_configured_once_settled_and_a_tenth_of_it_in_the_end(share, size):
    settled = int(ProbeShare.SETTLED) * size
    assert after(Probing(share), size, 0).value == max(min(share * settled, ProbeShare.FIRST), share / 10)
    assert after(Probing(share), size, settled - 1).value == pytest.approx(share)
    assert after(Probing(share), size, 12 * settled).value == pytest.approx(share / 10)


@given(shares, members, st.integers(0, 2000))
def test_after_doubt_it_is_twice_as_large_within_its_bounds(share, size, made):
    probing = after(Probing(share), size, made)
    before = probing.value
    probing.doubt()
    assert before <= probing.value <= max(share, ProbeShare.FIRST)
    unbound = share * ProbeShare.SETTLED * size / (made / 2 + 1)
    assert probing.value == pytest.approx(min(max(unbound, share / 10), max(ProbeShare.FIRST, share)))


def test_in_the_middle_of_its_range_doubt_doubles_it():
    probing = after(Probing(0.02), 4, 400)
    before = probing.value
    probing.doubt()
    assert probing.value == pytest.approx(2 * before, rel=0.01)


def test_a_share_that_does_not_adapt_knows_no_doubt():
    probing = after(Probing(0.1, adapt=False), 4, 1000)
    probing.doubt()
    assert probing.value == 0.1
