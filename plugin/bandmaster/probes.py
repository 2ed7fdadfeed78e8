"""How much to probe: much while little is known or the world has just changed, little once probing teaches little."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Probing:
    """The ``probes:`` block: a ``share`` in [0, 1] of requests; ``adapt`` lets it follow what is yet to be learned."""

    share: float = 0.02
    adapt: bool = True


class ProbeShare:
    """The probability with which the next request is probed.

    What n probes leave unknown falls with the root of n, so that a probe's worth falls faster than its price: an
    adapting share falls as 1/n, is ``share`` once ``SETTLED`` probes a member have been made, never below a tenth of
    it, and starts at ``FIRST``. After a drift alarm half of the probes made are taken for nothing.
    """

    FIRST = 0.25
    SETTLED = 32.0

    def __init__(self, probing: Probing, members: int) -> None:
        self._probing, self._worth = probing, probing.share * self.SETTLED * members
        self.made = 0.0

    @property
    def value(self) -> float:
        share = self._probing.share
        if not self._probing.adapt or share == 0.0:
            return share
        return min(max(self._worth / (self.made + 1.0), share / 10.0), max(self.FIRST, share))

    def learn(self) -> None:
        """One more probe was made."""
        self.made += 1.0

    def doubt(self) -> None:
        """The world has changed: half of what probes have taught is void."""
        self.made /= 2.0
