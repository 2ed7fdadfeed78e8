"""Ways of choosing among models that the literature compares with, played by the same engine."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from bandmaster.contract import Contract
from bandmaster.core import BandmasterError, BoolArray, Experience, FloatArray, Plan, State
from bandmaster.counterfactual import revealed
from bandmaster.estimators import Standardiser, WindowedMean
from bandmaster.plans import Catalogue, compiled


class BlastPolicy:
    """The member that earned most of late: BLAST (van Rijn et al. 2018, "The online performance estimation framework",
    section 4, with fading factors).

    There every member runs on every request. Here the leader alone replies, and probes tell of the others, charged.
    """

    name = "blast"
    probes = True
    aims = False
    WINDOW = 1000.0
    """Observations looked back on: the paper's fading factor of .999."""

    def __init__(self, catalogue: Catalogue, contract: Contract) -> None:
        self.catalogue = compiled(catalogue.ensemble.names, catalogue.ensemble)
        self._contract = contract
        self._rewards = WindowedMean(len(self.catalogue), window=self.WINDOW, prior=0.5)
        self._learned = 0

    @property
    def version(self) -> str:
        """How many outcomes have been learned."""
        return str(self._learned)

    def probabilities(self, state: State) -> FloatArray:
        p = np.zeros(len(self.catalogue))
        p[state.within(self._rewards.value).argmax()] = 1.0
        return p

    def learn(self, experience: Experience) -> None:
        self._rewards.update(revealed(self.catalogue, self._contract, experience).rewards)
        self._learned += 1

    def dump(self) -> bytes:
        return msgspec.msgpack.encode(_BlastDump(self._learned, self._rewards.dump()))

    def load(self, snapshot: bytes) -> None:
        """Restore what ``dump`` gave. Raises ``BandmasterError`` on anything else."""
        try:
            dumped = msgspec.msgpack.decode(snapshot, type=_BlastDump)
            self._rewards.load(dumped.rewards)
        except (msgspec.DecodeError, ValueError) as problem:
            raise BandmasterError(f"no snapshot of blast over {len(self.catalogue)} members: {problem}") from None
        self._learned = dumped.learned


class _BlastDump(msgspec.Struct, frozen=True):
    learned: int
    rewards: list[list[float]]


class KnoraPolicy:
    """The members that were right on all of the nearest requests known: KNORA-Eliminate (Ko et al. 2008, "From dynamic
    classifier selection to dynamic ensemble selection", section 3.2).

    Neighbours are, by standardised features, among the last ``KEPT`` requests on which every member's outcome became
    known, by a probe or because all ran. Where nobody was right on all ``NEIGHBOURS``, fewer count; where nobody was on
    the nearest either, all members run.
    """

    name = "knora-e"
    probes = True
    aims = False
    NEIGHBOURS = 7
    KEPT = 2000
    MOST = 12
    """Members: any subset of them is a plan."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Raises ``BandmasterError`` for more than ``MOST`` members."""
        names = catalogue.ensemble.names
        if len(names) > self.MOST:
            raise BandmasterError(
                f"{self.name} picks any subset of at most {self.MOST} members, not of {len(names)}; leave some out"
            )
        # The subset with the bits of k + 1 is plan k.
        self.catalogue = Catalogue.of(catalogue.ensemble, [_subset(names, bits) for bits in range(1, 2 ** len(names))])
        self._bit = 2 ** np.arange(len(names))
        self._known = _Known(np.zeros((0, 0)), np.zeros((0, len(names)), dtype=np.bool_))
        self._standard = Standardiser(0)
        self._learned = 0

    @property
    def version(self) -> str:
        """How many outcomes have been learned."""
        return str(self._learned)

    def probabilities(self, state: State) -> FloatArray:
        p = np.zeros(len(self.catalogue))
        p[self._bit[self._competent(state.features)].sum() - 1] = 1.0
        return p

    def _competent(self, features: FloatArray) -> BoolArray:
        """Who is to run, (M,)."""
        everyone = np.ones(len(self._bit), dtype=np.bool_)
        if not len(self._known.right) or self._known.features.shape[1] != len(features):
            return everyone
        far = ((self._standard(self._known.features) - self._standard(features)) ** 2).sum(axis=1)
        nearest = np.argsort(far, kind="stable")[: self.NEIGHBOURS]
        always = np.logical_and.accumulate(self._known.right[nearest])
        found = np.flatnonzero(always.any(axis=1))
        return always[found[-1]] if len(found) else everyone

    def learn(self, experience: Experience) -> None:
        features, correct = experience.joined.decision.state.features, experience.correct
        if self._standard.size != len(features):
            self._standard = Standardiser(len(features))
            self._known = _Known(np.zeros((0, len(features))), np.zeros((0, len(correct)), dtype=np.bool_))
        self._standard.learn(features)
        if not np.isnan(correct).any():
            self._known = self._known.and_also(features, correct == 1.0, self.KEPT)
        self._learned += 1

    def dump(self) -> bytes:
        known = self._known
        return msgspec.msgpack.encode(
            _KnoraDump(self._learned, self._standard.dump(), known.features.tobytes(), known.right.tobytes())
        )

    def load(self, snapshot: bytes) -> None:
        """Restore what ``dump`` gave. Raises ``BandmasterError`` on anything else."""
        try:
            dumped = msgspec.msgpack.decode(snapshot, type=_KnoraDump)
            standard = Standardiser.of(dumped.standard)
            right = np.frombuffer(dumped.right, dtype=np.bool_).reshape(-1, len(self._bit))
            features = np.frombuffer(dumped.features).reshape(len(right), standard.size)
        except (msgspec.DecodeError, ValueError) as problem:
            raise BandmasterError(f"no snapshot of {self.name} over {len(self._bit)} members: {problem}") from None
        self._learned, self._standard, self._known = dumped.learned, standard, _Known(features, right)


@dataclass(frozen=True, slots=True)
class _Known:
    """Requests on which all members' outcomes are known: ``features`` (K, d), who was ``right`` (K, M)."""

    features: FloatArray
    right: BoolArray

    def and_also(self, features: FloatArray, right: BoolArray, most: int) -> _Known:
        return _Known(np.vstack([self.features, features])[-most:], np.vstack([self.right, right])[-most:])


class _KnoraDump(msgspec.Struct, frozen=True):
    learned: int
    standard: bytes
    features: bytes
    right: bytes


def _subset(names: tuple[str, ...], bits: int) -> Plan:
    return Plan((tuple(name for m, name in enumerate(names) if bits >> m & 1),))
