"""How a log becomes traffic: its order, and when labels become known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from bandmaster.core import BandmasterError, IntArray
from bandmaster.recorded import RecordedLog
from bandmaster.table import NO_LABEL

Order = Literal["kept", "shuffled", "mixed"]


@dataclass(frozen=True, slots=True)
class Mix:
    """A class mix that is redrawn: every ``every`` requests, ``classes`` others of the log's; ``requests`` in all."""

    classes: int
    every: int
    requests: int

    def phases(self) -> dict[str, int]:
        """The length of each phase, by its name."""
        starts = range(0, self.requests, self.every)
        return {f"mix {k}": min(self.every, self.requests - start) for k, start in enumerate(starts, start=1)}


@dataclass(frozen=True, slots=True)
class Traffic:
    """How a log becomes traffic. ``delay`` (requests) overrides the log's own; ``label_share`` of the labels arrive.

    ``mix`` is there where the order is ``mixed``, and only there.
    """

    order: Order = "kept"
    delay: int | None = None
    label_share: float = 1.0
    mix: Mix | None = None

    def __post_init__(self) -> None:
        if (self.order == "mixed") != (self.mix is not None):
            raise BandmasterError(f"order {self.order!r} and mix {self.mix}: mixed traffic has a mix, and no other has")
        if self.mix is not None and min(self.mix.classes, self.mix.every, self.mix.requests) < 1:
            raise BandmasterError(f"{self.mix}: classes, every and requests must be 1 or more")

    def length(self, log: RecordedLog) -> int:
        """Requests that a log gives."""
        return len(log) if self.mix is None else self.mix.requests


@dataclass(frozen=True, slots=True)
class Drawn:
    """One seed's traffic: the ``log`` in the order of arrival, and after each request whose labels become known."""

    log: RecordedLog
    arrivals: tuple[tuple[int, ...], ...]


def draw(log: RecordedLog, traffic: Traffic, seed: int) -> Drawn:
    """The traffic of one seed; every policy of that seed sees the same."""
    log = redraw(log, traffic, seed)
    reported = np.random.default_rng([seed, 1]).random(len(log)) < traffic.label_share
    after = np.arange(len(log)) + log.delay
    arrivals: list[list[int]] = [[] for _ in range(len(log))]
    for i in np.flatnonzero(reported & log.labelled & (after < len(log))):
        arrivals[after[i]].append(int(i))
    return Drawn(log, tuple(map(tuple, arrivals)))


def redraw(log: RecordedLog, traffic: Traffic, seed: int) -> RecordedLog:
    """The requests of one seed's traffic in their order, whenever labels become known."""
    if traffic.delay is not None:
        log = replace(log, delay=np.full(len(log), traffic.delay))
    rng = np.random.default_rng([seed, 0])
    if traffic.mix is not None:
        return _mixed(log, traffic.mix, rng)
    return log.redrawn(rng.permutation(len(log))) if traffic.order == "shuffled" else log


def _mixed(log: RecordedLog, mix: Mix, rng: np.random.Generator) -> RecordedLog:
    """Phase by phase, requests of a few classes: each once, and again only when all of them have been."""
    present = np.unique(log.truth[log.truth != NO_LABEL])
    order: list[IntArray] = []
    for length in mix.phases().values():
        (rows,) = np.nonzero(np.isin(log.truth, rng.choice(present, mix.classes, replace=False)))
        order.append(np.concatenate([rng.permutation(rows) for _ in range(-(-length // len(rows)))])[:length])
    phases = tuple(name for name, length in mix.phases().items() for _ in range(length))
    return replace(log.redrawn(np.concatenate(order)), phases=phases)
