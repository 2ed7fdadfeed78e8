"""Do simulated runs rank policies as recorded ones do? One half of a log is fitted, the other is played."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from bandmaster import build
from bandmaster.config import Config
from bandmaster.recorded import RecordedLog
from bandmaster.replay import Bench, Step, Traffic, processes, replay
from bandmaster.simulator import fitted
from benchmarks.scenario import Fitted


def measure(
    scenario: Fitted,
    config: Config,
    log: RecordedLog,
    seeds: int,
    jobs: int | None,
    step: Callable[[Step], None],
    told: Callable[[str], None],
) -> dict[str, float | None]:
    """Kendall's τ between what policies earn on the half that is played and on traffic that is simulated like the other
    half, and what each earns on both.
    """
    order = np.random.default_rng(0).permutation(len(log))
    first, second = (log.redrawn(np.sort(half)) for half in np.array_split(order, 2))
    told(f"{scenario.id}: fitting {len(first)} requests")
    simulated = build.simulated_logs(config, fitted(first), range(seeds), len(second))
    recorded = _earned(build.bench(config, [second], Traffic("shuffled")), scenario.policies, seeds, jobs, step)
    made = _earned(build.bench(config, simulated), scenario.policies, seeds, jobs, step)
    return {
        "tau": float(stats.kendalltau(recorded, made).statistic),
        "policies": float(len(scenario.policies)),
        **{f"{policy}, recorded": r for policy, r in zip(scenario.policies, recorded, strict=True)},
        **{f"{policy}, simulated": r for policy, r in zip(scenario.policies, made, strict=True)},
    }


def _earned(
    bench: Bench, policies: Sequence[str], seeds: int, jobs: int | None, step: Callable[[Step], None]
) -> list[float]:
    (results,) = replay(bench, policies, seeds, spread=processes(jobs), progress=step)
    return [results.policies[policy].measures.reward for policy in policies]
