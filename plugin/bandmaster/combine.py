"""How several members' distributions become one: a weighted linear opinion pool, or a log-linear one of evidence."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from bandmaster.core import NO_ANSWER, BoolArray, Ensemble, Errors, Evidence, FloatArray, IntArray

MIN_WEIGHT = 1e-3
"""Members no better than chance keep this much weight, so that a pool of only such members still answers."""


def pool(scores: FloatArray, weights: FloatArray) -> FloatArray:
    """The linear opinion pool (Stone 1961, "The opinion pool"): the weighted mean of the distributions.

    ``scores`` is (..., M, C) and ``weights`` (..., M), ≥ 0. A member whose scores are all zero abstained and
    counts for nothing; where nobody answered, the pool is zero. Returns (..., C).
    """
    answered = scores.sum(axis=-1) > 0.0
    total = (weights * answered).sum(axis=-1, keepdims=True)
    pooled = np.einsum("...m,...mc->...c", weights, scores)
    return np.asarray(np.divide(pooled, total, out=np.zeros_like(pooled), where=total > 0.0))


def mean_value(values: FloatArray, weights: FloatArray) -> FloatArray:
    """What ``pool`` is to distributions, for values (..., M, 1), NaN where a member gave none: their weighted mean.

    ``weights`` is (..., M), ≥ 0. Returns (..., 1), NaN where nobody answered.
    """
    weighed = weights[..., None] * ~np.isnan(values)
    total = weighed.sum(axis=-2)
    summed = (weighed * np.nan_to_num(values)).sum(axis=-2)
    return np.asarray(np.divide(summed, total, out=np.full(summed.shape, np.nan), where=total > 0.0))


def corrected_mean(values: FloatArray, errors: Errors, members: BoolArray) -> FloatArray:
    """The mean of the values (n, M, 1) of each of U sets of ``members`` (U, M), their biases taken off, by the weights
    that ``errors`` has for them: (n, U, 1), NaN where nobody answered.
    """
    return mean_value((values - errors.bias[:, None])[:, None], errors.weights(members))


def posterior(evidence: Evidence, members: BoolArray) -> FloatArray:
    """The log-linear pool of what the ``members`` of each of U sets have said: (n, U, C), rows sum to 1.

    ``members`` is (U, M), or (n, U, M) where the sets differ from row to row.

    Genest & Zidek 1986, "Combining probability distributions", section 3: the product of the prior and of everyone's
    likelihood raised to a weight, here the same ``s**-overlap`` for all s members of a set, as they err together.
    """
    return shares(pooled(evidence.log_likelihood, members, evidence.overlap) + evidence.log_prior)


def heard_posterior(heard: FloatArray, evidence: Evidence, members: BoolArray) -> FloatArray:
    """The ``posterior`` (n, C) of one set of ``members`` to each row, (1, M) or (n, 1, M), of which (n, M, C) was
    ``heard``, and the ``evidence`` is of that. An abstention tells of the class too; but where all abstain or fail,
    nobody has answered, and it is 0.
    """
    return np.asarray(posterior(evidence, members)[:, 0] * np.asarray(heard.any(axis=(1, 2)))[:, None])


def pooled(log_likelihood: FloatArray, members: BoolArray, overlap: float) -> FloatArray:
    """The logarithm of that, before the prior and short of a constant: (n, U, C), of (n, M, C)."""
    weight = members * _discounts(members.shape[-1], overlap)[members.sum(axis=-1)][..., None]
    return np.asarray(weight @ log_likelihood)


def shares(logits: FloatArray) -> FloatArray:
    """Distributions (..., C), of their logarithms (..., C), short of a constant."""
    likely = np.exp(logits - np.maximum.reduce(logits, axis=-1, keepdims=True))
    likely /= np.add.reduce(likely, axis=-1, keepdims=True)
    return np.asarray(likely)


@lru_cache
def _discounts(members: int, overlap: float) -> FloatArray:
    """What each of s members that answered together counts for, for every s from 0 to ``members``."""
    return np.asarray(np.maximum(np.arange(members + 1.0), 1.0) ** -overlap)


def verdict(pooled: FloatArray) -> tuple[IntArray, FloatArray]:
    """The answer of pooled distributions (..., C): class indices and their probabilities, both (...)."""
    confidence = pooled.max(axis=-1)
    return np.where(confidence > 0.0, pooled.argmax(axis=-1), NO_ANSWER), confidence


def value_verdict(pooled: FloatArray) -> tuple[IntArray, FloatArray]:
    """What ``verdict`` is to distributions, for values (..., 1): 0 and 1, ``NO_ANSWER`` and 0 where there is none."""
    answered = ~np.isnan(pooled[..., 0])
    return np.where(answered, 0, NO_ANSWER), answered.astype(np.float64)


def mean_known(values: FloatArray | BoolArray, known: BoolArray) -> FloatArray:
    """The mean over rows of (n, K), of those that are ``known`` (n, K), as (K,); NaN where none is."""
    if len(known) == 1:
        return np.where(known[0], values[0], np.nan)
    rows = known.sum(axis=0)
    return np.where(rows > 0, np.where(known, values, 0.0).sum(axis=0) / np.maximum(rows, 1), np.nan)


def weights_in_force(accuracy: FloatArray, ensemble: Ensemble) -> FloatArray:
    """The weights by recent accuracy (M,): of votes, or of values in regression."""
    if ensemble.regression:
        return inverse_errors(accuracy)
    return recent_weights(accuracy, len(ensemble.classes))


def inverse_errors(accuracy: FloatArray) -> FloatArray:
    """Weights of values by recent accuracy (M,) in [0, 1]: the inverse of the squared error that it stands for.

    The optimal weights of unbiased forecasts whose errors are independent (Bates & Granger 1969, "The combination of
    forecasts", section 2), the mean absolute error standing for the deviation. Errors below a hundredth of the range
    count as one.
    """
    return np.asarray(1.0 / np.maximum(1.0 - accuracy, 0.01) ** 2)


def recent_weights(accuracy: FloatArray, classes: int) -> FloatArray:
    """Weights by recent accuracy: log-odds against chance, at least ``MIN_WEIGHT``.

    The optimal weights of a vote of independent members (Nitzan & Paroush 1982, "Optimal decision rules in
    uncertain dichotomous choice situations"; for several classes as in SAMME, Zhu et al. 2009, eq. 5).
    ``accuracy`` is (M,) in [0, 1].
    """
    a = np.minimum(np.maximum(accuracy, 0.01), 0.99)
    return np.asarray(np.maximum(np.log(a / (1.0 - a)) + np.log(max(classes - 1, 1)), MIN_WEIGHT))
