"""One log, one target: every estimate of what the target would have earned, and whether the log can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from bandmaster.core import BandmasterError, FloatArray
from bandmaster.offpolicy.estimators import Estimate, Sums, doubts, effective, estimates, sums, switch_threshold
from bandmaster.offpolicy.log import ROW, BanditLog, gather, require
from bandmaster.offpolicy.model import features_in, foretold
from bandmaster.offpolicy.target import Target
from bandmaster.results import rounded
from bandmaster.table import readable


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a log of so many ``decisions`` with a reward says of a target. ``logged`` is the mean reward that was earned
    when it was written; ``effective`` the decisions that it is worth for this target; ``mean_weight`` should be 1.
    ``doubts`` say in plain language why the log may not support the estimates; none where it does.
    """

    decisions: int
    unrewarded: int
    logged: float
    effective: float
    mean_weight: float
    heaviest: float
    estimates: tuple[Estimate, ...]
    doubts: tuple[str, ...]

    def of(self, estimator: str) -> Estimate:
        """The estimate by one estimator. Raises ``KeyError`` where it was not made."""
        return {e.estimator: e for e in self.estimates}[estimator]

    def as_json(self) -> dict[str, Any]:
        """Plain figures, rounded as those of a replay."""
        found = asdict(self)
        found["estimates"] = {
            e.estimator: {
                "value": e.value,
                "interval": e.interval,
                "bootstrap": e.bootstrap,
                "anytime": e.anytime,
            }
            for e in self.estimates
        }
        short: dict[str, Any] = rounded(found)
        return short


def evaluate(
    log: BanditLog, target: Target, *, modelled: bool = False, features: Sequence[str] | None = None
) -> Evaluation:
    """Judge a target by a log; where ``modelled``, also by estimators that need a model of rewards, which looks at the
    columns ``features`` (default: x0 … xn and ctx_*). The model holds the log in memory; all else is streamed.

    Raises ``BandmasterError`` where the log holds no reward, or something that is no action, propensity or reward, or
    the target says no probability of a decision.
    """
    rows = target.logged(log)
    with readable(log.path):
        found = sums(rows, log.decisions)
    _refuse(log, found)
    if not modelled:
        return _told(log, found)
    known = _with_model(log, target, rows, features)
    threshold = switch_threshold(*(known[name].to_numpy() for name in ("reward", "propensity", *MODEL)))
    return _told(log, sums(known.lazy(), log.decisions, modelled=True, threshold=threshold))


MODEL = ("target", "predicted", "expected")


def _with_model(log: BanditLog, target: Target, rows: pl.LazyFrame, features: Sequence[str] | None) -> pl.DataFrame:
    there = [name for name in rows.collect_schema().names() if name != ROW]
    features = features_in(there) if features is None else features
    require(log.path, rows, tuple(features))
    held = gather(log.path, rows)
    actions = target.actions(log)
    rewards = foretold(held, features, actions)
    index = {name: k for k, name in enumerate(actions)}
    taken: FloatArray = rewards[np.arange(len(held)), [index[name] for name in held["action"]]]
    expected = (rewards * target.spread(held, actions)).sum(axis=1)
    return held.with_columns(predicted=taken, expected=expected)


def _refuse(log: BanditLog, found: Sums) -> None:
    if found.unknown:
        log.check()
        raise BandmasterError(f"{log.path}: the target says no probability, from 0 to 1, of {found.unknown} decisions")
    if not found.decisions:
        raise BandmasterError(f"{log.path}: holds {log.decisions} decisions, but no reward of any")


def _told(log: BanditLog, found: Sums) -> Evaluation:
    n, judged = found.decisions, estimates(found)
    return Evaluation(
        decisions=n,
        unrewarded=log.decisions - n,
        logged=float(found.reward.sum() / n),
        effective=effective(found),
        mean_weight=float(found.weight.sum() / n),
        heaviest=found.heaviest,
        estimates=judged,
        doubts=doubts(found, judged),
    )
