"""The guard: how far a policy may be followed, so that it never costs more against the baseline than was agreed.

A request is *exposed* where the policy's own choice answers it, else the baseline does. Of an exposed request it is
certain what it earned, and certain what the baseline would have earned at best: their difference is the most that
exposing it can have cost. That most is too much by the *slack*, by which the baseline would have fallen short of its
best: it is seen on probes, where every member is asked. What is surely lost so is bounded at every moment, whatever the
policy, the world and the delays of outcomes do; and nothing is exposed that could break the agreement.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from bandmaster.contract import Contract
from bandmaster.core import Decision, DriftEvent, Ensemble, Exposure, Figures, FloatArray, MemberStatistics, State
from bandmaster.counterfactual import spend
from bandmaster.plans import Catalogue, compiled

Mode = Literal["off", "shadow", "canary", "live"]


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may be lost against the baseline, in reward: ``per_request`` ≥ 0 of every request that was decided, and
    ``burn`` > 0 once. ``risk`` in (0, 1) is the probability with which more is lost, ever.
    """

    per_request: float = 0.02
    burn: float = 20.0
    risk: float = 0.01


class AtLeast:
    """What the sum of figures m ≥ 0 is at least, of which unbiased estimates x ≥ 0 are seen one after the other.

    With probability 1 − ``risk`` that holds at every moment, however the figures come about and however far single
    estimates stray upwards: exp(λ·(x − m) − ψ(λ)·x²), ψ(λ) = −log(1 − λ) − λ, is a supermartingale (Fan, Grama & Liu
    2015, "Exponential inequalities for martingales with applications", lemma 4.1, as in Howard et al. 2021,
    "Time-uniform, nonparametric, nonasymptotic confidence sequences", theorem 4). The best of several λ is taken.
    """

    TRIED = 0.5 ** np.arange(1, 16)
    """Values of λ in (0, 1): the smaller, the better for the more that was seen."""

    def __init__(self, risk: float) -> None:
        self._needed = math.log(len(self.TRIED) / risk)
        self._sum = self._squares = self.value = 0.0

    def add(self, estimate: float) -> None:
        """One more estimate, or what several that cancel out add up to; 0 changes nothing."""
        self._sum += estimate
        self._squares += estimate * estimate
        psi = -np.log1p(-self.TRIED) - self.TRIED
        now = float((self._sum - (psi * self._squares + self._needed) / self.TRIED).max())
        # Figures are not negative: what their sum was at least, it is.
        self.value = max(self.value, now)

    def dump(self) -> list[float]:
        return [self._sum, self._squares, self.value]

    def load(self, state: list[float]) -> None:
        self._sum, self._squares, self.value = state


@dataclass(slots=True)
class _Exposed:
    """An exposed request of ``at`` (Unix s): the most that it may cost, until its outcome comes; then the estimate of
    its slack.
    """

    most: float
    at: float
    slack: float | None = None


class Ledger:
    """What following the policy has cost at most, against what may be lost.

    Credit is not hoarded: where the policy has surely earned ``burn`` more than the baseline, counting begins anew, so
    that one that turns bad may never lose what it had won before.
    """

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._exposed: OrderedDict[str, _Exposed] = OrderedDict()  # in the order of decisions
        self.open = 0.0  # the most that those without an outcome may cost
        self._begun = 0
        self._begin()

    def _begin(self) -> None:
        self._begun += 1
        self._requests, self._certain = 0, 0.0
        self._slack = AtLeast(self._risk())

    def _risk(self) -> float:
        """All risks together are the allowance's: Σ 6/(π·i)² = 1."""
        return self._allowance.risk * 6.0 / (math.pi * self._begun) ** 2

    @property
    def lost(self) -> float:
        """What was lost since counting began, at most, in reward; below 0 where something was surely won."""
        return self._certain + self.open - self._slack.value

    @property
    def room(self) -> float:
        """What one more exposed request may cost."""
        return self._allowance.per_request * self._requests + self._allowance.burn - self.lost

    def decided(self) -> None:
        """One more request was decided, exposed or not."""
        self._requests += 1

    def expose(self, decision_id: str, most: float, at: float = 0.0) -> None:
        """The policy's choice answers a request, at the cost of so much at ``most``."""
        self._exposed[decision_id] = _Exposed(most, at)
        self.open += most

    def settle(self, decision_id: str, most: float, slack: float = 0.0) -> None:
        """An exposed request's outcome has come, by which it cost so much at ``most``, and its ``slack`` is estimated:
        what a probe showed times the inverse of its probability, 0 where there was none. One that nobody had noticed
        is counted too.
        """
        exposed = self._exposed.setdefault(decision_id, _Exposed(0.0, 0.0))
        if exposed.slack is not None:
            return
        self.open -= exposed.most
        self._certain += most
        exposed.most, exposed.slack = 0.0, slack
        self._advance()

    def expire(self, before: float) -> None:
        """No outcome will come any more of requests ``before`` that time (Unix s): they have no reward either."""
        for exposed in self._exposed.values():
            if exposed.at >= before:
                break
            if exposed.slack is None:
                self.open -= exposed.most
                exposed.most, exposed.slack = 0.0, 0.0
        self._advance()

    def _advance(self) -> None:
        """Estimates count in the order of decisions: which outcomes come first must not choose among them."""
        while self._exposed:
            decision_id, first = next(iter(self._exposed.items()))
            if first.slack is None:
                break
            del self._exposed[decision_id]
            if first.slack:
                self._slack.add(first.slack)
        if self.lost <= -self._allowance.burn:
            self._begin()

    def dump(self) -> dict[str, Any]:
        exposed = [(name, e.most, e.at, e.slack) for name, e in self._exposed.items()]
        return {"exposed": exposed, "begun": self._begun, "requests": self._requests, "certain": self._certain,
                "slack": self._slack.dump()}  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        self._begun, self._requests, self._certain = state["begun"], state["requests"], state["certain"]
        self._exposed = OrderedDict((name, _Exposed(most, at, slack)) for name, most, at, slack in state["exposed"])
        self.open = math.fsum(e.most for e in self._exposed.values())
        self._slack = AtLeast(self._risk())
        self._slack.load(state["slack"])


