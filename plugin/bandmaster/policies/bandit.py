"""The bandit: a model of every plan's reward from exact counterfactuals, and Vowpal Wabbit on top of it."""

from __future__ import annotations

import msgspec
import numpy as np

from bandmaster.contract import Contract
from bandmaster.core import BandmasterError, Experience, FloatArray, IntArray, State
from bandmaster.counterfactual import Figures, spend
from bandmaster.estimators import WindowedMean
from bandmaster.plans import Catalogue
from bandmaster.policies.vw import VowpalWabbit

EDGES = np.array([-1.6, -1.0, -0.6, -0.2, 0.2, 0.6, 1.0, 1.6])
"""Bucket edges for standardised features, in deviations."""


class Buckets:
    """Standardises features by their running mean and deviation, then puts each into one of ten buckets."""

    WIDTH = len(EDGES) + 1

    def __init__(self, size: int) -> None:
        self._mean = np.zeros(size)
        self._square = np.zeros(size)
        self._count = 0

    def update(self, features: FloatArray) -> None:
        self._count += 1
        step = features - self._mean
        self._mean += step / self._count
        self._square += step * (features - self._mean)

    def __call__(self, features: FloatArray) -> IntArray:
        deviation = np.sqrt(self._square / max(self._count, 1))
        z = (features - self._mean) / np.where(deviation > 0.0, deviation, 1.0)
        return np.searchsorted(EDGES, z) + np.arange(len(features)) * self.WIDTH


class PlanModel:
    """Every plan's expected reward: its recent mean plus what the request's buckets add to it."""

    def __init__(self, plans: int, buckets: int, *, window: float, rate: float, prior: FloatArray) -> None:
        self.recent = WindowedMean(plans, window=window, prior=prior, prior_weight=3.0)
        self._weights = np.zeros((plans, buckets))
        self._gradient = np.full((plans, buckets), 1.0)
        self._rate = rate

    def predict(self, active: IntArray) -> FloatArray:
        return self.recent.value + self._weights[:, active].sum(axis=1)

    def learn(self, active: IntArray, rewards: FloatArray, weights: FloatArray) -> None:
        known = np.flatnonzero(~np.isnan(rewards))
        error = rewards[known] - self.predict(active)[known]
        if len(active):
            at = np.ix_(known, active)
            step = np.repeat((weights[known] * error)[:, None], len(active), axis=1)
            self._gradient[at] += step**2
            self._weights[at] += self._rate * step / np.sqrt(self._gradient[at])
        self.recent.update(rewards - self._weights[:, active].sum(axis=1), weights)


class BanditPolicy:
    name = "bandit"
    probes = True

    def __init__(self, catalogue: Catalogue, contract: Contract, profile: Figures, features: int, *,
                 epsilon: float = 0.02, seed: int = 0, mode: str = "model", window: float = 300.0, rate: float = 0.1,
                 clip: float = 10.0, vwopts: str="") -> None:
        self._catalogue = catalogue
        self.version = "0"
        self.mode, self.clip = mode, clip
        self._epsilon = epsilon
        self._buckets = Buckets(features)
        prior = self._prior(catalogue, contract, profile)
        self._model = PlanModel(len(catalogue), features * Buckets.WIDTH, window=window, rate=rate, prior=prior)
        self._vw = VowpalWabbit(vwopts or f"--cb_explore_adf --epsilon {epsilon} --clip_p 1 -l 1 -q sp -q sm --random_seed {seed}")
        self._plan_text = [
            f"|p p{k} |m " + " ".join(f"m{catalogue.ensemble.index(n)}" for n in plan.members)
            + f" n{len(plan.members)} t{len(plan.stages)}"
            for k, plan in enumerate(catalogue.plans)
        ]

    @staticmethod
    def _prior(catalogue: Catalogue, contract: Contract, profile: Figures) -> FloatArray:
        spent = spend(catalogue, catalogue.stages[None], profile, np.ones(len(catalogue.ensemble.names)))
        guess = np.array([0.5])
        raw = {"accuracy": guess, "confidence": guess, **{k: v[0] for k, v in spent.items()}}
        return np.broadcast_to(contract.rewards({m: raw[m] for m in contract.names}), (len(catalogue),))

    def probabilities(self, state: State) -> FloatArray:
        active = self._buckets(state.features)
        score = self._model.predict(active)
        if self.mode == "model":
            p = np.full(len(score), self._epsilon / len(score))
            p[score.argmax()] += 1.0 - self._epsilon
            return p
        return np.array(self._vw.predict(self._lines(active, score)))

    def _lines(self, active: IntArray, score: FloatArray) -> list[str]:
        shared = "shared |s b " + " ".join(map(str, active.tolist()))
        ten = np.clip((score * 20).astype(int), 0, 20)
        best = score.max()
        gap = np.clip(((best - score) * 50).astype(int), 0, 20)
        return [shared] + [f"{t} |c v:{s:.4f} g{g}" for t, s, g in zip(self._plan_text, (score-best).tolist(), gap.tolist(), strict=True)]

    def learn(self, experience: Experience) -> None:
        decision = experience.joined.decision
        state = decision.state
        active = self._buckets(state.features)
        if self.mode != "model":
            lines = self._lines(active, self._model.predict(active))
            chosen = decision.chosen
            cost = 1.0 - experience.rewards[chosen]
            lines[chosen + 1] = f"0:{cost:.5f}:{decision.propensity:.5f} {lines[chosen + 1]}"
            self._vw.learn(lines)
        w = np.minimum(1.0 / experience.observed_p, self.clip)
        self._model.learn(active, experience.rewards, w)
        self._buckets.update(state.features)

    def dump(self) -> bytes: return b""
    def load(self, snapshot: bytes) -> None: ...
