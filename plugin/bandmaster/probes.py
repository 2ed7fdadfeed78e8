"""How much to probe: much while little is known or the world has just changed, little once probing teaches little.
And where: on requests whose answers are unsure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bandmaster.estimators import WindowedMean


@dataclass(frozen=True, slots=True)
class Probing:
    """The ``probes:`` block: a ``share`` in [0, 1] of requests; ``adapt`` lets it follow what is yet to be learned.

    An adapting share may also ``aim`` at requests whose answers are unsure (``aimed``). Not where consensus judges, as
    what it says of the probed requests is reported as it is; nor in regression, where no answer is surer than another.
    """

    share: float = 0.02
    adapt: bool = True
    aim: bool = True


ANYWHERE = 0.2
"""The part of the share that falls on all requests alike."""

SURE = 0.01
"""No answer is taken for surer than that."""


def aimed(share: float, doubt: float, usual: float) -> float:
    """The probability of probing a request whose answer left so much ``doubt``, where ``usual`` is the mean; all in
    [0, 1].

    On requests whose answer is sure, most plans are right, and their probes tell nothing of how plans differ: so they
    are probed as much oftener as the answer is less sure (importance weighted active learning: Beygelzimer, Dasgupta &
    Langford 2009, section 4), the mean being ``share``, or a little less. What learns from probes weighs each by the
    inverse. ``ANYWHERE`` of the share falls on all alike, which bounds those weights (a defensive mixture: Hesterberg
    1995, "Weighted average importance sampling and defensive mixture distributions").

    >>> [round(aimed(0.02, doubt, 0.1), 4) for doubt in (0.0, 0.1, 0.5)]
    [0.0055, 0.02, 0.0759]
    """
    if usual <= 0.0:
        return share
    oftener = ANYWHERE + (1.0 - ANYWHERE) * (doubt + SURE) / (usual + SURE)
    # Tossed so many times more, which no share takes beyond 1.
    return 1.0 - math.pow(1.0 - share, oftener)


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
        self._doubt = WindowedMean(1, window=200.0, prior=0.5, prior_weight=4.0)
        self.made = 0.0

    @property
    def value(self) -> float:
        share = self._probing.share
        if not self._probing.adapt or share == 0.0:
            return share
        earned = max(self.PRICE / max(float(self._price.value[0]), self.PRICE), self.DEAREST)
        return min(max(earned * self._worth / (self.made + 1.0), share / 10.0), max(self.FIRST, share))

    @property
    def usual_doubt(self) -> float:
        """How unsure answers are of late, on average, in [0, 1]; 0 where all requests are to be probed alike."""
        return float(self._doubt.value[0]) if self._probing.adapt and self._probing.aim else 0.0

    def learn(self) -> None:
        """One more probe was made."""
        self.made += 1.0

    def answered(self, doubt: float) -> None:
        """A request was answered, with so much ``doubt`` in [0, 1]."""
        self._doubt.update_one(doubt)

    def pay(self, price: float) -> None:
        """A probe turned out to cost so much reward, in [0, 1]."""
        self._price.update_one(price)

    def doubt(self) -> None:
        """The world has changed: half of what probes have taught is void."""
        self.made /= 2.0

    def dump(self) -> list[list[float]]:
        return [[self.made], *self._price.dump(), *self._doubt.dump()]

    def load(self, state: list[list[float]]) -> None:
        """Restore what ``dump`` gave. Raises ``ValueError`` on anything else."""
        (self.made,), *means = state
        self._price.load(means[:3])
        self._doubt.load(means[3:])
