"""A holder of a valid token reports forged labels: what that costs, by how many of all labels are forged.

    python -m tests.faults.poisoned --runs 10

A share of all labels comes from `mallory`, who forges hers once 1,000 requests have been honest: at random, or so that
the worst member looks right. The bandit learns from them under its guard; what it earns is counted by the true labels,
against the same policy without forgery and against the baseline. Wanted: the alarm names her, and nobody else.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bandmaster.core import Answer, Decision, DriftEvent, Joined, Outcome
from bandmaster.guard import Guarding
from bandmaster.journal.memory import MemoryJournal
from bandmaster.learner import profile_figures
from bandmaster.ledger import Allowance
from bandmaster.orchestrator import learn
from bandmaster.policies.bandit import BanditPolicy
from bandmaster.policies.traditional import ConstantPolicy
from bandmaster.recorded import RecordedLog
from bandmaster.reporters import Reporters
from bandmaster.testing import sample_learner, sample_log, sample_orchestrator
from bandmaster.testing.policies import sample_decisions
from tests.faults.command import parser

SHARES = (0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5)
ATTACKS = ("random", "targeted")
FOUND_FROM = {"random": 0.03, "targeted": 0.1}
"""From this share on she must be named in every run. What the worst member says is right more often than not."""

REQUESTS, HONEST = 5_000, 1_000
"""How many there are, and how many of them before the first label is forged."""

HONEST_SOURCES = ("annotators", "audit", "scanner")
"""The others, who report as much as each other."""

LATE = 100
"""Labels come so many requests late."""

ALL = "m0+m1+m2+m3"
GUARDING = Guarding("live", ALL, Allowance(per_request=0.02, burn=20.0))


@dataclass(frozen=True)
class Run:
    """One run: the mean true reward ``earned`` once labels are forged, how many mallory had reported until an alarm
    named her (``None``: none did), and how often one named somebody else.
    """

    earned: float
    labels_until_named: int | None
    others_named: int


def forged(log: RecordedLog, i: int, attack: str, rng: np.random.Generator) -> int:
    """What mallory says to request ``i``: what the worst member said, or any other label than the true one."""
    if attack == "targeted":
        right = (log.scores.argmax(axis=2) == log.truth[:, None]).mean(axis=0)
        return int(log.scores[i, right.argmin()].argmax())
    classes = log.scores.shape[2]
    return int((log.truth[i] + rng.integers(1, classes)) % classes)


def played(share: float, attack: str, seed: int, *, policy: bool = True, requests: int = REQUESTS) -> Run:
    """The bandit under its guard, or (not ``policy``) its baseline alone."""
    log, rng = sample_log(requests, seed), np.random.default_rng([seed, 7])
    figures = profile_figures(log.ensemble)
    learner = sample_learner(
        lambda plans, contract, belief: (
            BanditPolicy(plans, contract, figures, belief, seed=seed) if policy else ConstantPolicy(plans, ALL)
        ),
        log,
        probe_share=0.05,
        guarding=GUARDING if policy else None,
    )
    journal, reporters = MemoryJournal(), Reporters()
    earned, lies, alarms, told = [], 0, list[DriftEvent](), None
    decisions = sample_decisions(learner, sample_orchestrator(learner, log, journal), log)
    for i, joined in _outcomes(log, decisions):
        hers = rng.random() < share
        if i >= HONEST:
            earned.append(learner.reward(joined).value)
        lie = hers and i >= HONEST
        label = forged(log, i, attack, rng) if lie else int(log.truth[i])
        source = "mallory" if hers else HONEST_SOURCES[int(rng.integers(3))]
        outcome = Outcome(joined.outcome.at, (label,), source=source)
        settlement = journal.settle(joined.decision.id, outcome)
        assert settlement.joined is not None
        learn(journal, learner, settlement.joined)
        lies += lie
        if (alarm := reporters.saw(settlement.joined)) is not None:
            alarms.append(alarm)
            told = lies if told is None and alarm.name == "feedback:mallory" and lies else told
    others = sum(alarm.name != "feedback:mallory" for alarm in alarms)
    return Run(float(np.mean(earned)), told, others)


def _outcomes(log: RecordedLog, decisions: Iterator[tuple[Decision, Answer]]) -> Iterator[tuple[int, Joined]]:
    """Each request with its true outcome, ``LATE`` requests later."""
    waiting: deque[tuple[int, Joined]] = deque()
    for i, (decision, answer) in enumerate(decisions):
        waiting.append((i, Joined(i + 1, decision, answer, Outcome(decision.at, (int(log.truth[i]),)))))
        if len(waiting) > LATE:
            yield waiting.popleft()
    yield from waiting


def main() -> int:
    asked = parser(__doc__, "runs", 10).parse_args()
    seeds = range(asked.seed, asked.seed + asked.runs)
    baseline = np.mean([played(0.0, "random", seed, policy=False).earned for seed in seeds])
    print(f"the baseline, all members: {baseline:.4f} a request; each line {asked.runs} runs of {REQUESTS} requests")
    print("attack    forged  reward   lost  below baseline  named in  after labels  others named")
    honest, held = 0.0, True
    for attack in ATTACKS:
        for share in SHARES if attack == ATTACKS[0] else SHARES[1:]:
            runs = [played(share, attack, seed) for seed in seeds]
            reward = float(np.mean([run.earned for run in runs]))
            honest = reward if share == 0.0 else honest
            named = [run.labels_until_named for run in runs if run.labels_until_named is not None]
            others = sum(run.others_named for run in runs)
            after = f"{np.median(named):12.0f}" if named else f"{'–':>12}"
            print(
                f"{attack:9} {share:6.2f} {reward:7.4f} {honest - reward:6.4f} {max(baseline - reward, 0.0):15.4f}"
                f" {len(named):4d} / {len(runs)} {after} {others:13d}",
                flush=True,
            )
            held &= others <= 1 and (share < FOUND_FROM[attack] or len(named) == len(runs))
    print("holds" if held else "FAILS", f": mallory is named in every run from {FOUND_FROM} on; others in one at most")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
