"""How much to probe: much while little is known or the world has just changed, little once probing teaches little."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bandmaster.estimators import WindowedMean


@dataclass(frozen=True, slots=True)
class Probing:
    """The ``probes:`` block: a ``share`` in [0, 1] of requests; ``adapt`` lets it follow what is yet to be learned."""

    share: float = 0.02
    adapt: bool = True


class ProbeShare:
    """The probability with which the next request is probed.

    Among plans that are known from n probes, the one taken is short of the best by about A/n, so that in T requests the
    least is lost and paid together after n = √(A·T/price) of them: an adapting share falls as 1/n and as 1/price. It is
    ``share`` once ``SETTLED`` probes have been made that cost ``PRICE`` each, in reward, or less; of dearer ones fewer
    are made, but no less than ``DEAREST`` of that. It is never below a tenth of ``share``, and starts at ``FIRST``.
    After a drift alarm half of the probes made are taken for nothing.
    """

    FIRST = 0.25
    SETTLED = 640.0
    PRICE = 0.04
    DEAREST = 1 / 8

    def __init__(self, probing: Probing) -> None:
        self._probing, self._worth = probing, probing.share * self.SETTLED
        self._price = WindowedMean(1, window=200.0, prior=self.PRICE, prior_weight=4.0)
        self.made = 0.0

    @property
    def value(self) -> float:
        share = self._probing.share
        if not self._probing.adapt or share == 0.0:
            return share
        earned = max(self.PRICE / max(float(self._price.value[0]), self.PRICE), self.DEAREST)
        return min(max(earned * self._worth / (self.made + 1.0), share / 10.0), max(self.FIRST, share))

    def learn(self) -> None:
        """One more probe was made."""
        self.made += 1.0

    def pay(self, price: float) -> None:
        """A probe turned out to cost so much reward, in [0, 1]."""
        self._price.update(np.array([price]))

    def doubt(self) -> None:
        """The world has changed: half of what probes have taught is void."""
        self.made /= 2.0

    def dump(self) -> list[list[float]]:
        return [[self.made], *self._price.dump()]

    def load(self, state: list[list[float]]) -> None:
        """Restore what ``dump`` gave. Raises ``ValueError`` on anything else."""
        (self.made,), *price = state
        self._price.load(price)
