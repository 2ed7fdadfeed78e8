"""A worker's half: answers requests with the newest snapshot, never learns."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np

from bandmaster import build, hosting
from bandmaster.breaker import Absence
from bandmaster.calling import Caller, Faults
from bandmaster.config import Config
from bandmaster.core import Answer, Array, BandmasterError, Decision, FloatArray, Member, MemberFailure, Request
from bandmaster.journal.ids import DecisionIds
from bandmaster.journal.keys import Keys
from bandmaster.journal.opening import open_spool
from bandmaster.journal.places import locate
from bandmaster.journal.snapshots import SnapshotReader
from bandmaster.learner import Learner
from bandmaster.members.batched import BatchedMember
from bandmaster.meter import CpuTimeMeter
from bandmaster.orchestrator import Orchestrator
from bandmaster.pin import Pin
from bandmaster.plans import parse_plan
from bandmaster.power import Power
from bandmaster.seldom import Seldom
from bandmaster.serving import telemetry
from bandmaster.serving.live import Live, Made
from bandmaster.serving.others import Others
from bandmaster.serving.tracing import traced

T = TypeVar("T")

_log = logging.getLogger("bandmaster.worker")

POLL_S = 0.1
THREADS = 8

MOST_THREADS = 32
"""Where members take several requests' rows at once, as many requests wait for them as fit into a batch, at most."""

AT_ONCE = 64
"""So many requests are decided and walked together, at most: the first of them is answered with the last."""

BUSY_AT = THREADS // 2
"""With so many requests and probes under way in this process, further requests are not probed: half of the threads
stay free for replies, and probes that take longer than the requests come cannot pile up."""


@dataclass(slots=True, eq=False)
class _Serving:
    """What answers under one configuration. Requests that are ``under_way`` keep it when another comes into force."""

    config: Config
    hosted: hosting.Hosted
    learned: Learner
    faults: Faults
    orchestrator: Orchestrator
    slow: frozenset[str]
    under_way: int = 0


@dataclass(frozen=True, slots=True)
class _Begun:
    """A request with its decision, and its answer unless its members are slow."""

    by: _Serving
    request: Request
    decision: Decision
    answer: Answer | None


