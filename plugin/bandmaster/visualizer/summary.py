"""What a window of served traffic says, in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping

from bandmaster.visualizer.chronicle import Course, Courses, Mean
from bandmaster.visualizer.tallies import POLICY


def summary(courses: Courses) -> list[str]:
    """The verdict first: what was earned, and whether others would have earned more."""
    earned = courses.series.get("reward", {})
    if not earned:
        return ["No outcome has come in this window, so that nothing can be said of what was earned."]
    told = [
        f"{name} earned {_interval(course.whole)} a request, over {course.whole.n} whose outcome is known."
        for name, course in earned.items()
    ]
    ahead = courses.series.get("ahead", {})
    if not ahead:
        return [*told, "Nobody was probed, so that nobody knows what others would have earned."]
    return [*told, *(_against(*each) for each in _rivals(ahead)), *_energy(courses)]


def _rivals(ahead: Mapping[str, Course]) -> list[tuple[str, Mean]]:
    """All members at once, and the member that is best alone: who leaves the policy the least."""
    together = [(f"all members at once, {name},", c.whole) for name, c in ahead.items() if "+" in name][:1]
    single = {name: c.whole for name, c in ahead.items() if "+" not in name and c.whole.mean is not None}
    best = min(single, key=lambda name: single[name].mean or 0.0, default=None)
    return together + ([] if best is None else [(f"{best}, the best member alone,", single[best])])


def _against(who: str, difference: Mean) -> str:
    mean, low, high = difference.mean, difference.low, difference.high
    if mean is None or low is None or high is None:
        return f"Of {who} too little is known."
    found = f"{mean:+.4f} [{low:.4f}, {high:.4f}] a request"
    if low > 0.0:
        return f"Against {who} the policy's choices earn {found}: more, for sure enough."
    if high < 0.0:
        return f"Against {who} the policy's choices earn {found}: less, for sure enough."
    return f"Against {who} the policy's choices earn {found}: they cannot be told apart."


def _energy(courses: Courses) -> list[str]:
    alone = courses.series.get("alone energy", {})
    together = next((c.whole.mean for name, c in alone.items() if "+" in name), None)
    own = alone[POLICY].whole.mean if POLICY in alone else None
    return [f"They take {own / together:.0%} of the energy of all members."] if own is not None and together else []


def _interval(mean: Mean) -> str:
    if mean.mean is None:
        return "–"
    ends = "" if mean.low is None or mean.high is None else f" [{mean.low:.4f}, {mean.high:.4f}]"
    return f"{mean.mean:.4f}{ends}"
