"""Are the probabilities that are recorded those that the record and the snapshot give, bit for bit?

    python -m tests.faults.propensity_audit --decisions 1000000

Decides as a worker does, by snapshots of a learner that learns meanwhile; members fail at random, go out of service
and come back, and requests bring deadlines. Every record goes through the journal's own bytes; a second learner, that
has seen nothing but the snapshots, computes its probabilities again.
"""

from __future__ import annotations

import itertools
import sys
import time
from dataclasses import dataclass, replace

import numpy as np

from bandmaster.breaker import Breaker, Breaking
from bandmaster.calling import Faults
from bandmaster.core import Answer, Array, Decision, IntArray, Member, MemberAnswer, Outcome, Request
from bandmaster.guard import Guarding
from bandmaster.journal.codec import decode, encode
from bandmaster.journal.memory import MemoryJournal
from bandmaster.learner import Learner, profile_figures
from bandmaster.orchestrator import settle
from bandmaster.policies.bandit import BanditPolicy
from bandmaster.recorded import RecordedLog, RecordedMeter
from bandmaster.testing import sample_learner, sample_log, sample_orchestrator
from tests.faults.command import parser

EVERY = 500
"""A snapshot is taken after so many decisions."""

LABELLED = 0.1
BOUT = 400
"""For so many requests the same members are ill."""


class FaultyMeter:
    """The log's meter, but members that are ``ill`` fail half of the time."""

    def __init__(self, log: RecordedLog, seed: int) -> None:
        self._log, self._rng, self.ill = RecordedMeter(log), np.random.default_rng(seed), frozenset[str]()

    def run(self, member: Member, rows: Array, index: IntArray, within_s: float = float("inf")) -> MemberAnswer:
        reply = self._log.run(member, rows, index)
        failed = member.name in self.ill and self._rng.random() < 0.5
        return replace(reply, scores=None, error="it broke") if failed else reply


@dataclass
class Audit:
    """How many ``decisions`` were looked at, how many had plans that might not be chosen (``masked``) or members that
    ``failed``, and how many are ``differing``.
    """

    decisions: int = 0
    masked: int = 0
    failed: int = 0
    differing: int = 0


def audit(decisions: int, seed: int = 0, guarding: Guarding | None = None, told: bool = False) -> Audit:
    """Decide, record, read and compute again."""
    log = sample_log(5_000, seed)
    learner, worker, auditor = (_learner(log, guarding) for _ in range(3))
    rng, found = np.random.default_rng(seed), Audit()
    journal, meter = MemoryJournal(2.0 * EVERY, keep=False), FaultyMeter(log, seed)
    ticks = itertools.count()

    def clock() -> float:
        return next(ticks) / 100.0

    faults = Faults(Breaker(log.ensemble.names, Breaking(after=2, cooldown_s=1.0), clock), clock=clock)
    orchestrator = sample_orchestrator(worker, log, journal, seed=seed, meter=meter, faults=faults)
    waiting: list[tuple[str, int]] = []
    for i in range(decisions):
        if i % BOUT == 0:
            meter.ill = frozenset(n for n in log.ensemble.names if rng.random() < 0.3)
        if i % EVERY == 0:
            for name, label in waiting:
                settle(journal, learner, name, Outcome(float(i), (label,)))
            waiting, snapshot = [], learner.dump()
            worker.load(snapshot)
            auditor.load(snapshot)
            if told and i % 50_000 == 0:
                print(f"  {i}: {found}", flush=True)
        row = i % len(log.truth)
        deadline_s = 0.05 if rng.random() < 0.1 else None
        request = Request(np.array([[row]]), log.features[row], float(i), deadline_s=deadline_s)
        decision, answer = orchestrator.answer(request)
        if decision.probed:
            answer = orchestrator.probe(decision, answer, request)
        if (name := faults.breaker.due()) is not None:
            orchestrator.trial(name, request)
        if rng.random() < LABELLED:
            waiting.append((decision.id, int(log.truth[row])))
        _compare(auditor, decode(encode(decision), Decision), decode(encode(answer), Answer), found)
    return found


def _learner(log: RecordedLog, guarding: Guarding | None) -> Learner:
    figures = profile_figures(log.ensemble)
    return sample_learner(
        lambda plans, *known: BanditPolicy(plans, known[0], figures, known[1]), log, guarding=guarding
    )


def _compare(auditor: Learner, decision: Decision, answer: Answer, found: Audit) -> None:
    p = auditor.manager.distribution(decision.state)
    if decision.exposure is None:
        same = decision.plans == auditor.manager.policy.catalogue.names and np.array_equal(p, decision.probabilities)
    else:  # with a guard the record says what the policy had chosen, and how likely that was to answer
        intended = auditor.manager.policy.catalogue.names.index(decision.exposure.intended)
        same = p[intended] == decision.exposure.p
        if decision.exposure.exposed:
            same &= decision.propensity == p[intended] * decision.exposure.share
    found.decisions += 1
    found.masked += bool(decision.state.fits)
    found.failed += any(reply.error is not None for reply in answer.ran)
    found.differing += not same


def main() -> int:
    asked = parser(__doc__, "decisions", 1_000_000).parse_args()
    start = time.monotonic()
    found = audit(asked.decisions, asked.seed, told=True)
    print(f"{found}, {time.monotonic() - start:.0f} s")
    return 1 if found.differing else 0


if __name__ == "__main__":
    sys.exit(main())
