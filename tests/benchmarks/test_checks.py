"""Verdicts: pure functions of what was found."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.checks import ROUNDING, Beats, Figure, GainKept, MeanOf, Measure, Passing, Price, Share, judged, within
from benchmarks.record import MemberFigures, Played, Record

numbers = st.floats(-1e6, 1e6)
bounds = st.none() | numbers


def played(policies, at=None, **yardsticks):
    return Played(100, {"policies": policies, **yardsticks}, at)


def record(**fields):
    return Record(id="x", why="x", seeds=2, **fields)


@given(numbers, bounds, bounds)
def test_a_figure_passes_exactly_where_it_lies_within_its_bounds_give_or_take_rounding(figure, low, high):
    broken = [low is not None and figure < low - ROUNDING, high is not None and figure > high + ROUNDING]
    wanted = None if low is high is None else not any(broken)
    assert within(figure, low, high) is wanted


def test_sums_of_the_same_numbers_in_another_order_are_the_same_figure():
    assert within(0.1 + 0.2 - 0.3, None, 0.0) is True
    assert within(-1e-9, 0.0, None) is False


@given(numbers, numbers, st.floats(0.0, 1e3))
def test_a_better_figure_never_turns_a_pass_into_a_failure(figure, bound, more):
    assert not (within(figure, bound, None) and not within(figure + more, bound, None))
    assert not (within(figure, None, bound) and not within(figure - more, None, bound))


@given(numbers)
def test_what_was_not_found_passes_no_demand(bound):
    for nothing in (None, math.nan):
        assert within(nothing, bound, None) is False
        assert within(nothing, None, bound) is False


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)), min_size=1, max_size=8), st.floats(0.0, 0.2))
def test_a_price_is_that_of_the_cheapest_mix_of_two_points_that_is_accurate_enough(points, allowed):
    plays = {str(k): played({"p": {"accuracy": a, "cost": c}}, at=0.5) for k, (a, c) in enumerate(points)}
    members = (MemberFigures("dear", 0.9, None, None, 0.5), MemberFigures("cheap", 0.6, None, None, 0.01))
    plays["without"] = played({"other": {"accuracy": 1.0, "cost": 0.0}}, at=0.5)  # a point that it did not play
    found = Price(name="price", policy="p", within=allowed).figure(record(plays=plays, members=members), {})
    share = np.linspace(0.0, 1.0, 1001)[:, None]
    pairs = np.array(list(itertools.combinations_with_replacement(points, 2)))
    mixes = (share * pairs[:, None, 0] + (1.0 - share) * pairs[:, None, 1]).reshape(-1, 2)
    accurate = mixes[mixes[:, 0] >= 0.9 - allowed, 1] / 0.5
    assert found == pytest.approx(accurate.min() if accurate.size else 1.0, abs=0.003)


@given(st.dictionaries(st.sampled_from("abcdef"), st.tuples(numbers, numbers).map(sorted), min_size=1))
def test_a_peer_counts_as_beaten_only_with_an_interval_above_zero(intervals):
    advantage = {name: {"mean": sum(i) / 2, "interval": list(i)} for name, i in intervals.items()}
    # The advantage over what is chosen in hindsight does not count: it is no peer.
    advantage["best_constant_plan"] = {"mean": -1.0, "interval": [-2.0, 0.0]}
    advantage["offline"] = {"mean": -1.0, "interval": [-2.0, 0.0]}
    policies = {"bandit": {"advantage": advantage}, **{name: {} for name in intervals}, "offline": {"hindsight": True}}
    found = Beats(name="b", policy="bandit").figure(record(plays={"replay": played(policies)}), {})
    assert found == pytest.approx(sum(low > 0.0 for low, _ in intervals.values()) / len(intervals))


def test_named_peers_alone_count_and_one_that_could_not_play_is_not_beaten():
    advantage = {"random": {"interval": [0.1, 0.2]}, "blast": {"interval": [-0.1, 0.2]}}
    found = record(plays={"replay": played({"bandit": {"advantage": advantage}, "random": {}, "blast": {}})})
    for peers, share in ((("random",), 1.0), (("random", "blast"), 0.5), (("random", "knora-e"), 0.5), ((), 0.5)):
        assert Beats(name="b", policy="bandit", peers=peers).figure(found, {}) == share
    assert Beats(name="b", policy="bandit", peers=("random",)).figure(record(), {}) is None


@given(st.floats(0.1, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 0.5))
def test_a_lower_baseline_never_lessens_the_gain_kept(full, kept, lower):
    kept = full * kept
    plays = {
        name: played({"p": {"reward": 0.5 + gain}, "low": {"reward": 0.5 - lower}}, best_constant={"reward": 0.5})
        for name, gain in (("full", full), ("scarce", kept))
    }
    strict, loose = (
        GainKept(name="g", policy="p", over=over, play="scarce", against="full").figure(record(plays=plays), {})
        for over in ("best_constant", "low")
    )
    assert strict == pytest.approx(kept / full)
    assert loose >= strict - 1e-9


def test_a_gain_that_labels_did_not_bring_cannot_be_kept():
    plays = {n: played({"p": {"reward": 0.4}}, best_constant={"reward": 0.5}) for n in ("full", "scarce")}
    check = GainKept(name="g", policy="p", over="best_constant", play="scarce", against="full", at_least=0.5)
    assert check.verdict(record(plays=plays), {}).passed is False


def test_figures_come_from_the_policy_the_yardstick_or_the_record():
    results = played({"p": {"energy_j": 1.0, "gap_closed": None}}, all_members={"energy_j": 50.0})
    found = record(plays={"replay": results}, figures={"out_after": 12.0, "back_after": None})
    assert Share(name="s", policy="p", measure="energy_j", of="all_members").figure(found, {}) == 0.02
    assert Measure(name="m", policy="p", measure="gap_closed").figure(found, {}) is None
    assert Measure(name="m", policy="absent", measure="reward").figure(found, {}) is None
    assert Figure(name="f", figure_name="out_after", at_most=300).verdict(found, {}).passed is True
    assert Figure(name="f", figure_name="back_after", at_most=3000).verdict(found, {}).passed is False


def test_a_summary_is_not_judged_before_all_that_it_is_about_have_run():
    check = Figure(name="price", figure_name="price", at_most=0.5)
    done = {f"task-{k}": judged(record(figures={"price": 0.4 + k / 5}), [check], {}) for k in range(2)}
    mean = MeanOf(name="mean", of="task-*", among=2, verdict_name="price", at_most=0.55)
    won = Passing(name="won", of="task-*", among=2, verdict_name="price", at_least=2)
    assert mean.verdict(record(), done).figure == pytest.approx(0.5)
    assert mean.verdict(record(), done).passed is True
    assert (won.verdict(record(), done).figure, won.verdict(record(), done).passed) == (1.0, False)
    del done["task-1"]
    assert mean.verdict(record(), done).passed is won.verdict(record(), done).passed is None
