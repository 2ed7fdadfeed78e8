"""A policy of one's own; docs/how-to/add-a-policy.md explains it."""

import numpy as np

from bandmaster.core import BandmasterError


class Cautious:
    """The member that was right most often of late; of 20 requests one goes to somebody else, so that it is noticed
    who has become better.
    """

    name = "cautious"
    probes = True  # it lives on what probes tell of members
    aims = False  # and does not weigh them
    version = "0"  # changes whenever learning may have changed what follows: here never

    def __init__(self, plans, contract, belief):
        self.catalogue = plans  # what it offers
        names = plans.ensemble.names
        self.member = np.array([names.index(plan) if plan in names else -1 for plan in plans.names])

    def probabilities(self, state):
        """Of each plan of `catalogue`, a distribution, and 0 for those that `state.fits` rules out."""
        allowed = np.isfinite(state.within(np.zeros(len(self.member))))
        accuracy = np.where(self.member < 0, 0.0, state.members.accuracy[self.member])
        p = 0.05 * allowed / allowed.sum()
        p[np.where(allowed, accuracy, -1.0).argmax()] += 0.95
        return p

    def learn(self, experience):
        """Nothing: the state has all that it looks at."""

    def dump(self):
        return b""

    def load(self, snapshot):
        if snapshot:
            raise BandmasterError(f"Cautious keeps nothing, but was given {len(snapshot)} bytes")
