"""River's context-free bandits over the configured plans: Thompson sampling, UCB and Exp3.

River pulls an arm and then hears its reward. Here the reward may come many requests later and the exact probability of
each choice is logged, so its policies keep what they have seen, and the distribution that ``pull`` would draw from is
read out of them: the private names of River's that this takes are all in this file, and tests hold them to ``pull``.
River is imported only by who plays one of them: it takes as long as all else that a server imports.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import msgspec
import numpy as np

from bandmaster.core import BandmasterError, Experience, FloatArray, State
from bandmaster.plans import Catalogue

HORIZON = 10_000
"""For how many requests Exp3 and Exp4 tune how much they explore."""


class _RiverPolicy(ABC):
    """Learns from what the chosen plan earned, and from nothing else."""

    name: str
    probes = False
    aims = False
    reads_state = False

    def __init__(self, catalogue: Catalogue, river: Any) -> None:
        self.catalogue, self._river = catalogue, river
        self._learned = 0
        self._p: FloatArray | None = None

    @property
    def version(self) -> str:
        """How many outcomes have been learned."""
        return str(self._learned)

    def probabilities(self, state: State) -> FloatArray:
        if self._p is None:
            self._p = self._distribution()
        return self._p

    def learn(self, experience: Experience) -> None:
        decision = experience.joined.decision
        if decision.plan in self.catalogue.names and decision.followed:
            self._update(decision.plan, experience.own, decision.chosen_p, decision.followed)
        self._learned += 1
        self._p = None

    def dump(self) -> bytes:
        return msgspec.msgpack.encode(_Dump(self._learned, [self._keep(plan) for plan in self.catalogue.names]))

    def load(self, snapshot: bytes) -> None:
        """Restore what ``dump`` gave, all of it or nothing. Raises ``BandmasterError`` on anything else."""
        try:
            dumped = msgspec.msgpack.decode(snapshot, type=_Dump)
        except msgspec.DecodeError as problem:
            raise BandmasterError(f"no snapshot of {self.name}: {problem}") from None
        arms = np.array(dumped.arms)
        if len(arms) != len(self.catalogue) or not np.isfinite(arms).all() or (arms < 0.0).any():
            raise BandmasterError(f"no snapshot of {self.name} over {len(self.catalogue)} plans")
        for plan, (first, second) in zip(self.catalogue.names, dumped.arms, strict=True):
            self._restore(plan, first, second)
        self._learned, self._p = dumped.learned, None

    @abstractmethod
    def _distribution(self) -> FloatArray:
        """What ``pull`` draws from, (P,)."""

    @abstractmethod
    def _update(self, plan: str, reward: float, p: float, counts: float) -> None:
        """Learn what the plan earned that was chosen with probability ``p``; ``counts`` in (0, 1], for how much."""

    @abstractmethod
    def _keep(self, plan: str) -> tuple[float, float]:
        """The two figures that are all there is to know of a plan."""

    @abstractmethod
    def _restore(self, plan: str, first: float, second: float) -> None: ...


class _Dump(msgspec.Struct, frozen=True):
    learned: int
    arms: list[tuple[float, float]]


class ThompsonPolicy(_RiverPolicy):
    """Thompson sampling with Beta posteriors (Agrawal & Goyal 2012, "Analysis of Thompson sampling", algorithm 2).

    A reward in [0, 1] is learned as a success or failure drawn with it. The probability that a plan's draw is the
    greatest has no closed form: it is the share among ``DRAWS`` draws of all posteriors, made anew after each outcome
    from a seed of its own. That share is what is sampled from, and so an exact propensity.
    """

    name = "thompson"
    DRAWS = 100

    def __init__(self, catalogue: Catalogue, *, seed: int = 0) -> None:
        from river import bandit, proba

        super().__init__(catalogue, bandit.ThompsonSampling(reward_obj=proba.Beta(), seed=seed))
        self._seed = seed

    def _distribution(self) -> FloatArray:
        posteriors = [self._river._rewards[plan] for plan in self.catalogue.names]
        a, b = np.array([(beta.alpha, beta.beta) for beta in posteriors], dtype=np.float64).T
        rng = np.random.default_rng([self._seed, self._learned, 0])
        best = rng.beta(a, b, size=(self.DRAWS, len(a))).argmax(axis=1)
        return np.bincount(best, minlength=len(a)) / self.DRAWS

    def _update(self, plan: str, reward: float, p: float, counts: float) -> None:
        rng = np.random.default_rng([self._seed, self._learned, 1])
        self._river.update(plan, bool(rng.random() < reward))

    def _keep(self, plan: str) -> tuple[float, float]:
        beta = self._river._rewards[plan]
        return beta.alpha, beta.beta

    def _restore(self, plan: str, first: float, second: float) -> None:
        self._river._rewards[plan].alpha, self._river._rewards[plan].beta = first, second


class UcbPolicy(_RiverPolicy):
    """The greatest upper confidence bound (Auer et al. 2002, "Finite-time analysis", UCB1); ties are drawn evenly.

    Plans that were never tried come first, drawn evenly too: with late feedback one after the other would be tried over
    and over until the first is heard of.
    """

    name = "ucb"
    DELTA = 1.0

    def __init__(self, catalogue: Catalogue) -> None:
        from river import bandit

        super().__init__(catalogue, bandit.UCB(delta=self.DELTA))

    def _distribution(self) -> FloatArray:
        mean, count = np.array([self._keep(plan) for plan in self.catalogue.names]).T
        tried = count > 0
        bound = mean + self.DELTA * np.sqrt(2.0 * math.log(max(self._river._n, 1)) / np.where(tried, count, 1.0))
        bound[~tried] = np.inf
        best = (bound == bound.max()).astype(np.float64)
        return np.asarray(best / best.sum())

    def _update(self, plan: str, reward: float, p: float, counts: float) -> None:
        self._river.update(plan, reward)

    def _keep(self, plan: str) -> tuple[float, float]:
        count = self._river._counts[plan]
        return (self._river._rewards[plan].get(), count) if count else (0.0, 0.0)

    def _restore(self, plan: str, first: float, second: float) -> None:
        river, count = self._river, int(second)
        river._n += count - river._counts[plan]
        river._counts[plan] = count
        river._rewards.pop(plan, None)
        if count:
            river._rewards[plan] = type(river.reward_obj)._from_state(count, first)


class Exp3Policy(_RiverPolicy):
    """Exponential weights for exploration and exploitation (Auer et al. 2002, "The nonstochastic multiarmed bandit
    problem", figure 1), the reward divided by the probability with which the plan was chosen, as it was logged.
    """

    name = "exp3"

    def __init__(self, catalogue: Catalogue) -> None:
        from river import bandit

        self._gamma = exp3_gamma(len(catalogue), len(catalogue))
        super().__init__(catalogue, bandit.Exp3(gamma=self._gamma))
        for plan in catalogue.names:  # River counts the arms that it has met
            self._restore(plan, 1.0, 0.0)

    def _distribution(self) -> FloatArray:
        weights = np.array([self._river._weights[plan] for plan in self.catalogue.names])
        return np.asarray((1.0 - self._gamma) * weights / weights.sum() + self._gamma / len(weights))

    def _update(self, plan: str, reward: float, p: float, counts: float) -> None:
        weights = self._river._weights
        self._river._probabilities[plan] = max(p, self._gamma / len(self.catalogue))
        self._river.update(plan, reward * counts)
        # Only their ratios count, and River lets them grow until they overflow.
        top = max(weights.values())
        for name in weights:
            weights[name] /= top

    def _keep(self, plan: str) -> tuple[float, float]:
        return self._river._weights[plan], 0.0

    def _restore(self, plan: str, first: float, second: float) -> None:
        self._river._weights[plan] = first


def exp3_gamma(arms: int, experts: int) -> float:
    """The share explored that does best over ``HORIZON`` requests (Auer et al. 2002, corollary 3.2 and theorem 7.1)."""
    return min(1.0, math.sqrt(arms * math.log(max(experts, 2)) / ((math.e - 1.0) * HORIZON)))
