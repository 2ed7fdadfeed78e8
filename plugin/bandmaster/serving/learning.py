"""What the learner does in its process: settles outcomes, learns, publishes snapshots. Off the predict path."""

from __future__ import annotations

import fcntl
import gc
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TextIO, TypeVar

import numpy as np

from bandmaster import build, hosting
from bandmaster.config import Config
from bandmaster.core import (
    Answer,
    BandmasterError,
    Decision,
    DriftEvent,
    Experience,
    Joined,
    Outcome,
    Settlement,
    Snapshot,
    State,
)
from bandmaster.guard import Guard
from bandmaster.journal.keys import Keys
from bandmaster.journal.opening import open_journal, shares_of
from bandmaster.journal.places import lease_file, locate
from bandmaster.journal.snapshots import SnapshotReader
from bandmaster.learner import Learner
from bandmaster.metrics import NoFigureError
from bandmaster.orchestrator import keep, lesson_of
from bandmaster.pin import Pin
from bandmaster.reporters import Reporters
from bandmaster.serving import telemetry
from bandmaster.serving.conducting import Conducting
from bandmaster.serving.live import Live, Made
from bandmaster.serving.pages import (
    EventPage,
    Receipt,
    Report,
    StatePage,
    agent_page,
    guard_page,
    label_mix,
    member_pages,
)
from bandmaster.state import Heard
from bandmaster.visualizer.keeper import Keeper

_log = logging.getLogger("bandmaster.learning")

P = TypeVar("P")
R = TypeVar("R")

SNAPSHOT_EVERY_S = 0.2
"""What was learned reaches the workers within this and one of their polls."""

NOTICED_EVERY_S = 1.0
"""The same for what requests tell before their outcomes are known: it changes little at a time, and workers take some
ten milliseconds for each snapshot."""

PIN, UNPIN = "pin", "unpin"
"""The alarms that somebody has the baseline answer alone, the cause being why; and that he does no more."""

CATCH_UP_S = 0.2
"""For so long at a time is learned from what others have joined: snapshots come, and feedback is taken, meanwhile."""

AT_ONCE = 50
"""From so many outcomes is learned in one go."""

LEASE_PATIENCE_S = 5.0
"""For how long a predecessor that is just stopping may still hold the lease."""

RELEARNED = 2_000
"""So many of the newest outcomes are learned from again where a change of the configuration leaves nothing else: a
second or two, in which nobody else is served."""

REMEMBERED = 2_000
"""So many outcomes before its last snapshot a learner that starts looks at again, to know who reports how."""

GOLDEN = 8
"""The states of so many requests, the newest, a snapshot is tried on before it goes live."""

EXPIRE_EVERY_S = 60.0
"""How often is looked for decisions that have been kept long enough."""


