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


class Standardiser:
    """Shifts and scales features by their running mean and deviation (Welford 1962), clipped to ±3 deviations."""

    LIMIT = 3.0

    def __init__(self, size: int) -> None:
        self._mean, self._squares, self._count = np.zeros(size), np.zeros(size), 0

    @property
    def size(self) -> int:
        return len(self._mean)

    def learn(self, features: FloatArray) -> None:
        """Learn one request's features (d,)."""
        self._count += 1
        step = features - self._mean
        self._mean = self._mean + step / self._count
        self._squares = self._squares + step * (features - self._mean)

    def __call__(self, features: FloatArray) -> FloatArray:
        """Standardised features (d,); 0 for a feature that has never varied."""
        deviation = np.sqrt(self._squares / max(self._count, 1))
        z = (features - self._mean) / np.where(deviation > 0.0, deviation, np.inf)
        return np.asarray(np.clip(z, -self.LIMIT, self.LIMIT))

    def dump(self) -> bytes:
        return np.concatenate([[float(self._count)], self._mean, self._squares]).tobytes()

    @classmethod
    def of(cls, dumped: bytes) -> Standardiser:
        """Restore what ``dump`` gave. Raises ``ValueError`` on anything else."""
        figures = _finite(dumped)
        if len(figures) % 2 != 1 or figures[0] < 0.0 or (figures[len(figures) // 2 + 1 :] < 0.0).any():
            raise ValueError(f"{len(figures)} figures cannot be a count, means and squares")
        standard = cls(len(figures) // 2)
        standard._count = int(figures[0])
        standard._mean, standard._squares = figures[1 : standard.size + 1], figures[standard.size + 1 :]
        return standard


class RandomFourierFeatures:
    """Inputs (d,) and ``count`` random cosines of them, (d + count,): a linear model of these bends.

    Rahimi & Recht 2007, "Random features for large-scale kernel machines": they approximate a Gaussian kernel of width
    1/``SCALE``, here for standardised inputs. The directions are drawn once from a fixed seed, so they need no keeping.
    """

    SCALE = 0.35

    def __init__(self, inputs: int, count: int) -> None:
        rng = np.random.default_rng(0)
        self._directions = rng.normal(scale=self.SCALE, size=(count, inputs))
        self._phases = rng.uniform(0.0, 2.0 * np.pi, size=count)
        self.size = count

    def __call__(self, x: FloatArray) -> FloatArray:
        return np.concatenate([x, np.sqrt(2.0) * np.cos(self._directions @ x + self._phases)])


class ForgettingRegression:
    """One linear regression a target on shared inputs: recursive least squares with exponential forgetting.

    Haykin, Adaptive Filter Theory (2002), ch. 9. A target is updated only where its value is known. Forgetting lets a
    covariance grow where nothing excites it; its trace is capped, so that a long quiet spell does no harm.
    ``prior`` (K,) is each target's value before anything was seen; ``forgetting`` in (0, 1]; ``ridge`` holds the
    weights back as that many observations of nothing would.
    """

    BIAS_RIDGE = 3.0

    def __init__(self, prior: FloatArray, size: int, *, forgetting: float, ridge: float) -> None:
        self._prior, self._forgetting = prior, forgetting
        self._weights = np.zeros((len(prior), size + 1))
        held = np.r_[self.BIAS_RIDGE, np.full(size, ridge)]
        self._covariance = np.repeat(np.diag(1.0 / held)[None], len(prior), axis=0)

    def predict(self, x: FloatArray) -> FloatArray:
        """Every target's expected value (K,) at inputs ``x`` (size,)."""
        return np.asarray(self._prior + self._weights[:, 0] + self._weights[:, 1:] @ x)

    def learn(self, x: FloatArray, values: FloatArray) -> None:
        """Learn the targets' ``values`` (K,) at ``x``; NaN where unknown."""
        known = np.flatnonzero(~np.isnan(values))
        inputs = np.r_[1.0, x]
        covariance = self._covariance[known]
        spread = covariance @ inputs
        gain = spread / (self._forgetting + spread @ inputs)[:, None]
        error = values[known] - self._prior[known] - self._weights[known] @ inputs
        self._weights[known] += gain * error[:, None]
        covariance = (covariance - gain[:, :, None] * spread[:, None, :]) / self._forgetting
        trace = np.trace(covariance, axis1=1, axis2=2)
        self._covariance[known] = covariance * np.minimum(1.0, len(inputs) / trace)[:, None, None]

    def dump(self) -> bytes:
        return np.concatenate([self._weights.ravel(), self._covariance.ravel()]).tobytes()

    def load(self, dumped: bytes) -> None:
        """Restore what ``dump`` gave. Raises ``ValueError`` when the sizes differ or a figure is not finite."""
        figures = _finite(dumped)
        if len(figures) != self._weights.size + self._covariance.size:
            raise ValueError(f"{len(figures)} figures, not {self._weights.size + self._covariance.size}")
        self._weights = figures[: self._weights.size].reshape(self._weights.shape)
        self._covariance = figures[self._weights.size :].reshape(self._covariance.shape)


def _finite(dumped: bytes) -> FloatArray:
    figures = np.frombuffer(dumped, dtype=np.float64).copy()
    if not np.isfinite(figures).all():
        raise ValueError("a figure is not finite")
    return figures
