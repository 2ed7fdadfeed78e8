"""``plans:``, and plans' names wherever they stand."""

from __future__ import annotations

import math

from bandmaster.config.records import PlansConfig
from bandmaster.config.values import fields_of, integer_of, items_of, number_of
from bandmaster.core import BandmasterError, Ensemble
from bandmaster.plans import parse_plan
from bandmaster.yaml_reader import At

MAX_CANDIDATES = 200_000
"""Plans that a catalogue may be picked from: beyond it, generating them would take seconds or for ever."""


def read_plans(at: At | None, members: tuple[str, ...]) -> PlansConfig:
    get, default = fields_of(at, ("subsets", "cascades", "stop_at", "limit", "include")).get, PlansConfig()
    stops = [number_of(s, math.nan, 0, 1, above=True) for s in items_of(get("stop_at"), "write [0.8, 0.9]")]
    if at and len({f"{s:g}" for s in stops if s == s}) < sum(s == s for s in stops):
        at.book.refuse((*at.path, "stop_at"), "has one threshold twice; keep one of them")
    named = get("include")
    fix = f"write plans' names, as in [{'>'.join(members[:2])}@0.9]"
    include = items_of(named, fix) if named and named.value != [] else []
    plans = PlansConfig(
        subsets=integer_of(get("subsets"), default.subsets, 0, 64),
        cascades=integer_of(get("cascades"), default.cascades, 0, 64),
        stop_at=tuple(stops) or default.stop_at,
        limit=integer_of(get("limit"), default.limit, 2, 1024),
        include=tuple(name for name in (plan_name(item, members) for item in include) if name),
    )
    count = _candidates(plans, len(members))
    if at and count > MAX_CANDIDATES:
        at.refuse(f"gives more than {MAX_CANDIDATES} candidates; lower subsets, cascades or the number of stop_at")
    return plans


def _candidates(plans: PlansConfig, members: int) -> int:
    """How many plans the catalogue is picked from."""
    subsets = sum(math.comb(members, k) for k in range(2, plans.subsets + 1))
    cascades = sum(math.comb(members, k) for k in range(2, plans.cascades + 1))
    return 2 * subsets + len(plans.stop_at) * cascades


def plan_name(at: At | None, members: tuple[str, ...]) -> str | None:
    """A plan's name, whose members all exist."""
    if at is None:
        return None
    if not isinstance(at.value, str):
        at.refuse("is no plan's name; write one, as in a+b or a>b@0.9")
        return None
    try:
        if members:  # their absence has been noted already
            parse_plan(at.value, Ensemble(members, ()))
    except BandmasterError as error:
        at.book.refuse(at.path, str(error))
    return at.value
