"""Exp4: exponential weights over policies that advise, as in Clipper's selection layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np

from bandmaster.core import BandmasterError, Decision, Experience, Figures, FloatArray, Policy, Said, State
from bandmaster.plans import Catalogue
from bandmaster.policies.context_free import exp3_gamma
from bandmaster.policies.joint import JointOffer


class Exp4Policy:
    """Mixes the distributions of ``experts`` by how well their advice has paid (Auer et al. 2002, "The nonstochastic
    multiarmed bandit problem", figure 3; Crankshaw et al. 2017, "Clipper", section 5).

    It offers every plan that an expert offers. Experts learn too. The advice that a reward is credited to is what the
    experts would give now for the state of then: the same for those that never learn, and nearly so for others unless
    feedback is very late.
    """

    name = "exp4"

    def __init__(self, experts: Sequence[Policy], catalogue: Catalogue) -> None:
        """``catalogue`` tells the ensemble; the plans are the experts' own. Raises ``BandmasterError`` for less than
        two experts.
        """
        if len(experts) < 2:
            raise BandmasterError(f"exp4 weighs experts against each other, but has {len(experts)}; name at least two")
        self._experts, self._ensemble = tuple(experts), catalogue.ensemble
        self.probes, self.aims = any(expert.probes for expert in experts), False
        self.reads_state = any(getattr(expert, "reads_state", True) for expert in experts)
        self._log_weights = np.zeros(len(experts))
        self._learned, self._noticed = 0, 0
        self._offer()

    def _offer(self) -> None:
        """Take up the experts' plans."""
        self._joint = JointOffer(self._experts, self._ensemble)
        self.catalogue = self._joint.catalogue
        self._gamma = exp3_gamma(len(self.catalogue), len(self._experts))

    @property
    def version(self) -> str:
        """How many outcomes have been learned, ``+`` how many probes noticed."""
        return f"{self._learned}+{self._noticed}" if self._noticed else str(self._learned)

    def probabilities(self, state: State) -> FloatArray:
        weights = np.exp(self._log_weights - self._log_weights.max())
        size = len(self.catalogue)
        return np.asarray((1.0 - self._gamma) * (weights / weights.sum()) @ self._advice(state) + self._gamma / size)

    def _advice(self, state: State) -> FloatArray:
        """Each expert's distribution over all plans on offer, (experts, P)."""
        return np.stack([self._joint.advice(k, state) for k in range(len(self._experts))])

    def notice(self, decision: Decision, said: Said, figures: Figures) -> None:
        """Tell the experts of a probe before its outcome."""
        self._joint.notice(decision, said, figures)
        if self._joint.stale:
            self._offer()
        self._noticed += 1

    def forget(self, decision_id: str) -> bool:
        """Have none of them keep a probe of this decision."""
        return self._joint.forget(decision_id)

    def learn(self, experience: Experience) -> None:
        decision = experience.joined.decision
        if decision.plan in self.catalogue.names and decision.followed:
            floor = self._gamma / len(self.catalogue)
            now = decision.state if decision.plans == self.catalogue.names else replace(decision.state, fits=())
            advice = self._advice(now)[:, self.catalogue.index(decision.plan)]
            earned = experience.own * decision.followed / max(decision.chosen_p, floor)
            self._log_weights += floor * advice * earned
            self._log_weights -= self._log_weights.max()
        for expert in self._experts:
            expert.learn(experience)
        if self._joint.stale:
            self._offer()
        self._learned += 1

    def dump(self) -> bytes:
        experts = [expert.dump() for expert in self._experts]
        return msgspec.msgpack.encode(_Dump(self._learned, self._noticed, self._log_weights.tolist(), experts))

    def load(self, snapshot: bytes) -> None:
        """Restore what ``dump`` gave, all of it or nothing. Raises ``BandmasterError`` on anything else."""
        try:
            dumped = msgspec.msgpack.decode(snapshot, type=_Dump)
        except msgspec.DecodeError as problem:
            raise BandmasterError(f"no snapshot of exp4: {problem}") from None
        weights = np.array(dumped.log_weights)
        if not len(weights) == len(dumped.experts) == len(self._experts) or not np.isfinite(weights).all():
            raise BandmasterError(f"no snapshot of exp4 over {len(self._experts)} experts")
        before = [expert.dump() for expert in self._experts]
        try:
            for expert, state in zip(self._experts, dumped.experts, strict=True):
                expert.load(state)
        except BandmasterError:
            for expert, state in zip(self._experts, before, strict=True):
                expert.load(state)
            raise
        self._log_weights, self._learned, self._noticed = weights, dumped.learned, dumped.noticed
        self._offer()


class _Dump(msgspec.Struct, frozen=True):
    learned: int
    noticed: int
    log_weights: list[float]
    experts: list[bytes]
