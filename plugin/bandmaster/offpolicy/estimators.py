"""What a target policy would have earned, from decisions that another took with known probabilities.

A decision's *weight* is the target's probability of the action that was taken over the propensity with which it was.
Every estimator is a mean of *terms*, one a decision (SNIPS a ratio of two), and all that is reported follows from their
sums over buckets of consecutive decisions: one streaming pass over a log of any length gives those.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.special import ndtr, ndtri, stdtrit

from bandmaster.core import FloatArray
from bandmaster.intervals import LEVEL, REDRAWS, Interval

BUCKETS = 2_000
"""The most buckets that a log is cut into. Up to as many decisions, each is a bucket of its own."""

ESTIMATORS = ("ips", "snips", "dm", "dr", "switch")
"""The last three also need a model of rewards."""

_WEIGHT = pl.col("target") / pl.col("propensity")


def terms(modelled: bool, threshold: float = math.inf) -> dict[str, pl.Expr]:
    """Each estimator's terms, as expressions over the columns ``reward``, ``propensity`` and ``target`` (of the action
    taken), and, where ``modelled``, ``predicted`` (the model's reward of it) and ``expected`` (its reward of an action
    that the target draws).

    - ``ips``, inverse propensity scoring: Horvitz & Thompson 1952.
    - ``dm``, the direct method, believes the model: biased as that is.
    - ``dr``, doubly robust: unbiased where the propensities are right or the model is (Dudík, Langford & Li 2011,
      "Doubly robust policy evaluation and learning", eq. 1).
    - ``switch``: as ``dr``, but decisions of a weight beyond ``threshold`` are left to the model (Wang, Agarwal & Dudík
      2017, "Optimal and adaptive off-policy evaluation in contextual bandits", section 3, SWITCH-DR).
    """
    found = {"ips": _WEIGHT * pl.col("reward")}
    if modelled:
        surprise = _WEIGHT * (pl.col("reward") - pl.col("predicted"))
        found["dm"] = pl.col("expected")
        found["dr"] = pl.col("expected") + surprise
        found["switch"] = pl.col("expected") + pl.when(threshold >= _WEIGHT).then(surprise).otherwise(0.0)
    return found


def switch_threshold(
    reward: FloatArray, propensity: FloatArray, target: FloatArray, predicted: FloatArray, expected: FloatArray
) -> float:
    """The weight beyond which ``switch`` had best believe the model, of arrays (n,): of 21 thresholds the lowest whose
    estimate still agrees with those of all higher ones, which are less biased and more noisy (SLOPE: Su, Srinath &
    Krishnamurthy 2020, "Adaptive estimator selection for off-policy evaluation", section 3).
    """
    weight = target / propensity
    surprise = weight * (reward - predicted)
    positive = weight[weight > 0.0]
    if not len(positive):
        return math.inf
    low, high, chosen = -math.inf, math.inf, math.inf
    for threshold in np.geomspace(positive.max(), positive.min(), 21).tolist():
        kept = expected + np.where(weight <= threshold, surprise, 0.0)
        value, wide = float(kept.mean()), 4.0 * float(kept.std()) / math.sqrt(len(kept))
        low, high = max(low, value - wide), min(high, value + wide)
        if low > high:
            break
        chosen = threshold
    return chosen


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Over each of B buckets, (B,): ``n`` decisions, their ``reward``, ``weight``, ``weight``², weight × ips term, and
    for each estimator but SNIPS its ``terms`` and their ``squares``. ``heaviest`` is the largest weight of all,
    ``largest`` the largest ips term. ``unknown`` decisions have no term, as something about them is null or NaN: then
    nothing here means anything.
    """

    n: FloatArray
    reward: FloatArray
    weight: FloatArray
    weight_squared: FloatArray
    weight_ips: FloatArray
    terms: Mapping[str, FloatArray]
    squares: Mapping[str, FloatArray]
    heaviest: float
    largest: float
    unknown: int

    @property
    def decisions(self) -> int:
        return int(self.n.sum())


