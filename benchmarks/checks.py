"""What a scenario must show: figures read off its record, and whether they lie within the bounds that it names."""

from __future__ import annotations

import fnmatch
import itertools
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from benchmarks.record import Played, Record, Verdict

ROUNDING = 1e-12
"""The same numbers, added up in another order, may differ by so much."""


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="check"):
    """One figure and its bounds; with neither bound it is reported and not judged. ``name`` is its heading."""

    name: str
    at_least: float | None = None
    at_most: float | None = None

    @abstractmethod
    def figure(self, record: Record, others: Mapping[str, Record]) -> float | None:
        """The figure; ``None`` where the record does not tell, or what it is about never happened.

        ``others`` are all records by id, ``record`` among them.
        """

    def verdict(self, record: Record, others: Mapping[str, Record]) -> Verdict:
        figure = self.figure(record, others)
        passed = within(figure, self.at_least, self.at_most)
        return Verdict(self.name, figure, self.at_least, self.at_most, passed)


def within(figure: float | None, at_least: float | None, at_most: float | None) -> bool | None:
    """Whether a figure lies within its bounds, ends included, give or take ``ROUNDING``; ``None`` where there is no
    bound. No figure, or NaN, lies within none.
    """
    if at_least is None and at_most is None:
        return None
    if figure is None or math.isnan(figure):
        return False
    return (at_least is None or figure >= at_least - ROUNDING) and (at_most is None or figure <= at_most + ROUNDING)


# ---- Of one replay -------------------------------------------------------------------------------------------


class Measure(Check, tag="measure", frozen=True, kw_only=True):
    """A policy's mean over seeds: reward, gap_closed, accuracy, latency_s, energy_j, probe_share …"""

    policy: str
    measure: str
    play: str = "replay"

    def figure(self, record: Record, others: Mapping[str, Record]) -> float | None:
        return _figure(record.plays.get(self.play), self.policy, self.measure)


class Share(Check, tag="share", frozen=True, kw_only=True):
    """A policy's figure as a share of another policy's or a yardstick's (``all_members``, ``best_constant``)."""

    policy: str
    measure: str
    of: str
    play: str = "replay"

    def figure(self, record: Record, others: Mapping[str, Record]) -> float | None:
        own, whole = (_figure(record.plays.get(self.play), who, self.measure) for who in (self.policy, self.of))
        return None if own is None or not whole else own / whole


class Beats(Check, tag="beats", frozen=True, kw_only=True):
    """The share of other policies that a policy beats, paired intervals above 0: of the ``peers`` named, or of all that
    have no hindsight.
    """

    policy: str
    peers: tuple[str, ...] = ()
    play: str = "replay"

    def figure(self, record: Record, others: Mapping[str, Record]) -> float | None:
        unbeaten, peers = unbeaten_by(record.plays.get(self.play), self.policy)
        # One that is named and could not play is not beaten.
        named = self.peers or tuple(peers)
        return sum(p in peers and p not in unbeaten for p in named) / len(named) if peers else None


class Ahead(Check, tag="ahead", frozen=True, kw_only=True):
    """By how much more a policy earns a request than another, or than ``best_constant_plan`` in hindsight: the mean of
    the paired difference, or the lower end of its 95 % interval.
    """

    policy: str
    of: str = "best_constant_plan"
    at: Literal["mean", "lower end"] = "lower end"
    play: str = "replay"

    def figure(self, record: Record, others: Mapping[str, Record]) -> float | None:
        played = record.plays.get(self.play)
        found = played.results["policies"].get(self.policy) if played else None
        against = found["advantage"].get(self.of) if found else None
        if against is None:
            return None
        return float(against["mean"] if self.at == "mean" else against["interval"][0])


class Alarms(Check, tag="alarms", frozen=True, kw_only=True):
    """Drift alarms per so many requests, the whole run over."""

    policy: str
    per: float
    play: str = "replay"

    def figure(self, record: Record, others: Mapping[str, Record]) -> float | None:
        played = record.plays.get(self.play)
        alarms = _figure(played, self.policy, "drift_events")
        return None if played is None or alarms is None else alarms * self.per / played.requests


class GainKept(Check, tag="gain-kept", frozen=True, kw_only=True):
    """What is left of a policy's gain in ``play`` of its gain in ``against``, a gain being its reward less that of
    ``over`` in the same play. The best single member in hindsight (``best_constant``) is the strictest baseline: it
    needs every label to be found, and the lower a baseline, the nearer to 1 is the share.
    """

    policy: str
    over: str
    play: str
    against: str

    def figure(self, record: Record, others: Mapping[str, Record]) -> float | None:
        kept, full = (self._gain(record.plays.get(play)) for play in (self.play, self.against))
        return None if kept is None or full is None or full <= 0.0 else kept / full

    def _gain(self, played: Played | None) -> float | None:
        own, base = (_figure(played, who, "reward") for who in (self.policy, self.over))
        return None if own is None or base is None else own - base


