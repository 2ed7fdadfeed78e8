"""Intervals: as textbooks have them, and of the promised coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from bandmaster.intervals import block_interval, block_length, t_interval


def test_the_t_interval_is_the_textbook_one():
    values = np.array([0.1, 0.4, 0.2, 0.35])
    expected = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    assert t_interval(values) == pytest.approx(expected)


def autoregressive(rng: np.random.Generator, n: int, memory: float) -> np.ndarray:
    noise = rng.normal(size=n + 200)
    series = np.zeros(n + 200)
    for i in range(1, n + 200):
        series[i] = memory * series[i - 1] + noise[i]
    return series[200:]


@pytest.mark.parametrize("memory", [0.0, 0.8])
def test_the_block_interval_covers_the_mean_about_as_often_as_it_says(memory):
    rng = np.random.default_rng(1)
    hits = [low <= 0.0 <= high for low, high in (block_interval(autoregressive(rng, 600, memory)) for _ in range(100))]
    # 95 of 100 is the promise; with strong memory a block bootstrap of 600 is known to fall a little short.
    assert 85 <= sum(hits) <= 100


def test_longer_memory_asks_for_longer_blocks():
    rng = np.random.default_rng(2)
    lengths = [block_length(autoregressive(rng, 2000, memory)) for memory in (0.0, 0.5, 0.9)]
    assert lengths == sorted(lengths)
    assert lengths[0] >= math.ceil(2000 ** (1 / 3))
    assert lengths[-1] <= math.ceil(3 * math.sqrt(2000))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10])
def test_short_and_constant_series_have_an_interval(n):
    assert block_interval(np.full(n, 0.5)) == pytest.approx((0.5, 0.5))
    low, high = block_interval(np.arange(n, dtype=float))
    assert low <= (n - 1) / 2 <= high


def test_the_block_interval_is_the_same_every_time():
    series = np.random.default_rng(3).random(100)
    assert block_interval(series) == block_interval(series)
