"""Traffic at 70 % of what the service can take, for an hour: do memory, open files and response times stay as they are?

    python -m tests.faults.soak --minutes 60

First finds out how many requests a second, each with its label, the service answers; then sends 70 % of that, at random
times as strangers do, and looks at its processes twice a minute. Printed are the slopes per hour (Theil & Sen, with the
95 % interval) after the first tenth; those of memory and open files must be under 5 % of their level.

How fast a machine is changes by the minute, and waiting times with it by far more. So what the hour has done to them is
found out against a service that was started five minutes ago: both are sent the same, by turns, and what one took is
divided by what the other took next to it. No ratio may be above 1.05, as far as its 95 % interval can tell.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
from scipy.stats import theilslopes

from bandmaster.intervals import t_interval
from tests.end_to_end.servers import Server, environment, served
from tests.faults.command import parser
from tests.serving.tiny import CLASSES, IRIS, LABELS, ROWS, project

HEADER = "x-orchestration-decision"
SHARE = 0.7
PROBING_S, CALLERS = 20.0, 4
LABEL_DELAY_S, AT_ONCE = 2.0, 50
LOOKS_PER_MINUTE = 2
CROWD, CROWD_REPORTS = 100, 10
FLAT = 0.05
"""Per hour, of the level."""
TOOK = ("p50 (ms)", "p99 (ms)", "worker (ms a request)", "learner (ms a request)")
"""How long a request took, and how much of a CPU's time each process has spent on one."""
WARM_S, TURN_S, TURNS = 300.0, 30.0, 12
"""The new service is first to keep of the past as much as it ever will: 1,500 probed rows, of 75,000 requests. So much
more than at its start costs nobody anything an hour later.
"""
TIMEOUT_S = 5
"""BentoML holds some kilobytes of each request until its timeout has passed."""


Figures = dict[str, float]


@dataclass
class Course:
    """What was seen at each look: when (h), each figure; and over all, how many requests failed."""

    at_h: list[float] = field(default_factory=list)
    figures: dict[str, list[float]] = field(default_factory=dict)
    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def look(self, at_h: float, seen: Figures) -> None:
        self.at_h.append(at_h)
        for name, figure in seen.items():
            self.figures.setdefault(name, []).append(figure)


@dataclass(frozen=True)
class Estimate:
    """Of one figure, and the ends of its 95 % interval: its slope in an hour, or its ratio, aged to new."""

    name: str
    level: float
    found: float
    low: float
    high: float


def slopes(course: Course) -> list[Estimate]:
    """Of everything that was looked at, after the first tenth."""
    start = len(course.at_h) // 10
    estimates = []
    for name, figures in course.figures.items():
        slope, _, low, high = theilslopes(figures[start:], course.at_h[start:])
        estimates.append(Estimate(name, float(np.median(figures[start:])), float(slope), float(low), float(high)))
    return estimates


def grows(slope: Estimate) -> bool:
    """Whether it does, of what the machine's speed has no part in."""
    return slope.found > FLAT * slope.level


def ratios(aged: Course, new: Course) -> list[Estimate]:
    """Of what the aged service took to what the new one did, turn by turn (Student's interval of the logarithms)."""
    estimates = []
    for name in TOOK:
        logs = np.log(np.array(aged.figures[name]) / np.array(new.figures[name]))
        found, low, high = map(float, np.exp([logs.mean(), *t_interval(logs)]))
        estimates.append(Estimate(name, float(np.median(new.figures[name])), found, low, high))
    return estimates


def slower(ratio: Estimate) -> bool:
    """Whether the aged service certainly is."""
    return ratio.low > 1.0 + FLAT


class Traffic:
    """Asks, and reports each label a while later, as others do: many at once."""

    def __init__(self, server: Server, course: Course, seed: int) -> None:
        self._session = aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(total=30))
        self._course = course
        self._rng = np.random.default_rng(seed)
        self._labels: deque[tuple[float, dict[str, str]]] = deque()
        self.took_s: list[float] = []

    async def __aenter__(self) -> Traffic:
        return self

    async def __aexit__(self, *problem: object) -> None:
        await self._session.close()

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

    async def report(self, most: int = AT_ONCE) -> None:
        """Report so many labels at ``most``, in the order of their requests."""
        body = [self._labels.popleft()[1] for _ in range(min(most, len(self._labels)))]
        if not body:
            return
        try:
            async with self._session.post("/feedback", json=body) as response:
                said = await response.text()
                went = str(response.status) if response.status in (200, 202) else f"{response.status} {said[:120]}"
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
                await traffic.report()

    start = time.monotonic()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return asked / (time.monotonic() - start)


async def crowd(traffic: Traffic) -> None:
    """Many at once, so that all connections are made that there will ever be: they stay, and are files."""
    await asyncio.gather(*(traffic.ask(time.monotonic()) for _ in range(CROWD * CROWD_REPORTS)))
    await asyncio.gather(*(traffic.report(CROWD_REPORTS) for _ in range(CROWD)))


