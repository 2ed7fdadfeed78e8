"""The guard's books: what following a policy has cost against a baseline at most, and what it would gain."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

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

    PSI = -np.log1p(-TRIED) - TRIED

    def __init__(self, risk: float) -> None:
        self._needed = math.log(len(self.TRIED) / risk)
        self._sum = self._squares = self.value = 0.0

    def add(self, estimate: float) -> None:
        """One more estimate, or what several that cancel out add up to; 0 changes nothing."""
        self._sum += estimate
        self._squares += estimate * estimate
        now = float((self._sum - (self.PSI * self._squares + self._needed) / self.TRIED).max())
        # Figures are not negative: what their sum was at least, it is.
        self.value = max(self.value, now)

    def dump(self) -> list[float]:
        return [self._sum, self._squares, self.value]

    def load(self, state: list[float]) -> None:
        self._sum, self._squares, self.value = state


@dataclass(slots=True)
class _Exposed:
    """An exposed request of ``at`` (Unix s): the most that it may cost, until its outcome comes; then the estimate of
    its slack.
    """

    most: float
    at: float
    slack: float | None = None


class Ledger:
    """What following the policy has cost at most, against what may be lost.

    Nothing is hoarded. Requests make room only until there is as much as the burn; and where the policy has surely
    earned ``burn`` more than the baseline, counting begins anew, so that one that turns bad may not lose what it won.
    """

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._exposed: OrderedDict[str, _Exposed] = OrderedDict()  # in the order in which they were noticed
        self.open = 0.0  # the most that those without an outcome may cost
        self._requests, self._certain = 0, 0.0
        self._slack = AtLeast(allowance.risk)

    @property
    def lost(self) -> float:
        """What was lost since counting began, at most, in reward; below 0 where something was surely won."""
        return self._certain + self.open - self._slack.value

    @property
    def room(self) -> float:
        """What one more exposed request may cost."""
        return self._allowance.per_request * self._requests + self._allowance.burn - self.lost

    def decided(self) -> None:
        """One more request was decided, exposed or not."""
        if self.room < self._allowance.burn:
            self._requests += 1

    def expose(self, decision_id: str, most: float, at: float = 0.0) -> None:
        """The policy's choice answers a request, at the cost of so much at ``most``."""
        if decision_id not in self._exposed:
            self._exposed[decision_id] = _Exposed(most, at)
            self.open += most

    def settle(self, decision_id: str, most: float, slack: float = 0.0) -> None:
        """An exposed request's outcome has come, by which it cost so much at ``most``, and its ``slack`` is estimated:
        what a probe showed times the inverse of its probability, 0 where there was none. One that nobody had noticed
        is counted too.
        """
        exposed = self._exposed.setdefault(decision_id, _Exposed(0.0, 0.0))
        if exposed.slack is not None:
            return
        self.open -= exposed.most
        self._certain += most
        exposed.most, exposed.slack = 0.0, slack
        if not slack:  # nothing that waits for its turn
            del self._exposed[decision_id]
        self._advance()

    def expire(self, before: float) -> None:
        """No outcome will come any more of requests ``before`` that time (Unix s): they have no reward either."""
        old = takewhile(lambda entry: entry[1].at < before, self._exposed.items())
        for decision_id in [name for name, exposed in old if exposed.slack is None]:
            self.open -= self._exposed.pop(decision_id).most
        self._advance()

    def _advance(self) -> None:
        """Estimates count in the order of requests: which outcomes come first must not choose among them."""
        while self._exposed:
            decision_id, first = next(iter(self._exposed.items()))
            if first.slack is None:
                break
            del self._exposed[decision_id]
            self._slack.add(first.slack)
        if self.lost <= -self._allowance.burn:  # begin anew, with nothing lost
            self._requests, self._certain = 0, self._slack.value - self.open

    def dump(self) -> dict[str, Any]:
        exposed = [(name, e.most, e.at, e.slack) for name, e in self._exposed.items()]
        return {"exposed": exposed, "requests": self._requests, "certain": self._certain, "slack": self._slack.dump()}

    def load(self, state: dict[str, Any]) -> None:
        self._requests, self._certain = state["requests"], state["certain"]
        self._exposed = OrderedDict((name, _Exposed(most, at, slack)) for name, most, at, slack in state["exposed"])
        self.open = math.fsum(e.most for e in self._exposed.values())
        self._slack.load(state["slack"])


class Gain:
    """By how much more the policy's choices would have earned than the baseline, a request, on average.

    Where the members tell that ran for the reply, that is known; elsewhere a probe tells, and counts for all that were
    as unlikely to be probed. The margin holds at every moment, asymptotically (Waudby-Smith et al. 2024, "Time-uniform
    central limit theory and asymptotic confidence sequences", theorem 2.2).
    """

    TIGHTEST = 1000
    """Requests after which the margin is tightest for what was seen."""

    TOLD = 100
    """Requests of which the difference is known, before which nothing is said of the margin."""

    def __init__(self) -> None:
        self.requests, self.mean, self._told, self._squares = 0, 0.0, 0, 0.0

    def add(self, difference: float, p: float) -> None:
        """Learn one settled request: the difference, in [-1, 1], NaN where it is not known, and the probability in
        (0, 1] with which it would be.
        """
        known = not math.isnan(difference)
        value = difference / p if known else 0.0
        self.requests += 1
        self._told += known
        off = value - self.mean
        self.mean += off / self.requests
        self._squares += off * (value - self.mean)

    def margin(self, risk: float) -> float:
        """What the mean may be off by, but with probability ``risk``; infinite while too little is known."""
        n = self.requests
        if self._told < self.TOLD:
            return math.inf
        rho2 = (-2.0 * math.log(risk) + math.log(-2.0 * math.log(risk)) + 1.0) / self.TIGHTEST
        wide = 2.0 * (n * rho2 + 1.0) / (n * n * rho2) * math.log(math.sqrt(n * rho2 + 1.0) / risk)
        # As if one difference had been as great as any may be: none that was seen may be for want of luck.
        return math.sqrt((self._squares + 1.0) / n * wide)

    def dump(self) -> list[float]:
        return [float(self.requests), self.mean, float(self._told), self._squares]

    def load(self, state: list[float]) -> None:
        requests, self.mean, told, self._squares = state
        self.requests, self._told = int(requests), int(told)
