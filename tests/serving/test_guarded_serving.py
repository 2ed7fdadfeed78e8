"""A guard in serving: the worker exposes, the learner counts, and in between neither forgets anything."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bandmaster import hosting
from bandmaster.config import Config, load
from bandmaster.config.records import PolicyConfig
from bandmaster.core import Decision, Request
from bandmaster.journal.places import locate
from bandmaster.limits import Budget, Limits
from bandmaster.pin import Pin
from bandmaster.serving.learning import LearningLoop
from bandmaster.serving.pages import Report
from bandmaster.serving.worker import THREADS, Worker
from tests.serving.tiny import LABELS, ROWS, made_of, project

BASELINE = "linear+tree+bayes"


def configured(folder: Path, mode: str, **more: object) -> Config:
    guard = {"mode": mode, "baseline": BASELINE, **more}
    block = project(folder, seed=3, probes={"share": 0.5, "adapt": False}, guard=guard, policy={"use": "scoring"})
    return load(block / "bentofile.yaml")


class Served:
    """A learner, and a worker that has answered some requests."""

    def __init__(self, config: Config) -> None:
        self.config, self.hosted = config, hosting.host(config)
        self.loop = LearningLoop(made_of(config, self.hosted))

    async def worker(self) -> Worker:
        return Worker(made_of(self.config, self.hosted), worker=1)

    async def ask(self, worker: Worker, rows: np.ndarray) -> list[Decision]:
        made = [await worker.answer(Request(r[None].astype(np.float32), r, time.time())) for r in rows]
        if worker._after:
            await asyncio.wait(worker._after)
        return [decision for decision, _ in made]

    def settle(self, decisions: list[Decision], labels: np.ndarray) -> None:
        reports = [
            Report(decision_id=d.id, at=time.time(), labels=(int(y),)) for d, y in zip(decisions, labels, strict=True)
        ]
        assert {r.status for r in self.loop.settle(reports)} <= {"joined", "early"}
        self.loop.tick()


def test_in_the_shadow_the_baseline_answers_and_the_page_says_what_the_policy_would_have_gained(tmp_path: Path) -> None:
    served = Served(configured(tmp_path, "shadow"))

    async def run() -> list[Decision]:
        worker = await served.worker()
        decisions = await served.ask(worker, ROWS[:99])
        served.settle(decisions, LABELS[:99])
        await worker.close()
        return decisions

    decisions = asyncio.run(run())
    assert {(d.plan, d.propensity) for d in decisions} == {(BASELINE, 1.0)}
    assert all(d.exposure is not None and not d.exposure.exposed for d in decisions)
    page = served.loop.state().guard
    assert page is not None
    assert (page.mode, page.baseline, page.share, page.lost) == ("shadow", BASELINE, 0.0, 0.0)
    assert 0 < page.requests <= 99  # of one that came while the worker was busy nothing could be known
    assert (page.margin, page.enough) == (None, False)  # a hundred have to be known
    served.loop.close()


def test_a_worker_that_no_snapshot_reaches_exposes_no_more_than_there_was_room_for(tmp_path: Path) -> None:
    served = Served(configured(tmp_path, "live", burn=5))

    async def run() -> list[Decision]:
        worker = await served.worker()
        decisions = await served.ask(worker, ROWS[:60])
        await worker.close()
        return decisions

    exposed = [d.exposure for d in asyncio.run(run()) if d.exposure is not None and d.exposure.exposed]
    assert exposed
    assert sum(e.most for e in exposed) <= 5.0
    served.loop.close()


def test_what_the_learner_has_counted_and_settled_makes_room_again(tmp_path: Path) -> None:
    served = Served(configured(tmp_path, "live", burn=5))

    async def run() -> tuple[list[Decision], list[Decision]]:
        worker = await served.worker()
        first = await served.ask(worker, ROWS[:60])
        served.settle(first, LABELS[:60])
        served.loop._published = 0.0  # a tick publishes now and then only
        served.loop._noticed = True
        served.loop.tick()
        worker.poll()
        second = await served.ask(worker, ROWS[60:70])
        await worker.close()
        return first, second

    first, second = asyncio.run(run())
    assert not first[-1].exposure.exposed  # type: ignore[union-attr]
    assert second[0].exposure.exposed  # type: ignore[union-attr]
    page = served.loop.state().guard
    assert page is not None
    assert page.room > 0.0
    served.loop.close()


@pytest.mark.parametrize("mode", ["shadow", "live"])
def test_a_learner_that_starts_again_knows_what_was_lost(tmp_path: Path, mode: str) -> None:
    served = Served(configured(tmp_path, mode, burn=5))

    async def run() -> None:
        worker = await served.worker()
        served.settle(await served.ask(worker, ROWS[:40]), LABELS[:40])
        await worker.close()

    asyncio.run(run())
    before = served.loop.state().guard
    served.loop.close()
    again = LearningLoop(made_of(served.config, served.hosted))
    assert again.state().guard == before
    again.close()


def test_pinned_the_baseline_answers_from_the_next_request_on_and_the_alarms_tell(tmp_path: Path) -> None:
    served = Served(configured(tmp_path, "live", burn=1000))
    pin = Pin(locate(served.config.journal, served.config.root))

    async def run() -> list[list[bool]]:
        worker, exposed = await served.worker(), []
        for change in (lambda: None, lambda: pin.set("complaints, #4711"), pin.clear):
            change()
            decisions = await served.ask(worker, ROWS[:20])
            served.loop.tick()
            exposed.append([d.exposure is not None and d.exposure.exposed for d in decisions])
        await worker.close()
        return exposed

    before, pinned, after = asyncio.run(run())
    assert any(before)
    assert not any(pinned)
    assert any(after)
    told = [(event.name, event.cause) for event in served.loop.state().drift]
    assert told == [("pin", "complaints, #4711"), ("unpin", "the guard decides again")]
    pin.set("again")
    page = served.loop.state().guard
    assert page is not None
    assert page.pinned == "again"
    served.loop.close()


def test_what_was_exposed_after_the_last_snapshot_of_a_learner_that_then_died_is_still_so(tmp_path: Path) -> None:
    served = Served(configured(tmp_path, "live", burn=5))

    async def run() -> None:
        worker = await served.worker()
        await served.ask(worker, ROWS[:30])
        await worker.close()

    asyncio.run(run())
    served.loop._published = math.inf  # it dies before it publishes anything
    served.loop.tick()
    room = served.loop.state().guard.room  # type: ignore[union-attr]
    assert room < 1.0
    served.loop._journal.close()
    served.loop._lease.close()
    again = LearningLoop(made_of(served.config, served.hosted))
    found = again.state().guard
    assert found is not None
    assert found.room <= room + 1e-9
    again.close()


def test_a_request_that_is_cancelled_before_it_ran_takes_up_no_room_for_ever(tmp_path: Path) -> None:
    served = Served(configured(tmp_path, "live", burn=5))

    async def run() -> tuple[float, float]:
        worker = await served.worker()
        admission = worker._serving.orchestrator._admission
        assert admission is not None
        blocked = threading.Event()
        for _ in range(THREADS):
            worker._threads.submit(blocked.wait)
        worker._serving.slow = frozenset(served.hosted.ensemble.names)  # so that all wait for a thread
        asked = [
            asyncio.create_task(worker.answer(Request(r[None].astype(np.float32), r, time.time()))) for r in ROWS[:4]
        ]
        for _ in range(3):  # they come, are decided in one turn, and are told
            await asyncio.sleep(0)
        taken = admission.room
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        served.loop.tick()
        worker._serving.learned.guard.counted = time.time() + 1.0  # type: ignore[union-attr]
        freed = admission.room
        blocked.set()
        await worker.close()
        return taken, freed

    taken, freed = asyncio.run(run())
    assert taken < 5.0
    assert freed == 5.0
    served.loop.close()


def test_an_exposed_request_takes_up_room_while_its_probe_is_under_way(tmp_path: Path) -> None:
    served = Served(configured(tmp_path, "live", burn=50))

    async def run() -> list[tuple[bool, bool]]:
        worker = await served.worker()
        admission, found = worker._serving.orchestrator._admission, []
        assert admission is not None
        for row in ROWS[:20]:
            decision = worker._serving.orchestrator.decide(Request(row[None].astype(np.float32), row, time.time()))
            decision, _ = worker._serving.orchestrator.run(
                decision, Request(row[None].astype(np.float32), row, time.time())
            )
            if decision.exposure is not None and decision.exposure.exposed:
                found.append((decision.probed, admission._unseen[decision.id][0] == float("inf")))
        await worker.close()
        return found

    found = asyncio.run(run())
    assert {probed for probed, _ in found} == {True, False}
    assert all(probed == waits for probed, waits in found)
    served.loop.close()


def test_that_it_was_pinned_is_told_once_over_restarts(tmp_path: Path) -> None:
    served = Served(configured(tmp_path, "live"))
    pin = Pin(locate(served.config.journal, served.config.root))
    pin.set("#4711")
    served.loop.tick()
    served.loop.close()
    for change, expected in ((lambda: None, 1), (pin.clear, 2)):
        change()
        loop = LearningLoop(made_of(served.config, served.hosted))
        loop.tick()
        assert len([e for e in loop.state().drift if e.name in ("pin", "unpin")]) == expected
        loop.close()


def test_a_burn_that_leaves_no_worker_room_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    served = Served(configured(tmp_path, "live", burn=2))

    async def run() -> None:
        await Worker(made_of(served.config, served.hosted), worker=1, workers=4).close()

    asyncio.run(run())
    assert "guard.burn: 2, shared by 4 workers" in caplog.text
    served.loop.close()


def test_a_policy_that_loses_is_stopped_and_the_alarms_tell_of_it(tmp_path: Path) -> None:
    config = configured(tmp_path, "live", burn=5)
    served = Served(replace(config, policy=PolicyConfig("constant", plan="fragile")))  # it knows nothing

    async def run() -> list[list[bool]]:
        worker, exposed = await served.worker(), []
        for start in (0, 50):
            decisions = await served.ask(worker, ROWS[start : start + 50])
            exposed.append([d.exposure is not None and d.exposure.exposed for d in decisions])
            served.settle(decisions, np.full(50, 2))
            served.loop._published = 0.0
            served.loop.tick()
            worker.poll()
        await worker.close()
        return exposed

    first, second = asyncio.run(run())
    assert any(first)
    assert sum(second) <= 1
    (alarm,) = [event for event in served.loop.state().drift if event.name == "guard"]
    assert alarm.cause.endswith(f"was lost against {BASELINE}, so that it answers alone")
    page = served.loop.state().guard
    assert page is not None
    assert (page.breached, page.share) == (True, 0.0)
    served.loop.close()


def test_where_no_outcome_comes_for_too_long_the_baseline_answers_alone_until_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(configured(tmp_path, "live", burn=1000, silence="10 min"))
    now = time.time()
    monkeypatch.setattr("bandmaster.serving.learning.time.time", lambda: now)

    async def run() -> list[bool]:
        nonlocal now
        worker, exposed = await served.worker(), []
        for wait, settled in ((0.0, False), (601.0, False), (0.0, True), (0.0, False)):
            now += wait
            served.loop.tick()
            worker.poll()
            decisions = await served.ask(worker, ROWS[:10])
            exposed.append(any(d.exposure is not None and d.exposure.exposed for d in decisions))
            if settled:
                served.settle(decisions, LABELS[:10])
                served.loop._published = 0.0
        await worker.close()
        return exposed

    assert asyncio.run(run()) == [True, False, False, True]
    (alarm,) = [event for event in served.loop.state().drift if event.name == "guard"]
    assert alarm.cause == f"no outcome for 601 s, so that {BASELINE} answers alone"
    served.loop.close()


def test_replicas_share_budgets_and_the_guards_room_as_workers_do(tmp_path: Path) -> None:
    limits = Limits(energy=Budget(6.0, 60.0))
    config = replace(configured(tmp_path, "live"), limits=limits)
    served = Served(config)

    async def left(replicas: int) -> tuple[float, float]:
        worker = Worker(made_of(replace(config, replicas=replicas), served.hosted), worker=1, workers=2)
        energy, room = worker.page(time.time())["left"]["energy"], worker._serving.orchestrator._admission.room
        await worker.close()
        return energy, room

    third, whole = (asyncio.run(left(replicas)) for replicas in (3, 1))
    assert whole[0] == 3.0
    np.testing.assert_allclose(np.array(third) * 3, whole)
    served.loop.close()
