"""How an orchestrated service grows with its workers, beside the same by hand; and whether one learner keeps up."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
import numpy as np
import uvloop

from bandmaster.core import Decision
from bandmaster.journal.keys import Keys
from bandmaster.journal.reading import JournalReader
from bandmaster.journal.snapshots import unseal_snapshot
from bandmaster.learner import Learned
from benchmarks.scenario import ServingScale
from benchmarks.serving import members
from benchmarks.serving.load import Connection, Load, Order, load, request
from benchmarks.serving.servers import UNTRACED, Server, project, served

THEIRS, OURS = "theirs", "ours"
CALLERS = 32
WARM_UP_S = 5.0

POSTED = 500
"""Rewards in one post, the most that one may hold."""

LOOK_S = 0.05
"""How often is looked for new snapshots. A journal keeps five, and one comes every 0.2 s at most."""


def measure(scenario: ServingScale, told: Callable[[str], None]) -> dict[str, float | None]:
    """The figures of ``scenario``: ``theirs_per_s_N`` and ``ours_per_s_N`` with N workers, medians over turns, and
    ``kept_N``, what share of theirs ours has then; ``grown`` is how many times as much ours answers with the most
    workers as with one, by how many times as much theirs does.

    ``rewards_per_s`` is how many rewards the learner takes, learned from and safe on disk, posted ``POSTED`` together:
    the median over turns, which share them; ``rewards_per_s_least`` is the slowest turn's.
    ``lag_p99_s`` is for how long there had been a newer snapshot than the one that a worker decided by, of all
    decisions of the most workers under full load with labels; ``lag_seen`` is which share of them had been recorded
    whole, without a probe outstanding, when that was looked at.
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
                found |= _lag(ask, server, folder / OURS / "journal" / "orchestration.db", 4 * scenario.turn_s)
    return found | {
        f"kept_{workers}": (found[f"ours_per_s_{workers}"] or 0.0) / (found[f"theirs_per_s_{workers}"] or 1.0)
    }


# ---- Rewards -----------------------------------------------------------------------------------------------------


def _rewards(ask: Load, server: Server, count: int, turns: int) -> dict[str, float | None]:
    """Have so many requests answered, then report what they earned as fast as that is taken, a share in each turn."""
    decided = ask(Order(server.address, 16, 60.0, most=count)).decisions
    posts = [
        request("/feedback", msgspec.json.encode([{"decision_id": d, "reward": 0.5} for d in decided[k : k + POSTED]]))
        for k in range(0, len(decided), POSTED)
    ]
    statuses, per_s = list[str](), list[float]()
    for turn in range(turns):
        began = time.perf_counter()
        replies = uvloop.run(_post(server.address, posts[turn::turns]))
        took = time.perf_counter() - began
        receipts = [receipt["status"] for reply in replies for receipt in msgspec.json.decode(reply)]
        statuses += receipts
        per_s.append(len(receipts) / took)
    page = httpx.get(f"{server.address}/orchestration/state", timeout=30.0).json()
    return {
        "rewards": float(len(decided)),
        "rewards_per_s": float(np.median(per_s)),
        "rewards_per_s_least": min(per_s),
        "rewards_joined": sum(status == "joined" for status in statuses) / len(decided),
        "rewards_counted": page["counts"]["joined"] / len(decided),
    }


async def _post(address: str, posts: list[bytes]) -> list[bytes]:
    """The answers to all of them, two at a time, so that the learner need not wait for the wire."""
    left, replies = iter(posts), list[bytes]()

    async def post() -> None:
        connection = await Connection.to(address)
        for each in left:
            replies.append(await connection.post(each))
        connection.close()

    await asyncio.gather(post(), post())
    return replies


# ---- How old the snapshots are that workers answer by ------------------------------------------------------------


@dataclass(slots=True)
class _Published:
    """When (Unix s) each snapshot was published, and of which state it is: of how many outcomes."""

    at: list[float] = field(default_factory=list)
    state: list[int] = field(default_factory=list)

    def late(self, decision: Decision) -> float:
        """For how long (s) there had been a newer snapshot than the one that it was made by."""
        newer = bisect_right(self.state, decision.state.version)
        return max(decision.at - self.at[newer], 0.0) if newer < len(self.at) else 0.0


@contextmanager
def _published(journal: Path) -> Iterator[_Published]:
    """Sees every snapshot while the block runs, and the newest from before it."""
    seen, over, keys = _Published(), threading.Event(), Keys.of(journal.parent, make=False)

    def look() -> None:
        newest = 0
        with JournalReader(journal) as reader:
            while not over.wait(LOOK_S):
                query = "SELECT version, sealed FROM snapshots WHERE version > ? ORDER BY version"
                for version, sealed in reader.all(query, newest):
                    snapshot, newest = unseal_snapshot(keys, version, sealed), version
                    state = msgspec.msgpack.decode(snapshot.payload, type=Learned).state["version"]
                    if not seen.state or state > seen.state[-1]:
                        seen.at.append(snapshot.at)
                        seen.state.append(state)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _lag(ask: Load, server: Server, journal: Path, seconds: float) -> dict[str, float | None]:
    """How much later than there was a newer snapshot workers under full load, with labels, still decided by one."""
    began = time.time()
    with _published(journal) as published:
        answered = ask(Order(server.address, CALLERS, seconds, labels=True)).answered
    httpx.get(f"{server.address}/orchestration/state", timeout=60.0).raise_for_status()  # has all recorded
    with JournalReader(journal) as reader:
        late = [published.late(decision) for decision, _ in reader.answered_after(began, "")]
    return {
        "lag_p50_s": float(np.quantile(late, 0.5)),
        "lag_p99_s": float(np.quantile(late, 0.99)),
        "lag_max_s": max(late),
        "lag_seen": len(late) / answered,
        "snapshots": float(len(published.at)),
    }