class Gain:
    """By how much more the policy's choices would have earned than the baseline, a request, on average.

    Where the members tell that ran for the reply, that is known; elsewhere a probe tells, and counts for all that were
    as unlikely to be probed. The margin holds at every moment, asymptotically (Waudby-Smith et al. 2024, "Time-uniform
    central limit theory and asymptotic confidence sequences", theorem 2.2).
    """

    TIGHTEST = 1000
    """Requests after which the margin is tightest for what was seen."""

    def __init__(self) -> None:
        self.requests, self.mean, self._squares = 0, 0.0, 0.0

    def add(self, difference: float, without_probe: float, probe_p: float) -> None:
        """Learn one settled request: the difference, NaN where it is not known; the same without what a probe tells;
        and the probability of one. What could not have been known is left out.
        """
        if math.isnan(without_probe):
            if probe_p == 0.0:
                return
            value = 0.0 if math.isnan(difference) else difference / probe_p
        else:
            value = without_probe
        self.requests += 1
        off = value - self.mean
        self.mean += off / self.requests
        self._squares += off * (value - self.mean)

    def margin(self, risk: float) -> float:
        """What the mean may be off by, but with probability ``risk``; infinite before two requests."""
        n = self.requests
        if n < 2:
            return math.inf
        rho2 = (-2.0 * math.log(risk) + math.log(-2.0 * math.log(risk)) + 1.0) / self.TIGHTEST
        wide = 2.0 * (n * rho2 + 1.0) / (n * n * rho2) * math.log(math.sqrt(n * rho2 + 1.0) / risk)
        return math.sqrt(self._squares / n * wide)

    def dump(self) -> list[float]:
        return [float(self.requests), self.mean, self._squares]

    def load(self, state: list[float]) -> None:
        requests, self.mean, self._squares = state
        self.requests = int(requests)


@dataclass(frozen=True, slots=True)
class Guarding:
    """The ``guard:`` block. ``baseline`` is a plan's name.

    ``off``: the baseline answers, whatever the policy chooses. ``shadow``: likewise, and what the policy would have
    earned is estimated. ``canary``: its choice answers a share of requests that climbs. ``live``: it answers all of
    them. Both only as far as the ``allowance`` goes.
    """

    mode: Mode = "shadow"
    baseline: str = "all"
    allowance: Allowance = field(default_factory=Allowance)


def extremes(contract: Contract, plans: Catalogue, figures: Figures) -> tuple[FloatArray, FloatArray]:
    """What each plan (P,) may earn at worst and at best, its members taking what ``figures`` (M,) foresee: with all
    its answers wrong or right, after whichever of its stages that is worse or better. What is unknown is worth 0 or 1.
    """
    runs = np.minimum(np.arange(1, plans.stage_members.shape[1] + 1)[:, None], plans.stages)  # (S, P)
    each = Figures(*(getattr(figures, name)[None] for name in ("latency_s", "energy_j", "cost", "explainability")))
    spent = spend(plans, runs, each, np.ones(len(plans.ensemble.names)))
    worst = best = np.zeros(runs.shape)
    for metric in contract.metrics:
        ends = metric.normalise(np.array([0.0, 1.0]))
        known = metric.normalise(spent[metric.name]) if metric.name in spent else None
        low, high = (0.0, 1.0) if metric.use else (ends.min(), ends.max())
        worst = worst + metric.weight * (low if known is None else np.nan_to_num(known, nan=0.0))
        best = best + metric.weight * (high if known is None else np.nan_to_num(known, nan=1.0))
    return np.asarray(worst.min(axis=0)), np.asarray(best.max(axis=0))


