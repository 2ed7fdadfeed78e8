"""Pictures of a record: reward by policy, accuracy against cost over a sweep, reward over time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.record import Played, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAD = "black"
OTHER = "#7f8c8d"


def draw(record: Record, folder: Path) -> tuple[str, ...]:
    """Draw what there is to see, ``<id>-….png`` in ``folder``; returns the files' names."""
    drawn = []
    if any(p.at is not None for p in record.plays.values()):
        drawn.append(_save(folder, f"{record.id}-frontier.png", lambda axes: _frontier(axes, record)))
    else:
        for name, played in record.plays.items():
            if len(played.results["policies"]) > 1:
                file = f"{record.id}-{name}.png".replace(" ", "-")
                drawn.append(_save(folder, file, lambda axes, played=played: _rewards(axes, played)))  # type: ignore[misc]
    for name, played in record.plays.items():
        if played.curves:
            file = f"{record.id}-{name}-over-time.png".replace(" ", "-")
            drawn.append(_save(folder, file, lambda axes, played=played: _course(axes, played)))  # type: ignore[misc]
    return tuple(drawn)


def _save(folder: Path, file: str, paint: Callable[[Axes], None]) -> str:
    from matplotlib.figure import Figure  # here, so that only those who draw pay for importing it

    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    paint(figure.subplots())
    # No date and no version inside: the same figures give the same bytes.
    figure.savefig(folder / file, dpi=110, metadata={"Software": None})
    return file


def _rewards(axes: Axes, played: Played) -> None:
    """A bar a policy, best on top, with 95 % intervals; the yardsticks as lines."""
    results = played.results
    policies = sorted(results["policies"].items(), key=lambda item: item[1]["reward"])
    for row, (name, policy) in enumerate(policies):
        low, high = (policy["reward"] if end is None else end for end in policy["interval"])
        colour = LEAD if name == "bandit" else OTHER
        axes.plot([low, high], [row, row], color=colour, linewidth=3)
        axes.plot(policy["reward"], row, "o", color=colour)
    axes.set_yticks(range(len(policies)), [name for name, _ in policies])
    for name, style in (("best_constant", ":"), ("best_constant_plan", "--"), ("oracle", "-")):
        axes.axvline(results[name]["reward"], color="grey", linestyle=style, label=name.replace("_", " "))
    axes.set_xlabel("reward a request, 95 % interval")
    axes.legend(loc="best", fontsize=8)
    axes.grid(axis="x", alpha=0.3)


def _frontier(axes: Axes, record: Record) -> None:
    """Accuracy over price, a line a policy, a point a weight; members as crosses."""
    names = dict.fromkeys(name for p in record.plays.values() for name in p.results["policies"])
    for name in names:
        points = [p.results["policies"][name] for p in record.plays.values() if name in p.results["policies"]]
        axes.plot([p["cost"] for p in points], [p["accuracy"] for p in points], "o-", label=name, markersize=4)
    for member in record.members:
        if member.cost is not None:
            axes.plot(member.cost, member.accuracy, "kx")
            axes.annotate(
                member.name, (member.cost, member.accuracy), fontsize=8, xytext=(4, 4), textcoords="offset points"
            )
    axes.set_xlabel("price of a request")
    axes.set_ylabel("accuracy")
    axes.legend(loc="lower right", fontsize=8)
    axes.grid(alpha=0.3)


def _course(axes: Axes, played: Played) -> None:
    """Reward over time, a line a policy."""
    for curve in played.curves:
        step = played.requests / len(curve.rewards)
        at = [(k + 0.5) * step for k in range(len(curve.rewards))]
        rewards = [float("nan") if r is None else r for r in curve.rewards]
        lead = curve.policy == "bandit"
        axes.plot(at, rewards, label=curve.policy, color=LEAD if lead else None, linewidth=2 if lead else 0.9)
    axes.set_xlabel("requests")
    axes.set_ylabel("reward, mean over seeds")
    axes.legend(loc="best", fontsize=7, ncols=2)
    axes.grid(alpha=0.3)
