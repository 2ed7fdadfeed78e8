"""``kill -9`` of a real service's worker and learner under load: is all that was acknowledged there, and once?

    python -m tests.faults.kills --kills 200

Callers ask and report all the while, and try again what was not acknowledged, as real ones do. At the end the journal
is read: every decision that was answered, every outcome that was taken, nothing twice, no gap in the order of learning.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp
import psutil

from bandmaster.config import load
from bandmaster.journal.keys import Keys
from bandmaster.journal.opening import open_journal
from tests.end_to_end.servers import Server, environment, served
from tests.faults.command import parser
from tests.serving.tiny import CLASSES, LABELS, ROWS, project

HEADER = "x-orchestration-decision"
CLIENTS = 3
READY_S = 60.0


@dataclass
class Told:
    """What the callers were told: the decisions that were answered, the outcomes that were taken."""

    decisions: list[str] = field(default_factory=list)
    outcomes: set[str] = field(default_factory=set)
    failures: int = 0


@dataclass(frozen=True)
class Found:
    """What was there in the end; all but the first four must be 0."""

    kills: int
    decisions: int
    outcomes: int
    failed_calls: int
    decisions_lost: int
    outcomes_lost: int
    applied_twice: int
    gaps: int
    off_the_ledger: int


async def call(server: Server, told: Told, until: asyncio.Event) -> None:
    """Ask and report until told to stop; what fails is tried again."""
    waiting: deque[tuple[str, str]] = deque()
    number = 0
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(server.url, timeout=timeout) as session:
        while not until.is_set() or waiting:
            number += 1
            row = number % len(ROWS)
            try:
                if not until.is_set():
                    async with session.post("/classify", json={"input_series": [ROWS[row].tolist()]}) as response:
                        if response.status == 200:
                            name = response.headers[HEADER]
                            told.decisions.append(name)
                            waiting.append((name, CLASSES[LABELS[row]]))
                        told.failures += response.status != 200
                if len(waiting) > 20 or until.is_set():
                    name, label = waiting[0]
                    async with session.post("/feedback", json={"decision_id": name, "label": label}) as response:
                        if response.status in (200, 202):
                            told.outcomes.add(name)
                            waiting.popleft()
                        else:
                            told.failures += 1
                            await asyncio.sleep(0.05)
            except (aiohttp.ClientError, OSError, TimeoutError):
                told.failures += 1
                await asyncio.sleep(0.05)


async def kill(server: Server, kills: int, rng: random.Random, shown: bool) -> None:
    """One after the other, each once both have come back from the last."""
    for k in range(kills):
        victims = await _both(server)
        await asyncio.sleep(rng.uniform(0.0, 0.5))
        with suppress(psutil.NoSuchProcess):
            rng.choice(victims).kill()
        if shown and (k + 1) % 20 == 0:
            print(f"  {k + 1}/{kills}", flush=True)
    await _both(server)


async def _both(server: Server) -> list[psutil.Process]:
    """The worker's and the learner's process, once they answer."""
    end = time.monotonic() + READY_S
    async with aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(total=5)) as session:
        while time.monotonic() < end:
            with suppress(aiohttp.ClientError, OSError, TimeoutError, psutil.Error):
                async with session.get("/orchestration/state") as response:
                    worker, learner = server.worker_and_learner()
                    if response.status == 200 and worker and learner:
                        return [*worker, *learner]
            await asyncio.sleep(0.05)
    raise AssertionError(f"the service was not back within {READY_S:g} s; see {server.log}")


async def _play(server: Server, kills: int, seed: int, shown: bool) -> Told:
    told, until = Told(), asyncio.Event()
    callers = [asyncio.create_task(call(server, told, until)) for _ in range(CLIENTS)]
    await kill(server, kills, random.Random(seed), shown)
    until.set()
    await asyncio.gather(*callers)
    return told


def killed(kills: int, folder: Path, seed: int = 0, shown: bool = False) -> Found:
    """One service, killed so often."""
    project(folder, seed=1, feedback={"window": "10 min"})
    with served(".", folder=folder, env=environment(folder / "home")) as server:
        told = asyncio.run(_play(server, kills, seed, shown))
    config = load(folder / "bentofile.yaml")
    journal = open_journal(config.journal, config.root, Keys.of(folder))
    journal.drain()
    stored = {name for (name,) in journal._all("SELECT id FROM decisions")}
    settled = journal._all("SELECT id, seq FROM outcomes")
    rewards = [seq for (seq,) in journal._all("SELECT seq FROM rewards")]
    counts = journal.counts()
    journal.close()
    taken, order = {name for name, _ in settled}, sorted(seq for _, seq in settled if seq is not None)
    return Found(
        kills=kills,
        decisions=len(told.decisions),
        outcomes=len(told.outcomes),
        failed_calls=told.failures,
        decisions_lost=sum(name not in stored for name in told.decisions),
        outcomes_lost=sum(name not in taken for name in told.outcomes),
        applied_twice=len(rewards) - len(set(rewards)) + len(order) - len(set(order)),
        gaps=sum(a != b for a, b in enumerate(order, 1)),
        off_the_ledger=abs(counts.joined - len(order)) + abs(counts.decisions - len(stored)),
    )


def main() -> int:
    asked = parser(__doc__, "kills", 200).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = killed(asked.kills, Path(folder), asked.seed, shown=True)
    print(found)
    return 1 if any(list(asdict(found).values())[4:]) else 0


if __name__ == "__main__":
    sys.exit(main())
