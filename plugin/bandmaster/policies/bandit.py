"""The bandit: a model of every plan's reward from exact counterfactuals, and Vowpal Wabbit on top of it."""

from __future__ import annotations

import msgspec
import numpy as np

from bandmaster.contract import Contract
from bandmaster.core import BandmasterError, Experience, FloatArray, IntArray, State
from bandmaster.counterfactual import Figures, spend
from bandmaster.estimators import ForgettingRegression, Standardiser
from bandmaster.plans import Catalogue
from bandmaster.policies.vw import VowpalWabbit

FORGETTING = 0.998
"""What an observation is worth after the next one: the model looks back on some 500 of a plan's rewards."""

EDGES = np.array([-1.6, -1.0, -0.6, -0.2, 0.2, 0.6, 1.0, 1.6])
"""Bucket edges for VW's shared features, in deviations."""

GAP_STEPS, GAP_STEP = 20, 0.02
"""VW sees how far a plan's score is below the best one, as a figure and in steps of this much reward."""

VW_OPTIONS = "--cb_explore_adf --clip_p 1 -l 0.1 -q sp -q sm"
"""Cost-sensitive regression over plans, shared features (s) crossed with the plan (p) and its members (m).

``--clip_p 1`` takes the importance weights out: rare explored plans would swamp the model otherwise.
"""


class BanditPolicy:
    """Vowpal Wabbit over the catalogue, its plan features including a model's score of each plan.

    The model learns from every plan whose reward an experience reveals, chosen or not. VW learns from the chosen plan:
    it corrects the scores from context, and its ε-greedy explorer gives the distribution.
    """

    name = "bandit"
    probes = True

    def __init__(
        self, catalogue: Catalogue, contract: Contract, profile: Figures, *, epsilon: float = 0.02, seed: int = 0
    ) -> None:
        """``epsilon`` in [0, 1] is the share of decisions spread evenly over all plans."""
        self._prior = prior_rewards(catalogue, contract, profile)
        self._learned = 0
        # Both are sized by the first request's features.
        self._standard: Standardiser | None = None
        self._model = ForgettingRegression(self._prior, 0, forgetting=FORGETTING)
        self._vw = VowpalWabbit(f"{VW_OPTIONS} --epsilon {epsilon:g} --random_seed {seed}")
        self._plan_text = [_plan_text(catalogue, k) for k in range(len(catalogue))]

    @property
    def version(self) -> str:
        """How many outcomes have been learned."""
        return str(self._learned)

    def probabilities(self, state: State) -> FloatArray:
        z = self._standardised(state)
        return np.array(self._vw.predict(self._lines(z)))

    def learn(self, experience: Experience) -> None:
        decision = experience.joined.decision
        features = decision.state.features
        if self._standard is None:
            self._standard = Standardiser(len(features))
            self._model = ForgettingRegression(self._prior, len(features), forgetting=FORGETTING)
        z = self._standardised(decision.state)
        lines = self._lines(z)
        cost = 1.0 - experience.rewards[decision.chosen]
        labelled = f"0:{cost:.6f}:{decision.propensity:.6f} {lines[decision.chosen + 1]}"
        self._vw.learn([*lines[: decision.chosen + 1], labelled, *lines[decision.chosen + 2 :]])
        self._model.learn(z, experience.rewards)
        self._standard.learn(features)
        self._learned += 1

    def scores(self, state: State) -> FloatArray:
        """The model's expected reward (P,) of every plan."""
        return self._model.predict(self._standardised(state))

    def _standardised(self, state: State) -> FloatArray:
        return np.zeros(0) if self._standard is None else self._standard(state.features)

    def _lines(self, z: FloatArray) -> list[str]:
        """VW's multi-line example: the shared line, then one a plan. Holds nothing but our own names and figures."""
        buckets: IntArray = np.searchsorted(EDGES, z)
        shared = "shared |s b" + "".join(f" f{i}_{b}" for i, b in enumerate(buckets.tolist()))
        scores = self._model.predict(z)
        gap = scores.max() - scores
        steps = np.minimum((gap / GAP_STEP).astype(np.int64), GAP_STEPS)
        ranked = zip(self._plan_text, gap.tolist(), steps.tolist(), strict=True)
        return [shared, *(f"{text} |c v:{g:.4f} g{step}" for text, g, step in ranked)]

    def dump(self) -> bytes:
        standard = self._standard.dump() if self._standard else b""
        return msgspec.msgpack.encode(_Dump(self._learned, standard, self._model.dump(), self._vw.dump()))

    def load(self, snapshot: bytes) -> None:
        """Restore what ``dump`` gave, all of it or nothing. Raises ``BandmasterError`` on anything else."""
        try:
            dumped = msgspec.msgpack.decode(snapshot, type=_Dump)
            standard = Standardiser.of(dumped.standard) if dumped.standard else None
            model = ForgettingRegression(self._prior, standard.size if standard else 0, forgetting=FORGETTING)
            model.load(dumped.model)
        except (msgspec.DecodeError, ValueError) as problem:
            raise BandmasterError(f"no snapshot of a bandit over {len(self._prior)} plans: {problem}") from None
        self._vw.load(dumped.vw)
        self._standard, self._model, self._learned = standard, model, dumped.learned


class _Dump(msgspec.Struct, frozen=True):
    learned: int
    standard: bytes
    model: bytes
    vw: bytes


def prior_rewards(catalogue: Catalogue, contract: Contract, profile: Figures) -> FloatArray:
    """What each plan (P,) may earn before anything was seen: right every other time, its whole price paid."""
    spent = spend(catalogue, catalogue.stages[None], profile, np.ones(len(catalogue.ensemble.names)))
    raw = {"accuracy": np.array([0.5]), "confidence": np.array([0.5]), **{k: v[0] for k, v in spent.items()}}
    # A figure that no profile declares is unknown until it has been measured: no plan is to gain by that.
    return np.nan_to_num(np.broadcast_to(contract.rewards(raw), (len(catalogue),)), nan=0.5)


def _plan_text(catalogue: Catalogue, k: int) -> str:
    plan = catalogue.plans[k]
    members = " ".join(f"m{catalogue.ensemble.index(name)}" for name in plan.members)
    return f"|p p{k} |m {members} n{len(plan.members)} t{len(plan.stages)}"
