"""A replica without its HTTP server, in a process of its own: what its workers, its relay and its learner do, as orders
on stdin have it; a report on stdout for each, a line of JSON.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import cycle
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import psutil

from bandmaster import build, hosting
from bandmaster.calling import Caller
from bandmaster.config import read_block
from bandmaster.core import BandmasterError, Request
from bandmaster.features import features_of
from bandmaster.journal.ids import DecisionIds
from bandmaster.journal.keys import KEY_VARIABLE, Keys
from bandmaster.journal.opening import open_journal, open_spool
from bandmaster.journal.places import JOURNAL_VARIABLE, locate
from bandmaster.journal.snapshots import SnapshotReader
from bandmaster.journal.sql import SqlJournal
from bandmaster.meter import CpuTimeMeter
from bandmaster.serving.discovery import in_force
from bandmaster.serving.learner_service import TICK_S
from bandmaster.serving.learning import LearningLoop
from bandmaster.serving.live import Made
from bandmaster.serving.pages import Report as Told

POSTED = 500
"""Outcomes in one post, the most that one may hold."""

Doing = Literal["answer", "drain", "settle", "tick", "serve", "follow", "expire"]


class Order(msgspec.Struct, frozen=True):
    """What is to be done: ``answer`` so many requests; ``drain`` the spools, before any of the others but that;
    ``settle`` all that was answered; ``tick`` so often; ``serve`` so many requests a second, each with its label a tick
    later, for so many seconds; ``follow`` as long; ``expire`` all that is older than this order.
    """

    do: Doing
    count: int = 0
    seconds: float = 0.0


class Report(msgspec.Struct, frozen=True):
    """What came of it: how many, in what time, for how much CPU of this process (s); of ``serve`` the CPU of answering
    apart, how often settling or a tick failed, and how old (s) each snapshot was when it came.
    """

    count: int
    seconds: float
    cpu_s: float
    answering_s: float = 0.0
    failed: int = 0
    ages_s: list[float] = []


class Replica:
    """A process that carries out orders."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018 they are pipes
        self._told, self._said, self._pid = process.stdin, process.stdout, process.pid

    def begin(self, order: Order) -> Replica:
        """Have it begin; ``end`` gives the report."""
        print(msgspec.json.encode(order).decode(), file=self._told, flush=True)
        return self

    def end(self) -> Report:
        said = self._said.readline()
        assert said, "a replica has died: see above"
        return msgspec.json.decode(said, type=Report)

    def __call__(self, order: Order) -> Report:
        return self.begin(order).end()

    def cpu_s(self) -> float:
        times = psutil.Process(self._pid).cpu_times()
        return times.user + times.system


@contextmanager
def replica(folder: Path, name: str, url: str, key: str) -> Iterator[Replica]:
    """One of the project in ``folder``, from ready to stopped, with files of its own ``name``."""
    env = os.environ | {JOURNAL_VARIABLE: f"{url}#{folder / name / 'replica.db'}", KEY_VARIABLE: key}
    command = [sys.executable, "-m", "benchmarks.serving.replica", name]
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), env.get("PYTHONPATH")]))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=folder, env=env, text=True, **pipes) as process:  # type: ignore[call-overload]
        made = Replica(process)
        made.end()  # it is ready
        yield made
        process.stdin.close()


