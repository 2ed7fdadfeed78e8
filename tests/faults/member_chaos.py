"""Members raise, hang, answer nonsense, slow down and die while a real service answers: what its callers see of it.

    python -m tests.faults.member_chaos --requests 100000

plays the same requests twice over HTTP, once with the constant baseline and once with the bandit under its guard, and
prints the answers that were no 200 (wanted: none), the 99th percentile of the time to an answer against the deadline
(wanted: at most 10 ms more), and both rewards (wanted: within the budget).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import polars as pl

from bandmaster.ledger import Allowance
from tests.end_to_end.servers import Server, environment, served
from tests.faults.chaotic import CLASSES, FEATURES, MEMBERS, Fault, requests
from tests.faults.chaotic import project as written
from tests.faults.command import parser

DEADLINE_MS, MEMBER_MS = 100, 50
CLIENTS = 4
BOUT = 500
"""For so many requests some members are ill, each in its own way, and others healthy."""
ISOLATED = ("cedar", "doum")
KILL_EVERY = 1000
LABEL_LAG = 2000
AT_ONCE = 200
HEADER = "x-orchestration-decision"

BASELINE = {"policy": {"use": "constant", "plan": "all"}, "probes": {"share": 0}}
GUARDED = {"guard": {"mode": "live", "baseline": "all"}}


@dataclass
class Seen:
    """What the callers saw: how often which status, and how long each answer took (s)."""

    statuses: Counter[int] = field(default_factory=Counter)
    took_s: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    killed: int = 0
    reward: float = float("nan")

    @property
    def p99_ms(self) -> float:
        return 1e3 * float(np.quantile(self.took_s, 0.99))


def chaotic_requests(n: int, seed: int) -> tuple[list[list[float]], list[str]]:
    """Rows with their faults, and their labels. In every bout there is a member without any, whom nobody kills."""
    rows, truth = requests(n, seed)
    rng = np.random.default_rng(seed)
    for start in range(0, n, BOUT):
        bout = slice(start, min(start + BOUT, n))
        spared = rng.choice([m for m, name in enumerate(MEMBERS) if name not in ISOLATED])
        others = [m for m in range(len(MEMBERS)) if m != spared]
        for member in rng.permutation(others)[: rng.integers(0, len(MEMBERS))]:
            fault, share = rng.integers(1, len(Fault)), rng.choice([0.1, 0.5, 1.0])
            hit = rng.random(bout.stop - bout.start) < share
            rows[bout, FEATURES + member] = np.where(hit, fault, 0)
    return rows.astype(np.float32).tolist(), [CLASSES[i] for i in truth]


async def play(server: Server, rows: list[list[float]], labels: list[str], told: bool) -> Seen:
    """Send it all, labels a while after their requests; and kill isolated members' processes at times."""
    seen, waiting, numbers = Seen(), deque[dict[str, str]](), iter(range(len(rows)))
    async with aiohttp.ClientSession(server.url) as session:

        async def report(count: int) -> None:
            some = [waiting.popleft() for _ in range(min(count, len(waiting)))]
            if some:
                async with session.post("/feedback", json=some) as response:
                    await response.read()
                    if response.status not in (200, 202):
                        seen.refused.append(f"feedback: {response.status}")

        async def client() -> None:
            for i in numbers:
                start = time.perf_counter()
                async with session.post("/predict", json={"rows": [rows[i]]}) as response:
                    said = await response.text()
                    if response.status != 200:
                        seen.refused.append(f"request {i}: {response.status} {said[:300]}")
                    seen.took_s.append(time.perf_counter() - start)
                    seen.statuses[response.status] += 1
                    if HEADER in response.headers:
                        waiting.append({"decision_id": response.headers[HEADER], "label": labels[i]})
                if len(waiting) >= LABEL_LAG + AT_ONCE:
                    await report(AT_ONCE)
                if i % KILL_EVERY == KILL_EVERY // 2:
                    seen.killed += _kill_one(server, i)
                if told and i % max(len(rows) // 20, 1) == 0:
                    print(f"  {i}/{len(rows)}: {dict(seen.statuses)}", flush=True)

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        while waiting:
            await report(AT_ONCE)
    return seen


def _kill_one(server: Server, i: int) -> int:
    """A native crash of the one or the other isolated member."""
    found = server.processes("bandmaster.members.isolated")
    if not found:
        return 0
    os.kill(found[i // KILL_EVERY % len(found)].pid, signal.SIGSEGV)
    return 1


def chaos(
    n: int, folder: Path, block: dict[str, Any], seed: int = 0, patience: float = 1.0, told: bool = False
) -> Seen:
    """One service under chaos, with ``patience`` times as long deadlines. Its reward is what its decisions earned."""
    deadline = f"{MEMBER_MS * patience:g} ms"
    members = {m: {"onnx": f"{m}.onnx", "deadline": deadline, "isolated": m in ISOLATED} for m in MEMBERS}
    written(folder, members=members, limits={"deadline": f"{DEADLINE_MS * patience:g} ms"}, **block)
    rows, labels = chaotic_requests(n, seed)
    with served(".", folder=folder, env=environment(folder / "home")) as server:
        seen = asyncio.run(play(server, rows, labels, told))
    out = folder / "decisions.parquet"
    command = [sys.executable, "-m", "bandmaster", "export", str(out), "--config", str(folder / "bentofile.yaml")]
    subprocess.run(command, check=True, capture_output=True)
    seen.reward = float(pl.read_parquet(out, columns=["reward"])["reward"].mean())  # type: ignore[arg-type]
    return seen


def main() -> int:
    asked = parser(__doc__, "requests", 100_000).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name, block in {"baseline": BASELINE, "guarded": GUARDED}.items():
            print(f"{name}: {asked.requests} requests", flush=True)
            found[name] = chaos(asked.requests, Path(folder) / name, block, asked.seed, told=True)
    budget = Allowance()
    agreed = budget.per_request + budget.burn / asked.requests
    results = {
        name: {"statuses": dict(s.statuses), "killed": s.killed, "p99_ms": s.p99_ms, "reward": s.reward}
        | ({"refused": s.refused[:20]} if s.refused else {})
        for name, s in found.items()
    }
    lost = found["baseline"].reward - found["guarded"].reward
    held = {
        "nothing but 200": all(set(+s.statuses) == {200} and not s.refused for s in found.values()),
        f"p99 within {DEADLINE_MS} + 10 ms": all(s.p99_ms <= DEADLINE_MS + 10 for s in found.values()),
        f"reward lost {lost:.4f}, at most {agreed:.4f} a request": lost <= agreed,
    }
    print(json.dumps(results, indent=1))
    for what, holds in held.items():
        print(f"{'holds' if holds else 'FAILS'}: {what}")
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
