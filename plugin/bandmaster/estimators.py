"""Streaming estimates, vectorised over members or plans."""

from __future__ import annotations

import numpy as np

from bandmaster.core import BoolArray, FloatArray


class WindowedMean:
    """Means of ``size`` streams, each over its last ``window`` observations' worth of weight.

    Exponentially discounted: every observation of a stream multiplies what came before it by
    ``1 - 1/window``. ``prior`` counts as ``prior_weight`` observations made before the first.

    >>> mean = WindowedMean(2, window=100, prior=0.5, prior_weight=1.0)
    >>> mean.update(np.array([1.0, np.nan]))
    >>> mean.value.round(2).tolist()
    [0.75, 0.5]
    """

    __slots__ = ("_decay", "_prior", "_prior_weight", "_sum", "_weight", "seen")

    def __init__(self, size: int, *, window: float, prior: float | FloatArray = 0.0, prior_weight: float = 1.0) -> None:
        if window < 1.0:
            raise ValueError(f"a window holds at least 1 observation, not {window}")
        self._decay = 1.0 - 1.0 / window
        self._prior = np.broadcast_to(np.asarray(prior, dtype=np.float64), (size,)).copy()
        self._prior_weight = prior_weight
        self._sum = self._prior * prior_weight
        self._weight = np.full(size, prior_weight)
        self.seen = np.zeros(size)

    @property
    def value(self) -> FloatArray:
        return np.asarray(self._sum / self._weight)

    @property
    def weight(self) -> FloatArray:
        """The discounted weight behind each mean, the prior's included."""
        return self._weight.copy()

    def update(self, values: FloatArray, weights: FloatArray | float = 1.0) -> None:
        """Add one observation to each stream whose value is not NaN. ``values`` is (size,)."""
        known = ~np.isnan(values)
        decay = np.where(known, self._decay, 1.0)
        added = np.where(known, weights, 0.0)
        self._sum = self._sum * decay + added * np.where(known, values, 0.0)
        self._weight = self._weight * decay + added
        self.seen += known

    def forget(self, which: BoolArray) -> None:
        """Fall back to the prior in the streams marked in ``which`` (size,)."""
        self._sum = np.where(which, self._prior * self._prior_weight, self._sum)
        self._weight = np.where(which, self._prior_weight, self._weight)
        self.seen = np.where(which, 0.0, self.seen)

    def shrink(self, which: BoolArray, keep: float) -> None:
        """Trust what was seen only as much as ``keep`` observations: the mean stays, new ones move it fast."""
        factor = np.where(which & (self._weight > keep), keep / self._weight, 1.0)
        self._sum, self._weight = self._sum * factor, self._weight * factor

    def dump(self) -> list[list[float]]:
        return [self._sum.tolist(), self._weight.tolist(), self.seen.tolist()]

    def load(self, state: list[list[float]]) -> None:
        """Restore what ``dump`` gave. Raises ``ValueError`` when the size differs or a figure is not finite."""
        arrays = [np.asarray(a, dtype=np.float64) for a in state]
        if len(arrays) != 3 or any(a.shape != self._sum.shape or not np.isfinite(a).all() for a in arrays):
            raise ValueError(f"expected 3 lists of {len(self._sum)} finite figures")
        self._sum, self._weight, self.seen = arrays
