"""The traditional ways, as policies: a constant plan, random choice, algorithmic scoring."""

from __future__ import annotations

import numpy as np

from bandmaster.contract import Contract
from bandmaster.core import BandmasterError, Experience, Figures, FloatArray, MemberStatistics, State
from bandmaster.counterfactual import spend
from bandmaster.plans import Catalogue, compiled


class Memoryless:
    """What a policy needs that itself never learns: nothing to dump."""

    probes = False
    aims = False

    def learn(self, experience: Experience) -> None:
        """Nothing to learn."""

    def dump(self) -> bytes:
        return b""

    def load(self, snapshot: bytes) -> None:
        if snapshot:
            raise BandmasterError(f"{type(self).__name__} keeps no state, but was given {len(snapshot)} bytes")


class _Unchanging(Memoryless):
    """Always offers the same plans."""

    version = "0"

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue


class ConstantPolicy(_Unchanging):
    """Always the same plan, the only one that it offers: what a hand-written ensemble does."""

    name = "constant"
    reads_state = False
    draws = False

    def __init__(self, catalogue: Catalogue, plan: str) -> None:
        """Raises ``BandmasterError`` for a plan that is not in ``catalogue``, which nothing could be compared with."""
        super().__init__(compiled((catalogue.names[catalogue.index(plan)],), catalogue.ensemble))

    def probabilities(self, state: State) -> FloatArray:
        return np.ones(1)


class RandomPolicy(_Unchanging):
    """Every plan with the same probability."""

    name = "random"
    reads_state = False

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__(catalogue)
        self._p = np.full(len(catalogue), 1.0 / len(catalogue))

    def probabilities(self, state: State) -> FloatArray:
        return self._p


class ScoringPolicy(_Unchanging):
    """Algorithmic scoring: the plan with the greatest contract value computed from recent statistics.

    A plan's accuracy is taken to be the mean of its members' recent accuracies, its confidence likewise; a
    cascade is taken to run whole. Plans that score alike are drawn evenly. Its statistics come from what ran and
    from probes.
    """

    name = "scoring"
    probes = True
    aims = False

    def __init__(self, catalogue: Catalogue, contract: Contract, profile: Figures) -> None:
        super().__init__(catalogue)
        self._contract, self._profile = contract, profile
        self._members = catalogue.stage_members.any(axis=1).astype(np.float64)

    def probabilities(self, state: State) -> FloatArray:
        best = state.within(self.scores(state.members))
        p = (best == best.max()).astype(np.float64)
        return np.asarray(p / p.sum())

    def scores(self, members: MemberStatistics) -> FloatArray:
        """The contract value (P,) of each plan, in [0, 1], by the members' recent statistics."""
        share = self._members / self._members.sum(axis=1, keepdims=True)
        figures = Figures(members.latency_s, members.energy_j, self._profile.cost, self._profile.explainability)
        spent = spend(self.catalogue, self.catalogue.stages[None], figures, np.ones(len(members.accuracy)))
        raw = {name: values[0] for name, values in spent.items()}
        raw |= {"accuracy": share @ members.accuracy, "confidence": share @ members.confidence}
        return self._contract.foreseen(raw)