class _Working:
    """The replica itself, in its own process."""

    def __init__(self, seed: int) -> None:
        config, manager = in_force(read := partial(read_block, Path("bentofile.yaml")))
        path = locate(config.journal, config.root)
        path.parent.mkdir(parents=True, exist_ok=True)
        hosted, keys = hosting.host(config), Keys.of(path.parent)
        plans = build.catalogue(config, hosted.ensemble)
        learned = build.learner(config, plans, np.random.default_rng(seed), guarding=config.guarding, conducts=False)
        spool = open_spool(config.journal, config.root, "w1")
        meter = CpuTimeMeter(len(hosted.ensemble.classes))
        ids = DecisionIds(keys)
        self._answering = build.orchestrator(
            config, learned, caller=Caller(dict(hosted.members), meter), recorder=spool, new_id=ids.new, clock=time.time
        )
        with np.load("requests.npz") as held:
            self._requests = cycle(list(zip(held["images"], held["labels"].tolist(), strict=True)))
        self._due: list[tuple[str, int, float]] = []
        self._snapshots = SnapshotReader(path, keys)
        self._opened = partial(open_journal, config.journal, config.root, keys, config.feedback.window_s)
        self._made = Made(config, hosted, manager, read)

    @cached_property
    def _journal(self) -> SqlJournal:
        """The journal without a learner."""
        return self._opened()

    @cached_property
    def _loop(self) -> LearningLoop:
        if "_journal" in self.__dict__:
            self._journal.close()  # a machine's spools have one owner
        return LearningLoop(self._made)

    def obey(self, order: Order) -> Report:
        doing: dict[Doing, Callable[[Order], int]] = {
            "answer": lambda order: self._answer(order.count),
            "drain": lambda _: self._journal.drain(),
            "settle": lambda _: self._settle(),
            "tick": lambda order: self._tick(order.count),
            "expire": lambda _: self._expire(),
        }
        began, cpu = time.perf_counter(), time.process_time()
        found = Report(doing[order.do](order), 0.0, 0.0) if order.do in doing else self._going_on(order)
        return msgspec.structs.replace(found, seconds=time.perf_counter() - began, cpu_s=time.process_time() - cpu)

    def _answer(self, count: int) -> int:
        for _ in range(count):
            image, label = next(self._requests)
            rows = image[None].astype(np.float32)
            request = Request(rows, features_of(rows), time.time())
            decision, answer = self._answering.answer(request)
            if decision.probed:
                self._answering.probe(decision, answer, request)
            self._due.append((decision.id, label, decision.at))
        return count

    def _settle(self) -> int:
        settled = 0
        while self._due:
            settled += self._settled(self._due[:POSTED])
            del self._due[:POSTED]  # what was not acknowledged is told again
        return settled

    def _settled(self, due: Sequence[tuple[str, int, float]]) -> int:
        now = time.time()
        told = [Told(decision_id=id_, at=now, labels=(label,), decided_at=at) for id_, label, at in due]
        return sum(receipt.status == "joined" for receipt in self._loop.settle(told))

    def _tick(self, times: int) -> int:
        for _ in range(times):
            self._loop.tick()
        return times

    def _expire(self) -> int:
        self._loop.tick()  # as one that leads still
        removed, now = 0, time.time()
        while some := self._loop._journal.expire(now):
            removed += some
        return removed

    def _going_on(self, order: Order) -> Report:
        """Tick as a learner does, for some time, in which requests may come and labels a tick after them. Whatever
        fails is done again, as there.
        """
        began, seen, answered, failed = time.monotonic(), 0, 0, 0
        answering_s, ages_s = 0.0, list[float]()
        while (passed := time.monotonic() - began) < order.seconds:
            try:
                if order.do == "serve":
                    self._settle()
                self._tick(1)
            except BandmasterError as problem:
                print(problem, file=sys.stderr)
                failed += 1
            if order.do == "serve":
                cpu = time.process_time()
                answered += self._answer(int(passed * order.count) - answered)
                answering_s += time.process_time() - cpu
            if (snapshot := self._snapshots.latest_after(seen)) is not None:
                seen = snapshot.version
                ages_s.append(time.time() - snapshot.at)
            time.sleep(TICK_S)
        return Report(answered, 0.0, 0.0, answering_s, failed, ages_s[1:])  # the first was there before


def _obey(name: str) -> None:
    working = _Working(sum(name.encode()))
    print(msgspec.json.encode(Report(0, 0.0, 0.0)).decode(), flush=True)
    for line in sys.stdin:
        print(msgspec.json.encode(working.obey(msgspec.json.decode(line, type=Order))).decode(), flush=True)


if __name__ == "__main__":
    _obey(sys.argv[1])
