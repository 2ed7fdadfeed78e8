"""Accuracy without labels: agreement with the combined answer of the other members, for requests that all answered.

A proxy: it cannot see a mistake that most members share, so it is never mixed with accuracy by labels.
"""

from __future__ import annotations

import numpy as np

from bandmaster.combine import mean_known
from bandmaster.core import BoolArray, FloatArray, IntArray

_TIE = 1e-9
"""Pooled probabilities this near to the greatest are as great: sums of the same figures differ in their last bits."""


def others_say(scores: FloatArray) -> FloatArray:
    """What each member is held against: who the others' pool says it is, (n, M, C), rows summing to 1.

    ``scores`` (n, M, C) are all members' distributions, zeros where one abstained or failed. For member m it is the
    most probable class of the linear pool of all but m, in equal parts where several are the most probable; zeros where
    no other member answered. The pool is unweighted: weights by recent accuracy would be learned from this very figure.
    """
    return _most_probable(scores.sum(axis=1, keepdims=True) - scores)


def _most_probable(pooled: FloatArray) -> FloatArray:
    best = pooled.max(axis=-1, keepdims=True)
    top = (pooled >= best - _TIE) & (best > _TIE)
    return np.asarray(top / np.maximum(top.sum(axis=-1, keepdims=True), 1))


def member_agreement(scores: FloatArray) -> FloatArray:
    """Each member's agreement with the others over the rows, (M,) in [0, 1]; NaN where nobody else ever answered.

    An abstention agrees with nobody. Leave-one-out, so no member ever confirms itself.
    """
    reference = others_say(scores)
    said = scores.argmax(axis=-1)
    agreed = np.take_along_axis(reference, said[..., None], axis=-1)[..., 0] * (scores.sum(axis=-1) > 0.0)
    return mean_known(agreed, reference.sum(axis=-1) > 0.0)


def plan_agreement(scores: FloatArray, labels: IntArray, heard: BoolArray) -> FloatArray:
    """Each plan's agreement over the rows, (P,) in [0, 1]; NaN where there was nobody to agree with.

    ``labels`` (n, P) are the plans' answers as class indices, ``NO_ANSWER`` agreeing with nobody; ``heard`` (n, P, M)
    says who had a say in them. The members that had are left out one at a time, and the answer's agreements with the
    others each time are averaged. So a plan of one member earns that member's own agreement, and every plan is held
    against pools of M − 1. (A pool of outsiders alone shrinks as plans grow: with four members it ranks plans no better
    than chance.) What it costs: members that stay confirm their own plan, which flatters plans of many members.
    """
    reference = others_say(scores)
    of_label = np.take_along_axis(reference, np.maximum(labels, 0)[:, None, :], axis=-1)  # (n, M, P)
    agreed = of_label.transpose(0, 2, 1) * (labels >= 0)[..., None]
    judges = heard & (reference.sum(axis=-1) > 0.0)[:, None, :]
    count = judges.sum(axis=-1)
    return mean_known((agreed * judges).sum(axis=-1) / np.maximum(count, 1), count > 0)
