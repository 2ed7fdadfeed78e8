"""The bandit: models of members and plans that score every plan, and Vowpal Wabbit that corrects them."""

from __future__ import annotations

import msgspec
import numpy as np

from bandmaster.contract import Contract
from bandmaster.core import BandmasterError, Experience, Figures, FloatArray, State
from bandmaster.counterfactual import revealed
from bandmaster.estimators import ForgettingRegression, RandomFourierFeatures, Standardiser
from bandmaster.plans import Catalogue
from bandmaster.policies.examples import CHANCE, labelled, plan_lines, prior_rewards, shared_line
from bandmaster.policies.exploration import Exploration, spread
from bandmaster.policies.vw import VowpalWabbit

VW_OPTIONS = "--cb_adf --cb_type mtr --clip_p 1 -l 0.1 -q sp -q sm"
"""Regression over plans, shared features (s) crossed with the plan (p) and with its members (m).

``--clip_p 1`` takes the importance weights out: rare explored plans would swamp the model otherwise.
"""


class PlanScores:
    """What every plan may be expected to earn: its members' expected accuracy, and what else it earns beside that.

    Members' accuracies are regressed on the features and random Fourier features of them, with a long memory: where
    a member is good changes slowly. What a plan earns beyond α·(its members' mean accuracy), by combining them, by
    stopping early, by its price, is regressed on the features with a short memory. Both learn from every reward that
    an experience reveals, chosen or not.
    """

    MEMORY = 2000.0
    PLAN_MEMORY = 500.0
    FOURIER = 40

    def __init__(self, catalogue: Catalogue, contract: Contract, prior: FloatArray, features: int) -> None:
        ran = catalogue.stage_members.any(axis=1).astype(np.float64)
        self._share = ran / ran.sum(axis=1, keepdims=True) * contract.weight("accuracy")
        self.standard = Standardiser(features)
        self._fourier = RandomFourierFeatures(features, self.FOURIER if features else 0)
        chance = np.full(ran.shape[1], CHANCE)
        self._members = ForgettingRegression(chance, features + self._fourier.size, memory=self.MEMORY, ridge=3.0)
        rest = prior - self._share @ chance
        self._plans = ForgettingRegression(rest, features, memory=self.PLAN_MEMORY, ridge=10.0)

    def __call__(self, features: FloatArray) -> FloatArray:
        """Expected rewards (P,) of a request with these features (d,)."""
        z = self.standard(features)
        return self._by_members(z) + self._plans.predict(z)

    def _by_members(self, z: FloatArray) -> FloatArray:
        return np.asarray(self._share @ np.clip(self._members.predict(self._fourier(z)), 0.0, 1.0))

    def learn(self, features: FloatArray, correct: FloatArray, rewards: FloatArray) -> None:
        """Learn members' accuracies (M,) and plans' rewards (P,), NaN where unknown."""
        z = self.standard(features)
        self._plans.learn(z, rewards - self._by_members(z))
        self._members.learn(self._fourier(z), correct)
        self.standard.learn(features)

    def dump(self) -> tuple[bytes, bytes, bytes]:
        return self.standard.dump(), self._members.dump(), self._plans.dump()

    def load(self, dumped: tuple[bytes, bytes, bytes]) -> None:
        """Restore what ``dump`` gave. Raises ``ValueError`` on anything else."""
        self.standard = Standardiser.of(dumped[0])
        self._members.load(dumped[1])
        self._plans.load(dumped[2])


class BanditPolicy:
    """Exploration around plan scores that Vowpal Wabbit corrects.

    VW learns, from the chosen plan alone, by how much its score was wrong in this context; it starts with no
    correction at all, so that the first decisions are the scores' own.
    """

    name = "bandit"
    probes = True

    def __init__(
        self,
        catalogue: Catalogue,
        contract: Contract,
        profile: Figures,
        *,
        explore: Exploration | None = None,
        seed: int = 0,
    ) -> None:
        """``explore`` is one of epsilon (default), squarecb and softmax, over the corrected scores.

        Raises ``BandmasterError`` for the others.
        """
        self.catalogue, self._contract, self._explore = catalogue, contract, explore or Exploration()
        self._prior = prior_rewards(catalogue, contract, profile)
        spread(self._prior, self._explore, 0)  # refuses here what it would refuse at the first request
        self._learned = 0
        self._scores: PlanScores | None = None  # the first outcome tells how many features there are
        self._vw = VowpalWabbit(f"{VW_OPTIONS} --random_seed {seed}")
        self._plan_lines = plan_lines(catalogue, self._prior)

    @property
    def version(self) -> str:
        """How many outcomes have been learned."""
        return str(self._learned)

    def probabilities(self, state: State) -> FloatArray:
        return spread(self.values(state), self._explore, self._learned)

    def values(self, state: State) -> FloatArray:
        """Every plan's expected reward (P,): its score as VW corrects it."""
        if self._scores is None or self._scores.standard.size != len(state.features):
            return self._prior
        return self._scores(state.features) - self._vw.predict(self._lines(self._scores, state))

    def learn(self, experience: Experience) -> None:
        decision = experience.joined.decision
        features = decision.state.features
        if self._scores is None or self._scores.standard.size != len(features):  # other models than before
            self._scores = PlanScores(self.catalogue, self._contract, self._prior, len(features))
        if decision.plan in self.catalogue.names:
            chosen = self.catalogue.index(decision.plan)
            # VW minimises a cost: by how much the score promised too much.
            cost = self._scores(features)[chosen] - experience.own
            self._vw.learn(labelled(self._lines(self._scores, decision.state), chosen, cost, decision.propensity))
        rewards = revealed(self.catalogue, self._contract, experience).rewards
        self._scores.learn(features, experience.correct, rewards)
        self._learned += 1

    def _lines(self, scores: PlanScores, state: State) -> list[str]:
        return [shared_line(scores.standard, state), *self._plan_lines]

    def dump(self) -> bytes:
        scores = self._scores.dump() if self._scores else None
        return msgspec.msgpack.encode(_Dump(self._learned, scores, self._vw.dump()))

    def load(self, snapshot: bytes) -> None:
        """Restore what ``dump`` gave, all of it or nothing. Raises ``BandmasterError`` on anything else."""
        scores = None
        try:
            dumped = msgspec.msgpack.decode(snapshot, type=_Dump)
            if dumped.scores is not None:
                size = Standardiser.of(dumped.scores[0]).size
                scores = PlanScores(self.catalogue, self._contract, self._prior, size)
                scores.load(dumped.scores)
        except (msgspec.DecodeError, ValueError) as problem:
            raise BandmasterError(f"no snapshot of a bandit over {len(self._prior)} plans: {problem}") from None
        self._vw.load(dumped.vw)
        self._scores, self._learned = scores, dumped.learned


class _Dump(msgspec.Struct, frozen=True):
    learned: int
    scores: tuple[bytes, bytes, bytes] | None
    vw: bytes
