"""What a policy may know of a request's rows: the columns themselves, or a summary of many."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from bandmaster.core import Array, FloatArray, IntArray

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
    return np.asarray(features_of_each(_told(rows, allowed), summarise=summarise).mean(axis=0))


def features_of_requests(
    requests: Sequence[Array], *, summarise: bool = False, allowed: tuple[int, ...] | None = None
) -> list[FloatArray]:
    """``features_of`` each request's rows; at once, where all of them have one of the same shape."""
    if len(requests) > 1 and {rows.shape for rows in requests} == {(1, *requests[0].shape[1:])}:
        return list(features_of_each(_told(np.concatenate(requests), allowed), summarise=summarise))
    return [features_of(rows, summarise=summarise, allowed=allowed) for rows in requests]


def _told(rows: Array, allowed: tuple[int, ...] | None) -> Array:
    if allowed is None:
        return rows
    flat = np.asarray(rows).reshape(len(rows), -1)
    seen = [column for column in allowed if column < flat.shape[1]]
    told = np.zeros(flat.shape, dtype=np.float64)
    told[:, seen] = flat[:, seen]
    return told


def features_of_each(rows: Array, *, summarise: bool = False) -> FloatArray:
    """The features (n, d) of n rows (n, columns), each for itself: its columns, or their ``SUMMARY``.

    ``roughness`` is the mean absolute step between neighbouring columns, ``grain`` the mean absolute second
    difference, both over the deviation, so that they tell noise and blur apart from contrast. The segments are the
    means of eight equal stretches of columns: a coarse look at where the values are.
    """
    x = np.asarray(rows, dtype=np.float64)
    x = np.minimum(np.maximum(x.reshape(len(x), -1), -LARGEST), LARGEST)
    n = x.shape[1]
    if n <= MAX_COLUMNS and not summarise:
        return x
    # Each figure to the bit as NumPy's mean, std, quantile and diff give it; these take ten times as long on one row.
    means = x.sum(axis=1) / n
    centred = x - means[:, None]
    deviation = np.sqrt((centred * centred).sum(axis=1) / n)
    scale = np.where(deviation > 0.0, deviation, 1.0)
    step = np.zeros_like(x)
    np.subtract(x[:, 1:], x[:, :-1], out=step[:, :-1])
    summary = np.empty((len(x), len(SUMMARY)))
    summary[:, 0], summary[:, 1] = means, deviation
    ordered = np.sort(x, axis=1)
    for k, share in enumerate((0.1, 0.5, 0.9), start=2):
        summary[:, k] = _quantile(ordered, share)
    summary[:, 5] = np.abs(step).sum(axis=1) / n / scale
    summary[:, 6] = np.abs(step[:, 1:] - step[:, :-1]).sum(axis=1) / (n - 1) / scale if n > 1 else 0.0
    edges, widths = _segments(n)
    summary[:, 7:] = np.add.reduceat(x, edges, axis=1) / widths
    return summary


def _quantile(ordered: FloatArray, share: float) -> FloatArray:
    """That quantile of each row of ``ordered`` (n, columns), (n,), between two columns by a straight line."""
    at = (ordered.shape[1] - 1) * share
    below = int(at)
    low, high, part = ordered[:, below], ordered[:, min(below + 1, ordered.shape[1] - 1)], at - below
    return np.asarray(low + (high - low) * part if part < 0.5 else high - (high - low) * (1.0 - part))


@lru_cache
def _segments(columns: int) -> tuple[IntArray, IntArray]:
    """Where each segment of so many columns begins, and how many it has, at least 1; both (segments,)."""
    edges = np.arange(SEGMENTS) * columns // SEGMENTS
    return edges, np.maximum(np.diff(np.r_[edges, columns]), 1)
