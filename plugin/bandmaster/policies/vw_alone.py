"""Vowpal Wabbit alone over plans, with the exploration algorithms that it brings."""

from __future__ import annotations

import msgspec
import numpy as np

from bandmaster.contract import Contract
from bandmaster.core import BandmasterError, Experience, Figures, FloatArray, State
from bandmaster.estimators import Standardiser
from bandmaster.plans import Catalogue
from bandmaster.policies.examples import labelled, plan_lines, prior_rewards, shared_line
from bandmaster.policies.exploration import Exploration
from bandmaster.policies.vw import VowpalWabbit

OPTIONS = "--cb_explore_adf --cb_type mtr --clip_p 1 -l 1 -q sp -q sm"
"""Regression over plans, shared features (s) crossed with the plan (p) and with its members (m).

``--clip_p 1`` takes the importance weights out: rare explored plans would swamp the model otherwise.
"""


class VowpalWabbitPolicy:
    """Vowpal Wabbit's contextual bandit: it learns from the chosen plan alone, and explores by its own algorithms.

    The cost is 1 − reward, so that plans never tried look best at first.
    """

    name = "vw"
    probes = False
    aims = False
    reads_state = False

    def __init__(
        self,
        catalogue: Catalogue,
        contract: Contract,
        profile: Figures,
        *,
        explore: Exploration | None = None,
        seed: int = 0,
    ) -> None:
        self.catalogue = catalogue
        self._explores = (explore or Exploration()).vw_options
        self._vw = VowpalWabbit(f"{OPTIONS} {self._explores} --random_seed {seed}")
        self._plan_lines = plan_lines(catalogue, prior_rewards(catalogue, contract, profile))
        self._standard = Standardiser(0)  # the first outcome tells how many features there are
        self._learned = 0

    @property
    def version(self) -> str:
        """How many outcomes have been learned."""
        return str(self._learned)

    def probabilities(self, state: State) -> FloatArray:
        return np.array(self._vw.predict(self._lines(state)))

    def learn(self, experience: Experience) -> None:
        decision = experience.joined.decision
        features = decision.state.features
        if self._standard.size != len(features):
            self._standard = Standardiser(len(features))
        if decision.plan in self.catalogue.names:
            chosen = self.catalogue.index(decision.plan)
            lines = self._lines(decision.state)
            self._vw.learn(labelled(lines, chosen, 1.0 - experience.own, decision.propensity))
        self._standard.learn(features)
        self._learned += 1

    def _lines(self, state: State) -> list[str]:
        fits = self._standard.size == len(state.features)
        standard = self._standard if fits else Standardiser(len(state.features))
        return [shared_line(standard(state.features), state.tags), *self._plan_lines]

    def dump(self) -> bytes:
        return msgspec.msgpack.encode(_Dump(self._learned, self._explores, self._standard.dump(), self._vw.dump()))

    def load(self, snapshot: bytes) -> None:
        """Restore what ``dump`` gave, all of it or nothing. Raises ``BandmasterError`` on anything else."""
        try:
            dumped = msgspec.msgpack.decode(snapshot, type=_Dump)
            standard = Standardiser.of(dumped.standard)
        except (msgspec.DecodeError, ValueError) as problem:
            raise BandmasterError(f"no snapshot of Vowpal Wabbit over {len(self.catalogue)} plans: {problem}") from None
        if dumped.explores != self._explores:  # the model would bring its own options along, and keep them
            raise BandmasterError(f"a snapshot of Vowpal Wabbit explores by {dumped.explores}, not {self._explores}")
        self._vw.load(dumped.vw)
        self._standard, self._learned = standard, dumped.learned


class _Dump(msgspec.Struct, frozen=True):
    learned: int
    explores: str
    standard: bytes
    vw: bytes
