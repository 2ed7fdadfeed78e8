"""Traffic at 70 % of what the service can take, for an hour: do memory, open files and p99 stay where they are?

    python -m tests.faults.soak --minutes 60

First finds out how many requests a second, each with its label, the service answers; then sends 70 % of that, at random
times as strangers do, and looks at its processes twice a minute. Printed are the slopes per hour (Theil & Sen, with the
95 % interval) after the first tenth; each must be under 5 % of its level.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
from scipy.stats import theilslopes

from tests.end_to_end.servers import Server, environment, served
from tests.faults.command import parser
from tests.serving.tiny import CLASSES, IRIS, LABELS, ROWS, project

HEADER = "x-orchestration-decision"
SHARE = 0.7
PROBING_S, CALLERS = 20.0, 4
LABEL_DELAY_S, AT_ONCE = 2.0, 50
LOOKS_PER_MINUTE = 2
FLAT = 0.05
"""Per hour, of the level."""
TIMEOUT_S = 5
"""BentoML holds some kilobytes of each request until its timeout has passed."""


@dataclass
class Course:
    """What was seen at each look: when (h), each figure; and over all, how many requests failed."""

    at_h: list[float] = field(default_factory=list)
    figures: dict[str, list[float]] = field(default_factory=dict)
    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def look(self, at_h: float, seen: dict[str, float]) -> None:
        self.at_h.append(at_h)
        for name, figure in seen.items():
            self.figures.setdefault(name, []).append(figure)


@dataclass(frozen=True)
class Slope:
    """One figure's level, and what it grew by in an hour: the estimate, and the ends of its 95 % interval."""

    name: str
    level: float
    per_hour: float
    low: float
    high: float

    @property
    def flat(self) -> bool:
        """Whether it is, and not merely may be."""
        return self.per_hour <= FLAT * self.level


def slopes(course: Course) -> list[Slope]:
    """Of everything that was looked at, after the first tenth."""
    start = len(course.at_h) // 10
    found = []
    for name, figures in course.figures.items():
        slope, _, low, high = theilslopes(figures[start:], course.at_h[start:])
        found.append(Slope(name, float(np.median(figures[start:])), float(slope), float(low), float(high)))
    return found


class Traffic:
    """Asks, and reports each label a while later, as others do: many at once."""

    def __init__(self, session: aiohttp.ClientSession, course: Course, seed: int) -> None:
        self._session, self._course = session, course
        self._rng = np.random.default_rng(seed)
        self._labels: deque[tuple[float, dict[str, str]]] = deque()
        self.took_s: list[float] = []

    async def ask(self, due: float) -> None:
        """One request that was due at a time (monotonic); what it had to wait before it was sent counts, too."""
        k = int(self._rng.integers(len(ROWS)))
        row = ROWS[k] + self._rng.normal(0.0, 0.3, ROWS.shape[1])
        try:
            async with self._session.post("/classify", json={"input_series": [row.tolist()]}) as response:
                await response.read()
                went, name = str(response.status), response.headers.get(HEADER, "")
        except (aiohttp.ClientError, TimeoutError) as problem:
            went, name = type(problem).__name__, ""
        self.took_s.append(time.monotonic() - due)
        self._course.requests += 1
        if went != "200":
            self._course.failures[f"/classify {went}"] += 1
        else:
            self._labels.append((time.monotonic(), {"decision_id": name, "label": CLASSES[LABELS[k]]}))

    async def report(self, all_of_them: bool = False) -> None:
        """Report what is due."""
        now, body = time.monotonic(), list[dict[str, str]]()
        while self._labels and len(body) < AT_ONCE and (all_of_them or self._labels[0][0] < now - LABEL_DELAY_S):
            body.append(self._labels.popleft()[1])
        if not body:
            return
        try:
            async with self._session.post("/feedback", json=body) as response:
                await response.read()
                went = str(response.status)
        except (aiohttp.ClientError, TimeoutError) as problem:
            went = type(problem).__name__
        if went not in ("200", "202"):
            self._course.failures[f"/feedback {went}"] += 1

    @property
    def waiting(self) -> int:
        return len(self._labels)

    @property
    def due(self) -> bool:
        """Whether so many labels are due that they are reported, together."""
        return self.waiting >= AT_ONCE and self._labels[AT_ONCE - 1][0] < time.monotonic() - LABEL_DELAY_S


