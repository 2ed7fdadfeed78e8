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
    """Standardises features by their running mean and deviation, then puts each into one of nine buckets."""

    WIDTH = len(EDGES) + 1

    def __init__(self, size: int) -> None:
        self._mean, self._square, self._count = np.zeros(size), np.zeros(size), 0

    def update(self, features: FloatArray) -> None:
        """Learn one request's features (d,) (Welford 1962)."""
        self._count += 1
        step = features - self._mean
        self._mean = self._mean + step / self._count
        self._square = self._square + step * (features - self._mean)

    def __call__(self, features: FloatArray) -> IntArray:
        """The active buckets (d,), each feature's in its own range of ``WIDTH`` indices."""
        deviation = np.sqrt(self._square / max(self._count, 1))
        z = (features - self._mean) / np.where(deviation > 0.0, deviation, 1.0)
        return np.asarray(np.searchsorted(EDGES, z) + np.arange(len(features)) * self.WIDTH)

    def dump(self) -> list[list[float]]:
        return [self._mean.tolist(), self._square.tolist(), [float(self._count)]]

    @classmethod
    def of(cls, dumped: list[list[float]]) -> Buckets:
        buckets = cls(len(dumped[0]))
        buckets._mean, buckets._square, buckets._count = np.array(dumped[0]), np.array(dumped[1]), int(dumped[2][0])
        return buckets


class PlanModel:
    """Every plan's expected reward: its recent mean, plus what the request's active buckets add to it.

    The additions are a sparse linear regression on the residual, one weight a plan and bucket, learned by AdaGrad
    (Duchi et al. 2011).
    """

    def __init__(self, prior: FloatArray, buckets: int, *, window: float, rate: float) -> None:
        self.recent = WindowedMean(len(prior), window=window, prior=prior, prior_weight=3.0)
        self.weights = np.zeros((len(prior), buckets))
        self.squares = np.ones((len(prior), buckets))
        self._rate = rate

    def predict(self, active: IntArray) -> FloatArray:
        """Expected rewards (P,) where ``active`` (d,) buckets hold."""
        return np.asarray(self.recent.value + self.weights[:, active].sum(axis=1))

    def learn(self, active: IntArray, rewards: FloatArray, importance: FloatArray) -> None:
        """Learn one request's rewards (P,), NaN where unknown, each with its importance (P,)."""
        if len(active):
            known = np.flatnonzero(~np.isnan(rewards))
            error = rewards[known] - self.predict(active)[known]
            at = np.ix_(known, active)
            step = np.broadcast_to((importance[known] * error)[:, None], (len(known), len(active)))
            self.squares[at] += step**2
            self.weights[at] += self._rate * step / np.sqrt(self.squares[at])
        self.recent.update(rewards - self.weights[:, active].sum(axis=1), importance)


class _Dump(msgspec.Struct, frozen=True):
    learned: int
    buckets: list[list[float]] | None
    recent: list[list[float]]
    weights: list[list[float]]
    squares: list[list[float]]
    vw: bytes


