"""What Vowpal Wabbit is told of a request and of the plans, as its text examples."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from bandmaster.competence import CHANCE
from bandmaster.contract import Contract
from bandmaster.core import Figures, FloatArray
from bandmaster.counterfactual import spend
from bandmaster.plans import Catalogue

EDGES = np.array([-1.6, -1.0, -0.6, -0.2, 0.2, 0.6, 1.0, 1.6])
"""Bucket edges for shared features, in deviations. Bucketised features earn more than raw ones there."""


def shared_line(z: FloatArray, tags: Sequence[str]) -> str:
    """The request's line: its standardised features ``z`` (d,) in buckets, its tags as checksums, never as text."""
    buckets = EDGES.searchsorted(z).tolist()
    features = "".join([names[b] for names, b in zip(_bucket_names(len(buckets)), buckets, strict=True)])
    tags = "".join(f" t{zlib.crc32(tag.encode()):08x}" for tag in tags)
    return f"shared |s b{features}{tags}"


@lru_cache
def _bucket_names(features: int) -> tuple[tuple[str, ...], ...]:
    """Each feature's name in each of its buckets."""
    return tuple(tuple(f" f{i}_{b}" for b in range(len(EDGES) + 1)) for i in range(features))


def plan_lines(catalogue: Catalogue, prior: FloatArray) -> list[str]:
    """A line a plan: which members in which order, when it stops; how many in how many stages, at which price."""
    return [_plan_line(catalogue, k, price) for k, price in enumerate(_prices(prior))]


def labelled(lines: list[str], chosen: int, cost: float, propensity: float) -> list[str]:
    """The example's lines, with what the ``chosen`` plan cost and the probability with which it was chosen."""
    lines = lines.copy()
    lines[chosen + 1] = f"0:{cost:.6f}:{propensity:.6f} {lines[chosen + 1]}"
    return lines


def prior_rewards(catalogue: Catalogue, contract: Contract, profile: Figures) -> FloatArray:
    """What each plan (P,) may earn before anything was seen: right every other time, its whole price paid."""
    spent = spend(catalogue, catalogue.stages[None], profile, np.ones(len(catalogue.ensemble.names)))
    half = np.array([CHANCE])
    raw = {"accuracy": half, "confidence": half, **{name: values[0] for name, values in spent.items()}}
    # A figure that no profile declares is unknown until it has been measured: no plan is to gain by that.
    return np.nan_to_num(np.broadcast_to(contract.foreseen(raw), (len(catalogue),)), nan=0.5)


def _prices(prior: FloatArray) -> list[int]:
    """Each plan's price in tenths of the catalogue, from 0 for those whose prior promises most."""
    rank = np.argsort(np.argsort(-prior, kind="stable"))
    return [int(r) * 10 // len(prior) for r in rank]


def _plan_line(catalogue: Catalogue, k: int, price: int) -> str:
    plan = catalogue.plans[k]
    members = " ".join(f"m{catalogue.ensemble.index(name)}" for name in plan.members)
    which = zlib.crc32(">".join("+".join(stage) for stage in plan.stages).encode())
    stop = "".join(f" s{t:g}" for t in plan.stop_at[:1])
    return f"|p p{which:08x}{stop} |m {members} n{len(plan.members)} t{len(plan.stages)} c{price}"