async def played(server: Server, traffic: Traffic, rate: float, seconds: float, rng: np.random.Generator) -> Figures:
    """Send ``rate`` requests a second at random times; what they took, and what the processes have become."""
    worker, learner = _processes(server)
    before = _cpu_s(worker), _cpu_s(learner)
    traffic.took_s.clear()
    due, under_way = time.monotonic(), set[asyncio.Task[None]]()
    end = due + seconds
    while (due := due + rng.exponential(1.0 / rate)) < end:
        await asyncio.sleep(max(due - time.monotonic(), 0.0))
        for call in [traffic.ask(due)] + ([traffic.report()] if traffic.due else []):
            task = asyncio.create_task(call)
            under_way.add(task)
            task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)
    took_ms = 1e3 * np.array(traffic.took_s)
    spent_ms = [1e3 * (_cpu_s(p) - then) / len(took_ms) for p, then in zip((worker, learner), before, strict=True)]
    figures = dict(zip(TOOK, [*map(float, np.quantile(took_ms, (0.5, 0.99))), *spent_ms], strict=True))
    for name, found in {"worker": worker, "learner": learner}.items():
        figures[f"{name} (MB)"] = sum(p.memory_info().rss for p in found) / 1e6
        figures[f"{name} (files)"] = float(sum(p.num_fds() for p in found))
    return figures


async def soak(server: Server, minutes: float, seed: int) -> tuple[Course, float]:
    """The course of a service, and the rate it was asked at."""
    course, rng = Course(), np.random.default_rng(seed)
    async with Traffic(server, course, seed) as traffic:
        await capacity(traffic, PROBING_S / 4)  # warm
        await crowd(traffic)
        most = await capacity(traffic, PROBING_S)
        rate = SHARE * most
        print(f"{most:.0f} requests a second with their labels; {rate:.0f} from now on", flush=True)
        course.requests = 0  # what it took to find out is not a part of it; its failures are
        start = time.monotonic()
        for look in range(1, round(minutes * LOOKS_PER_MINUTE) + 1):
            figures = await played(server, traffic, rate, 60.0 / LOOKS_PER_MINUTE, rng)
            course.look((time.monotonic() - start) / 3600.0, figures)
            if look % (5 * LOOKS_PER_MINUTE) == 0:
                told = ", ".join(f"{name} {figure:.1f}" for name, figure in figures.items())
                print(f"  {look / LOOKS_PER_MINUTE:g} min, {course.requests} requests: {told}", flush=True)
    alarms: Any = server.state()["drift"]
    course.failures.update(alarm["cause"] for alarm in alarms if alarm["name"] == "learner")  # learned in vain
    return course, rate


async def by_turns(aged: Server, new: Server, rate: float, turns: int, seed: int) -> tuple[Course, Course]:
    """Both services' courses, a pair of turns each; who comes first changes from pair to pair."""
    courses, rng = (Course(), Course()), np.random.default_rng(seed)
    async with Traffic(aged, courses[0], seed) as to_aged, Traffic(new, courses[1], seed) as to_new:
        players = [(aged, to_aged, courses[0]), (new, to_new, courses[1])]
        await played(new, to_new, rate, WARM_S, rng)
        await played(aged, to_aged, rate, TURN_S, rng)  # it has waited
        for turn in range(turns):
            for server, traffic, course in players if turn % 2 else reversed(players):
                course.look(float(turn), await played(server, traffic, rate, TURN_S, rng))
    return courses


def _processes(server: Server) -> tuple[list[psutil.Process], list[psutil.Process]]:
    worker, learner = server.worker_and_learner()
    assert worker, server.log
    assert learner, server.log
    return worker, learner


def _cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(p.cpu_times()[:2]) for p in processes)


@dataclass(frozen=True)
class Soaked:
    """The hour's course, the rate of requests (1/s), and the courses of the turns."""

    hour: Course
    rate: float
    aged: Course
    new: Course

    @property
    def failures(self) -> Counter[str]:
        return self.hour.failures + self.aged.failures + self.new.failures


@contextmanager
def started(folder: Path) -> Iterator[Server]:
    """A service in a new folder."""
    source = IRIS.replace("@bentoml.service", f'@bentoml.service(traffic={{"timeout": {TIMEOUT_S}}})')
    guard = {"mode": "live", "baseline": "linear+tree+bayes"}
    folder.mkdir()
    project(folder, source, seed=1, guard=guard, feedback={"window": "1 min", "rate": 1e9}, probes={"share": 0.02})
    with served(".", folder=folder, env=environment(folder / "home")) as server:
        yield server


def soaked(minutes: float, folder: Path, turns: int = TURNS, seed: int = 0) -> Soaked:
    """One service's hour, and then its turns against a new one."""
    with started(folder / "aged") as aged:
        hour, rate = asyncio.run(soak(aged, minutes, seed))
        with started(folder / "new") as new:
            return Soaked(hour, rate, *asyncio.run(by_turns(aged, new, rate, turns, seed + 1)))


def main() -> int:
    asked = parser(__doc__, "minutes", 60).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soaked(asked.minutes, Path(folder), seed=asked.seed)
    print(f"{found.hour.requests} requests at {found.rate:.0f} a second, failures: {dict(found.failures) or 'none'}")
    bad = bool(found.failures)
    print("in an hour:")
    for slope in slopes(found.hour):
        failed = slope.name not in TOOK and grows(slope)
        bad |= failed
        _tell(slope, "+.2f", " FAILS: grows" if failed else "")
    print(f"aged / new, in {len(found.new.at_h)} turns of {TURN_S:.0f} s:")
    for ratio in ratios(found.aged, found.new):
        bad |= slower(ratio)
        _tell(ratio, ".3f", " FAILS: slower" if slower(ratio) else "")
    return int(bad)


def _tell(estimate: Estimate, form: str, verdict: str) -> None:
    low, found, high = (format(value, form) for value in (estimate.low, estimate.found, estimate.high))
    print(f"  {estimate.name:24} {estimate.level:9.2f}: {found} [{low}, {high}]{verdict}")


if __name__ == "__main__":
    sys.exit(main())
