"""How a policy explores: Vowpal Wabbit's algorithms by name; those that need nothing but values, as formulas too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bandmaster.core import BandmasterError, FloatArray

Algorithm = Literal["epsilon", "squarecb", "softmax", "bag", "rnd"]

STRENGTH: Mapping[Algorithm, float] = {"epsilon": 0.005, "squarecb": 100.0, "softmax": 60.0, "bag": 5, "rnd": 3}
"""Every algorithm, and its strength where none is given."""

_VW: Mapping[Algorithm, str] = {
    "epsilon": "--epsilon",
    "squarecb": "--squarecb --gamma_scale",
    "softmax": "--softmax --lambda",
    "bag": "--bag",
    "rnd": "--rnd",
}


@dataclass(frozen=True, slots=True)
class Exploration:
    """An algorithm and its one figure, called as Vowpal Wabbit calls it.

    ``epsilon`` in [0, 1] is the share of decisions spread evenly over all plans. ``squarecb``'s gamma and ``softmax``'s
    lambda, both ≥ 0, explore less the greater they are. ``bag`` counts bootstrapped policies that vote (Agarwal et al.
    2014, "Taming the monster", section 7), ``rnd`` the random predictors whose error is an uncertainty (Burda et al.
    2018, "Exploration by random network distillation").
    """

    by: Algorithm = "epsilon"
    strength: float = STRENGTH["epsilon"]

    @property
    def vw_options(self) -> str:
        return f"{_VW[self.by]} {self.strength:g}"


def spread(values: FloatArray, exploration: Exploration, learned: int) -> FloatArray:
    """The distribution (P,) over plans that are worth ``values`` (P,), after ``learned`` outcomes.

    Of ``values`` (n, P) it is one to each of n requests, (n, P).

    A plan worth −∞ is not to be chosen. The same as Vowpal Wabbit's: a test holds the two together. Raises
    ``BandmasterError`` for ``bag`` and ``rnd``, which need models of their own rather than values.
    """
    allowed, best = values > -np.inf, values.argmax(axis=-1)
    at = best if values.ndim == 1 else (np.arange(len(values)), best)
    size = allowed.sum(axis=-1, keepdims=True)
    if exploration.by == "epsilon":
        p = np.where(allowed, exploration.strength / size, 0.0)
    elif exploration.by == "softmax":
        p = np.exp(exploration.strength * (values - values.max(axis=-1, keepdims=True)))
        return np.asarray(p / p.sum(axis=-1, keepdims=True))
    elif exploration.by == "squarecb":
        # Foster & Rakhlin 2020, "Beyond UCB", algorithm 1, with a gamma that grows as the regression gets better.
        gamma = exploration.strength * np.sqrt(learned)
        short = values.max(axis=-1, keepdims=True) - np.where(allowed, values, 0.0)
        p = np.where(allowed, 1.0 / (size + gamma * short), 0.0)
    else:
        raise BandmasterError(
            f"{exploration.by} explores by models of its own, which only policy.use: vw has; take epsilon, squarecb or "
            "softmax here"
        )
    p[at] = 0.0
    p[at] = 1.0 - p.sum(axis=-1)
    return p
