"""95 % intervals of a mean: over redrawn traffic, or over blocks of one traffic whose order means something."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import stdtrit

from bandmaster.core import FloatArray

LEVEL = 0.95
REDRAWS = 2000
"""Bootstrap replications."""

Interval = tuple[float, float]


def t_interval(values: FloatArray) -> Interval:
    """Student's interval of the mean of at least 2 independent ``values``."""
    mean = float(np.mean(values))
    half = float(stdtrit(len(values) - 1, (1.0 + LEVEL) / 2.0) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean - half, mean + half


def block_interval(series: FloatArray) -> Interval:
    """An interval of the mean of a dependent ``series``, by the moving-block bootstrap (Künsch 1989, "The jackknife
    and the bootstrap for general stationary observations"). Deterministic. A single value is its own interval.

    Replications are centred on their own expectation, as blocks see the ends of a series less often (Lahiri 2003).
    """
    n = len(series)
    length = block_length(series)
    sums = np.concatenate([[0.0], np.cumsum(series)])
    blocks = (sums[length:] - sums[:-length]) / length
    count = math.ceil(n / length)
    rng = np.random.default_rng(0)
    means = np.array([blocks[rng.integers(len(blocks), size=count)].mean() for _ in range(REDRAWS)])
    low, high = np.quantile(means - blocks.mean(), [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    mean = float(np.mean(series))
    return mean + float(low), mean + float(high)


def block_length(series: FloatArray) -> int:
    """The block length c·n^(1/3), c from the series' own memory (Politis & White 2004, "Automatic block-length
    selection for the dependent bootstrap", as corrected with Patton in 2009), at least ⌈n^(1/3)⌉ and within the
    bound of 3·√n that they advise.
    """
    n = len(series)
    least: int = math.ceil(n ** (1.0 / 3.0))
    most: int = max(1, math.ceil(min(3.0 * math.sqrt(n), n / 3.0)))
    x = series - np.mean(series)
    if np.ptp(x) <= 1e-12:
        return min(least, most)
    run = max(5, math.ceil(math.sqrt(math.log10(n))))
    lags = min(math.ceil(math.sqrt(n)) + run, n - 1)
    covariance = np.array([x[: n - k] @ x[k:] for k in range(lags + 1)]) / n
    quiet = np.abs(covariance[1:] / covariance[0]) < 2.0 * math.sqrt(math.log10(n) / n)
    # The memory ends where `run` autocorrelations in a row cannot be told from none.
    ends = [m for m in range(lags - run + 1) if quiet[m : m + run].all()]
    reach = min(2 * max(ends[0] if ends else lags, 1), lags)
    k = np.arange(-reach, reach + 1)
    flat_top = np.minimum(1.0, 2.0 * (1.0 - np.abs(k) / reach))
    weighted = flat_top * covariance[np.abs(k)]
    slope, level = float((np.abs(k) * weighted).sum()), float(weighted.sum())
    best = (1.5 * slope**2 / level**2 * n) ** (1.0 / 3.0) if level != 0.0 else most
    return min(max(least, math.ceil(best)), most)


def wilson_interval(right: int, n: int) -> Interval:
    """Wilson's score interval of a share, ``right`` of ``n`` ≥ 1 (Wilson 1927, "Probable inference")."""
    from scipy import stats  # the time it takes to import is not every server's to spend

    found = stats.binomtest(right, n).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)
