"""Plans: their names, the catalogue generated for an ensemble, and its form for vectorised evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np

from bandmaster.core import Answer, BandmasterError, BoolArray, Ensemble, FloatArray, IntArray, Plan, Profile, Weighting

ALL = "all"
"""The short name of the plan that runs every member at once with uniform weights."""

ALL_DECLARED = f"{ALL}~declared"
"""The same with their declared weights: what an agent that weighs members plays where it edits these."""


def all_members(ensemble: Ensemble) -> Plan:
    return Plan(stages=(ensemble.names,))


@lru_cache(maxsize=1 << 14)
def parse_plan(text: str, ensemble: Ensemble) -> Plan:
    """Read a plan's name back: ``linear``, ``linear+forest~recent``, ``a>b+c@0.9``, ``a>b>c@0.9,0.6~learned``,
    ``0.5*a+b``, ``all``, ``all~declared``.

    One threshold holds for every stage.

    Raises ``BandmasterError`` naming what is wrong with it.
    """
    body, mark, weights = text.partition("~")
    if mark and weights not in _WEIGHTINGS:
        known = ", ".join(f"~{w}" for w in _WEIGHTINGS if w)
        raise BandmasterError(f"plan {text!r}: weights {weights!r} are unknown; write {known} or nothing")
    if body == ALL:
        return Plan((ensemble.names,), _WEIGHTINGS[weights])
    body, at, threshold = body.partition("@")
    weighed = [[_own_weight(text, part) for part in stage.split("+")] for stage in body.split(">")]
    stages = tuple(tuple(name for name, _ in stage) for stage in weighed)
    own = tuple(weight for stage in weighed for _, weight in stage)
    if mark and set(own) != {1.0}:
        raise BandmasterError(f"plan {text!r}: has weights of its own and ~{weights}; keep one of the two")
    plan = Plan(
        stages,
        _WEIGHTINGS[weights] if set(own) == {1.0} else own,
        _thresholds(text, threshold, len(stages) - 1) if at else (),
    )
    for name in plan.members:
        if name not in ensemble.names:
            raise BandmasterError(f"plan {text!r}: no member {name!r}; members are {', '.join(ensemble.names)}")
    if len(set(plan.members)) != len(plan.members):
        raise BandmasterError(f"plan {text!r}: a member stands twice; let each run once")
    if ensemble.regression and len(stages) > 1:
        why = "stops at a probability, which values do not have"
        raise BandmasterError(f"plan {text!r}: {why}; in regression write a, a+b, a+b~recent, ~declared or ~learned")
    if (len(stages) > 1) != bool(at):
        raise BandmasterError(f"plan {text!r}: a cascade needs a threshold and only a cascade has one, as a>b@0.9")
    return plan


def without(plan: Plan, out: Set[str]) -> Plan | None:
    """How a plan runs where these members are out of service: without them, and without stages that are left empty. The
    walk goes on past such a one only below its threshold, too. ``None`` where nothing is left.
    """
    stages, stop_at = list[tuple[str, ...]](), list[float]()
    weights = plan.weights
    if not isinstance(weights, str):
        weights = tuple(w for name, w in zip(plan.members, weights, strict=True) if name not in out)
    for stage, threshold in zip(plan.stages, (*plan.stop_at, 1.0), strict=True):
        if rest := tuple(name for name in stage if name not in out):
            stages.append(rest)
            stop_at.append(threshold)
        elif stages:
            stop_at[-1] = min(stop_at[-1], threshold)
    return Plan(tuple(stages), weights, tuple(stop_at[:-1])) if stages else None


def side_by_side(ensemble: Ensemble, weights: FloatArray | BoolArray) -> str:
    """The name of the plan that runs all at once the members whose ``weights`` (M,) are above 0, as one's at least is,
    and pools them by these.
    """
    weighed = {name: float(w) for name, w in zip(ensemble.names, weights, strict=True) if w > 0.0}
    return Plan((tuple(weighed),), tuple(weighed.values())).name


def in_service(text: str, ensemble: Ensemble, out: Sequence[bool]) -> str:
    """The name of what is left of a plan without the members that are ``out`` (M,; empty: nobody); its own where
    nothing is.
    """
    if not out:
        return text
    rest = without(parse_plan(text, ensemble), {n for n, gone in zip(ensemble.names, out, strict=True) if gone})
    return text if rest is None else rest.name


def stages_run(plan: Plan, answer: Answer) -> list[list[str]]:
    """Who ran for the reply, stage by stage; at last, one after the other, those who stood in for others."""
    left = {said.name: said.name for said in answer.ran}
    stages = [[left.pop(name) for name in stage if name in left] for stage in plan.stages[: answer.stages_run]]
    return [stage for stage in stages if stage] + [[beyond] for beyond in left]


_WEIGHTINGS: dict[str, Weighting] = {
    "": "uniform", "recent": "recent", "declared": "declared", "learned": "learned",
}  # fmt: skip


LIGHTEST, HEAVIEST = 1e-3, 1e3
"""What a member may count for at least and at most in a plan with weights of its own: names show six digits."""


def relative(weights: FloatArray) -> FloatArray:
    """Weights (M,), one at least above 0, by the greatest of them; those above 0 stay what a plan can have."""
    return np.where(weights > 0.0, np.maximum(weights / weights.max(), LIGHTEST), 0.0)


def _own_weight(text: str, part: str) -> tuple[str, float]:
    """A member's name and what it counts for, as in ``0.5*a``; 1 where nothing is said."""
    number, mark, name = part.rpartition("*")
    try:
        weight = float(number) if mark else 1.0
    except ValueError:
        weight = math.nan
    if not LIGHTEST <= weight <= HEAVIEST:
        raise BandmasterError(
            f"plan {text!r}: weight {number!r} must be a number from {LIGHTEST:g} to {HEAVIEST:g}, as in 0.5*a+b"
        )
    return name, weight


