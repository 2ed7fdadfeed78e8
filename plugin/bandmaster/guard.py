"""The guard: how far a policy may be followed, so that it never costs more against the baseline than was agreed.

A request is *exposed* where the policy's own choice answers it, else the baseline does. Of an exposed request it is
certain what it earned, and certain what the baseline would have earned at best: their difference is the most that
exposing it can have cost. That most is too much by the *slack*, by which the baseline would have fallen short of its
best: it is seen on probes, where every member is asked. What is surely lost so is bounded at every moment, whatever the
policy, the world and the delays of outcomes do; and nothing is exposed that could break the agreement.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may be lost against the baseline, in reward: ``per_request`` ≥ 0 of every request that was decided, and
    ``burn`` > 0 once. ``risk`` in (0, 1) is the probability with which more is lost, ever.
    """

    per_request: float = 0.02
    burn: float = 20.0
    risk: float = 0.01


class AtLeast:
    """What the sum of figures m ≥ 0 is at least, of which unbiased estimates x ≥ 0 are seen one after the other.

    With probability 1 − ``risk`` that holds at every moment, however the figures come about and however far single
    estimates stray upwards: exp(λ·(x − m) − ψ(λ)·x²), ψ(λ) = −log(1 − λ) − λ, is a supermartingale (Fan, Grama & Liu
    2015, "Exponential inequalities for martingales with applications", lemma 4.1, as in Howard et al. 2021,
    "Time-uniform, nonparametric, nonasymptotic confidence sequences", theorem 4). The best of several λ is taken.
    """

    TRIED = 0.5 ** np.arange(1, 16)
    """Values of λ in (0, 1): the smaller, the better for the more that was seen."""

    def __init__(self, risk: float) -> None:
        self._needed = math.log(len(self.TRIED) / risk)
        self._sum = self._squares = self.value = 0.0

    def add(self, estimate: float) -> None:
        """One more estimate, or what several that cancel out add up to; 0 changes nothing."""
        self._sum += estimate
        self._squares += estimate * estimate
        psi = -np.log1p(-self.TRIED) - self.TRIED
        now = float((self._sum - (psi * self._squares + self._needed) / self.TRIED).max())
        # Figures are not negative: what their sum was at least, it is.
        self.value = max(self.value, now)


@dataclass(slots=True)
class _Exposed:
    """An exposed request: the most that it may cost until its outcome comes, then the estimate of its slack."""

    most: float
    slack: float | None = None


class Ledger:
    """What following the policy has cost at most, against what may be lost.

    Credit is not hoarded: where the policy has surely earned ``burn`` more than the baseline, counting begins anew, so
    that one that turns bad may never lose what it had won before.
    """

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._exposed: OrderedDict[str, _Exposed] = OrderedDict()  # in the order of decisions
        self._open = 0.0  # the most that those without an outcome may cost
        self._begun = 0
        self._begin()

    def _begin(self) -> None:
        self._begun += 1
        self._requests, self._certain = 0, 0.0
        # All risks together are the allowance's: Σ 6/(π·i)² = 1.
        self._slack = AtLeast(self._allowance.risk * 6.0 / (math.pi * self._begun) ** 2)

    @property
    def lost(self) -> float:
        """What was lost since counting began, at most, in reward; below 0 where something was surely won."""
        return self._certain + self._open - self._slack.value

    @property
    def room(self) -> float:
        """What one more exposed request may cost."""
        return self._allowance.per_request * self._requests + self._allowance.burn - self.lost

    def decided(self) -> None:
        """One more request was decided, exposed or not."""
        self._requests += 1

    def expose(self, decision_id: str, most: float) -> None:
        """The policy's choice answers a request, at the cost of so much ``most``. Raises ``ValueError`` where there is
        no room for that.
        """
        if most > self.room:
            raise ValueError(f"exposing {decision_id} may cost {most:g}, and there is room for {self.room:g}")
        self._exposed[decision_id] = _Exposed(most)
        self._open += most

    def settle(self, decision_id: str, most: float, slack: float = 0.0) -> None:
        """An exposed request's outcome has come, by which it cost so much at ``most``, and its ``slack`` is estimated:
        what a probe showed times the inverse of its probability, 0 where there was none. Others are ignored.
        """
        if (exposed := self._exposed.get(decision_id)) is None or exposed.slack is not None:
            return
        self._open -= exposed.most
        self._certain += most
        exposed.most, exposed.slack = 0.0, slack
        self._advance()

    def expire(self, decision_id: str) -> None:
        """No outcome will come of it, so that it has no reward either."""
        if (exposed := self._exposed.get(decision_id)) is not None and exposed.slack is None:
            self._open -= exposed.most
            exposed.most, exposed.slack = 0.0, 0.0
            self._advance()

    def _advance(self) -> None:
        """Estimates count in the order of decisions: which outcomes come first must not choose among them."""
        while self._exposed:
            decision_id, first = next(iter(self._exposed.items()))
            if first.slack is None:
                break
            del self._exposed[decision_id]
            if first.slack:
                self._slack.add(first.slack)
        if self.lost <= -self._allowance.burn:
            self._begin()
