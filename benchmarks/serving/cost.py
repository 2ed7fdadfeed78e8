"""What orchestrating takes of a server, and saves: a hand-written service against the same one orchestrated, by turns.

Both are real ``bentoml serve`` processes over the same ONNX models, up at the same time and asked in turn, so that
whatever else goes on meets both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.scenario import ServingCost
from benchmarks.serving import members
from benchmarks.serving.load import Load, Order, Report, load
from benchmarks.serving.servers import UNTRACED, Server, project, served

THEIRS, OURS = "theirs", "ours"
CALLERS = (1, 16)
SAME = 500
"""Requests, the same ones for both, that are asked at last to see how many are answered right."""

WARM_UP_S = 5.0
"""Before the first turn, with labels: what is orchestrated has learned whom to ask by then."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """What a turn gave: the load's report, and CPU seconds a request by kind of process."""

    report: Report
    cpu_s: Mapping[str, float]


def measure(scenario: ServingCost, told: Callable[[str], None]) -> dict[str, float | None]:
    """The figures of ``scenario``, medians over turns; a ``ratio`` is that of ours to theirs, turn by turn.

    ``equal_*``: three small members, both servers set alike (uvloop, httptools, no spans, one thread a member).
    ``shipped_*``: as each is installed and started without further ado. ``large_*``: three members that take
    milliseconds, set alike, every label reported; ``batched_*``: the same where the method is ``batchable``.

    What is learned decides how many members of ``large_*`` are asked, and is another whenever a service starts: these
    are medians over several starts, of which ``large_per_s_ratio_16_least`` and ``_most`` are the worst and the best.

    Ending in ``_1`` and ``_16`` by how many callers ask at once; ``cpu_us`` is what all of a server's processes take of
    the processor for a request.
    """
    small, large = members.small(), members.large()
    figures: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory(prefix="bandmaster-") as name:
        folder = Path(name)
        members.write_requests(folder / "requests.npz")
        with load(folder / "requests.npz") as ask:
            for key, models, service, equal, starts in (
                ("equal", small, "Inline", True, 1),
                ("shipped", small, "Inline", False, 1),
                ("large", large, "Threaded", True, scenario.starts),
                ("batched", large, "Batching", True, 1),
            ):
                found = list[dict[str, float]]()
                for start in range(starts):
                    told(
                        f"{scenario.id}: {key}, {scenario.turns} turns of both services, start {start + 1} of {starts}"
                    )
                    at = project(folder / f"{key}-{start}", models, service)
                    found.append(_compared(scenario, ask, at, key, service, equal=equal, labels=models is large))
                figures |= _over(found, f"{key}_per_s_ratio_16")
    return figures


def _over(starts: Sequence[Mapping[str, float]], spread: str) -> dict[str, float]:
    """The medians of figures over several starts, and of the one called ``spread`` the least and the most."""
    medians = {name: float(np.median([each[name] for each in starts])) for name in starts[0]}
    values = [each[spread] for each in starts]
    return medians | {f"{spread}_least": min(values), f"{spread}_most": max(values)}


def _compared(
    scenario: ServingCost, ask: Load, folder: Path, key: str, service: str, *, equal: bool, labels: bool
) -> dict[str, float]:
    settings = UNTRACED if equal else None
    theirs = served(f"service:{service}", folder, THEIRS, bare=not equal, settings=settings, one_thread=equal)
    ours = served(".", folder, OURS, settings=settings)
    with theirs as first, ours as second:
        servers = {THEIRS: first, OURS: second}
        for name, server in servers.items():
            ask(Order(server.address, max(CALLERS), WARM_UP_S, labels=name == OURS))
        figures: dict[str, float] = {}
        for callers in CALLERS:
            turns: dict[str, list[_Turn]] = {THEIRS: [], OURS: []}
            for _ in range(scenario.turns):
                for name, server in servers.items():
                    order = Order(server.address, callers, scenario.turn_s, labels=labels and name == OURS)
                    turns[name].append(_turn(ask, server, order))
            figures |= {f"{key}_{name}_{callers}": value for name, value in _figures(turns).items()}
        same = {
            name: ask(Order(server.address, max(CALLERS), 120.0, most=SAME)).right for name, server in servers.items()
        }
        return (
            figures
            | {f"{key}_{name}_accuracy": right for name, right in same.items()}
            | {f"{key}_accuracy_gain": same[OURS] - same[THEIRS]}
        )


def _turn(ask: Load, server: Server, order: Order) -> _Turn:
    before = server.cpu_s()
    report = ask(order)
    after = server.cpu_s()
    return _Turn(report, {kind: (after[kind] - before[kind]) / report.answered for kind in after})


def _figures(turns: Mapping[str, list[_Turn]]) -> dict[str, float]:
    found: dict[str, float] = {}
    each = {
        name: {
            "per_s": np.array([turn.report.per_s for turn in taken]),
            "p50_ms": np.array([turn.report.p50_s for turn in taken]) * 1e3,
            "p99_ms": np.array([turn.report.p99_s for turn in taken]) * 1e3,
            "cpu_us": np.array([sum(turn.cpu_s.values()) for turn in taken]) * 1e6,
            "worker_us": np.array([turn.cpu_s["worker"] for turn in taken]) * 1e6,
            "learner_us": np.array([turn.cpu_s["learner"] for turn in taken]) * 1e6,
        }
        for name, taken in turns.items()
    }
    for figure in each[OURS]:
        theirs, ours = each[THEIRS][figure], each[OURS][figure]
        found |= {f"{THEIRS}_{figure}": float(np.median(theirs)), f"{OURS}_{figure}": float(np.median(ours))}
    for figure in ("per_s", "p50_ms", "p99_ms", "cpu_us"):
        found[f"{figure}_ratio"] = float(np.median(each[OURS][figure] / each[THEIRS][figure]))
    return found
