"""Rehearsal: what would have been earned on requests of late, had others been in the ensemble, or counted for more."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bandmaster.contract import Contract
from bandmaster.core import Ensemble, Experience, FloatArray, Policy, State
from bandmaster.counterfactual import earnings
from bandmaster.intervals import Interval, t_interval
from bandmaster.limits import needing
from bandmaster.plans import compiled, in_service, relative, side_by_side

Counts = tuple[float, ...]
"""What members count for, (M,), the greatest 1; 0 where one is not in the ensemble."""

Distribution = Callable[[State], FloatArray]
"""The probabilities (P,) with which the policy chooses among the plans that it offers."""

KEPT = 300
"""The newest so many requests are kept."""

NEEDED = 30
"""Of so few nothing is concluded."""


def known_p(experience: Experience) -> float:
    """How probable it was that every member's answer would be known; 0 where nobody could have asked them all."""
    joined = experience.joined
    ran = [said for said in joined.answer.ran if len(said.rows) == len(joined.answer.labels)]
    return 1.0 if len(ran) == experience.known.shape[1] else joined.decision.probe_p


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """By how much more one ensemble would have earned a request than another: on average, with the 95 % interval, on so
    many requests.
    """

    mean: float
    interval: Interval
    requests: int


class Rehearsal:
    """Keeps labelled requests of which every member's answer is known, as a probe makes it; each counts for as many as
    it was improbable.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        contract: Contract,
        policy: Policy,
        distribution: Distribution,
        *,
        weighs: bool = False,
    ) -> None:
        """``distribution`` gives that of the ``policy``, for any state. Where it is decided what members count for, as
        ``weighs`` says, all answer, pooled by that; else the policy chooses among the plans of those that count.
        """
        self._ensemble, self._contract, self._policy, self._distribution = ensemble, contract, policy, distribution
        self._weighs = weighs
        self._newest: deque[Experience] = deque(maxlen=KEPT)

    def learn(self, experience: Experience) -> None:
        if experience.joined.outcome.labels is not None and experience.known.all() and known_p(experience):
            self._newest.append(experience)

    def forget(self, decision_id: str) -> None:
        """Keep nothing of a decision."""
        kept = (e for e in self._newest if e.joined.decision.id != decision_id)
        self._newest = deque(kept, maxlen=KEPT)

    def in_force(self, state: State) -> Counts:
        """The ensemble that answered, its members counting for what is declared of them now."""
        weights = self._ensemble.declared_weights if self._weighs else np.ones(len(self._ensemble.names))
        return tuple(relative(np.where(state.out, 0.0, weights) if state.out else weights).tolist())

    def earned(self, experience: Experience, counts: Counts) -> float:
        """What would have been earned on average, whatever the limits, by the policy as it is now, had members counted
        for that; NaN where what ran does not tell. A plan all of whose members failed is taken to have earned nothing:
        others would have stood in, and how well nobody knows.
        """
        names, p = self._plans(experience.joined.decision.state, counts)
        plans = compiled(tuple(dict.fromkeys(names)), self._ensemble)
        rewards = earnings(plans, self._contract, experience)[[plans.index(name) for name in names]]
        answer = experience.joined.answer
        if any(said.error is not None for said in (*answer.ran, *answer.probes)):
            rewards = np.nan_to_num(rewards)
        return float(p @ rewards)

    def _plans(self, state: State, counts: Counts) -> tuple[list[str], FloatArray]:
        """The plans that might have answered, by their names, and how probably each, (P,)."""
        ensemble = self._ensemble
        if self._weighs:
            return [side_by_side(ensemble, np.array(counts))], np.ones(1)
        offered, out = self._policy.catalogue.names, tuple(count == 0.0 for count in counts)
        fits = tuple((~needing(compiled(offered, ensemble), out)).tolist()) if any(out) else ()
        p = self._distribution(replace(state, out=out, fits=fits))
        chosen = np.flatnonzero(p)
        return [in_service(offered[k], ensemble, out) for k in chosen], p[chosen]

    def compare(self, before: Counts, after: Counts) -> Rehearsed | None:
        """The ensemble whose members count for that ``after`` against the one ``before``; ``None`` where too little is
        known.
        """
        gained = np.array([self.earned(e, after) - self.earned(e, before) for e in self._newest])
        weights = np.array([1.0 / known_p(e) for e in self._newest])[~np.isnan(gained)]
        gained = gained[~np.isnan(gained)]
        if len(gained) < NEEDED:
            return None
        # A ratio estimate; its interval is that of the mean of its linearised terms (Hajek 1971).
        mean = float(weights @ gained / weights.sum())
        low, high = t_interval(mean + weights * (gained - mean) / weights.mean())
        return Rehearsed(mean, (low, high), len(gained))
