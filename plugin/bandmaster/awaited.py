"""Probed requests whose labels are still to come, if they ever do: what they tell a planner meanwhile."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from bandmaster.belief import Belief
from bandmaster.combine import posterior
from bandmaster.core import NO_ANSWER, Decision, Figures, FloatArray, Said
from bandmaster.planner import FIGURES, Known, as_dumped


@dataclass(frozen=True, slots=True)
class _Probe:
    """What all members said (n, M) and took (M,) to a request that came ``at`` (Unix s); ``prior`` (C,), how
    likely it was of each class when it was decided; ``odds`` (2, M), ``stands`` and ``newest``, with
    ``since``, as in ``Known``.
    """

    at: float
    said: Said
    figures: Figures
    prior: FloatArray
    odds: FloatArray
    stands: float
    newest: tuple[int, int]


class Awaited:
    """The last ``KEEP`` of them, by their decisions' ids.

    Each row becomes several, one for every class that it may well be of, each counting for as much as that is likely
    by all that was said and by what labels have taught (the E-step of Dempster, Laird & Rubin 1977, "Maximum
    likelihood from incomplete data via the EM algorithm"; with labels for some, Nigam et al. 2000, "Text classification
    from labeled and unlabeled documents using EM"). Only plans are valued by them: the belief itself, recent accuracy
    and rewards are learned from labels alone.
    """

    KEEP = 500

    LIKELY = 0.02
    """No class less likely than that is looked at."""

    def __init__(self) -> None:
        self._probes: OrderedDict[str, _Probe] = OrderedDict()
        self._newest = -math.inf  # when the newest request came whose outcome has

    def __len__(self) -> int:
        return len(self._probes)

    def add(self, decision: Decision, said: Said, figures: Figures, odds: FloatArray) -> None:
        """Keep a probe; the oldest makes room for it."""
        # As precise as they are dumped, so that who is restored values plans alike.
        state = decision.state
        prior = state.prior.astype(np.float32).astype(np.float64)
        newest = state.newest, state.since
        probe = _Probe(decision.at, said, as_dumped(figures), prior, odds, decision.stands_for, newest)
        self._probes[decision.id] = probe
        if len(self._probes) > self.KEEP:
            self._probes.popitem(last=False)

    def settle(self, decision: Decision) -> None:
        """The outcome of a request has come, probed or not."""
        self._probes.pop(decision.id, None)
        self._newest = max(self._newest, decision.at)

    def forget(self, decision_id: str) -> bool:
        """Keep it no longer; whether it was kept."""
        return self._probes.pop(decision_id, None) is not None

    def clear(self) -> None:
        self._probes.clear()

    def rows(self, belief: Belief, *, overdue: bool = False) -> list[Known]:
        """Every row as of each class that it may be of, by what is believed now; where ``overdue``, those of probes
        alone that are: a later request's outcome has come.
        """
        probes = [p for p in self._probes.values() if not overdue or p.at < self._newest]
        return [row for probe in probes for row in _guessed(probe, belief, self.LIKELY)]

    def dump(self) -> bytes:
        probes = [
            _Dump(
                decision_id,
                p.at,
                p.said.label.tolist(),
                p.said.bucket.tolist(),
                np.array([getattr(p.figures, name) for name in FIGURES], dtype=np.float32).tobytes(),
                p.prior.astype(np.float32).tobytes(),
                p.odds.tobytes(),
                p.stands,
                p.newest,
            )
            for decision_id, p in self._probes.items()
        ]
        return msgspec.msgpack.encode((self._newest, probes))

    @classmethod
    def of(cls, dumped: bytes, members: int, classes: int) -> Awaited:
        """Restore what ``dump`` gave. Raises ``ValueError`` on anything else."""
        awaited = cls()
        try:
            awaited._newest, found = msgspec.msgpack.decode(dumped, type=tuple[float, list[_Dump]])
            awaited._probes = OrderedDict((d.id, _probe(d, members, classes)) for d in found)
        except (msgspec.DecodeError, ValueError) as problem:
            raise ValueError(f"no awaited probes of {members} members and {classes} classes: {problem}") from None
        return awaited


class _Dump(msgspec.Struct, frozen=True):
    id: str
    at: float
    label: list[list[int]]
    bucket: list[list[int]]
    figures: bytes
    prior: bytes
    odds: bytes
    stands: float
    newest: tuple[int, int]


def _probe(dumped: _Dump, members: int, classes: int) -> _Probe:
    said = Said(*(np.array(a, dtype=np.int64).reshape(-1, members) for a in (dumped.label, dumped.bucket)))
    took = np.frombuffer(dumped.figures, np.float32).astype(np.float64).reshape(len(FIGURES), members)
    prior = np.frombuffer(dumped.prior, np.float32).astype(np.float64)
    odds = np.frombuffer(dumped.odds).reshape(2, members)
    inside = said.label.shape == said.bucket.shape and said.label.min() >= 0 and said.label.max() <= classes
    inside &= NO_ANSWER <= dumped.newest[0] < classes and dumped.newest[1] > 0
    if not inside or prior.shape != (classes,) or not (prior > 0.0).all() or not 0.0 < dumped.stands < np.inf:
        raise ValueError("of others")
    return _Probe(dumped.at, said, Figures(*took), prior, odds, dumped.stands, dumped.newest)


def _guessed(probe: _Probe, belief: Belief, likely: float) -> Iterator[Known]:
    said = probe.said
    of = posterior(belief.evidence(said, probe.prior, probe.odds), np.ones((1, belief.members), dtype=np.bool_))[:, 0]
    of = of * (of >= min(likely, 1.0 / belief.classes))
    for i, share in enumerate(of / of.sum(axis=1, keepdims=True)):
        for c in np.flatnonzero(share).tolist():
            yield Known(
                said.label[i],
                said.bucket[i],
                c,
                probe.figures,
                probe.odds,
                probe.stands,
                *probe.newest,
                float(share[c]),
            )