class LearningLoop:
    """The one learner of a journal. Of several replicas that share one, whoever leads learns; the others settle what is
    reported to them, and follow its snapshots.
    """

    def __init__(self, made: Made) -> None:
        """Raises ``BandmasterError`` when another learner holds the lease and does not let go in time."""
        config, ensemble = made.config, made.hosted.ensemble
        telemetry.begin(telemetry.LEARNER)
        path = locate(config.journal, config.root)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lease = take_lease(path)
        self.live, self._conducting = Live(made), Conducting(made.manager)
        self._config, self._ensemble = config, ensemble
        self._keys = Keys.of(path.parent)
        window_s = config.feedback.window_s
        self._journal = open_journal(config.journal, config.root, self._keys, window_s, self._notice)
        self._followed = SnapshotReader(path, self._keys)
        self._keeper, self._lag_s = Keeper(path), 0.0
        self._learner, self._spare = self._learners()
        self._version, self._cursor = 0, 0  # of the last snapshot, and of the last outcome that was learned from
        self._leads, self._unfit = False, False
        self._golden: deque[tuple[Decision, Answer]] = deque(maxlen=GOLDEN)
        self._dirty, self._noticed, self._published, self._expires = False, False, 0.0, 0.0
        self._reporters = None if ensemble.regression else Reporters()
        self._pin = Pin(path)
        self._shares = shares_of(config.journal, config.root)
        self._pinned: str | None = None
        if self._journal.lead():
            self._begin_to_lead()

    def _learners(self) -> tuple[Learner, Learner]:
        """Two that have learned nothing yet, under the configuration that is served by."""
        config, plans = self._config, build.catalogue(self._config, self._ensemble)
        first, second = (
            build.learner(config, plans, np.random.default_rng(config.seed), guarding=config.guarding) for _ in range(2)
        )
        return first, second

    def keep_up(self, found: tuple[Config, hosting.Hosted]) -> None:
        """Learn under another configuration from now on: with what has been learned where that fits it, and else with
        the newest of what the journal holds. Who follows takes what the one that leads makes of it.
        """
        learned = self._learner.dump()
        self._config, self._ensemble = found[0], found[1].ensemble
        self._learner, self._spare = self._learners()
        if not self._leads:
            self.live.accept(*found)
            self._version = 0
            return
        try:
            self._learner.load(learned)
        except BandmasterError as problem:
            _log.info("%s", problem)
            self._relearn(max(self._journal.counts().joined - RELEARNED, 0))
        self._conducting.adopt(self._config, self._learner)
        self._golden.clear()
        now = time.time()
        for name, was, origin in self.live.accept(*found):
            self._journal.save_event(DriftEvent(f"model:{name}", now, f"is {origin} now, and was {was}"))
        self._publish(now)

    def _relearn(self, cursor: int) -> None:
        """Learn again from what the journal holds after a settlement; all else that follows from it followed then."""
        for joined in self._journal.since(cursor):
            if self._learner.refuses(joined) is None:
                self._journal.lead()
                self._learner.notice(joined.decision, joined.answer)
                try:
                    self._learner.learn(self._learner.lesson(joined))
                except NoFigureError:
                    continue

    def _begin_to_lead(self) -> None:
        """Go on where whoever led before left off. That may take long, and whoever is not heard of is taken for dead:
        it asks to lead all the while.
        """
        self._learner, self._spare = self._learners()
        self._pinned = self._last_pinned()
        self._restore()
        self._leads = True

    def _restore(self) -> None:
        # Versions only ever grow, past those that cannot be read too: workers look for greater ones.
        self._version = self._journal.last_snapshot_version()
        snapshot, anew = self._journal.latest_snapshot(), True
        self._cursor = 0
        if snapshot is not None:
            try:
                self._learner.load(snapshot.payload)
                self._cursor, anew = snapshot.cursor, False
            except BandmasterError as problem:
                _log.warning("%s", problem)
        if self._learner.guard is not None:  # what was answered since that snapshot is exposed still
            for decision in self._journal.unsettled(time.time() - self._config.feedback.window_s):
                self._journal.lead()
                self._learner.guard.take_up(decision)
        last = self._cursor
        before = self._journal.since(max(last - REMEMBERED, 0)) if last else iter(())
        for joined in itertools.takewhile(lambda j: j.seq <= last, before):
            if self._learner.refuses(joined) is None:
                self._report(joined)  # its alarms were raised then
        refused = 0
        for joined in self._journal.since(last):
            self._journal.lead()
            if (why := self._learner.refuses(joined)) is None:
                if anew:  # what was noticed of it is lost with the rest
                    self._notice([(joined.decision, joined.answer)])
                self._learn([joined])
            else:
                refused += 1
                self._cursor = joined.seq
        self._conducting.adopt(self._config, self._learner)
        self._good = self._learner.dump()
        if refused:
            _log.warning("%d earlier decisions cannot be learned from; the last one because %s", refused, why)

    def _learn(self, every: Sequence[Joined]) -> dict[str, Experience | None]:
        """Learn from what the journal holds for good, in order. Whatever goes wrong costs one lesson, not the learner.

        Each step is taken for ``AT_ONCE`` of them before the next: what a processor does again and again it does in two
        thirds of the time.
        """
        learned = dict[str, Experience | None]()
        read, learn = partial(lesson_of, self._learner), self._learner.learn
        for first in range(0, len(every), AT_ONCE):
            some = every[first : first + AT_ONCE]
            lessons = [_tried(joined, read, joined) for joined in some]
            found = [None if lesson is None else _tried(lesson.joined, learn, lesson) for lesson in lessons]
            for joined, experience in zip(some, found, strict=True):
                if experience is not None:
                    self._dirty = True
                    _tried(joined, self._tell, experience)
                self._keeper.learned(self._learner, joined, experience)
                learned[joined.decision.id] = experience
            self._cursor = some[-1].seq
        return learned

    def _tell(self, experience: Experience) -> None:
        """Keep what was learned from, and let others know."""
        keep(self._journal, experience)
        telemetry.learned(experience)
        if (alarm := self._report(experience.joined)) is not None:
            self._alarm(alarm)

    def _catch_up(self) -> None:
        """Learn from what has been joined, here or by other replicas, and was not learned from yet."""
        last = self._journal.counts().joined
        if last > self._cursor and self._learn_since()[1]:
            self._cursor = max(self._cursor, last)  # past what is damaged, too

    def _learn_since(self) -> tuple[dict[str, Experience | None], bool]:
        """Learn from what the journal holds after what was learned from, for ``CATCH_UP_S`` at most: there may be more
        than one learner keeps up with. What was learned, and whether that is all. Nothing while requests are yet to be
        noticed: that comes before their outcomes.
        """
        learned, end = dict[str, Experience | None](), time.monotonic() + CATCH_UP_S
        if self._journal.behind:
            return learned, False
        rest = self._journal.since(self._cursor)
        while some := list(itertools.islice(rest, AT_ONCE)):
            self._journal.lead()
            learned |= self._learn(some)
            if time.monotonic() > end:
                return learned, False
        return learned, True

    def _learn_all(self, joined: Sequence[Joined]) -> dict[str, Experience | None]:
        """Learn from what was joined just now; after what others have joined before, if there are such."""
        if joined and joined[0].seq > self._cursor + 1:
            return self._learn_since()[0]
        return self._learn(joined)

    def _alarm(self, event: DriftEvent) -> None:
        self._journal.save_event(event)
        telemetry.alarmed(event)

    def _report(self, joined: Joined) -> DriftEvent | None:
        """Keep book of who reported; the alarm, where that makes him suspected."""
        return None if self._reporters is None else self._reporters.saw(joined)

    def _notice(self, answered: Sequence[tuple[Decision, Answer]]) -> None:
        """Notice requests that the journal holds for good, each once, before its outcome is learned.

        A request that was noticed after the last snapshot of a learner that then died is not noticed again: at most
        ``NOTICED_EVERY_S`` of traffic. Nor is one whose worker died before its probe came, unless an outcome does.
        """
        every = list[Heard]()
        for decision, answer in answered:
            try:
                heard, alarm = self._learner.hear(decision, answer)
                if heard is not None:
                    every.append(heard)
                if alarm is not None:
                    self._alarm(alarm)
            except Exception:
                _log.exception("decision %s cannot be noticed", decision.id)
            self._keeper.decided(self._learner, decision, answer)
        try:
            self._learner.state.notice(every)
        except Exception:
            _log.exception("%d decisions cannot be noticed", len(every))
        self._golden.extend(answered[-GOLDEN:])
        self._lag_s, self._noticed = time.time() - answered[-1][0].at, True

    def settle(self, reports: Sequence[Report]) -> list[Receipt]:
        """Settle outcomes in order; once this returns they survive a power cut. If one is refused, none is settled."""
        rows = self._journal.rows([report.decision_id for report in reports if report.labels is not None])
        misfits = [_misfit(report, rows.get(report.decision_id)) for report in reports]
        if any(misfits):
            return [
                Receipt(decision_id=r.decision_id, status="refused", why=w)
                for r, w in zip(reports, misfits, strict=True)
            ]
        with _uncollected():
            receipts = self._settled(reports)
        telemetry.tell()
        return receipts

    def _settled(self, reports: Sequence[Report]) -> list[Receipt]:
        outcomes = [(report.decision_id, _outcome(report), report.decided_at) for report in reports]
        settled = self._journal.settle_all(outcomes)
        joined = [settlement.joined for settlement in settled if settlement.joined is not None]
        with self._journal.rewards_together():
            learned = self._learn_all(joined) if self._leads else {}
        return [_receipt(r.decision_id, s, learned) for r, s in zip(reports, settled, strict=True)]

    def reject(self) -> None:
        """Count an outcome whose id nobody signed."""
        self._journal.reject()

    def forget(self, decision_id: str, decided_at: float | None) -> bool:
        """Remove what was recorded of one decision, and a probe of it that awaits its outcome; whether there was
        anything. ``decided_at`` (Unix s) is what its id tells, where we signed that.
        """
        there = self._journal.forget(decision_id, decided_at)
        if self._leads:  # else the one that does is told
            self._unlearn(decision_id)
        self._journal.scrub()
        return there

    def _unlearn(self, decision_id: str) -> None:
        """Keep no single probe of it in what is published, nor in what was."""
        if self._learner.manager.forget(decision_id):
            self._spare.load(self._good)  # nor is it to come back with what was good before
            self._spare.manager.forget(decision_id)
            self._good = self._spare.dump()
            self._publish(time.time())
            self._journal.keep_snapshots(1)

    def tick(self) -> None:
        """Take in what the workers recorded, learn what is due, publish what was learned."""
        now = time.time()
        leads = self._journal.lead()
        if self._shares is not None:
            self._shares.follow()
        if not leads:
            self._follow(now)
            return
        if not self._leads:
            _log.info("this replica learns from now on")
            self._begin_to_lead()
        due = self._journal.due(now)
        for decision_id in self._journal.forgotten():
            self._unlearn(decision_id)
        with self._journal.rewards_together():
            self._learn_all(due)
            self._catch_up()
        if self._learner.guard is not None:
            self._watch(self._learner.guard, now)
        self._conducting.act(self._config, self._learner)
        self._expire(now)
        self._keeper.tick(self._learner, self._journal, now)
        every = SNAPSHOT_EVERY_S if self._dirty else NOTICED_EVERY_S if self._noticed else math.inf
        if time.monotonic() - self._published >= every:  # though the clock goes back
            self._publish(now)
        telemetry.tell()

    def _follow(self, now: float) -> None:
        """Hand on what this replica's workers recorded, and have them find what the one that leads has learned."""
        self._leads = False
        self._journal.drain()
        self._keeper.tick(self._learner, self._journal, now)

    def _take_up(self) -> None:
        """Know what the one that leads has learned. That takes ten milliseconds, and nobody here decides by it."""
        if (snapshot := self._followed.latest_after(self._version)) is not None:
            try:
                self._learner.load(snapshot.payload)
                self._version = snapshot.version
            except BandmasterError as problem:  # it is of a configuration that is not in force here yet, or no more
                _log.info("%s", problem)

    def _publish(self, now: float) -> None:
        """Let workers have what has been learned; or, where it must not go live, what was learned before."""
        why = None
        try:
            payload = self._learner.dump()
            self._try(payload)
        except Exception as problem:  # of whatever kind: workers would meet it too
            why = f"{type(problem).__name__}: {problem}"
            payload = self._learner.roll_back(self._good)
            if not self._unfit:
                cause = f"what was learned since snapshot {self._version} is given up, as it could not go live: {why}"
                self._alarm(DriftEvent("learner", now, cause))
                _log.error("%s", cause)
        self._unfit = why is not None
        self._keys.refresh()
        self._version += 1
        self._journal.save_snapshot(Snapshot(self._version, self._cursor, now, payload))
        self._good, self._dirty, self._noticed, self._published = payload, False, False, time.monotonic()
        telemetry.stands(self._lag_s, self._version, self._learner.guard, pinned=self._pinned is not None)

    def _try(self, payload: bytes) -> None:
        """Load a snapshot beside the learner. Raises whatever that raises, and ``BandmasterError`` where it gives, for
        the newest requests' states, no distribution, or another one than was learned.
        """
        self._spare.load(payload)
        for state in self._golden_states():
            p, loaded = (learner.manager.distribution(state) for learner in (self._learner, self._spare))
            if not np.array_equal(p, loaded):
                raise BandmasterError("loaded, it decides otherwise than it was learned")

    def _golden_states(self) -> Iterator[State]:
        """Those that may have been decided under the present configuration."""
        for decision, answer in self._golden:
            if self._learner.knows(decision, answer):
                # Which plans fitted, and who was out, was said of a catalogue that may be another by now.
                yield replace(decision.state, fits=(), out=())

    def _expire(self, now: float) -> None:
        """Remove what has been kept long enough: some at every tick until nothing is left, so that others need not
        wait.
        """
        kept_s = self._config.retention_s
        if kept_s is not None and now >= self._expires:
            if self._journal.expire(now - kept_s):
                return
            self._expires = now + EXPIRE_EVERY_S
        self._journal.scrub()

    def _watch(self, guard: Guard, now: float) -> None:
        """Let the guard know what time it is, and whether somebody has the baseline answer alone."""
        if self._journal.whole and not self._journal.behind:
            guard.counted = now  # all that was recorded until then has been taken in
        guard.ledger.expire(now - self._config.feedback.window_s)
        silent = guard.silent
        if (alarm := guard.listen(now)) is not None:
            self._alarm(alarm)
        self._noticed |= guard.silent != silent  # workers are to know
        why = self._pin.why
        if why != self._pinned:
            told = DriftEvent(UNPIN, now, "the guard decides again") if why is None else DriftEvent(PIN, now, why)
            self._alarm(told)
            self._pinned = why
        guard.pinned = why is not None

    def _last_pinned(self) -> str | None:
        """Why the baseline answered alone when the alarms last told of it; ``None`` where it did not."""
        told = [event for event in self._journal.events() if event.name in (PIN, UNPIN)]
        return told[-1].cause if told and told[-1].name == PIN else None

    def state(self) -> StatePage:
        if not self._leads:
            self._take_up()
        state, policy = self._learner.state, self._learner.manager.policy
        waiting = self._journal.drain()  # what was answered before is counted, not only what a tick has taken in
        counts = self._journal.counts()
        return StatePage(
            leads=self._leads,
            policy=policy.name,
            policy_version=policy.version,
            snapshot_version=self._version,
            plans=len(policy.catalogue),
            reward=state.recent_reward,
            label_mix=label_mix(self._ensemble, state.label_mix),
            repeats=state.repeats_now,
            members=member_pages(self._ensemble, state.statistics()),
            contract=self._config.contract.describe(),
            counts={name: getattr(counts, name) for name in counts.__slots__},
            lag_s=self._lag_s,
            waiting=waiting,
            without_reward=self._learner.without_reward,
            sources=self._reporters.standings() if self._reporters else [],
            drift=[EventPage(name=e.name, at=e.at, cause=e.cause) for e in self._journal.events(last=50)],
            guard=guard_page(self._learner.guard, self._pin.why) if self._learner.guard else None,
            agent=agent_page(self._learner.manager, self._conducting.refused),
            config=self.live.page(),
        )

    def close(self) -> None:
        """Publish the last of what was learned and let the lease go."""
        self._published = 0.0
        try:
            self.tick()
        finally:
            self._keeper.close()
            self._followed.close()
            if self._shares is not None:
                self._shares.close()
            self._journal.close()
            self._lease.close()


