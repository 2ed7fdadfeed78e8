"""One policy a profile: requests with other preferences are decided by policies that learn from all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec

from bandmaster.contract import Contract
from bandmaster.core import (
    DEFAULT_PROFILE,
    BandmasterError,
    Decision,
    Ensemble,
    Experience,
    Figures,
    FloatArray,
    Policy,
    Said,
    State,
)
from bandmaster.policies.joint import JointOffer


class ProfiledPolicy:
    """Hands each request to the policy of its profile, which knows that profile's weights as its contract.

    What a request would have earned under other weights is known as soon as its outcome is, so that every policy learns
    from every request, as if it had been asked under its own profile: none waits for requests of its own. Only where a
    reward was reported instead of labels is it that of the request's profile alone. All plans of all policies are on
    offer; those that are another profile's alone have probability 0.
    """

    def __init__(self, contract: Contract, make: Callable[[Contract], Policy], ensemble: Ensemble) -> None:
        """``make`` is given for each profile, the default too, the contract under its weights."""
        default = replace(contract, profiles={})
        self._contracts = {DEFAULT_PROFILE: default, **contract.profiles}
        self._policies = {name: make(contract) for name, contract in self._contracts.items()}
        self._places = {name: k for k, name in enumerate(self._contracts)}
        self._ensemble = ensemble
        first = self._policies[DEFAULT_PROFILE]
        self.name, self.probes, self.aims = first.name, first.probes, first.aims
        self.reads_state = any(getattr(policy, "reads_state", True) for policy in self._policies.values())
        self.draws = any(getattr(policy, "draws", True) for policy in self._policies.values())
        self._offer()

    def _offer(self) -> None:
        """Take up the policies' plans."""
        self._joint = JointOffer(tuple(self._policies.values()), self._ensemble)
        self.catalogue = self._joint.catalogue

    @property
    def version(self) -> str:
        return ",".join(dict.fromkeys(policy.version for policy in self._policies.values()))

    def probabilities(self, state: State) -> FloatArray:
        return self._joint.advice(self._places[state.profile], replace(state, profile=DEFAULT_PROFILE))

    def notice(self, decision: Decision, said: Said, figures: Figures) -> None:
        """Tell every policy of a probe before its outcome."""
        self._joint.notice(decision, said, figures)
        if self._joint.stale:
            self._offer()

    def forget(self, decision_id: str) -> bool:
        """Have none of them keep a probe of this decision."""
        return self._joint.forget(decision_id)

    def learn(self, experience: Experience) -> None:
        asked = experience.joined.decision.profile
        for name, policy in self._policies.items():
            if name == asked or experience.own_raw is not None:
                policy.learn(_under(experience, self._contracts[name]))
        if self._joint.stale:
            self._offer()

    def dump(self) -> bytes:
        return msgspec.msgpack.encode({name: policy.dump() for name, policy in self._policies.items()})

    def load(self, snapshot: bytes) -> None:
        """Restore what ``dump`` gave, all of it or nothing. Raises ``BandmasterError`` on anything else."""
        try:
            dumped = msgspec.msgpack.decode(snapshot, type=dict[str, bytes])
        except msgspec.DecodeError as problem:
            raise BandmasterError(f"no snapshot of a policy a profile: {problem}") from None
        if dumped.keys() != self._policies.keys():
            known = ", ".join(self._policies)
            raise BandmasterError(f"a snapshot was learned under the profiles {', '.join(dumped)}, not under {known}")
        before = {name: policy.dump() for name, policy in self._policies.items()}
        try:
            for name, policy in self._policies.items():
                policy.load(dumped[name])
        except BandmasterError:
            for name, policy in self._policies.items():
                policy.load(before[name])
            raise
        self._offer()


def _under(experience: Experience, contract: Contract) -> Experience:
    """The experience as it would have been, had this contract been all there is."""
    joined, own = experience.joined, experience.own
    state = replace(joined.decision.state, profile=DEFAULT_PROFILE)
    if experience.own_raw is not None:
        own = contract.reward(experience.own_raw).value
    decision = replace(joined.decision, state=state)
    return replace(experience, joined=replace(joined, decision=decision), own=own)