def _thresholds(text: str, thresholds: str, stages: int) -> tuple[float, ...]:
    try:
        values = tuple(float(t) for t in thresholds.split(","))
    except ValueError:
        values = ()
    if not values or not all(0.0 < v <= 1.0 for v in values):
        raise BandmasterError(f"plan {text!r}: threshold {thresholds!r} must lie in (0, 1], as in a>b@0.9")
    if len(values) not in (1, stages) and stages:
        raise BandmasterError(
            f"plan {text!r}: {len(values)} thresholds for {stages} stages that can be the last; give one each, or one"
        )
    return values if len(values) == stages else values * stages


def cheapest_first(ensemble: Ensemble) -> list[str]:
    """The members from cheap to dear: by energy, then latency, then cost, each as far as all members declare it."""
    profiles = [ensemble.profiles.get(n, Profile()) for n in ensemble.names]
    known = [f for f in ("energy_j", "latency_s", "cost") if all(getattr(p, f) is not None for p in profiles)]
    prices = {n: [getattr(p, f) for f in known] for n, p in zip(ensemble.names, profiles, strict=True)}
    return sorted(ensemble.names, key=prices.__getitem__)


def generate(
    ensemble: Ensemble,
    *,
    subsets: int,
    cascades: int,
    stop_at: Sequence[float],
    limit: int,
    include: Iterable[Plan] = (),
) -> tuple[Plan, ...]:
    """The catalogue: what the user names, every single member, all members, then cascades and subsets.

    Where there are more candidates than ``limit`` has room for, each kind gets half of the room, spread evenly
    over its candidates in order of price, so that the catalogue covers cheap and dear alike.
    ``subsets`` and ``cascades`` are the most members one plan of that kind may have; below 2 there are none.
    Raises ``BandmasterError`` when ``limit`` leaves no room for the plans that must be there.
    """
    names = cheapest_first(ensemble)
    must = list(dict.fromkeys([*include, *(Plan(((n,),)) for n in ensemble.names)]))
    if len(names) > 1:
        must += [p for p in _weighted(ensemble.names, ensemble) if p not in must]
    if len(must) > limit:
        raise BandmasterError(
            f"plans.limit {limit} leaves no room: {len(must)} plans are named, single members or the whole "
            f"ensemble; set it to at least {len(must)}"
        )
    smaller = range(2, min(subsets, len(names) - 1) + 1)
    sets = [p for k in smaller for c in combinations(names, k) for p in _weighted(c, ensemble)]
    chains = [
        Plan(tuple((n,) for n in chain), stop_at=(t,) * (k - 1))
        for k in range(2, min(cascades, len(names)) + 1)
        for chain in combinations(names, k)
        for t in stop_at
    ]
    sets, chains = ([p for p in kind if p not in must] for kind in (sets, chains))
    room = limit - len(must)
    for_sets = min(len(sets), max(room // 2, room - len(chains)))
    return (*must, *_spread(chains, room - for_sets), *_spread(sets, for_sets))


def _weighted(names: Sequence[str], ensemble: Ensemble) -> Iterator[Plan]:
    yield Plan((tuple(names),))
    yield Plan((tuple(names),), "recent")
    if len({ensemble.weights.get(n, 1.0) for n in names}) > 1:
        yield Plan((tuple(names),), "declared")


def pool_weights(plan: Plan, ensemble: Ensemble, recent: FloatArray) -> FloatArray:
    """What each member's say counts for in a plan's linear pool, (M,), given the weights by recent accuracy."""
    return recent if plan.weights == "recent" else _fixed_weights(plan, ensemble)


def _fixed_weights(plan: Plan, ensemble: Ensemble) -> FloatArray:
    """The same, (M,), where it does not depend on what is seen; 1 where it does."""
    if plan.weights == "declared":
        return ensemble.declared_weights
    weights = np.ones(len(ensemble.names))
    if not isinstance(plan.weights, str):
        weights[[ensemble.index(name) for name in plan.members]] = plan.weights
    return weights


def _spread(plans: Sequence[Plan], room: int) -> list[Plan]:
    if room >= len(plans):
        return list(plans)
    return [plans[i] for i in np.linspace(0, len(plans) - 1, room).round().astype(int)]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Plans over an ensemble as arrays. ``S`` is the greatest number of stages, ``U`` that of different prefixes.

    A prefix is the set of members that have run after a stage, with its weighting: many plans share theirs, so
    each is pooled once. ``prefix`` (P, S) indexes into ``prefix_members`` (U, M), ``prefix_recent`` (U,),
    ``prefix_fixed`` (U, M), the weights where they are not by recent accuracy, and ``prefix_learned`` (U,); ``stages``
    (P,) counts a plan's stages, ``stop_at`` (P, S) is above 1 where a plan never stops early, and ``stage_members``
    (P, S, M) says who runs in which stage.
    """

    ensemble: Ensemble
    plans: tuple[Plan, ...]
    names: tuple[str, ...]
    prefix: IntArray
    prefix_members: BoolArray
    prefix_recent: BoolArray
    prefix_fixed: FloatArray
    prefix_learned: BoolArray
    stages: IntArray
    stop_at: FloatArray
    stage_members: BoolArray

    @classmethod
    def of(cls, ensemble: Ensemble, plans: Sequence[Plan]) -> Catalogue:
        """Compile ``plans``. Raises ``BandmasterError`` when there are none or two have one name."""
        names = tuple(p.name for p in plans)
        if not plans or len(set(names)) != len(names):
            twice = sorted({n for n in names if names.count(n) > 1})
            raise BandmasterError(f"plans must be there and differ; named twice: {', '.join(twice) or '(no plan)'}")
        depth = max(len(p.stages) for p in plans)
        stage_members = np.zeros((len(plans), depth, len(ensemble.names)), dtype=np.bool_)
        for i, plan in enumerate(plans):
            for s, stage in enumerate(plan.stages):
                stage_members[i, s, [ensemble.index(n) for n in stage]] = True
        reached = np.logical_or.accumulate(stage_members, axis=1)
        index: dict[tuple[bytes, str, bytes], int] = {}
        prefix = np.zeros(reached.shape[:2], dtype=np.int64)
        for i, plan in enumerate(plans):
            varies = plan.weights if plan.weights in ("recent", "learned") else ""
            fixed = _fixed_weights(plan, ensemble).tobytes()
            for s in range(depth):
                prefix[i, s] = index.setdefault((reached[i, s].tobytes(), str(varies), fixed), len(index))
        return cls(
            ensemble=ensemble,
            plans=tuple(plans),
            names=names,
            prefix=prefix,
            prefix_members=np.stack([np.frombuffer(members, dtype=np.bool_) for members, _, _ in index]),
            prefix_recent=np.array([varies == "recent" for _, varies, _ in index]),
            prefix_fixed=np.stack([np.frombuffer(fixed) for _, _, fixed in index]),
            prefix_learned=np.array([varies == "learned" for _, varies, _ in index]),
            stages=np.array([len(p.stages) for p in plans]),
            stop_at=np.array([[*p.stop_at, *(depth - len(p.stop_at)) * [np.inf]] for p in plans]),
            stage_members=stage_members,
        )

    def __len__(self) -> int:
        return len(self.plans)

    def prefix_weights(self, recent: FloatArray) -> FloatArray:
        """What each member's say counts for in every prefix, (..., U, M), 0 where it is not of it, given the weights by
        recent accuracy (..., M).
        """
        weights = np.where(self.prefix_recent[:, None], recent[..., None, :], self.prefix_fixed)
        return np.asarray(weights * self.prefix_members)

    def index(self, name: str) -> int:
        """Raises ``BandmasterError`` for a plan that is not in the catalogue."""
        try:
            return self.names.index(name)
        except ValueError:
            raise BandmasterError(
                f"no plan {name!r} in the catalogue of {len(self)}; add it under plans.include"
            ) from None


@lru_cache(maxsize=64)
def compiled(names: tuple[str, ...], ensemble: Ensemble) -> Catalogue:
    """The catalogue of the plans with these names. Raises ``BandmasterError`` for a name that is no plan's."""
    return Catalogue.of(ensemble, [parse_plan(name, ensemble) for name in names])
