"""What a policy may know of a request's rows: the columns themselves, or a summary of many."""

from __future__ import annotations

import numpy as np

from bandmaster.core import Array, FloatArray

MAX_COLUMNS = 32
"""Rows with more columns than this are summarised: a policy per pixel would learn nothing in time."""

SEGMENTS = 8
SUMMARY = (
    *("mean", "deviation", "low_decile", "median", "high_decile", "roughness", "grain"),
    *(f"segment{i}" for i in range(SEGMENTS)),
)


LARGEST = 1e30
"""Figures beyond it are taken for it: their squares would overflow."""


def features_of(rows: Array, *, summarise: bool = False, allowed: tuple[int, ...] | None = None) -> FloatArray:
    """The features (d,) of a request's rows (n, columns): means over rows of each column or of ``SUMMARY``.

    Rows of at most ``MAX_COLUMNS`` are not summarised unless told to, as where their width may change. Of columns that
    are not ``allowed`` (``None``: all are) nothing is told: they are 0, so that the others keep their places.
    """
    if allowed is not None:
        flat = np.asarray(rows).reshape(len(rows), -1)
        seen = [column for column in allowed if column < flat.shape[1]]
        rows = np.zeros(flat.shape, dtype=np.float64)
        rows[:, seen] = flat[:, seen]
    return np.asarray(features_of_each(rows, summarise=summarise).mean(axis=0))


def features_of_each(rows: Array, *, summarise: bool = False) -> FloatArray:
    """The features (n, d) of n rows (n, columns), each for itself: its columns, or their ``SUMMARY``.

    ``roughness`` is the mean absolute step between neighbouring columns, ``grain`` the mean absolute second
    difference, both over the deviation, so that they tell noise and blur apart from contrast. The segments are the
    means of eight equal stretches of columns: a coarse look at where the values are.
    """
    x = np.clip(np.asarray(rows, dtype=np.float64), -LARGEST, LARGEST)
    x = x.reshape(len(x), -1)
    if x.shape[1] <= MAX_COLUMNS and not summarise:
        return x
    deviation = x.std(axis=1)
    scale = np.where(deviation > 0.0, deviation, 1.0)
    low, median, high = np.quantile(x, (0.1, 0.5, 0.9), axis=1)
    roughness = np.abs(np.diff(x, axis=1, append=x[:, -1:])).mean(axis=1) / scale
    grain = np.abs(np.diff(x, n=2, axis=1, append=x[:, -1:])).mean(axis=1) / scale if x.shape[1] > 1 else 0.0 * scale
    edges = np.arange(SEGMENTS) * x.shape[1] // SEGMENTS
    segments = np.add.reduceat(x, edges, axis=1) / np.maximum(np.diff(np.r_[edges, x.shape[1]]), 1)
    shape = np.stack([x.mean(axis=1), deviation, low, median, high, roughness, grain], axis=1)
    return np.concatenate([shape, segments], axis=1)
