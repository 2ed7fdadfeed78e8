"""Labels that contradict answers more than others' do raise an alarm; honest ones do so hardly ever."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from bandmaster.core import DriftEvent, Joined, Outcome
from bandmaster.reporters import KNOWN, Reporters
from bandmaster.testing import sample_answer, sample_decision

DECISION, ANSWER = sample_decision(), sample_answer()


def report(source: str, confidence: float, right: bool, *, rows: int = 1) -> Joined:
    said = np.zeros(rows, dtype=np.int64)
    answer = replace(ANSWER, labels=said, confidence=np.full(rows, confidence))
    return Joined(1, DECISION, answer, Outcome(1.0, labels=(int(not right),) * rows, source=source))


def traffic(rng: np.random.Generator, n: int, forged: dict[str, float]) -> Iterator[Joined]:
    """Honest labels contradict as often as the answer is unsure, whoever reports; ``forged`` shares are made up."""
    names = list(forged)
    for _ in range(n):
        name, confidence = names[rng.integers(len(names))], rng.uniform(0.5, 1.0)
        right = rng.random() < confidence and rng.random() >= forged[name]
        yield report(name, confidence, right)


def alarms(reporters: Reporters, reports: Iterator[Joined]) -> list[DriftEvent]:
    return [alarm for one in reports if (alarm := reporters.saw(one)) is not None]


def test_whoever_forges_labels_is_suspected_by_name_and_others_are_not() -> None:
    reporters, rng = Reporters(), np.random.default_rng(0)
    assert alarms(reporters, traffic(rng, 1500, {"honest": 0.0, "mallory": 0.0})) == []
    (alarm,) = alarms(reporters, traffic(rng, 1500, {"honest": 0.0, "mallory": 0.3}))
    assert alarm.name == "feedback:mallory"
    assert "its labels contradict answers more than others' do at the same confidence" in alarm.cause
    assert {s.name: s.suspected for s in reporters.standings()} == {"honest": False, "mallory": True}


def test_a_single_reporter_is_compared_with_what_it_said_before() -> None:
    reporters, rng = Reporters(), np.random.default_rng(1)
    assert alarms(reporters, traffic(rng, 2000, {"feedback": 0.0})) == []
    assert len(alarms(reporters, traffic(rng, 1000, {"feedback": 0.3}))) == 1


def test_whoever_is_honest_again_is_suspected_no_more_and_may_be_anew() -> None:
    reporters, rng = Reporters(), np.random.default_rng(2)
    for share in (0.0, 0.5, 0.0):
        alarms(reporters, traffic(rng, 3000, {"a": 0.0, "b": share}))
    assert not any(s.suspected for s in reporters.standings())
    assert [a.name for a in alarms(reporters, traffic(rng, 1000, {"a": 0.0, "b": 0.5}))] == ["feedback:b"]


def test_honest_reporters_raise_hardly_any_alarm() -> None:
    """400,000 honest outcomes: by the bound on the time between false alarms 4 are expected; 12 or more have a
    probability of .0009.
    """
    rang = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        rang += len(alarms(Reporters(), traffic(rng, 10_000, {"a": 0.0, "b": 0.0, "c": 0.0})))
    assert rang < 12


@pytest.mark.parametrize("share", [0.15, 0.3, 1.0])
def test_shares_above_a_tenth_are_found_within_the_first_thousand_labels(share: float) -> None:
    """Of 20 runs 19 or more; each misses one in a hundred or fewer, so that this fails by chance in one of 50."""
    found = 0
    for seed in range(20):
        reporters, rng = Reporters(), np.random.default_rng(seed)
        alarms(reporters, traffic(rng, 2000, {"a": 0.0}))
        found += bool(alarms(reporters, traffic(rng, 2000, {"a": 0.0, "b": share})))
    assert found >= 19


def test_nothing_follows_from_rewards_from_unknown_reporters_or_before_much_is_known() -> None:
    reporters = Reporters()
    for _ in range(int(KNOWN)):
        assert reporters.saw(report("a", 0.99, False)) is None
    unnamed = report("", 0.99, True)
    assert reporters.saw(unnamed) is None
    rewarded = replace(unnamed, outcome=Outcome(1.0, reward=0.0, source="b"))
    assert reporters.saw(rewarded) is None
    assert [s.name for s in reporters.standings()] == ["a"]


def test_rows_of_one_request_are_one_piece_of_evidence() -> None:
    reporters = Reporters()
    for _ in range(100):
        reporters.saw(report("a", 0.99, True, rows=30))
    assert reporters.saw(report("a", 0.99, False, rows=30)) is None
    assert reporters.standings()[0].rows == 2970  # the first two requests went by before anything was expected
    found = [reporters.saw(report("a", 0.99, False, rows=30)) for _ in range(4)]
    assert sum(alarm is not None for alarm in found) == 1


def test_requests_of_many_rows_that_are_hard_together_raise_hardly_any_alarm() -> None:
    """40,000 requests, one in ten of them wrong in most of its rows: .4 false alarms are promised; 4 or more have a
    probability of .0008.
    """
    rng, reporters, rang = np.random.default_rng(5), Reporters(), 0
    for _ in range(40_000):
        hard = rng.random() < 0.1
        wrong = rng.random(20) < (0.6 if hard else 0.02)
        said = np.zeros(20, dtype=np.int64)
        answer = replace(ANSWER, labels=said, confidence=np.full(20, 0.9))
        outcome = Outcome(1.0, labels=tuple(wrong.astype(int).tolist()), source="ab"[rng.integers(2)])
        rang += reporters.saw(Joined(1, DECISION, answer, outcome)) is not None
    assert rang < 4


def test_where_the_world_has_changed_everybody_is_suspected_for_a_while_only_and_liars_are_found_after_it() -> None:
    rng, reporters = np.random.default_rng(6), Reporters()
    alarms(reporters, traffic(rng, 3000, {"a": 0.0, "b": 0.0}))
    changed = alarms(reporters, traffic(rng, 80_000, {"a": 0.25, "b": 0.25}))
    assert {alarm.name for alarm in changed} == {"feedback:a", "feedback:b"}
    assert not any(s.suspected for s in reporters.standings())
    assert [a.name for a in alarms(reporters, traffic(rng, 1000, {"a": 0.25, "b": 0.95}))] == ["feedback:b"]
