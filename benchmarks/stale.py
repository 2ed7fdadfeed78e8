"""What it costs in reward that workers answer by a snapshot that is so many seconds old."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import joblib
import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from bandmaster import build
from bandmaster.calling import Caller
from bandmaster.config import Config
from bandmaster.core import Answer, Decision, Request
from bandmaster.intervals import t_interval
from bandmaster.learner import Learner
from bandmaster.orchestrator import Orchestrator
from bandmaster.recorded import RecordedLog, RecordedMember, RecordedMeter
from bandmaster.replay import Parts
from bandmaster.replay.playing import run
from bandmaster.replay.traffic import draw
from benchmarks.scenario import Stale


class _Follower(Orchestrator):
    """Answers as a worker does: by the newest snapshot, of which there is one ``every`` so many requests."""

    learner: Learner
    learned: Learner
    every: int
    asked = 0

    def answer(self, request: Request) -> tuple[Decision, Answer]:
        if self.asked % self.every == 0:
            self.learned.load(self.learner.dump())
        self.asked += 1
        return super().answer(request)


@dataclass(frozen=True, slots=True)
class StaleFactory:
    """Parts whose answering half follows the learner so many requests late; 0: it knows at once what was learned."""

    config: Config
    every: int

    def __call__(self, spec: str, log: RecordedLog, seed: int) -> Parts:
        parts = build.ReplayFactory(self.config)(spec, log, seed)
        if not self.every:
            return parts
        plans = build.catalogue(self.config, log.ensemble)
        learned = build.learner(replace(self.config, seed=seed), plans, np.random.default_rng([seed, 2]), spec)
        members = {n: RecordedMember(n, log.scores[:, m]) for m, n in enumerate(log.ensemble.names)}
        count = itertools.count()
        follower = _Follower(
            ensemble=log.ensemble,
            state=learned.state,
            manager=learned.manager,
            caller=Caller(members, RecordedMeter(log)),
            recorder=parts.journal,
            new_id=lambda at: str(next(count)),
        )
        follower.learner, follower.learned, follower.every = parts.learner, learned, self.every
        return Parts(follower, parts.learner, parts.journal)


def measure(
    scenario: Stale, config: Config, logs: Sequence[RecordedLog], seeds: int, told: Callable[[str], None]
) -> dict[str, float | None]:
    """Mean ``reward_N`` where snapshots come every N seconds of traffic at ``per_s`` requests a second, and
    ``lost_N``, by how much less that is than where everything is known at once, with its paired 95 % interval.
    """
    tasks = [(lag, seed) for lag in scenario.lags_s for seed in range(seeds)]
    told(f"{scenario.id}: {len(tasks)} runs")
    found = joblib.Parallel(n_jobs=-1)(joblib.delayed(_reward)(scenario, config, logs, *task) for task in tasks)
    by_lag = dict(zip(scenario.lags_s, np.array(found).reshape(len(scenario.lags_s), seeds), strict=True))
    figures: dict[str, float | None] = {}
    for lag, rewards in by_lag.items():
        figures[f"reward_{lag:g}"] = float(rewards.mean())
        if lag:
            lost = by_lag[0.0] - rewards
            low, high = t_interval(lost)
            figures |= {f"lost_{lag:g}": float(lost.mean()), f"lost_{lag:g}_low": low, f"lost_{lag:g}_high": high}
    return figures


def _reward(scenario: Stale, config: Config, logs: Sequence[RecordedLog], lag_s: float, seed: int) -> float:
    drawn = draw(logs[seed % len(logs)], scenario.traffic.traffic(), seed)
    with threadpool_limits(1):
        trace = run(drawn, StaleFactory(config, round(lag_s * scenario.per_s)), scenario.policy, seed)
    return float(np.nanmean(trace.reward))