class Worker:
    """Everything that one server process needs to answer. Made on, and belonging to, the server's event loop."""

    def __init__(
        self,
        made: Made,
        worker: int,
        workers: int = 1,
        others: Others | None = None,
        features: Callable[[Sequence[Array]], Sequence[FloatArray]] | None = None,
    ) -> None:
        """Worker number ``worker`` of ``workers``, which share the budgets of energy and cost evenly, with those of the
        other replicas, too. Members that are services are among the ``others``. ``features`` says what a policy may
        know of requests' rows; without it they come with their features.
        """
        config = made.config
        telemetry.begin(telemetry.WORKER)
        path = locate(config.journal, config.root)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._keys = Keys.of(path.parent)
        self.ids = DecisionIds(self._keys)
        self.snapshot = self._seen = 0  # the version that is followed, and the newest that was looked at
        self._reader = SnapshotReader(path, self._keys)
        self._spool = open_spool(config.journal, config.root, f"w{worker}", synced=config.durability == "full")
        self._batch = made.batch
        threads = min(max(self._batch, THREADS), MOST_THREADS)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="bandmaster")
        self._stage_threads = ThreadPoolExecutor(threads, thread_name_prefix="bandmaster-stage")
        self._workers, self._pin, self._others = workers, Pin(path), others or Others()
        self._rng = np.random.default_rng(None if config.seed is None else [config.seed, worker])
        ensemble, self._power = made.hosted.ensemble, Power.of_machine()
        self._meter = CpuTimeMeter(len(ensemble.classes), task=ensemble.task, power=self._power)
        self._live, self._payload = Live(made), b""
        self._serving = self._made(made.config, made.hosted, None)
        self._leaving: list[_Serving] = []
        self._seldom = Seldom(_log)
        self._features = features
        self._turn: list[tuple[Request, asyncio.Future[_Begun]]] = []
        self._answering = 0  # in threads
        self._after: set[asyncio.Future[Any]] = set()  # what was begun after a reply: probes, trials
        self._event_loop = asyncio.get_running_loop()

    @property
    def config(self) -> Config:
        """What is served by."""
        return self._serving.config

    def _made(self, config: Config, hosted: hosting.Hosted, before: _Serving | None) -> _Serving:
        """What answers under a configuration. What members did and what was spent ``before`` is not forgotten."""
        plans = build.catalogue(config, hosted.ensemble)
        learned = build.learner(config, plans, self._rng, guarding=config.guarding, conducts=False)
        self._others.connect(hosted.members.values())
        for member in hosted.isolated:
            if before is None or member not in before.hosted.isolated:
                member.start()
        faults = build.faults(config, hosted, _told)
        if before is not None and before.config.faults == config.faults:
            faults.breaker.take_over(before.faults.breaker)
        members: dict[str, Member] = dict(hosted.members)
        if self._batch:  # of fast members no two calls meet
            members |= {name: BatchedMember(hosted.members[name], self._batch) for name in hosted.slow}
        caller = Caller(members, self._meter, executor=self._stage_threads, slow=hosted.slow, faults=faults)
        orchestrator = build.orchestrator(
            config,
            learned,
            caller=caller,
            recorder=self._spool,
            new_id=self.ids.new,
            workers=self._workers * config.replicas,
            clock=time.time,
            pinned=self._pin.__bool__,
        )
        if before is not None:
            orchestrator.take_over(before.orchestrator)
        _warn(config, self._workers * config.replicas)
        return _Serving(config, hosted, learned, faults, orchestrator, hosted.slow)

    async def answer(self, request: Request) -> tuple[Decision, Answer]:
        """Answer one request; slow members run in a thread, a probe after the reply."""
        if asyncio.get_running_loop() is not self._event_loop:
            # A service's own blocking method that calls this one has BentoML run another loop for it.
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.answer(request), self._event_loop))
        begun = await self._begun(request)
        by, request, decision = begun.by, begun.request, begun.decision
        try:
            answer = begun.answer
            if answer is None:
                decision, answer = await self._run_in_thread(by, decision, request)
                telemetry.answered([(decision, answer)])
        except BaseException:  # it failed, or was cancelled, perhaps before a thread took it up
            by.orchestrator.abandon(decision)
            raise
        finally:
            by.under_way -= 1
        traced(decision, answer, by.orchestrator.ensemble)
        if decision.probed:
            self._begin_after(by, by.orchestrator.probe, decision, answer, request)
        well = all(said.error is None for said in answer.ran)  # else its rows may be what members fail at
        if well and (name := by.faults.breaker.due()) is not None:
            self._begin_after(by, by.orchestrator.trial, name, request)
        return decision, answer

    async def _begun(self, request: Request) -> _Begun:
        """The decision about it, and where its members are fast the answer: along with those of all other requests that
        have come in this turn of the loop, as NumPy and members take little longer for several than for one.
        """
        told: asyncio.Future[_Begun] = self._event_loop.create_future()
        if not self._turn:
            self._event_loop.call_soon(self._take_turn)
        self._turn.append((request, told))
        try:
            return await told
        except asyncio.CancelledError:
            if told.done() and not told.cancelled() and told.exception() is None:  # it went away as it was told
                begun = told.result()
                begun.by.under_way -= 1
                begun.by.orchestrator.abandon(begun.decision)
            raise

    def _take_turn(self) -> None:
        waiting, self._turn = self._turn[:AT_ONCE], self._turn[AT_ONCE:]
        if self._turn:
            self._event_loop.call_soon(self._take_turn)
        waiting = [(request, told) for request, told in waiting if not told.done()]  # who has not gone away
        try:
            turn = self._begin([request for request, _ in waiting])
        except Exception as problem:
            for _, told in waiting:
                told.set_exception(problem)
        else:
            for (_, told), begun in zip(waiting, turn, strict=True):
                told.set_result(begun)

    def _begin(self, requests: list[Request]) -> list[_Begun]:
        """Decide about them; answer those whose members are fast."""
        by = self._serving
        if self._features is not None:
            found = self._features([request.rows for request in requests])
            requests = [replace(r, features=features) for r, features in zip(requests, found, strict=True)]
        decisions = by.orchestrator.decide_each(requests)
        slow = by.slow | by.faults.breaker.wary
        waits = [not slow.isdisjoint(parse_plan(d.plan, by.orchestrator.ensemble).members) for d in decisions]
        decisions = self._sparing(decisions, waits)
        begun = list(zip(decisions, requests, waits, strict=True))
        try:
            answered = by.orchestrator.run_each([(decision, request) for decision, request, wait in begun if not wait])
        except Exception:
            for decision in decisions:
                by.orchestrator.abandon(decision)
            raise
        by.under_way += len(requests)
        telemetry.answered(answered)
        ran = iter(answered)
        return [
            _Begun(by, request, decision, None) if wait else _Begun(by, request, *next(ran))
            for decision, request, wait in begun
        ]

    def _sparing(self, decisions: Sequence[Decision], waits: Sequence[bool]) -> list[Decision]:
        """The decisions, without probes where so much is under way: with requests that wait for a thread (``waits``),
        and as many probes as are to be expected of those before.
        """
        under_way, spared = float(self._answering + len(self._after)), list[Decision]()
        for decision, wait in zip(decisions, waits, strict=True):
            busy = under_way >= BUSY_AT and decision.probe_p > 0.0
            spared.append(replace(decision, probe_p=0.0) if busy else decision)
            under_way += 1.0 if wait else spared[-1].probe_p
        return spared

    async def _run_in_thread(self, by: _Serving, decision: Decision, request: Request) -> tuple[Decision, Answer]:
        self._answering += 1
        try:
            return await self._in_thread(by.orchestrator.run, decision, request, by.orchestrator.due(request))
        finally:
            self._answering -= 1

    def _in_thread(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def _begin_after(self, by: _Serving, function: Callable[..., Any], *arguments: Any) -> None:
        begun = self._in_thread(function, *arguments)
        self._after.add(begun)  # held, or the loop might drop it half way
        by.under_way += 1
        begun.add_done_callback(functools.partial(self._ended_after, by))

    def _ended_after(self, by: _Serving, begun: asyncio.Future[Any]) -> None:
        self._after.discard(begun)
        by.under_way -= 1
        if begun.cancelled():
            return
        if (problem := begun.exception()) is not None:
            _log.error("a probe or trial failed, its decision keeps what it had", exc_info=problem)
        elif isinstance(probed := begun.result(), Answer):
            telemetry.probed(probed.probes)

    def page(self, now: float) -> dict[str, Any]:
        """For the state page: the snapshot that this worker follows, how it finds energy, its decisions that could not
        be recorded, those over limits, what it has left of its share of each budget, and the members that are out of
        its service.
        """
        limiter, by = self._serving.orchestrator.limiter, self._serving
        out = {name: asdict(absence) for name, absence in by.faults.breaker.absent().items()}
        left = limiter.left(now)
        return {
            "snapshot_version": self.snapshot,
            "energy_from": self._meter.energy_from,
            "unrecorded": by.orchestrator.unrecorded,
            "over_limits": limiter.over,
            "left": left,
            "out_of_service": out,
            "config": self._live.page().model_dump(),
        }

    async def follow(self) -> None:
        """Take over each new snapshot and configuration, for as long as the process lives."""
        while True:
            self.poll()
            try:
                await self.keep_up()
                self._spool.renew()
                if self._power is not None:
                    self._power.sample()
            except Exception:
                self._seldom.error("the worker goes on after", exc_info=True)
            await asyncio.sleep(POLL_S)

    def poll(self) -> None:
        """Take over the newest snapshot, and keys, if there are newer ones. A bad one is logged and passed over."""
        self._keys.refresh()
        try:
            snapshot = self._reader.latest_after(self._seen)
            if snapshot is not None:
                self._seen = snapshot.version  # whatever comes of it, it is not tried again
                self._serving.learned.load(snapshot.payload)
                self.snapshot, self._payload = snapshot.version, snapshot.payload
        except BandmasterError as problem:
            self._seldom.error("%s", problem)
        except Exception:  # a worker that stopped following would be noticed by nobody
            _log.exception("snapshot %s cannot be taken over", self._seen)

    async def keep_up(self) -> None:
        """Serve by the configuration in force. What is new is made ready first, in a thread; requests that have begun
        end as they began, and members that nobody needs any more go after that.
        """
        for left in [left for left in self._leaving if not left.under_way]:
            self._leaving.remove(left)
            self._stop(left)
        if not self._live.changed():
            return
        if (found := await self._in_thread(self._live.newer)) is None:
            return
        await self._in_thread(self._started, found[1])
        serving = self._made(*found, self._serving)
        if self._payload:
            try:
                serving.learned.load(self._payload)
            except BandmasterError as problem:  # the learner will have one that fits
                _log.info("%s", problem)
        while self._turn:  # who has come already may ask for what there is no more
            self._take_turn()
        self._leaving.append(self._serving)
        self._serving = serving
        self._live.accept(*found)

    def _started(self, hosted: hosting.Hosted) -> None:
        """Have new members' processes be ready before anybody asks them."""
        for member in hosted.isolated:
            if member not in self._serving.hosted.isolated:
                try:
                    member.start_at_once()
                except MemberFailure as failure:  # the next call tries again
                    _log.warning("member %s cannot be started: %s", member.name, failure)

    def _stop(self, left: _Serving) -> None:
        """Let go of the members of a configuration that is over, unless another has them still."""
        left.hosted.stop([m for serving in (self._serving, *self._leaving) for m in serving.hosted.members.values()])

    async def close(self) -> None:
        """Finish the probes under way and let go of the files."""
        if self._after:
            await asyncio.wait(self._after, timeout=5.0)
        for serving in (self._serving, *self._leaving):
            serving.hosted.stop()
        self._others.close()
        self._threads.shutdown(wait=False)
        self._stage_threads.shutdown(wait=False)
        self._spool.close()
        self._reader.close()


def _warn(config: Config, workers: int) -> None:
    """Let the server's log know what can be served by so many, and may not be meant."""
    if (baseline := config.ignores_limits) is not None:
        _log.warning(
            "limits: in the shadow %s answers every request, whatever it breaks; write guard: {mode: canary} or a "
            "baseline that keeps them", baseline,
        )  # fmt: skip
    if config.guard and config.guard.mode in ("canary", "live") and config.guard.allowance.burn < workers:
        _log.warning(
            "guard.burn: %g, shared by %d workers, leaves each less room than one request may cost, so that the "
            "policy's choice may never answer; write burn: %d or more",
            config.guard.allowance.burn, workers, 10 * workers,
        )  # fmt: skip


def _told(name: str, absence: Absence | None) -> None:
    """Let the server's log know who goes out of service, and who comes back."""
    if absence is None:
        _log.warning("member %s is back in service", name)
    else:
        _log.warning(
            "member %s is out of service: %s; it is tried again in %.0f s", name, absence.error, absence.trial_in_s
        )


def worker_number() -> int:
    """This process's number among the service's workers, from 1; its process id where BentoML gives none."""
    from bentoml._internal.context import server_context

    return server_context.worker_index or os.getpid()


def worker_count() -> int:
    """How many workers this process's service has, as BentoML counts them; 1 where it runs in another's process."""
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.context import server_context
    from bentoml._internal.resource import system_resources

    service = BentoMLContainer.config.services.get().get(server_context.service_name) or {}
    workers = service.get("workers") or 1
    return int(system_resources()["cpu"]) or 1 if workers == "cpu_count" else int(workers)