def _tried(joined: Joined, step: Callable[[P], R], of: P) -> R | None:
    """What a step of learning from a settled decision gives, ``None`` where it fails."""
    try:
        return step(of)
    except Exception:
        _log.exception("decision %s is settled, but could not be learned from", joined.decision.id)
        return None


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector, which would walk the records of a batch again and again while they are in use.
    Nothing in them refers to itself: they go with the last reference, before it is back.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _misfit(report: Report, rows: int | None) -> str | None:
    """What is wrong with the labels of a decision that answered so many ``rows``, as far as that is known."""
    if report.labels is None or rows is None or len(report.labels) == rows:
        return None
    return (
        f"decision {report.decision_id} answered {rows} rows, but {len(report.labels)} labels came; send a list with "
        "one label a row"
    )


def _receipt(decision_id: str, settlement: Settlement, learned: Mapping[str, Experience | None]) -> Receipt:
    telemetry.settled(settlement.status.value)
    experience = learned.get(decision_id) if settlement.joined else None
    reward = experience.reward.value if experience else None
    return Receipt(decision_id=decision_id, status=settlement.status.value, reward=reward)


def _outcome(report: Report) -> Outcome:
    return Outcome(report.at, report.labels, report.reward, report.consensus, report.source)


def take_lease(journal: Path) -> TextIO:
    """What only one process of this machine can hold, until it is closed. Raises ``BandmasterError`` where another
    does, and does not let go in time.
    """
    lease = lease_file(journal).open("w")
    deadline = time.monotonic() + LEASE_PATIENCE_S
    while True:
        try:
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lease
        except BlockingIOError:
            if time.monotonic() > deadline:
                lease.close()
                raise BandmasterError(
                    f"{journal}: another learner holds its lease ({lease.name}); stop that service, or give this one "
                    "a journal of its own"
                ) from None
            time.sleep(0.1)