@dataclass(frozen=True, slots=True)
class Admitted:
    """What a guard made of a policy's choice: the ``plans`` on offer, the baseline among them, the ``probabilities``
    (P,) with which each answers, and the one ``chosen``.
    """

    plans: tuple[str, ...]
    probabilities: FloatArray
    chosen: int
    exposure: Exposure


class Guard:
    """Decides whether the policy's choice answers a request, and keeps the ledger of what that has cost.

    In ``canary`` the share of requests climbs a step after every ``EACH`` exposed ones that were settled with half of
    the burn left. Where what was lost leaves no room for one more, the guard is breached: the baseline answers alone
    until half of the burn is there again, and climbing begins anew.
    """

    STEPS = (0.01, 0.05, 0.2, 0.5, 1.0)
    EACH = 100

    def __init__(self, guarding: Guarding, ensemble: Ensemble, contract: Contract, declared: Figures) -> None:
        """``declared`` (M,) are the members' figures as their profiles have them. ``counted`` (Unix s) is when all was
        in the ledger that had been recorded until then.
        """
        self.guarding, self.baseline = guarding, compiled((guarding.baseline,), ensemble)
        self.ledger, self.gain = Ledger(guarding.allowance), Gain()
        self.breached, self.counted = False, 0.0
        self._step = self._settled = 0  # exposed ones that were settled since the last step
        self._contract, self._ensemble, self._declared = contract, ensemble, declared
        # What plans may earn changes only with what is known of the members.
        self._members: MemberStatistics | None = None
        self._bounds: dict[tuple[tuple[str, ...], str, int], tuple[FloatArray, FloatArray]] = {}

    @property
    def share(self) -> float:
        """Of the requests that there is room for, how many the policy's choice answers, in [0, 1]."""
        if self.breached or self.guarding.mode in ("off", "shadow"):
            return 0.0
        return self.STEPS[self._step] if self.guarding.mode == "canary" else 1.0

    # ---- Answering: reads only -------------------------------------------------------------------------------

    def admit(
        self, plans: tuple[str, ...], p: FloatArray, intended: int, state: State, rows: int, lot: float, room: float
    ) -> Admitted:
        """Let the ``intended`` one of the ``plans`` answer, or the baseline.

        ``p`` (P,) are the probabilities with which the policy chose, ``lot`` in [0, 1) is drawn for this, and ``room``
        is what it may cost.
        """
        name = self.baseline.names[0]
        most = np.maximum(self.best(state, rows) - self._extremes(plans, state, rows)[0], 0.0)
        share = np.where(most <= room, self.share, 0.0)
        names = plans if name in plans else (*plans, name)
        at = names.index(name)
        answers = np.append(p * share, np.zeros(len(names) - len(plans)))
        answers[at] = 0.0
        answers[at] = 1.0 - answers.sum()
        exposed = intended != at and lot < share[intended]
        exposure = Exposure(plans[intended], float(share[intended]), bool(exposed), float(most[intended]))
        return Admitted(names, answers, intended if exposed else at, exposure)

    def best(self, state: State, rows: int) -> float:
        """The most that the baseline may earn on a request of so many rows that finds ``state``."""
        return float(self._extremes(self.baseline.names, state, rows)[1][0])

    def _extremes(self, plans: tuple[str, ...], state: State, rows: int) -> tuple[FloatArray, FloatArray]:
        if self._members is not state.members:
            self._members, self._bounds = state.members, {}
        key = plans, state.profile, rows
        if key not in self._bounds:
            contract, catalogue = self._contract.under(state.profile), compiled(plans, self._ensemble)
            self._bounds[key] = extremes(contract, catalogue, self._foreseen(state, rows))
        return self._bounds[key]

    def _foreseen(self, state: State, rows: int) -> Figures:
        """What each member (M,) is foreseen to take: as of late where the contract asks for that, else as declared."""
        declared = self._declared
        latency, energy = declared.latency_s, declared.energy_j * rows
        if self._live("latency"):  # 0 is what was never seen
            latency = np.where(state.members.latency_s > 0.0, state.members.latency_s, np.nan)
        if self._live("energy"):
            energy = np.where(state.members.energy_j > 0.0, state.members.energy_j, np.nan)
        return Figures(latency, energy, declared.cost * rows, declared.explainability)

    def _live(self, metric: str) -> bool:
        found = self._contract.metric(metric)
        return found is None or found.source == "live"

    # ---- Judging: the learner's alone ------------------------------------------------------------------------

    def notice(self, decision: Decision) -> DriftEvent | None:
        """Count a decision, once, before its outcome; the alarm, where it shows that there is no room any more."""
        self.ledger.decided()
        exposure, allowance = decision.exposure, self.guarding.allowance
        if exposure is None:
            return None
        if exposure.exposed:
            self.ledger.expose(decision.id, exposure.most, decision.at)
        half = self.ledger.room >= allowance.burn / 2.0
        self.breached &= not half
        refused = self.share > 0.0 and exposure.share == 0.0 < exposure.most
        if not refused or self.ledger.room + self.ledger.open >= allowance.burn / 2.0:
            return None  # where only outcomes are awaited there will be room again
        self.breached, self._step, self._settled = True, 0, 0
        cause = f"up to {self.ledger.lost:.1f} was lost against {self.guarding.baseline}, so that it answers alone"
        return DriftEvent("guard", decision.at, cause)

    def settle(self, decision: Decision, earned: float, best: float, baseline: float, without_probe: float) -> None:
        """An outcome has come: what the answer ``earned``, and the baseline would have at ``best``; and what it would
        have, NaN where that is not known; ``without_probe`` is the same, as far as the members tell that ran for the
        reply.
        """
        exposure = decision.exposure
        if exposure is None or not exposure.exposed:
            return
        if not math.isnan(without_probe):
            self.ledger.settle(decision.id, without_probe - earned)
        else:
            slack = 0.0 if math.isnan(baseline) else max(best - baseline, 0.0) / decision.probe_p
            self.ledger.settle(decision.id, best - earned, slack)
        self._settled += 1
        if self._settled >= self.EACH and self.ledger.room >= self.guarding.allowance.burn / 2.0:
            self._settled, self._step = 0, min(self._step + 1, len(self.STEPS) - 1)

    # ---- Keeping ---------------------------------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        ramp = [self.breached, self._step, self._settled]
        return {"ledger": self.ledger.dump(), "gain": self.gain.dump(), "ramp": ramp, "counted": self.counted}

    def load(self, state: dict[str, Any]) -> None:
        self.ledger.load(state["ledger"])
        self.gain.load(state["gain"])
        self.breached, self._step, self._settled = state["ramp"]
        self.counted = state["counted"]


