"""The plans of several policies as one catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bandmaster.core import Decision, Ensemble, Figures, FloatArray, Noticing, Policy, Said, State
from bandmaster.plans import compiled


class JointOffer:
    """Every plan that one of the policies offers now, and where in it each policy's own plans stand."""

    def __init__(self, policies: Sequence[Policy], ensemble: Ensemble) -> None:
        self.names = [policy.catalogue.names for policy in policies]
        self.catalogue = compiled(tuple(dict.fromkeys(name for names in self.names for name in names)), ensemble)
        place = {name: k for k, name in enumerate(self.catalogue.names)}
        self._policies = tuple(policies)
        self._places = [np.array([place[name] for name in names]) for names in self.names]

    @property
    def stale(self) -> bool:
        """Whether a policy has come to offer other plans since."""
        return self.names != [policy.catalogue.names for policy in self._policies]

    def notice(self, decision: Decision, said: Said, figures: Figures) -> None:
        """Tell those policies of a probe before its outcome that want to know."""
        for policy in self._policies:
            if isinstance(policy, Noticing):
                policy.notice(decision, said, figures)

    def forget(self, decision_id: str) -> bool:
        """Have none of them keep a probe of this decision; whether one did."""
        kept = [policy.forget(decision_id) for policy in self._policies if isinstance(policy, Noticing)]
        return any(kept)

    def advice(self, k: int, state: State) -> FloatArray:
        """The distribution of policy ``k`` over all plans (P,), each of which it is told of its own whether it fits."""
        places, p = self._places[k], np.zeros(len(self.catalogue))
        if state.fits:
            own = tuple(state.fits[place] for place in places)
            # Where none of its own fits, it says what it would take, and the others' plans are chosen from.
            state = replace(state, fits=own if any(own) else ())
        p[places] = self._policies[k].probabilities(state)
        return p
