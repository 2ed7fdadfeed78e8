"""Policies that served the same traffic: what the log of one says of another, and what that one earned itself."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import polars as pl

from bandmaster.offpolicy.evaluate import Evaluation, evaluate
from bandmaster.offpolicy.log import BanditLog, Columns, read
from bandmaster.offpolicy.target import Table, read_probabilities
from benchmarks.scenario import Crossed
from benchmarks.sources import Place

ESTIMATORS = ("ips", "snips", "dr")


def measure(scenario: Crossed, place: Place, told: Callable[[str], None]) -> dict[str, float | None]:
    """The figures of ``scenario``: every policy judged by the log of each other one, in every cell.

    Of a target by a log there is what the target ``earned`` where it served itself; the effective sample size that the
    log ``counts as``; each estimate with the ends of its 95 % bootstrap interval; and, over all cells, the share in
    which what was earned lies within those. Raises ``UnavailableError`` where the log is absent.
    """
    path = place.recording(scenario.file)
    policies, cells = _values(path, scenario.policy), _values(path, scenario.cell)
    figures: dict[str, float | None] = {}
    for target, by in itertools.permutations(policies, 2):
        held = dict.fromkeys(ESTIMATORS, 0)
        for cell in cells:
            told(f"{scenario.id}: {cell}, {target} by the log of {by}")
            own, log = (_log(scenario, path, policy, cell) for policy in (target, by))
            found, earned = _judged(scenario, log, own), _earned(own)
            figures |= _told(f"{target} by {by}, {cell}", found, earned)
            for estimator in ESTIMATORS:
                low, high = found.of(estimator).bootstrap
                held[estimator] += low <= earned <= high
        figures |= {f"{target} by {by}, held by {name}": n / len(cells) for name, n in held.items()}
    return figures


def _values(path: Path, column: str) -> list[str]:
    return pl.read_parquet(path, columns=[column])[column].cast(pl.String).unique().sort().to_list()


def _log(scenario: Crossed, path: Path, policy: str, cell: str) -> BanditLog:
    columns = Columns(scenario.action, scenario.propensity, scenario.reward)
    return read(path, columns, {scenario.policy: policy, scenario.cell: cell})


def _earned(log: BanditLog) -> float:
    rewards = log.loaded()["reward"]
    return float(rewards.sum() / rewards.len())


def _judged(scenario: Crossed, log: BanditLog, own: BanditLog) -> Evaluation:
    with tempfile.TemporaryDirectory(prefix="bandmaster-") as folder:
        target = _mean_policy(own, scenario.context, Path(folder) / "target.csv")
        return evaluate(log, target, modelled=True, features=scenario.features)


def _mean_policy(own: BanditLog, context: tuple[str, ...], path: Path) -> Table:
    """The target as a table: in each context the mean of the propensities with which it took each action.

    Estimated by the inverse of the propensities themselves, which comes to how often each action was taken: their plain
    mean over the rows where one was would count the more what was taken when it was likely. A policy that changed while
    it served is this table only on average.
    """
    means = own.loaded().group_by("action", *context).agg(probability=pl.len().cast(pl.Float64))
    total = pl.col("probability").sum()
    means = means.with_columns(pl.col("probability") / (total.over(context) if context else total))
    means.sort("action", *context).write_csv(path)
    return read_probabilities(path)


def _told(name: str, found: Evaluation, earned: float) -> dict[str, float | None]:
    figures: dict[str, float | None] = {f"{name}: earned": earned, f"{name}: counts as": found.effective}
    for estimate in (found.of(estimator) for estimator in ESTIMATORS):
        low, high = estimate.bootstrap
        said = f"{name}: {estimate.estimator}"
        figures |= {said: estimate.value, f"{said}, from": low, f"{said}, to": high}
    return figures
