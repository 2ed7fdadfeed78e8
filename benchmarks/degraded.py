"""A member that silently degrades: how soon nobody relies on it any more, and how soon it is back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import joblib
import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from bandmaster import build
from bandmaster.config import Config
from bandmaster.core import BandmasterError, BoolArray, FloatArray
from bandmaster.recorded import RecordedLog
from bandmaster.replay import Drawn, Traffic, draw, run
from bandmaster.results import mean
from benchmarks.scenario import Degraded

WINDOW = 100
"""Answers that say whether a member is in use. A window begins where it is named by, so that it looks ahead."""

OUT = 0.05
"""A member is out while it takes part in no more than this share of a window's answers, and back once in more."""

WHOLE = 0.5
"""It is wholly back once it takes part in this share of what it takes part in on the same requests undisturbed."""

ALLOWED = 300
"""Labelled requests after which it shall be out, and stay so."""


SOON = 3000
"""Labelled requests after its recovery by which it shall be back."""


@dataclass(frozen=True, slots=True)
class Course:
    """One seed's figures; ``out_after``, ``back_after`` and ``whole_after`` count labelled requests, ``None`` where it
    never was. ``lost_while`` and ``lost_after`` are reward a request, against the same requests undisturbed: while it
    is degraded, and once it should be back. A member that is not wholly back, and lost nothing, has found a substitute.
    """

    used_before: float
    out_after: int | None
    out_share: float
    back_after: int | None
    whole_after: int | None
    lost_while: float
    lost_after: float


def measure(
    scenario: Degraded, config: Config, log: RecordedLog, seeds: int, jobs: int | None, told: Callable[[str], None]
) -> dict[str, float | None]:
    """Means over seeds; ``None`` where one seed has no figure. Raises ``BandmasterError`` when the log is too short."""
    needed = scenario.healthy + scenario.degraded + scenario.recovered
    if len(log) < needed:
        raise BandmasterError(f"{scenario.id}: needs {needed} requests, and the log has {len(log)}")
    tasks = [joblib.delayed(_course)(scenario, config, log, seed) for seed in range(seeds)]
    courses: list[Course] = []
    for found in joblib.Parallel(n_jobs=jobs or -1, return_as="generator")(tasks):
        courses.append(found)
        told(f"{len(courses)}/{seeds} out after {found.out_after}, back after {found.back_after}")
    return {
        "used_before": _mean([c.used_before for c in courses]),
        "out_after": _mean([c.out_after for c in courses]),
        "out_share": _mean([c.out_share for c in courses]),
        "back_after": _mean([c.back_after for c in courses]),
        "lost_while": _mean([c.lost_while for c in courses]),
        "lost_after": _mean([c.lost_after for c in courses]),
        "seeds_out": float(np.mean([c.out_after is not None for c in courses])),
        "seeds_back": float(np.mean([c.back_after is not None for c in courses])),
        "seeds_wholly_back": float(np.mean([c.whole_after is not None for c in courses])),
    }


def _mean(values: list[float] | list[int | None] | list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _course(scenario: Degraded, config: Config, log: RecordedLog, seed: int) -> Course:
    starts, ends = scenario.healthy, scenario.healthy + scenario.degraded
    drawn = draw(log, Traffic("shuffled", delay=0), seed)
    drawn = Drawn(_first(drawn.log, ends + scenario.recovered), drawn.arrivals[: ends + scenario.recovered])
    make = build.ReplayFactory(config)
    with threadpool_limits(1):
        undisturbed = run(drawn, make, scenario.policy, seed)
        # Whoever is used most when it begins: an attack on a member that nobody uses would show nothing.
        member = int(undisturbed.ran[starts // 2 : starts].mean(axis=0).argmax())
        rng = np.random.default_rng([seed, 3])
        broken = Drawn(shuffled(drawn.log, member, starts, ends, rng), drawn.arrivals)
        disturbed = run(broken, make, scenario.policy, seed)
    lost = undisturbed.reward - disturbed.reward
    return course(undisturbed.ran[:, member], disturbed.ran[:, member], lost, starts, ends)


def _first(log: RecordedLog, requests: int) -> RecordedLog:
    return log.redrawn(np.arange(requests))


def shuffled(log: RecordedLog, member: int, start: int, end: int, rng: np.random.Generator) -> RecordedLog:
    """The same traffic, in which one member's outputs to requests ``start`` to ``end`` are dealt to others of these.

    Every request must be there once. What the member says is as frequent and as confident as before, and wrong.
    """
    rows = log.rows[start:end]
    scores = np.array(log.scores)
    scores[rows, member] = scores[rng.permutation(rows), member]
    return replace(log, scores=scores)


def course(undisturbed: BoolArray, ran: BoolArray, lost: FloatArray, starts: int, ends: int) -> Course:
    """What became of a member that took part in the answers ``ran`` (N,), and ``undisturbed`` would have in these,
    each having ``lost`` so much reward, NaN where there is no label.
    """
    use = _ahead(ran[starts:ends])
    (out,) = np.nonzero(use <= OUT)
    again = _ahead(ran[ends:])
    (back,) = np.nonzero(again > OUT)
    (whole,) = np.nonzero(again >= WHOLE * undisturbed[ends:].mean())
    return Course(
        used_before=float(undisturbed[starts // 2 : starts].mean()),
        out_after=int(out[0]) if len(out) else None,
        out_share=1.0 - float(ran[starts + ALLOWED : ends].mean()),
        back_after=int(back[0]) if len(back) else None,
        whole_after=int(whole[0]) if len(whole) else None,
        lost_while=mean(lost[starts:ends]),
        lost_after=mean(lost[ends + SOON :]),
    )


def _ahead(ran: BoolArray) -> FloatArray:
    """The share of each window's answers that the member takes part in."""
    total = np.concatenate([[0], np.cumsum(ran)])
    return np.asarray((total[WINDOW:] - total[:-WINDOW]) / WINDOW)