class BanditPolicy:
    """Vowpal Wabbit over the catalogue, its plan features including a model's score of each plan.

    The model learns from every plan whose reward an experience reveals; VW learns from the chosen one, corrects the
    scores from context and decides where to explore.
    """

    name = "bandit"
    probes = True

    def __init__(
        self,
        catalogue: Catalogue,
        contract: Contract,
        profile: Figures,
        *,
        epsilon: float = 0.02,
        seed: int = 0,
        window: float = 300.0,
        rate: float = 0.1,
        clip: float = 10.0,
        mode: str = "vw",
    ) -> None:
        self._prior = _prior(catalogue, contract, profile)
        self._window, self._rate, self._clip, self._epsilon = window, rate, clip, epsilon
        self._learned = 0
        self._buckets: Buckets | None = None
        self._model = PlanModel(self._prior, 0, window=window, rate=rate)
        self._vw = VowpalWabbit(
            f"--cb_explore_adf --epsilon {epsilon} --clip_p 1 -l 1 -q sp -q sm --random_seed {seed}"
        )
        self._plan_text = [_plan_line(catalogue, k) for k in range(len(catalogue))]
        self.mode = mode

    @property
    def version(self) -> str:
        return str(self._learned)

    def probabilities(self, state: State) -> FloatArray:
        active = self._active(state)
        score = self._model.predict(active)
        if self.mode == "model":
            p = np.full(len(score), self._epsilon / len(score))
            p[score.argmax()] += 1.0 - self._epsilon
            return p
        return np.array(self._vw.predict(self._lines(active, score)))

    def _active(self, state: State) -> IntArray:
        return np.zeros(0, dtype=np.int64) if self._buckets is None else self._buckets(state.features)

    def _lines(self, active: IntArray, score: FloatArray) -> list[str]:
        shared = "shared |s b " + " ".join(map(str, active.tolist()))
        gap = score.max() - score
        step = np.minimum((gap * 50).astype(int), 20)
        return [shared] + [
            f"{text} |c v:{g:.4f} g{b}" for text, g, b in zip(self._plan_text, gap.tolist(), step.tolist(), strict=True)
        ]

    def learn(self, experience: Experience) -> None:
        decision = experience.joined.decision
        state = decision.state
        if self._buckets is None:
            self._buckets = Buckets(len(state.features))
            self._model = PlanModel(
                self._prior, len(state.features) * Buckets.WIDTH, window=self._window, rate=self._rate
            )
        active = self._active(state)
        if self.mode != "model":
            lines = self._lines(active, self._model.predict(active))
            chosen = decision.chosen
            cost = 1.0 - experience.rewards[chosen]
            lines[chosen + 1] = f"0:{cost:.5f}:{decision.propensity:.5f} {lines[chosen + 1]}"
            self._vw.learn(lines)
        importance = np.minimum(1.0 / experience.observed_p, self._clip)
        self._model.learn(active, experience.rewards, importance)
        self._buckets.update(state.features)
        self._learned += 1

    def dump(self) -> bytes:
        return msgspec.msgpack.encode(
            _Dump(
                learned=self._learned,
                buckets=self._buckets.dump() if self._buckets else None,
                recent=self._model.recent.dump(),
                weights=self._model.weights.tolist(),
                squares=self._model.squares.tolist(),
                vw=self._vw.dump(),
            )
        )

    def load(self, snapshot: bytes) -> None:
        try:
            dumped = msgspec.msgpack.decode(snapshot, type=_Dump)
        except msgspec.DecodeError as problem:
            raise BandmasterError(f"no snapshot of a bandit: {problem}") from None
        if len(dumped.weights) != len(self._prior):
            raise BandmasterError(f"the snapshot knows {len(dumped.weights)} plans, this catalogue {len(self._prior)}")
        self._vw.load(dumped.vw)
        self._buckets = Buckets.of(dumped.buckets) if dumped.buckets is not None else None
        width = len(dumped.weights[0])
        self._model = PlanModel(self._prior, width, window=self._window, rate=self._rate)
        self._model.recent.load(dumped.recent)
        self._model.weights = np.array(dumped.weights).reshape(len(self._prior), width)
        self._model.squares = np.array(dumped.squares).reshape(len(self._prior), width)
        self._learned = dumped.learned


def _prior(catalogue: Catalogue, contract: Contract, profile: Figures) -> FloatArray:
    """What each plan may earn before anything was seen: right every other time, its whole price paid."""
    spent = spend(catalogue, catalogue.stages[None], profile, np.ones(len(catalogue.ensemble.names)))
    raw = {"accuracy": np.array([0.5]), "confidence": np.array([0.5]), **{k: v[0] for k, v in spent.items()}}
    return np.nan_to_num(np.broadcast_to(contract.rewards(raw), (len(catalogue),)), nan=0.5)


def _plan_line(catalogue: Catalogue, k: int) -> str:
    plan = catalogue.plans[k]
    members = " ".join(f"m{catalogue.ensemble.index(n)}" for n in plan.members)
    return f"|p p{k} |m {members} n{len(plan.members)} t{len(plan.stages)}"