def sums(log: pl.LazyFrame, decisions: int, *, modelled: bool = False, threshold: float = math.inf) -> Sums:
    """The sums of a log of so many ``decisions``, in its order; see ``terms`` for its columns. Streams."""
    found = terms(modelled, threshold)
    schema = {"bucket": pl.Int64, **dict.fromkeys((*_sums_of(found), *GREATEST), pl.Float64)}
    rows = log.select(pl.col("reward"), weight=_WEIGHT, **found).with_row_index("row")
    # By slices of what is read at a time: a column that has just been read is summed up while it is in the caches.
    summed = functools.partial(_summed, -(-decisions // BUCKETS), schema)
    parts = rows.map_batches(summed, schema=schema, streamable=True)
    whole = parts.group_by("bucket").agg(pl.col(_sums_of(found)).sum(), pl.col(GREATEST).max()).sort("bucket")
    table = whole.collect(engine="streaming")
    column = {name: table[name].to_numpy() for name in table.columns}
    return Sums(
        n=column["n"],
        reward=column["reward"],
        weight=column["weight"],
        weight_squared=column["weight²"],
        weight_ips=column["weight·ips"],
        terms={name: column[name] for name in found},
        squares={name: column[f"{name}²"] for name in found},
        heaviest=float(np.max(column["heaviest"], initial=0.0)),
        largest=float(np.max(column["largest"], initial=0.0)),
        unknown=int(column["unknown"].sum()),
    )


GREATEST = ("heaviest", "largest")


def _sums_of(terms: Iterable[str]) -> tuple[str, ...]:
    """What is summed up, in the order in which ``_summed`` gives it."""
    names = tuple(terms)
    return ("n", "reward", "weight", "weight²", "weight·ips", "unknown", *names, *(f"{name}²" for name in names))


def _summed(size: int, schema: Mapping[str, Any], rows: pl.DataFrame) -> pl.DataFrame:
    """The sums of consecutive ``rows`` as ``schema`` has them, by bucket of ``size``."""
    if rows.is_empty():
        return pl.DataFrame(schema=schema)
    first, n = int(rows["row"][0]), len(rows)
    edges = [0, *range(size - first % size, n, size), n]
    # Null as NaN: then every sum but ``unknown`` is NaN, and nobody uses it.
    reward, weight, *every = (
        rows[name].cast(pl.Float64).fill_null(math.nan).to_numpy() for name in rows.columns if name != "row"
    )
    found = []
    for low, high in itertools.pairwise(edges):
        w, ips, of = weight[low:high], every[0][low:high], [terms[low:high] for terms in every]
        found.append(
            ((first + low) // size, float(high - low), reward[low:high].sum(), w.sum(), w @ w, w @ ips,
             float(np.isnan(ips).sum()), *(t.sum() for t in of), *(t @ t for t in of), w.max(), ips.max())
        )  # fmt: skip
    return pl.DataFrame(found, schema=schema, orient="row")


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate of the target's mean reward, with 95 % intervals: ``interval`` by the normal approximation,
    ``bootstrap`` over buckets, which heeds skewness and that neighbours are alike, and ``anytime``, which holds at
    every length of the log at once, for ``ips`` alone.

    ``skewness`` is that of the estimate's own distribution; beyond ``SKEWED`` the normal approximation fails. Where all
    terms are alike it is NaN, and the first two intervals say ``NOTHING``: what never varied cannot tell how it would.
    """

    estimator: str
    value: float
    interval: Interval
    bootstrap: Interval
    anytime: Interval | None
    skewness: float


def estimates(found: Sums) -> tuple[Estimate, ...]:
    """By every estimator that there are sums for."""
    every = [_mean(name, found) for name in found.terms]
    every.insert(1, _snips(found))
    return tuple(every)


def _mean(name: str, found: Sums) -> Estimate:
    n, total = float(found.n.sum()), float(found.terms[name].sum())
    value = total / n
    variance = max(found.squares[name].sum() / n - value**2, 0.0) / n
    bounds = anytime(found) if name == "ips" else None
    return _estimate(name, value, variance, found.terms[name], found.n, bounds)


def _snips(found: Sums) -> Estimate:
    """Self-normalised (Swaminathan & Joachims 2015, "The self-normalized estimator for counterfactual learning"); its
    variance by the delta method (Owen 2013, "Monte Carlo theory, methods and examples", eq. 9.9).
    """
    total, weight = float(found.terms["ips"].sum()), float(found.weight.sum())
    if weight <= 0.0:
        return Estimate("snips", math.nan, NOTHING, NOTHING, None, math.nan)
    value = total / weight
    spread = found.squares["ips"].sum() - 2.0 * value * found.weight_ips.sum() + value**2 * found.weight_squared.sum()
    return _estimate("snips", value, max(spread, 0.0) / weight**2, found.terms["ips"], found.weight, None)


def _estimate(
    name: str, value: float, variance: float, over: FloatArray, under: FloatArray, bounds: Interval | None
) -> Estimate:
    """Of the ratio of two sums over buckets, (B,) each.

    A variance that few heavy decisions make up is itself uncertain: as a χ² of so many degrees of freedom that its own
    variance fits (Satterthwaite 1946, "An approximate distribution of estimates of variance components").
    """
    influence = over - value * under
    spread = float((influence**2).sum())
    if spread <= 1e-12:
        return Estimate(name, value, NOTHING, NOTHING, bounds, math.nan)
    skewness = float((influence**3).sum()) / spread**1.5
    freedom = 2.0 / max(float((influence**4).sum()) / spread**2 - 1.0 / len(influence), 1e-12)
    wide = float(stdtrit(max(freedom, 1.0), (1.0 + LEVEL) / 2.0))
    half = wide * math.sqrt(variance)
    interval = _within((value - half, value + half))
    return Estimate(name, value, interval, _bootstrap(value, wide, skewness, over, under), bounds, skewness)


NOTHING = (0.0, 1.0)
"""The interval that says nothing: a mean reward always lies in it."""


def _within(interval: Interval) -> Interval:
    low, high = (float(np.clip(bound, *NOTHING)) for bound in interval)
    return low, high


def _bootstrap(value: float, wide: float, skewness: float, over: FloatArray, under: FloatArray) -> Interval:
    """The BCa interval (Efron 1987, "Better bootstrap confidence intervals", section 4), buckets drawn alike likely;
    its acceleration is a sixth of the skewness. Its ends lie ``wide`` standard deviations out (Hesterberg 2015, "What
    teachers should know about the bootstrap", section 5.3, expanded percentiles).
    """
    counts = _redraws(len(over))
    weights = counts @ under
    redrawn = (counts @ over)[weights > 0.0] / weights[weights > 0.0]
    below = float(np.clip(((redrawn < value).mean() + (redrawn <= value).mean()) / 2.0, 1e-3, 1.0 - 1e-3))
    bias = float(ndtri(below))
    ends = bias + np.array([-wide, wide])
    levels = ndtr(bias + ends / np.maximum(1.0 - skewness / 6.0 * ends, 1e-3))
    low, high = np.quantile(redrawn, levels)
    return _within((float(low), float(high)))


@functools.lru_cache(maxsize=1)
def _redraws(buckets: int) -> FloatArray:
    """How often each bucket is drawn in each of ``REDRAWS`` bootstrap replications, (REDRAWS, B). Deterministic."""
    rng = np.random.default_rng(0)
    return rng.multinomial(buckets, np.full(buckets, 1.0 / buckets), size=REDRAWS).astype(np.float64)


# ---- At every length at once ---------------------------------------------------------------------------------


def anytime(found: Sums) -> Interval:
    """A 95 % interval of a mean reward in [0, 1] that holds at every length of the log at once, however long one goes
    on looking, and whatever the weights' tail (Waudby-Smith, Wu, Ramdas, Karampatziakis & Mineiro 2022, "Anytime-valid
    off-policy inference for contextual bandits", section 3).

    The upper bound is one less the lower bound of what is lost. Where the target takes actions that were never logged
    both still hold, as what is missing is taken for nothing, and for all.
    """
    gained, squared = found.terms["ips"], found.squares["ips"]
    lost = found.weight - gained
    lost_squared = found.weight_squared - 2.0 * found.weight_ips + squared
    low = lower_sequence(found.n, gained, squared).max()
    high = 1.0 - lower_sequence(found.n, lost, lost_squared).max()
    return float(min(max(low, 0.0), 1.0)), float(min(max(high, 0.0), 1.0))


def lower_sequence(n: FloatArray, total: FloatArray, squared: FloatArray) -> FloatArray:
    """After each bucket, a bound that the mean of terms ≥ 0 is not below, (B,); the chance that any of them ever fails
    is (1 − 95 %)/2. ``n`` terms in each bucket with these sums, all (B,).

    An empirical Bernstein supermartingale with predictable plug-ins: with λ in [0, 1) and a guess g in [0, 1], made
    before a term x is seen, E exp(λ(x − mean) − ψ(λ)(x − g)²) ≤ 1 for ψ(λ) = −log(1 − λ) − λ (Howard et al. 2021,
    "Time-uniform, nonparametric, nonasymptotic confidence sequences", section 3.2; Waudby-Smith & Ramdas 2023,
    "Estimating means of bounded random variables by betting", theorem 2). λ is tuned to the length of the log.
    """
    seen = np.concatenate([[0.0], np.cumsum(n)[:-1]])
    before = np.concatenate([[0.0], np.cumsum(total)[:-1]])
    guess = np.minimum((0.5 + before) / (1.0 + seen), 1.0)
    off = np.maximum(squared - 2.0 * guess * total + n * guess**2, 0.0)
    variance = (0.25 + np.concatenate([[0.0], np.cumsum(off)[:-1]])) / (1.0 + seen)
    odds = math.log(2.0 / (1.0 - LEVEL))
    stake = np.minimum(np.sqrt(2.0 * odds / (variance * n.sum())), 0.5)
    penalty = -np.log1p(-stake) - stake
    bounds: FloatArray = (np.cumsum(stake * total - penalty * off) - odds) / np.cumsum(stake * n)
    return bounds


# ---- Whether the log can tell --------------------------------------------------------------------------------

FEW = 100.0
"""Fewer effective decisions than that tell nothing."""

SHARE = 0.1
"""No decision alone should make up more than that of an estimate."""

SKEWED = 0.2
"""The normal approximation wants n > 25 · skewness² (Cochran 1977, "Sampling techniques", section 2.15), which is a
mean whose own skewness is below a fifth.
"""

FAR = 4.0
"""Standard errors that the mean weight may lie off 1."""


def effective(found: Sums) -> float:
    """The effective sample size: so many unweighted decisions would tell as much (Kish 1965, section 11.7)."""
    squared = found.weight_squared.sum()
    return float(found.weight.sum() ** 2 / squared) if squared > 0.0 else 0.0


def doubts(found: Sums, judged: Sequence[Estimate]) -> tuple[str, ...]:
    """In plain language, why the log may not support the estimates; none where it does."""
    why = (_too_few(found), _off_one(found), _one_alone(found), _too_skewed(judged), _all_alike(judged))
    return tuple(filter(None, why))


def _too_few(found: Sums) -> str | None:
    if (size := effective(found)) >= FEW:
        return None
    return (
        f"the {found.decisions} decisions count as {size:.0f}: the target does mostly what was seldom done; log"
        " more, explore more, or judge a target that is nearer to the log's"
    )


def _off_one(found: Sums) -> str | None:
    n, weight = found.n.sum(), found.weight.sum()
    mean = weight / n
    error = math.sqrt(max(found.weight_squared.sum() / n - mean**2, 0.0) / n)
    if abs(mean - 1.0) <= FAR * error + 1e-9:
        return None
    large = "the target takes actions that were never logged, or propensities are too large"
    why = large if mean < 1.0 else "propensities are too small"
    return f"weights should be 1 on average and are {mean:.3f} ± {error:.3f}: {why}"


def _one_alone(found: Sums) -> str | None:
    ips = found.terms["ips"].sum()
    if found.largest <= SHARE * ips:
        return None
    return f"one decision alone makes up {found.largest / ips:.0%} of the ips estimate"


def _too_skewed(judged: Sequence[Estimate]) -> str | None:
    skewed = [e.estimator for e in judged if abs(e.skewness) > SKEWED]
    if not skewed:
        return None
    return (
        f"rewards come in too rarely, or weigh too differently, for the normal intervals of {', '.join(skewed)}; trust"
        " the anytime interval"
    )


def _all_alike(judged: Sequence[Estimate]) -> str | None:
    alike = [e.estimator for e in judged if math.isnan(e.skewness)]
    if not alike:
        return None
    return (
        f"every decision says the same to {', '.join(alike)}, so that nothing tells how far off it may be; trust the"
        " anytime interval"
    )
