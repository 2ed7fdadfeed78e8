"""The sentences say what the figures say, and no more."""

from __future__ import annotations

from bandmaster.visualizer.chronicle import Course, Courses, Mean
from bandmaster.visualizer.summary import summary
from bandmaster.visualizer.tallies import POLICY


def course(mean: float, low: float | None = None, high: float | None = None, n: int = 50) -> Course:
    return Course([n], [mean], Mean(n, mean, low, high))


def said(**series: dict[str, Course]) -> str:
    return " ".join(summary(Courses([0], 10, {name.replace("_", " "): named for name, named in series.items()})))


def test_where_nothing_is_known_nothing_is_claimed() -> None:
    assert "No outcome has come" in said()
    assert "Nobody was probed" in said(reward={"bandit": course(0.8, 0.7, 0.9)})


def test_more_less_and_neither_are_told_apart() -> None:
    reward = {"bandit": course(0.8, 0.7, 0.9)}
    for low, high, words in ((0.01, 0.03, "more, for"), (-0.03, -0.01, "less, for"), (-0.01, 0.01, "cannot be told")):
        ahead = {"a+b": course((low + high) / 2, low, high), "a": course(0.2, 0.1, 0.3), "b": course(0.1, 0.0, 0.2)}
        text = said(reward=reward, ahead=ahead)
        assert f"all members at once, a+b, the policy's choices earn {(low + high) / 2:+.4f}" in text
        assert words in text
        assert "b, the best member alone, the policy's choices earn +0.1000 [0.0000, 0.2000] a request: they" in text
    assert "bandit earned 0.8000 [0.7000, 0.9000] a request, over 50 whose outcome is known." in text
    assert "Of b, the best member alone, too little is known." in said(reward=reward, ahead={"b": course(0.1)})


def test_energy_is_told_where_it_is_known() -> None:
    energy = {POLICY: course(1.0), "a+b": course(4.0)}
    assert "They take 25% of the energy of all members." in said(
        reward={"x": course(0.5)}, ahead={"a+b": course(0.0, -0.1, 0.1)}, alone_energy=energy
    )
