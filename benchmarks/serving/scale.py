"""How an orchestrated service grows with its workers, beside the same by hand; and whether one learner keeps up."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

from bandmaster.journal.keys import Keys
from bandmaster.journal.snapshots import SnapshotReader
from benchmarks.scenario import ServingScale
from benchmarks.serving import members
from benchmarks.serving.load import Load, Order, load
from benchmarks.serving.servers import UNTRACED, Server, project, served

THEIRS, OURS = "theirs", "ours"
CALLERS = 32
WARM_UP_S = 5.0

POSTED = 500
"""Rewards in one post, the most that one may hold."""

LOOK_S = 0.02
"""How often somebody asks which snapshot a worker follows."""


def measure(scenario: ServingScale, told: Callable[[str], None]) -> dict[str, float | None]:
    """The figures of ``scenario``: ``theirs_per_s_N`` and ``ours_per_s_N`` with N workers, medians over turns, and
    ``kept_N``, what share of theirs ours has then; ``grown`` is how many times as much ours answers with the most
    workers as with one, by how many times as much theirs does.

    ``rewards_per_s`` is how many rewards the learner takes, learned from and safe on disk, posted ``POSTED`` together:
    the median over turns, which share them; ``rewards_per_s_least`` is the slowest turn's.
    ``lag_p99_s`` is how long after a snapshot was published workers still answered by the one before, with the most
    workers under full load with labels.
    """
    figures: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory(prefix="bandmaster-") as name:
        folder = Path(name)
        members.write_requests(folder / "requests.npz")
        models = members.small()
        with load(folder / "requests.npz") as ask:
            for workers in scenario.workers:
                told(f"{scenario.id}: {workers} workers")
                at = project(folder / str(workers), models, "Inline")
                figures |= _throughputs(scenario, ask, at, workers, last=workers == max(scenario.workers))
            told(f"{scenario.id}: {scenario.rewards} rewards")
            at = project(folder / "rewards", models, "Inline")
            with served(".", at, OURS, settings=UNTRACED) as server:
                figures |= _rewards(ask, server, scenario.rewards, scenario.turns)
    fewest, most = min(scenario.workers), max(scenario.workers)
    theirs, ours = (
        (figures[f"{who}_per_s_{most}"] or 0.0) / (figures[f"{who}_per_s_{fewest}"] or 1.0) for who in (THEIRS, OURS)
    )
    return figures | {"theirs_grown": theirs, "ours_grown": ours, "grown": ours / theirs}


def _throughputs(
    scenario: ServingScale, ask: Load, folder: Path, workers: int, *, last: bool
) -> dict[str, float | None]:
    settings = {**UNTRACED, "Inline": {"workers": workers}}
    found: dict[str, float | None] = {}
    # One after the other: so many idle processes would be in the way.
    for who, what in ((THEIRS, "service:Inline"), (OURS, ".")):
        with served(what, folder, who, settings=settings, one_thread=True) as server:
            ask(Order(server.address, CALLERS, WARM_UP_S, labels=who == OURS))
            turns = [ask(Order(server.address, CALLERS, scenario.turn_s)).per_s for _ in range(scenario.turns)]
            found[f"{who}_per_s_{workers}"] = float(np.median(turns))
            if last and who == OURS:
                with _looking(server, folder / OURS / "journal" / "orchestration.db") as seen:
                    ask(Order(server.address, CALLERS, 4 * scenario.turn_s, labels=True))
                found |= seen.figures()
    return found | {
        f"kept_{workers}": (found[f"ours_per_s_{workers}"] or 0.0) / (found[f"theirs_per_s_{workers}"] or 1.0)
    }


# ---- Rewards -----------------------------------------------------------------------------------------------------


def _rewards(ask: Load, server: Server, count: int, turns: int) -> dict[str, float | None]:
    """Have so many requests answered, then report what they earned as fast as that is taken, a share in each turn."""
    decided = ask(Order(server.address, 16, 60.0, most=count)).decisions
    bodies = [
        [{"decision_id": d, "reward": 0.5} for d in decided[first : first + POSTED]]
        for first in range(0, len(decided), POSTED)
    ]
    statuses, per_s = list[str](), list[float]()
    for turn in range(turns):
        began, before = time.perf_counter(), len(statuses)
        statuses += asyncio.run(_post(server.address, bodies[turn::turns]))
        per_s.append((len(statuses) - before) / (time.perf_counter() - began))
    page = httpx.get(f"{server.address}/orchestration/state", timeout=30.0).json()
    return {
        "rewards": float(len(decided)),
        "rewards_per_s": float(np.median(per_s)),
        "rewards_per_s_least": min(per_s),
        "rewards_joined": sum(status == "joined" for status in statuses) / len(decided),
        "rewards_counted": page["counts"]["joined"] / len(decided),
    }


async def _post(address: str, bodies: list[list[dict[str, object]]]) -> list[str]:
    """Post all of them, two at a time, so that the learner need not wait for the wire."""
    left, statuses = iter(bodies), list[str]()

    async def post(client: httpx.AsyncClient) -> None:
        for body in left:
            reply = await client.post("/feedback", json=body)
            statuses.extend(receipt["status"] for receipt in reply.raise_for_status().json())

    async with httpx.AsyncClient(base_url=address, timeout=60.0) as client:
        await asyncio.gather(post(client), post(client))
    return statuses


# ---- How old the snapshots are that workers answer by ------------------------------------------------------------


@dataclass(slots=True)
class _Seen:
    """When each snapshot was published (Unix s), and, look by look, when a worker still followed which."""

    published: dict[int, float] = field(default_factory=dict)
    looks: list[tuple[float, int]] = field(default_factory=list)

    def figures(self) -> dict[str, float | None]:
        late = [max(at - self.published.get(followed + 1, at), 0.0) for at, followed in self.looks]
        return {
            "lag_p50_s": float(np.quantile(late, 0.5)),
            "lag_p99_s": float(np.quantile(late, 0.99)),
            "lag_max_s": max(late),
            "looks": float(len(late)),
            "snapshots": float(len(self.published)),
        }


@contextmanager
def _looking(server: Server, journal: Path) -> Iterator[_Seen]:
    """Asks one worker after the other, as the kernel hands out new connections, while the block runs."""
    seen, over = _Seen(), threading.Event()

    def look() -> None:
        reader, newest, last_at = SnapshotReader(journal, Keys.of(journal.parent, make=False)), 0, time.time()
        while not over.wait(LOOK_S):
            page = httpx.get(f"{server.address}/orchestration/state", timeout=30.0).raise_for_status().json()
            seen.looks.append((time.time(), page["worker"]["snapshot_version"]))
            if (snapshot := reader.latest_after(newest)) is not None:
                between = range(newest + 1, snapshot.version) if newest else ()
                seen.published |= dict.fromkeys(between, last_at)  # not later than that, in any case
                newest, last_at = snapshot.version, snapshot.at
                seen.published[newest] = last_at
        reader.close()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
