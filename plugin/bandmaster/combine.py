"""How several members' distributions become one: a weighted linear opinion pool, or a log-linear one of evidence."""

from __future__ import annotations

import numpy as np

from bandmaster.core import NO_ANSWER, BoolArray, Evidence, FloatArray, IntArray

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


def posterior(evidence: Evidence, members: BoolArray) -> FloatArray:
    """The log-linear pool of what the ``members`` of each of U sets have said: (n, U, C), rows sum to 1.

    ``members`` is (U, M), or (n, U, M) where the sets differ from row to row.

    Genest & Zidek 1986, "Combining probability distributions", section 3: the product of the prior and of everyone's
    likelihood raised to a weight, here the same ``s**-overlap`` for all s members of a set, as they err together.
    """
    size = members.sum(axis=-1)
    weight = members * np.power(np.maximum(size, 1), -evidence.overlap)[..., None]
    logits = np.matmul(weight, evidence.log_likelihood) + evidence.log_prior
    logits -= logits.max(axis=-1, keepdims=True)
    likely = np.exp(logits)
    return np.asarray(likely / likely.sum(axis=-1, keepdims=True))


def verdict(pooled: FloatArray) -> tuple[IntArray, FloatArray]:
    """The answer of pooled distributions (..., C): class indices and their probabilities, both (...)."""
    labels = pooled.argmax(axis=-1)
    confidence = np.take_along_axis(pooled, labels[..., None], axis=-1)[..., 0]
    return np.where(confidence > 0.0, labels, NO_ANSWER), confidence


def recent_weights(accuracy: FloatArray, classes: int) -> FloatArray:
    """Weights by recent accuracy: log-odds against chance, at least ``MIN_WEIGHT``.

    The optimal weights of a vote of independent members (Nitzan & Paroush 1982, "Optimal decision rules in
    uncertain dichotomous choice situations"; for several classes as in SAMME, Zhu et al. 2009, eq. 5).
    ``accuracy`` is (M,) in [0, 1].
    """
    a = np.clip(accuracy, 0.01, 0.99)
    return np.asarray(np.maximum(np.log(a / (1.0 - a)) + np.log(max(classes - 1, 1)), MIN_WEIGHT))
