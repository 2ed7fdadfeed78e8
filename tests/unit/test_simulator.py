"""Simulated inference is as described: how often members are right, how sure and how fast, and who errs with whom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bandmaster.simulator import ModelRL, Phase, SimulatedMember, Simulation, Timing, fitted, overlap_of

N = 40_000
"""Of so many requests a share is off by more than .01 with a probability below .0001."""


def member(name: str, good: float, **changes: object) -> SimulatedMember:
    made = SimulatedMember(
        name=name,
        accuracy=np.full((2, 3), good),
        right=np.full((2, 3), 0.85),
        wrong=np.full((2, 3), 0.6),
        spread=0.1,
        timing=Timing(0.02),
        energy_j={"cpu": 0.5, "cuda": 0.1},
        host="cpu",
        cost=0.001,
        explainability=0.4,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


EVEN = Phase("even", 0, np.ones(3), np.ones(2))
WORLD = Simulation(
    classes=("x", "y", "z"),
    regions=("day", "night"),
    members=(member("a", 0.9), member("b", 0.7), member("c", 0.8)),
    phases=(EVEN,),
)


def world(**changes: object) -> Simulation:
    return replace(WORLD, **changes)  # type: ignore[arg-type]


def right(simulation: Simulation, seed: int = 0) -> np.ndarray:
    log = ModelRL(simulation).log(seed, N)
    return np.asarray(log.scores.argmax(axis=2) == log.truth[:, None])


def test_members_are_right_as_often_as_described_by_class_and_region() -> None:
    accuracy = np.array([[0.9, 0.5, 0.7], [0.6, 0.95, 0.4]])
    simulation = world(members=(member("a", 0.0, accuracy=accuracy), member("b", 0.7)))
    log = ModelRL(simulation).log(0, N)
    was = log.scores.argmax(axis=2)[:, 0] == log.truth
    region = log.features.argmax(axis=1)
    for r in range(2):
        for c in range(3):
            assert was[(region == r) & (log.truth == c)].mean() == pytest.approx(accuracy[r, c], abs=0.03)


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.8])
def test_members_err_together_as_far_as_described_and_that_can_be_found_again(overlap: float) -> None:
    was = right(world(overlap=overlap))
    np.testing.assert_allclose(was.mean(axis=0), [0.9, 0.7, 0.8], atol=0.01)
    assert overlap_of(1.0 - was, np.zeros(3)) == pytest.approx(overlap, abs=0.04)


def test_confidence_has_the_means_and_the_spread_described() -> None:
    log = ModelRL(WORLD).log(1, N)
    sure, was = log.scores.max(axis=2)[:, 1], log.scores.argmax(axis=2)[:, 1] == log.truth
    assert sure[was].mean() == pytest.approx(0.85, abs=0.01)
    assert sure[~was].mean() == pytest.approx(0.6, abs=0.01)
    assert sure[was].std() == pytest.approx(0.1, abs=0.01)
    np.testing.assert_allclose(log.scores.sum(axis=2), 1.0, atol=1e-5)


def test_confidence_may_differ_by_class_and_region() -> None:
    right = np.array([[0.9, 0.5, 0.7], [0.6, 0.95, 0.45]])
    log = ModelRL(world(members=(member("a", 0.8, right=right), member("b", 0.7)))).log(1, N)
    sure, was = log.scores.max(axis=2)[:, 0], log.scores.argmax(axis=2)[:, 0] == log.truth
    region = log.features.argmax(axis=1)
    for r in range(2):
        for c in range(3):
            assert sure[was & (region == r) & (log.truth == c)].mean() == pytest.approx(right[r, c], abs=0.02)


def test_requests_come_as_those_of_a_trace_did_from_any_of_them_on() -> None:
    gaps = np.array([0.1, 0.2, 5.0])
    traced = world(trace=Path("traffic.parquet"), gaps=gaps)
    logs = [ModelRL(traced).log(seed, 10) for seed in range(10)]
    for log in logs:
        came = np.diff(log.at)
        assert any(np.allclose(came, np.resize(np.roll(gaps, -k), 9)) for k in range(3))
    assert len({round(float(log.at[0]), 6) for log in logs}) > 1
    assert logs[0].sha256 != ModelRL(replace(traced, gaps=gaps * 2.0)).log(0, 10).sha256


def test_classes_arrive_as_their_phase_says_and_go_over_into_the_next_ones() -> None:
    second = Phase("only z", 20_000, np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0]), over=10_000)
    log = ModelRL(world(phases=(EVEN, second))).log(2, N)
    before, between, after = (log.truth[s] for s in (slice(0, 20_000), slice(20_000, 30_000), slice(30_000, N)))
    assert (before == 2).mean() == pytest.approx(1 / 3, abs=0.02)
    assert (between == 2).mean() == pytest.approx(2 / 3, abs=0.02)
    assert (after == 2).all()
    assert log.phases is not None
    assert [log.phases[i] for i in (0, 24_000, 26_000, N - 1)] == ["even", "even", "only z", "only z"]


def test_calls_take_as_long_as_described() -> None:
    timing = Timing(0.02, low_s=0.01, high_s=0.1, noise=0.4, spikes=0.01, spike=10.0)
    log = ModelRL(world(members=(member("a", 0.9, timing=timing), member("b", 0.7)))).log(3, N)
    took = log.latency_s[:, 0]
    assert took.mean() == pytest.approx(0.02, rel=0.1)
    assert (took.min(), took.max()) == (0.01, 0.1)
    assert np.mean(took > 0.06) == pytest.approx(0.01, abs=0.005)
    assert (log.latency_s[:, 1] == 0.02).all()
    np.testing.assert_allclose(log.energy_j[:, 0], took / 0.02 * 0.5)


def test_where_members_queue_they_wait_as_theory_has_it() -> None:
    """M/D/1 at half load: the mean wait is half of the service time (Pollaczek & Khinchine)."""
    simulation = world(queues=True, rate=25.0)
    log = ModelRL(simulation).log(4, N)
    assert (log.latency_s[:, 0] - 0.02).mean() == pytest.approx(0.01, rel=0.1)
    assert np.diff(log.at).mean() == pytest.approx(0.04, rel=0.03)


def test_energy_is_that_of_the_host_it_runs_on() -> None:
    on_gpu = world(members=(member("a", 0.9, host="cuda"), member("b", 0.7)))
    log = ModelRL(on_gpu).log(5, 100)
    assert log.energy_j[0].tolist() == [0.1, 0.5]
    assert log.ensemble.profiles["a"].energy_j == 0.1


def test_failures_and_missing_labels_are_as_often_as_described() -> None:
    log = ModelRL(world(members=(member("a", 0.9, fails=0.2), member("b", 0.7)), labelled=0.25, delay=7)).log(6, N)
    assert (log.scores[:, 0].max(axis=1) == 0.0).mean() == pytest.approx(0.2, abs=0.01)
    assert log.labelled.mean() == pytest.approx(0.25, abs=0.01)
    assert set(log.delay.tolist()) == {7}


def test_a_member_abstains_from_its_share_of_what_it_would_get_wrong_and_where_others_err_too() -> None:
    simulation = world(members=(member("a", 0.7, abstains=0.4), member("b", 0.7)), overlap=0.6)
    log = ModelRL(simulation).log(8, N)
    silent, other = log.scores[:, 0].max(axis=1) == 0.0, log.scores[:, 1].argmax(axis=1) == log.truth
    was = ~silent & (log.scores[:, 0].argmax(axis=1) == log.truth)
    assert was.mean() == pytest.approx(0.7, abs=0.01)
    assert silent.mean() == pytest.approx(0.3 * 0.4, abs=0.01)
    assert other[silent].mean() < other[~silent & ~was].mean() < other[was].mean()


@pytest.mark.parametrize("overlap", [0.2, 0.8])
def test_where_a_member_is_unsure_others_are_and_err_more_the_more_they_have_in_common(overlap: float) -> None:
    log = ModelRL(world(overlap=overlap)).log(9, N)
    sure, was = log.scores.max(axis=2), log.scores.argmax(axis=2) == log.truth[:, None]
    both = was[:, 0] & was[:, 2]
    together = float(np.corrcoef(sure[both, 0], sure[both, 2])[0, 1])
    assert (0.02 < together < 0.2) if overlap < 0.5 else (0.3 < together < 0.8)
    unsure = sure[:, 0] < np.quantile(sure[:, 0], 0.2)
    assert was[~unsure, 1].mean() - was[unsure, 1].mean() > 0.3 * overlap


@pytest.mark.parametrize(("abstains", "fails"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.3)])
def test_what_was_simulated_is_found_again_in_its_log(abstains: float, fails: float) -> None:
    members = (member("a", 0.7, abstains=abstains, fails=fails), member("b", 0.8), member("c", 0.6))
    found = fitted(ModelRL(world(members=members, overlap=0.6)).log(10, N))
    first = found.members[0]
    assert (first.abstains, first.fails) == pytest.approx((abstains, fails), abs=0.08)
    assert first.accuracy.mean() == pytest.approx(0.7, abs=0.06)
    assert first.right.mean() == pytest.approx(0.85, abs=0.02)
    assert first.spread == pytest.approx(0.1, abs=0.03)
    assert found.overlap == pytest.approx(0.6, abs=0.06)
    assert (found.members[1].abstains, found.members[1].fails) == (0.0, 0.0)


def test_a_member_that_abstains_and_fails_is_found_to_be_silent_as_often_and_to_fail_no_more_than_it_does() -> None:
    world_of_both = world(members=(member("a", 0.7, abstains=0.5, fails=0.3), member("b", 0.8), member("c", 0.6)))
    log = ModelRL(world_of_both).log(11, N)
    found = fitted(log)
    again = ModelRL(found).log(12, N)
    silent, silent_again = ((of.scores[:, 0].max(axis=1) == 0.0).mean() for of in (log, again))
    assert silent_again == pytest.approx(silent, abs=0.02)
    assert 0.1 < found.members[0].fails < 0.31


def test_a_seed_gives_the_same_log_to_the_bit_and_another_one_another() -> None:
    first, again, other = (ModelRL(WORLD).log(seed, 500) for seed in (7, 7, 8))
    for name in ("truth", "at", "scores", "latency_s", "energy_j", "features"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert first.sha256 == again.sha256 != other.sha256
    assert not np.array_equal(first.truth, other.truth)
