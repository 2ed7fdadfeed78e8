"""The bandit: models of members and plans that score every plan, and Vowpal Wabbit that corrects them."""

from __future__ import annotations

import zlib

import msgspec
import numpy as np

from bandmaster.contract import Contract
from bandmaster.core import BandmasterError, Experience, Figures, FloatArray, State
from bandmaster.counterfactual import revealed, spend
from bandmaster.estimators import ForgettingRegression, RandomFourierFeatures, Standardiser
from bandmaster.plans import Catalogue
from bandmaster.policies.vw import VowpalWabbit

CHANCE = 0.5
"""How often a member is taken to be right before anything was seen."""

EDGES = np.array([-1.6, -1.0, -0.6, -0.2, 0.2, 0.6, 1.0, 1.6])
"""Bucket edges for VW's shared features, in deviations. Bucketised features earn more than raw ones there."""

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
    """ε-greedy over plan scores that Vowpal Wabbit corrects.

    VW learns, from the chosen plan alone, by how much its score was wrong in this context; it starts with no
    correction at all, so that the first decisions are the scores' own.
    """

    name = "bandit"
    probes = True

    def __init__(
        self, catalogue: Catalogue, contract: Contract, profile: Figures, *, epsilon: float = 0.02, seed: int = 0
    ) -> None:
        """``epsilon`` in [0, 1] is the share of decisions spread evenly over all plans."""
        self.catalogue, self._contract, self._epsilon = catalogue, contract, epsilon
        self._prior = prior_rewards(catalogue, contract, profile)
        self._learned = 0
        self._scores: PlanScores | None = None  # the first outcome tells how many features there are
        self._vw = VowpalWabbit(f"{VW_OPTIONS} --random_seed {seed}")
        self._plan_lines = [_plan_line(catalogue, k, price) for k, price in enumerate(_prices(self._prior))]

    @property
    def version(self) -> str:
        """How many outcomes have been learned."""
        return str(self._learned)

    def probabilities(self, state: State) -> FloatArray:
        p = np.full(len(self._prior), self._epsilon / len(self._prior))
        p[self.values(state).argmax()] += 1.0 - self._epsilon
        return p

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
            lines = self._lines(self._scores, decision.state)
            lines[chosen + 1] = f"0:{cost:.6f}:{decision.propensity:.6f} {lines[chosen + 1]}"
            self._vw.learn(lines)
        rewards = revealed(self.catalogue, self._contract, experience).rewards
        self._scores.learn(features, experience.correct, rewards)
        self._learned += 1

    def _lines(self, scores: PlanScores, state: State) -> list[str]:
        """VW's multi-line example: the shared line, then one a plan. Tags go in as checksums, never as text."""
        buckets = np.searchsorted(EDGES, scores.standard(state.features))
        features = "".join(f" f{i}_{b}" for i, b in enumerate(buckets.tolist()))
        tags = "".join(f" t{zlib.crc32(tag.encode()):08x}" for tag in state.tags)
        return [f"shared |s b{features}{tags}", *self._plan_lines]

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


def prior_rewards(catalogue: Catalogue, contract: Contract, profile: Figures) -> FloatArray:
    """What each plan (P,) may earn before anything was seen: right every other time, its whole price paid."""
    spent = spend(catalogue, catalogue.stages[None], profile, np.ones(len(catalogue.ensemble.names)))
    half = np.array([CHANCE])
    raw = {"accuracy": half, "confidence": half, **{name: values[0] for name, values in spent.items()}}
    # A figure that no profile declares is unknown until it has been measured: no plan is to gain by that.
    return np.nan_to_num(np.broadcast_to(contract.rewards(raw), (len(catalogue),)), nan=0.5)


def _prices(prior: FloatArray) -> list[int]:
    """Each plan's price in tenths of the catalogue, from 0 for those whose prior promises most."""
    rank = np.argsort(np.argsort(-prior, kind="stable"))
    return [int(r) * 10 // len(prior) for r in rank]


def _plan_line(catalogue: Catalogue, k: int, price: int) -> str:
    """What VW knows of a plan: which it is; its members, how many they are, in how many stages, at which price."""
    plan = catalogue.plans[k]
    members = " ".join(f"m{catalogue.ensemble.index(name)}" for name in plan.members)
    return f"|p p{k} |m {members} n{len(plan.members)} t{len(plan.stages)} c{price}"
