"""How long scenarios may take: what each has to play, and from the first ones on what that took here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import polars as pl

from bandmaster.references import SEEDLESS
from benchmarks.scenario import (
    UNAVAILABLE,
    AnySource,
    Bundled,
    Degraded,
    Digits,
    Generated,
    Made,
    Play,
    Recording,
    Replayed,
    Scenario,
    TrafficSpec,
)
from benchmarks.sources import Place

US: Mapping[str, float] = {
    "bandit": 1500, "scoring": 900, "blast": 900, "knora-e": 1400, "thompson": 900, "exp4": 600, "vw": 700,
    "constant": 400, "random": 400, "exp3": 400, "ucb": 400, "knora-u": 150, "frugalml-offline": 30,
    "dynamic-weighted-majority": 20,
}  # fmt: skip
"""µs of one core that a policy takes for a request, roughly: only their ratios count once something has run."""

SOME = 1000.0
"""For a policy that is not among them."""


def effort(scenario: Scenario, place: Place, seeds: int | None) -> float:
    """Seconds of one core, roughly, that a scenario takes; 0 where it cannot run here."""
    if isinstance(scenario, Degraded):
        requests = scenario.healthy + scenario.degraded + scenario.recovered
        return 2e-6 * (seeds or scenario.seeds) * requests * US.get(scenario.policy, SOME)
    if not isinstance(scenario, Replayed):
        return 0.0
    rows = _rows(scenario.source, place)
    return sum(
        1e-6 * US.get(policy.partition(":")[0], SOME) * requests
        for play in scenario.all_plays().values()
        for policy, requests in policy_requests(play, rows, seeds or scenario.seeds).items()
    )


def policy_requests(play: Play, rows: int, seeds: int) -> dict[str, int]:
    """How many requests each policy is asked, in all runs of a play over a log of so many rows."""
    spec = play.traffic or TrafficSpec()
    requests = spec.mix.requests if spec.mix else rows
    shared = spec.order == "kept" and spec.label_share == 1.0
    return {
        policy: requests * (1 if shared and policy.partition(":")[0] in {"constant", *SEEDLESS} else seeds)
        for policy in play.policies
        if policy not in UNAVAILABLE
    }


def _rows(source: AnySource, place: Place) -> int:
    """Requests of a log, without making it."""
    match source:
        case Digits(requests=requests):
            return requests
        case Made(rows=rows):
            return rows
        case Generated(segments=segments):
            return sum(segment.rows for segment in segments) * 4 // 5
        case Bundled():
            return 2000  # some thousand at most
        case Recording(file=file):
            path = place.data / file if place.data else None
            if path is None or not path.is_file():
                return 0
            stream = "y" in pl.read_parquet_schema(path)
            rows = int(pl.scan_parquet(path).select(pl.len()).collect().item())
            return rows * 4 // 5 if stream else rows
    raise AssertionError(source)


class Clock:
    """Tells how long the scenarios that remain will take, by how long those that ran did."""

    def __init__(self, efforts: Sequence[float], jobs: int) -> None:
        self._left, self._done, self._took = math.fsum(efforts), 0.0, 0.0
        self._jobs = jobs

    def ran(self, effort: float, seconds: float) -> None:
        self._left, self._done, self._took = self._left - effort, self._done + effort, self._took + seconds

    def skipped(self, effort: float) -> None:
        self._left -= effort

    @property
    def left(self) -> str:
        """As in ``about 12 min left``."""
        pace = self._took / self._done if self._done else 1.0 / self._jobs
        return f"about {math.ceil(max(self._left, 0.0) * pace / 60.0)} min left"
