"""Hard limits: which plans may be chosen at all, by a deadline and by what budgets of energy and money have left."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bandmaster.core import (
    BoolArray,
    Decision,
    Ensemble,
    FloatArray,
    MemberAnswer,
    MemberStatistics,
    Offer,
    Request,
    State,
)
from bandmaster.plans import Catalogue, compiled


@dataclass(frozen=True, slots=True)
class Budget:
    """At most ``amount`` > 0 (J, or the user's money) in any ``per_s`` > 0 seconds."""

    amount: float
    per_s: float


@dataclass(frozen=True, slots=True)
class Limits:
    """The ``limits:`` block. ``None`` stands for no limit; ``deadline_s`` > 0 is for each request."""

    deadline_s: float | None = None
    energy: Budget | None = None
    cost: Budget | None = None

    def shared(self, workers: int) -> Limits:
        """What each of so many workers may spend, so that together they keep within the budgets."""
        energy, cost = (b and replace(b, amount=b.amount / workers) for b in (self.energy, self.cost))
        return Limits(self.deadline_s, energy, cost)


@dataclass(frozen=True, slots=True)
class Fitting:
    """``plans`` (P,) that may be chosen, at least one; ``over`` where even that one breaks a limit."""

    plans: BoolArray
    over: bool


def fitting(overspent: FloatArray, latency_s: FloatArray, deadline_s: float) -> Fitting:
    """The plans that keep within the limits, or else the one plan (or several alike) that breaks them least.

    ``overspent`` (P,) is by how much, in shares of it, each plan would exceed the budget that it exceeds most; ≤ 0
    where it fits, −∞ where there is no budget. Where no plan fits the budgets, the cheapest remain; where of those
    that remain none meets the deadline, the fastest. So nobody overspends by asking for haste.
    """
    fits = overspent <= 0.0
    remain = fits if fits.any() else overspent == overspent.min()
    quick = remain & (latency_s <= deadline_s)
    if quick.any():
        return Fitting(quick, not fits.any())
    return Fitting(remain & (latency_s == latency_s[remain].min()), True)


def needing(plans: Catalogue, out: tuple[bool, ...]) -> BoolArray:
    """Which plans (P,) need a member that is ``out`` (M,; empty: nobody), and may not be chosen; none, where all do."""
    if not out:
        return np.zeros(len(plans), dtype=np.bool_)
    needs = (plans.stage_members.any(axis=1) & np.array(out)).any(axis=1)
    return np.asarray(needs & ~needs.all())


def masked(probabilities: FloatArray, fits: BoolArray) -> FloatArray:
    """The distribution (P,) over the plans that fit: renormalised, or even where it gives them (all but) nothing."""
    kept = np.where(fits, probabilities, 0.0)
    total = kept.sum()
    return np.asarray(kept / total if total > 1e-9 else fits / fits.sum())


class Spending:
    """What has been spent of a budget, in slices of its period.

    A slice counts until all of it is a period ago, so that in no period, wherever it begins, more is counted out than
    the budget holds. Times may come out of order; what is older than that is forgotten at once.
    """

    SLICES = 60

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._width = budget.per_s / self.SLICES
        self._slices: dict[int, float] = {}
        self._newest = -(1 << 62)
        self._lock = threading.Lock()  # plans of slow members run, and are paid, in threads

    def left(self, at: float) -> float:
        """What may still be spent at ``at`` (Unix s); below 0 where more was spent than there was."""
        with self._lock:
            self._turn(math.floor(at / self._width))
            return self.budget.amount - math.fsum(self._slices.values())

    def rewind(self, at: float) -> None:
        """The clock shows ``at`` now. Where it has gone back by more than the period, all that counts was spent now."""
        with self._lock:
            k = math.floor(at / self._width)
            if k < self._newest - self.SLICES:
                self._newest, self._slices = k, {k: math.fsum(self._slices.values())}

    def add(self, at: float, amount: float) -> None:
        """Count an amount as spent at ``at``; a negative one takes back what was counted in expectation."""
        with self._lock:
            k = math.floor(at / self._width)
            self._turn(k)
            if k >= self._newest - self.SLICES:
                self._slices[k] = self._slices.get(k, 0.0) + amount

    def _turn(self, k: int) -> None:
        if k > self._newest:
            self._newest = k
            self._slices = {i: v for i, v in self._slices.items() if i >= k - self.SLICES}


class Limiter:
    """Keeps one orchestrator's decisions within its limits.

    A plan is judged by its whole walk, at its members' recent mean latency and energy and their declared price. Its
    price is counted when it is chosen and corrected when it has run, so that requests under way are never forgotten.
    """

    def __init__(self, limits: Limits, ensemble: Ensemble) -> None:
        self._ensemble = ensemble
        self._deadline_s = math.inf if limits.deadline_s is None else limits.deadline_s
        self._energy = Spending(limits.energy) if limits.energy else None
        self._cost = Spending(limits.cost) if limits.cost else None
        profiles = [ensemble.profiles.get(name) for name in ensemble.names]
        self._price = np.array([(p.cost if p else None) or 0.0 for p in profiles])
        self.over = 0
        """How many decisions broke a limit because no plan kept within them."""

    def take_over(self, before: Limiter) -> None:
        """Have what another has spent count, as far as the budgets are the same."""
        self.over = before.over
        for name in ("_energy", "_cost"):
            own, others = getattr(self, name), getattr(before, name)
            if own is not None and others is not None and own.budget == others.budget:
                setattr(self, name, others)

    @property
    def spends(self) -> bool:
        """Whether there is a budget, so that each decision changes what the next may spend."""
        return self._energy is not None or self._cost is not None

    def deadline_s(self, request: Request) -> float:
        """In how many seconds it is to be answered."""
        return min(self._deadline_s, math.inf if request.deadline_s is None else request.deadline_s)

    def fitting(self, offer: Offer, request: Request, state: State) -> Fitting | None:
        """Which plans on offer may be chosen; ``None`` where all may. None of them needs a member that is out of
        service, unless all do.
        """
        deadline_s, out = self.deadline_s(request), state.out
        if deadline_s == math.inf and not self._energy and not self._cost and not out:
            return None
        plans = compiled(offer.names, self._ensemble)
        ran = plans.stage_members.any(axis=1).astype(np.float64)
        overspent = np.where(needing(plans, out), np.inf, -np.inf)
        for spending, each in self._budgets(state, len(request.rows)):
            spending.rewind(request.at)
            over = (ran @ each - spending.left(request.at)) / spending.budget.amount
            overspent = np.maximum(overspent, over)
        found = fitting(overspent, _latency(plans, state.members), deadline_s)
        return None if found.plans.all() and not found.over else found

    def affords(self, state: State, request: Request, names: Sequence[str]) -> bool:
        """Whether further calls of these members, on all of the request's rows, fit the budgets."""
        budgets = self._budgets(state, len(request.rows))
        return all(self._sum(each, names) <= spending.left(request.at) for spending, each in budgets)

    def expect(self, decision: Decision, request: Request) -> None:
        """Count what a decision is expected to spend, without a probe."""
        self.over += decision.over_limits
        for spending, each in self._budgets(decision.state, len(request.rows)):
            spending.add(decision.at, self._walk(decision, each))

    def expect_probe(self, decision: Decision, request: Request, probes: Sequence[str]) -> None:
        """Count what a probe by these members is expected to spend."""
        for spending, each in self._budgets(decision.state, len(request.rows)):
            spending.add(decision.at, self._sum(each, probes))

    def correct(self, decision: Decision, ran: tuple[MemberAnswer, ...]) -> None:
        """Put what the plan has really spent in the place of what was expected."""
        rows = len(ran[0].rows)  # the first stage sees all
        for spending, each in self._budgets(decision.state, rows):
            spending.add(decision.at, self._spent(ran, spending) - self._walk(decision, each))

    def correct_probe(self, decision: Decision, request: Request, probes: tuple[MemberAnswer, ...]) -> None:
        """The same for its probe."""
        for spending, each in self._budgets(decision.state, len(request.rows)):
            expected = self._sum(each, [said.name for said in probes])
            spending.add(decision.at, self._spent(probes, spending) - expected)

    def left(self, at: float) -> dict[str, float]:
        """What each budget has left, by metric."""
        named = {"energy": self._energy, "cost": self._cost}
        return {name: spending.left(at) for name, spending in named.items() if spending is not None}

    def _budgets(self, state: State, rows: int) -> list[tuple[Spending, FloatArray]]:
        """Each budget, with what a member (M,) is expected to spend of it on so many rows; prices are a row's."""
        budgets = [] if self._energy is None else [(self._energy, state.members.energy_j)]
        return budgets if self._cost is None else [*budgets, (self._cost, self._price * rows)]

    def _walk(self, decision: Decision, each: FloatArray) -> float:
        return self._sum(each, compiled((decision.plan,), self._ensemble).plans[0].members)

    def _sum(self, each: FloatArray, names: Sequence[str]) -> float:
        return float(sum(each[self._ensemble.index(name)] for name in names))

    def _spent(self, said: tuple[MemberAnswer, ...], spending: Spending) -> float:
        if spending is self._energy:
            amounts = [reply.energy_j for reply in said]
        else:
            amounts = [
                self._price[self._ensemble.index(reply.name)] * len(reply.rows) if reply.cost is None else reply.cost
                for reply in said
            ]
        return math.fsum(amount for amount in amounts if not math.isnan(amount))


def _latency(plans: Catalogue, members: MemberStatistics) -> FloatArray:
    """Each plan's whole walk (P,), s: its stages one after the other, each as long as its slowest member."""
    return np.asarray(np.where(plans.stage_members, members.latency_s, 0.0).max(axis=-1).sum(axis=-1))