class Admission:
    """One orchestrator's half of a guard.

    Where the learner is another process, what was exposed here and is not in its ledger yet takes up room, too; and of
    the ledger's room each of several ``workers`` has its share.
    """

    def __init__(
        self,
        guard: Guard,
        workers: int = 1,
        clock: Callable[[], float] | None = None,
        pinned: Callable[[], bool] = lambda: False,
    ) -> None:
        """``guard`` is the learner's own, or with a ``clock`` (Unix s) what snapshots tell of it. While it is
        ``pinned`` the baseline answers.
        """
        self._guard, self._workers, self._clock, self._pinned = guard, workers, clock, pinned
        self._unseen: dict[str, tuple[float, float]] = {}  # of decisions: when they were recorded, and their most

    def admit(
        self, plans: tuple[str, ...], p: FloatArray, intended: int, state: State, rows: int, lot: float
    ) -> Admitted:
        """As ``Guard.admit``, with the room that there is here. Reads only."""
        room = -math.inf if self._pinned() else self.room
        return self._guard.admit(plans, p, intended, state, rows, lot, room)

    @property
    def room(self) -> float:
        """What one more exposed request may cost here."""
        unseen = math.fsum(most for at, most in self._unseen.values() if at >= self._guard.counted)
        return self._guard.ledger.room / self._workers - unseen

    def expose(self, decision: Decision) -> None:
        """A decision was made, and will be recorded."""
        if self._clock is None or decision.exposure is None:
            return
        counted = self._guard.counted
        self._unseen = {name: seen for name, seen in self._unseen.items() if seen[0] >= counted}
        if decision.exposure.exposed:
            self._unseen[decision.id] = (math.inf, decision.exposure.most)

    def recorded(self, decision: Decision) -> None:
        """It is recorded, or never will be: first with its answer, then, where it is probed, with its probe. The
        learner counts it once that has come.
        """
        if self._clock is not None and decision.exposure is not None and decision.exposure.exposed:
            self._unseen[decision.id] = (self._clock(), decision.exposure.most)