async def capacity(traffic: Traffic, seconds: float) -> float:
    """Requests a second, each with its label, where callers wait for their answers."""
    end, asked = time.monotonic() + seconds, 0

    async def caller() -> None:
        nonlocal asked
        while time.monotonic() < end:
            await traffic.ask(time.monotonic())
            asked += 1
            if traffic.waiting >= AT_ONCE:
                await traffic.report(all_of_them=True)

    start = time.monotonic()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return asked / (time.monotonic() - start)


async def soak(server: Server, minutes: float, seed: int, shown: bool) -> tuple[Course, float]:
    course = Course()
    async with aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(total=30)) as session:
        traffic = Traffic(session, course, seed)
        await capacity(traffic, PROBING_S / 4)  # warm
        most = await capacity(traffic, PROBING_S)
        rate, rng = SHARE * most, np.random.default_rng(seed)
        if shown:
            print(f"{most:.0f} requests a second with their labels; {rate:.0f} from now on", flush=True)
        traffic.took_s.clear()
        course.requests = 0  # what it took to find out is not a part of it; its failures are
        start = due = time.monotonic()
        looks, under_way = 1, set[asyncio.Task[None]]()
        while due < start + 60.0 * minutes:
            due += rng.exponential(1.0 / rate)
            await asyncio.sleep(max(due - time.monotonic(), 0.0))
            calls = [traffic.ask(due)] + ([traffic.report()] if traffic.due else [])
            for call in calls:
                task = asyncio.create_task(call)
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            if time.monotonic() >= start + looks * 60.0 / LOOKS_PER_MINUTE:
                seen = {"p99 (ms)": 1e3 * float(np.quantile(traffic.took_s, 0.99)), **_processes(server)}
                traffic.took_s.clear()
                course.look((time.monotonic() - start) / 3600.0, seen)
                if shown and looks % (5 * LOOKS_PER_MINUTE) == 0:
                    told = ", ".join(f"{name} {figure:.1f}" for name, figure in seen.items())
                    print(f"  {looks / LOOKS_PER_MINUTE:g} min, {course.requests} requests: {told}", flush=True)
                looks += 1
        await asyncio.gather(*under_way)
    return course, rate


def _processes(server: Server) -> dict[str, float]:
    worker, learner = server.worker_and_learner()
    assert worker, server.log
    assert learner, server.log
    seen = {}
    for name, found in {"worker": worker, "learner": learner}.items():
        seen[f"{name} (MB)"] = sum(p.memory_info().rss for p in found) / 1e6
        seen[f"{name} (files)"] = float(sum(p.num_fds() for p in found))
    return seen


def soaked(minutes: float, folder: Path, seed: int = 0, shown: bool = False) -> tuple[Course, float]:
    """The course of one service, and the rate it was asked at."""
    source = IRIS.replace("@bentoml.service", f'@bentoml.service(traffic={{"timeout": {TIMEOUT_S}}})')
    guard = {"mode": "live", "baseline": "linear+tree+bayes"}
    project(folder, source, seed=1, guard=guard, feedback={"window": "1 min", "rate": 1e9}, probes={"share": 0.02})
    with served(".", folder=folder, env=environment(folder / "home")) as server:
        return asyncio.run(soak(server, minutes, seed, shown))


def main() -> int:
    asked = parser(__doc__, "minutes", 60).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        course, rate = soaked(asked.minutes, Path(folder), asked.seed, shown=True)
    print(f"{course.requests} requests at {rate:.0f} a second, failures: {dict(course.failures) or 'none'}")
    found = slopes(course)
    for slope in found:
        print(
            f"{slope.name:16} {slope.level:9.1f}, per hour {slope.per_hour:+8.2f} [{slope.low:+.2f}, {slope.high:+.2f}]"
            f"{'' if slope.flat else ' FAILS: grows'}"
        )
    return 0 if not course.failures and all(slope.flat for slope in found) else 1


if __name__ == "__main__":
    sys.exit(main())