class Price(Check, tag="price", frozen=True, kw_only=True):
    """The least price at which a policy is as accurate as the most accurate member less ``within``, as a share of that
    member's price; 1 where it never is: then one keeps that member.

    Read off the convex hull of a sweep over α: what lies between two of its points is earned by giving the one's α to
    some of the requests and the other's to the rest, by lot (as between classifiers: Provost & Fawcett 2001, "Robust
    classification for imprecise environments", section 4). Points that the policy did not play are left out, which can
    only make the price higher.
    """

    policy: str
    within: float

    def figure(self, record: Record, others: Mapping[str, Record]) -> float | None:
        points = [
            (_figure(play, self.policy, "accuracy"), _figure(play, self.policy, "cost"))
            for play in record.plays.values()
            if self.policy in play.results["policies"]
        ]
        known = [(a, c) for a, c in points if a is not None and c is not None]
        if not points or not record.members or len(known) < len(points):
            return None
        best = max(record.members, key=lambda m: m.accuracy)
        price = _least_cost(known, best.accuracy - self.within)
        return 1.0 if price is None or not best.cost else price / best.cost


def _least_cost(points: Sequence[tuple[float, float]], accuracy: float) -> float | None:
    """The least cost at which a mix of two of the points (accuracy, cost) is so accurate; ``None``: none is."""
    costs = [c for a, c in points if a >= accuracy]
    for (a, c), (b, d) in itertools.combinations(points, 2):
        if min(a, b) < accuracy < max(a, b):
            costs.append(c + (d - c) * (accuracy - a) / (b - a))
    return min(costs, default=None)


class Figure(Check, tag="figure", frozen=True, kw_only=True):
    """A figure that the record holds beside its plays, by its name."""

    figure_name: str = msgspec.field(name="figure")

    def figure(self, record: Record, others: Mapping[str, Record]) -> float | None:
        return record.figures.get(self.figure_name)


# ---- Of several scenarios ------------------------------------------------------------------------------------


class OfSeveral(Check, frozen=True, kw_only=True):
    """About ``among`` scenarios whose ids match the pattern ``of``; not judged while one of them has not run."""

    of: str
    among: int
    verdict_name: str = msgspec.field(name="verdict")

    def verdict(self, record: Record, others: Mapping[str, Record]) -> Verdict:
        found = super().verdict(record, others)
        return msgspec.structs.replace(found, passed=None) if found.figure is None else found


class MeanOf(OfSeveral, tag="mean-of", frozen=True, kw_only=True):
    """The mean of what the scenarios found under ``verdict``."""

    def figure(self, record: Record, others: Mapping[str, Record]) -> float | None:
        found = [v.figure for v in _verdicts(others, self.of, self.verdict_name)]
        known = [f for f in found if f is not None]
        return math.fsum(known) / self.among if len(known) == self.among else None


class Passing(OfSeveral, tag="passing", frozen=True, kw_only=True):
    """How many of the scenarios pass under ``verdict``."""

    def figure(self, record: Record, others: Mapping[str, Record]) -> float | None:
        found = _verdicts(others, self.of, self.verdict_name)
        return float(sum(v.passed is True for v in found)) if len(found) == self.among else None


AnyCheck = Measure | Share | Beats | Ahead | Alarms | GainKept | Price | Figure | MeanOf | Passing


def judged(record: Record, checks: Sequence[AnyCheck], others: Mapping[str, Record]) -> Record:
    """The record with what its checks say of it."""
    return msgspec.structs.replace(record, verdicts=tuple(c.verdict(record, others) for c in checks))


def unbeaten_by(played: Played | None, policy: str) -> tuple[list[str], list[str]]:
    """Of a play's other policies without hindsight, those that ``policy`` does not beat with an interval above 0; and
    all of them.
    """
    if played is None or policy not in played.results["policies"]:
        return [], []
    found = played.results["policies"]
    peers = [name for name in found if name != policy and not found[name].get("hindsight")]
    advantage = played.results["policies"][policy]["advantage"]
    lows = {name: advantage[name]["interval"][0] for name in peers}
    return [name for name, low in lows.items() if low is None or not low > 0.0], peers


def _figure(played: Played | None, who: str, measure: str) -> float | None:
    """A policy's figure in the engine's results, or a yardstick's."""
    if played is None:
        return None
    results = played.results
    of = results["policies"].get(who) or (results.get(who) if who in YARDSTICKS else None)
    value = of.get(measure) if of else None
    return None if value is None else float(value)


YARDSTICKS = ("best_constant", "best_constant_plan", "all_members", "oracle")


def _verdicts(records: Mapping[str, Record], of: str, name: str) -> list[Verdict]:
    return [
        v for key, record in records.items() if fnmatch.fnmatchcase(key, of) for v in record.verdicts if v.name == name
    ]
