"""The user's contract: ``Reward = Σ αᵢ·f(metricᵢ)``, each ``f`` into [0, 1], the weights α summing to 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from bandmaster.core import DEFAULT_PROFILE, Answer, BandmasterError, Decision, FloatArray, Outcome, Reward

Goal = Literal["max", "min"]
Scale = Literal["linear", "log"]
Source = Literal["live", "profile", "consensus"]

Measure = Callable[[Decision, Answer, Outcome], float]
"""A user's own metric: the raw figure of one settled decision. Pure, and picklable where replays use processes."""

METRICS: Mapping[str, str] = {
    "accuracy": "share of the request's rows answered right, in [0, 1]",
    "confidence": "combined probability of the returned class, in [0, 1]",
    "explainability": "weighted mean over the members that ran, as declared, in [0, 1]",
    "latency": "seconds: a stage takes as long as its slowest member, a plan as long as its stages together",
    "energy": "joules, summed over the members that ran",
    "cost": "declared price of a call, summed over the members that ran",
}
"""Every metric a contract may name without saying how it is measured, and its unit."""


_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of the contract: its weight, and the normaliser ``f`` that maps its unit into [0, 1].

    ``f`` is linear, or linear in the logarithm, between ``low`` and ``high`` and clipped outside them; with
    ``goal="min"`` it is turned over, so that 1 is always the best. ``source`` says which figure is meant:
    for latency and energy ``live`` (measured or estimated as it happens) or ``profile`` (as declared), for accuracy
    ``live`` (against the labels that come) or ``consensus`` (against the other members, on probes; a proxy).
    ``use`` measures a metric of the user's own, whose name is none of ``METRICS``. ``error`` makes accuracy that of
    values: the absolute errors, in the label's unit, that are worth 1 and 0.
    """

    name: str
    weight: float
    goal: Goal = "max"
    low: float = 0.0
    high: float = 1.0
    scale: Scale = "linear"
    source: Source = "live"
    use: Measure | None = None
    error: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.error is not None and not (self.name == "accuracy" and 0.0 <= self.error[0] < self.error[1] < math.inf):
            raise BandmasterError(
                f"{self.name}: error {self.error} is accuracy's alone, a small error and a larger one"
            )
        if (self.name in METRICS) == (self.use is not None):
            raise BandmasterError(
                f"{self.name}: a metric is either one of {', '.join(METRICS)}, or has a name of its own and a function"
            )
        if not (math.isfinite(self.weight) and self.weight >= 0.0):
            raise BandmasterError(f"{self.name}: weight {self.weight!r} must be a finite number ≥ 0")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise BandmasterError(
                f"{self.name}: range [{self.low:g}, {self.high:g}] must go from the smaller figure to the larger"
            )
        if self.scale == "log" and self.low <= 0.0:
            raise BandmasterError(f"{self.name}: a log scale needs a range above 0, not from {self.low:g}")

    def normalise(self, value: FloatArray | float) -> FloatArray:
        """Map raw figures of any shape into [0, 1]. NaN stays NaN: an unknown figure has no term."""
        x = np.asarray(value, dtype=np.float64)
        if self.scale == "log":
            x = np.log(np.maximum(x, _TINY))
            low, high = math.log(self.low), math.log(self.high)
        else:
            low, high = self.low, self.high
        share = np.minimum(np.maximum((x - low) / (high - low), 0.0), 1.0)
        return 1.0 - share if self.goal == "min" else share

    def term(self, value: float) -> float:
        """``normalise`` of one figure, without an array around it."""
        if self.scale == "log":
            x, low, high = (math.log(max(v, _TINY)) for v in (value, self.low, self.high))
        else:
            x, low, high = value, self.low, self.high
        share = (x - low) / (high - low)
        share = 0.0 if share < 0.0 else 1.0 if share > 1.0 else share  # lets NaN pass, as ``min`` and ``max`` do not
        return 1.0 - share if self.goal == "min" else share


@dataclass(frozen=True, slots=True)
class Contract:
    """The metrics with their weights normalised to sum to 1, and ``profiles``: the same under other weights, by name.

    >>> fast = Metric("latency", 1.0, goal="min", low=0.001, high=1.0, scale="log")
    >>> contract = Contract.of(Metric("accuracy", 3.0), fast)
    >>> contract.reward({"accuracy": 1.0, "latency": 1.0}).value
    0.75
    >>> hasty = Contract.of(Metric("accuracy", 3.0), fast, profiles={"hasty": {"latency": 2.0}})
    >>> hasty.under("hasty").reward({"accuracy": 1.0, "latency": 1.0}).value
    0.0
    """

    metrics: tuple[Metric, ...]
    profiles: Mapping[str, Contract] = field(default_factory=dict, hash=False)

    @classmethod
    def of(cls, *metrics: Metric, profiles: Mapping[str, Mapping[str, float]] | None = None) -> Contract:
        """Normalise the weights, those of each of the ``profiles`` apart; a metric that one does not name has none.

        Raises ``BandmasterError`` when they sum to 0, a metric is named twice, or a profile weighs one that is none.
        """
        names = [m.name for m in metrics]
        if len(set(names)) != len(names):
            raise BandmasterError(f"a metric is named twice: {', '.join(names)}; name each once")
        total = math.fsum(m.weight for m in metrics)
        if total <= 0.0:
            raise BandmasterError("the weights sum to 0; give at least one metric a weight above 0")
        normalised = tuple(replace(m, weight=m.weight / total) for m in metrics)
        return cls(normalised, {name: cls._reweighed(name, metrics, w) for name, w in (profiles or {}).items()})

    @classmethod
    def _reweighed(cls, profile: str, metrics: tuple[Metric, ...], weights: Mapping[str, float]) -> Contract:
        known = [m.name for m in metrics]
        if profile == DEFAULT_PROFILE:
            raise BandmasterError(f"profile {profile!r} is the contract itself; name it otherwise")
        if unknown := sorted(set(weights) - set(known)):
            raise BandmasterError(f"profile {profile!r} weighs {unknown[0]}; the contract has {', '.join(known)}")
        try:
            return cls.of(*(replace(m, weight=weights.get(m.name, 0.0)) for m in metrics))
        except BandmasterError as problem:
            raise BandmasterError(f"profile {profile!r}: {problem}") from None

    def under(self, profile: str) -> Contract:
        """The contract with a profile's weights. Raises ``BandmasterError`` for one that it does not have."""
        if profile == DEFAULT_PROFILE:
            return self
        try:
            return self.profiles[profile]
        except KeyError:
            known = ", ".join([DEFAULT_PROFILE, *self.profiles])
            raise BandmasterError(f"there is no profile {profile[:64]!r}; use one of {known}") from None

    def weighing(self, name: str, weight: float) -> Contract:
        """The same with another weight of one metric, in [0, 1]; the others share the rest as they did. Profiles stay.

        >>> contract = Contract.of(Metric("accuracy", 0.5), Metric("confidence", 0.4), Metric("explainability", 0.1))
        >>> [round(m.weight, 3) for m in contract.weighing("accuracy", 0.8).metrics]
        [0.8, 0.16, 0.04]

        Raises ``BandmasterError`` for a metric that the contract lacks, or where nothing is left to share the rest.
        """
        if self.metric(name) is None:
            raise BandmasterError(f"{name}: the contract weighs no such metric, but {', '.join(self.names)}")
        if not 0.0 <= weight <= 1.0:
            raise BandmasterError(f"{name}: weight {weight:g} must lie in [0, 1]")
        rest = math.fsum(m.weight for m in self.metrics if m.name != name)
        if rest <= 0.0 and weight < 1.0:
            raise BandmasterError(f"{name}: is all that the contract weighs; no other metric can take the rest")
        share = (1.0 - weight) / rest if rest else 0.0
        metrics = (replace(m, weight=weight if m.name == name else m.weight * share) for m in self.metrics)
        return replace(self, metrics=tuple(metrics))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.metrics)

    def metric(self, name: str) -> Metric | None:
        return next((m for m in self.metrics if m.name == name), None)

    def is_live(self, name: str) -> bool:
        """Whether a metric is measured at each request, as what is not named is; else it is as declared."""
        found = self.metric(name)
        return found is None or found.source == "live"

    def weight(self, name: str) -> float:
        found = self.metric(name)
        return found.weight if found else 0.0

    def counts(self, name: str) -> bool:
        """Whether a metric weighs anything, here or in one of the profiles."""
        return any(contract.weight(name) > 0.0 for contract in (self, *self.profiles.values()))

    @property
    def own(self) -> tuple[Metric, ...]:
        """The metrics of the user's own that weigh anything, here or in one of the profiles."""
        return tuple(m for m in self.metrics if m.use is not None and self.counts(m.name))

    def closeness(self, error: FloatArray) -> FloatArray:
        """The accuracy, in [0, 1], of values that are so far from the truth: 1 up to the small error of the contract's
        range, 0 from the large one on, linear between them. NaN, where nobody answered, is worth nothing.

        Raises ``ValueError`` where the contract has no such range: it is for classes then.
        """
        found = self.metric("accuracy")
        if found is None or found.error is None:
            raise ValueError("the contract's accuracy has no range of errors")
        low, high = found.error
        return np.asarray(np.nan_to_num(np.clip((high - np.abs(error)) / (high - low), 0.0, 1.0)))

    @property
    def by_consensus(self) -> bool:
        """Whether accuracy is agreement with the other members, so that no label is trained on."""
        return (found := self.metric("accuracy")) is not None and found.source == "consensus"

    def foreseen(self, raw: Mapping[str, FloatArray]) -> FloatArray:
        """As ``rewards``, before anything has happened: for choosing, never for learning.

        Nobody can foresee a metric of the user's own, so each counts half its weight, the same for every plan.
        """
        middle = np.array(0.5)
        return self._weighed({m.name: middle if m.use else m.normalise(raw[m.name]) for m in self.metrics if m.weight})

    def rewards(self, raw: Mapping[str, FloatArray]) -> FloatArray:
        """Rewards of many cases at once. ``raw`` maps each metric to figures of shapes that broadcast."""
        return self._weighed({m.name: m.normalise(raw[m.name]) for m in self.metrics if m.weight})

    def rewards_under(self, profiles: Sequence[str], raw: Mapping[str, FloatArray]) -> FloatArray:
        """As ``rewards``, each case under its own of the ``profiles``; figures' first axis goes over the cases."""
        if not self.profiles:
            return self.rewards(raw)
        named = np.array(profiles)
        rewards = np.empty(next(iter(raw.values())).shape)
        for profile in np.unique(named):
            which = named == profile
            rewards[which] = self.under(str(profile)).rewards({name: values[which] for name, values in raw.items()})
        return rewards

    def _weighed(self, terms: Mapping[str, FloatArray]) -> FloatArray:
        return sum((self.weight(name) * term for name, term in terms.items()), start=np.zeros(()))

    def reward(self, raw: Mapping[str, float]) -> Reward:
        """The reward of one case. ``raw`` holds a figure for each metric that weighs anything; all others are kept."""
        terms = {m.name: m.term(raw[m.name]) for m in self.metrics if m.weight > 0.0 or m.name in raw}
        # fsum and the clip keep rounding from ever leaving [0, 1].
        value = math.fsum(m.weight * terms[m.name] for m in self.metrics if m.weight > 0.0)
        return Reward(value=min(1.0, max(0.0, value)), raw=dict(raw), terms=terms)

    def describe(self) -> dict[str, Any]:
        """The contract as normalised, for results and pages; a metric's weights under the profiles beside its own."""
        return {
            m.name: {
                "weight": m.weight,
                "goal": m.goal,
                "range": [m.low, m.high],
                "scale": m.scale,
                "from": m.source,
                **({"profiles": {n: p.weight(m.name) for n, p in self.profiles.items()}} if self.profiles else {}),
                **({"error": list(m.error)} if m.error is not None else {}),
                **({"use": str(m.use)} if m.use is not None else {}),
                **({"proxy": True} if m.source == "consensus" else {}),
            }
            for m in self.metrics
        }
