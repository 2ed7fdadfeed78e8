"""The guard: how far a policy may be followed, so that it never costs more against the baseline than was agreed.

A request is *exposed* where the policy's own choice answers it, else the baseline does. Of an exposed request it is
certain what it earned, and certain what the baseline would have earned at best: their difference is the most that
exposing it can have cost. That most is too much by the *slack*, by which the baseline would have fallen short of its
best: it is seen on probes, where every member is asked. So what was lost is bounded at every moment, whatever the
policy does, on all requests whose outcome comes in time; and nothing is exposed that could break the agreement.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from bandmaster.contract import Contract
from bandmaster.core import Decision, DriftEvent, Ensemble, Exposure, Figures, FloatArray, Joined
from bandmaster.counterfactual import spend
from bandmaster.ledger import Allowance, Gain, Ledger
from bandmaster.plans import Catalogue, compiled

Mode = Literal["off", "shadow", "canary", "live"]


@dataclass(frozen=True, slots=True)
class Guarding:
    """The ``guard:`` block. ``baseline`` is a plan's name.

    ``off``: the baseline answers, whatever the policy chooses. ``shadow``: likewise, and what the policy would have
    earned is estimated. ``canary``: its choice answers a share of requests that climbs. ``live``: it answers all of
    them. Both only as far as the ``allowance`` goes, and while outcomes come at least every ``silence_s`` seconds.
    """

    mode: Mode = "shadow"
    baseline: str = "all"
    allowance: Allowance = field(default_factory=Allowance)
    silence_s: float | None = None


def extremes(contract: Contract, plans: Catalogue, figures: Figures) -> tuple[FloatArray, FloatArray]:
    """What each plan (P,) may earn at worst and at best, its members taking what ``figures`` (M,) foresee: with all
    its answers wrong or right, after whichever of its stages each metric likes least or most. A metric that is not
    known may be worth nothing or all.
    """
    runs = np.minimum(np.arange(1, plans.stage_members.shape[1] + 1)[:, None], plans.stages)  # (S, P)
    each = Figures(*(getattr(figures, name)[None] for name in ("latency_s", "energy_j", "cost", "explainability")))
    spent = dict(spend(plans, runs, each, np.ones(len(plans.ensemble.names)), counts=lambda m: m != "explainability"))
    # Explainability is a weighted mean of members', by whatever weights: it lies between those of two of them.
    asked = plans.stage_members.any(axis=1)  # (P, M)
    some = np.where(asked, np.arange(asked.shape[1]), asked.argmax(axis=1)[:, None])
    spent["explainability"] = figures.explainability[some].T
    worst = best = np.zeros(len(plans))
    for metric in contract.metrics:
        terms = metric.normalise(spent.get(metric.name, _ENDS))
        low, high = (np.zeros(1), np.ones(1)) if metric.use else (terms.min(axis=0), terms.max(axis=0))
        worst = worst + metric.weight * np.nan_to_num(low, nan=0.0)
        best = best + metric.weight * np.nan_to_num(high, nan=1.0)
    return worst, best


_ENDS = np.array([[0.0], [1.0]])
"""The least and most of a share."""


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
        self.breached, self.pinned, self.silent, self.counted = False, False, False, 0.0
        self.heard = 0.0  # when an outcome came last
        self.labelled = False  # whether labels come, or rewards
        self._step = self._settled = 0  # exposed ones that were settled since the last step
        self._contract, self._ensemble, self._declared = contract, ensemble, declared
        self._extremes = lru_cache(64)(self._find_extremes)

    @property
    def share(self) -> float:
        """Of the requests that there is room for, how many the policy's choice answers, in [0, 1]."""
        if self.breached or self.pinned or self.silent or self.guarding.mode in ("off", "shadow"):
            return 0.0
        return self.STEPS[self._step] if self.guarding.mode == "canary" else 1.0

    @property
    def asks_all(self) -> bool:
        """Whether the baseline has every member answer every request."""
        return bool(self.baseline.stage_members[:, 0].all())

    # ---- Answering: reads only -------------------------------------------------------------------------------

    def admit(
        self, plans: tuple[str, ...], p: FloatArray, intended: int, profile: str, rows: int, lot: float, room: float
    ) -> Admitted:
        """Let the ``intended`` one of the ``plans`` answer, or the baseline.

        ``p`` (P,) are the probabilities with which the policy chose, ``profile`` names the weights that the request is
        judged by, ``lot`` in [0, 1) is drawn for this, and ``room`` is what it may cost.
        """
        name = self.baseline.names[0]
        worst = self._extremes(plans, profile, rows)[0] if self.labelled else 0.0  # a reported reward may be any
        best = self.best(profile, rows) if self.labelled else 1.0
        most = np.full(len(plans), np.maximum(best - worst, 0.0))
        share = np.where(most <= room, self.share, 0.0)
        names = plans if name in plans else (*plans, name)
        at = names.index(name)
        answers = np.append(p * share, np.zeros(len(names) - len(plans)))
        answers[at] = 0.0
        answers[at] = max(1.0 - answers.sum(), 0.0)
        exposed = intended != at and lot < share[intended]
        exposure = Exposure(
            plans[intended], float(p[intended]), float(share[intended]), bool(exposed), float(most[intended])
        )
        return Admitted(names, answers, intended if exposed else at, exposure)

    def best(self, profile: str, rows: int) -> float:
        """The most that the baseline may earn on a request of so many rows, under a profile's weights."""
        return float(self._extremes(self.baseline.names, profile, rows)[1][0])

    def _find_extremes(self, plans: tuple[str, ...], profile: str, rows: int) -> tuple[FloatArray, FloatArray]:
        contract, catalogue = self._contract.under(profile), compiled(plans, self._ensemble)
        return extremes(contract, catalogue, self._foreseen(rows))

    def _foreseen(self, rows: int) -> Figures:
        """What each member (M,) takes for so many rows, where that is declared; NaN where it is measured, for nobody
        knows before how long it will be.
        """
        declared, unknown = self._declared, np.full(len(self._ensemble.names), np.nan)
        return Figures(
            unknown if self._contract.is_live("latency") else declared.latency_s,
            unknown if self._contract.is_live("energy") else declared.energy_j * rows,
            declared.cost * rows,
            declared.explainability,
        )

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
        refused = self.share > 0.0 == exposure.share and exposure.intended not in self.baseline.names
        if not refused or self.pinned or self.ledger.room + self.ledger.open >= allowance.burn / 2.0:
            return None  # where only outcomes are awaited there will be room again
        self.breached, self._step, self._settled = True, 0, 0
        cause = f"up to {self.ledger.lost:.1f} was lost against {self.guarding.baseline}, so that it answers alone"
        return DriftEvent("guard", decision.at, cause)

    def listen(self, now: float) -> DriftEvent | None:
        """Have the baseline answer alone once no outcome has come for too long; the alarm, where that begins now.

        Until the first outcome it is counted from the first time that this was asked.
        """
        self.heard = self.heard or now
        silence_s, before = self.guarding.silence_s, self.silent
        self.silent = silence_s is not None and now - self.heard > silence_s
        if not self.silent or before:
            return None
        cause = f"no outcome for {now - self.heard:.0f} s, so that {self.guarding.baseline} answers alone"
        return DriftEvent("guard", now, cause)

    def take_up(self, decision: Decision) -> None:
        """Count an exposed decision that may not have been noticed."""
        if decision.exposure is not None and decision.exposure.exposed:
            self.ledger.expose(decision.id, decision.exposure.most, decision.at)

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
        if self.guarding.mode != "canary":
            return
        self._settled += 1
        if self._settled >= self.EACH and self.ledger.room >= self.guarding.allowance.burn / 2.0:
            self._settled, self._step = 0, min(self._step + 1, len(self.STEPS) - 1)

    def compare(self, joined: Joined, gained: float, without_probe: float) -> None:
        """Labels have come, or consensus judges: by how much more the policy's choice would have earned than the
        baseline, NaN where that is not known; ``without_probe`` as for ``settle``.
        """
        decision, probes = joined.decision, joined.answer.probes
        if self.guarding.mode == "off":
            return
        if joined.outcome.consensus:  # of what was not probed nobody reports
            self.gain.add(gained, 1.0)
        elif not (decision.probe_p or self.asks_all):
            return  # whoever was too busy for probes would tell of requests alone that need none
        elif not math.isnan(without_probe):
            self.gain.add(without_probe, 1.0)
        elif probes or not decision.probed:
            self.gain.add(gained, decision.probe_p)

    # ---- Keeping ---------------------------------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        return {
            "judges": self._judges,
            "mode": self.guarding.mode,
            "ledger": self.ledger.dump(),
            "gain": self.gain.dump(),
            "ramp": [self.breached, self._step, self._settled],
            "counted": self.counted,
            "heard": [self.heard, self.silent],
            "labelled": self.labelled,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore what ``dump`` gave. By another contract or baseline all begins anew; in another mode, climbing."""
        self.counted = state["counted"]
        self.heard, self.silent = state["heard"]
        if state["judges"] != self._judges:
            return
        self.ledger.load(state["ledger"])
        self.gain.load(state["gain"])
        self.labelled = state["labelled"]
        if state["mode"] == self.guarding.mode:
            self.breached, self._step, self._settled = state["ramp"]

    @property
    def _judges(self) -> str:
        """By what it judges, and whom it compares with."""
        return f"{self.guarding.baseline} {self._contract.describe()}"


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
        self.blind = False
        """Whether decisions cannot be recorded: nobody would learn what following the policy costs."""
        self._unseen: dict[str, tuple[float, float]] = {}  # of decisions: when they were recorded, and their most
        self._lock = threading.Lock()  # plans of slow members run, and are recorded, in threads

    def take_over(self, before: Admission) -> None:
        """Have what another has exposed take up room here, too; from now on each knows of both's."""
        self.blind, self._unseen, self._lock = before.blind, before._unseen, before._lock

    def admit(
        self, plans: tuple[str, ...], p: FloatArray, intended: int, profile: str, rows: int, lot: float
    ) -> Admitted:
        """As ``Guard.admit``, with the room that there is here. Reads only."""
        room = -math.inf if self.blind or self._pinned() else self.room
        return self._guard.admit(plans, p, intended, profile, rows, lot, room)

    @property
    def room(self) -> float:
        """What one more exposed request may cost here."""
        with self._lock:
            unseen = math.fsum(most for at, most in self._unseen.values() if at >= self._guard.counted)
        return self._guard.ledger.room / self._workers - unseen

    def expose(self, decision: Decision) -> None:
        """A decision was made, and will be recorded."""
        if self._clock is None or decision.exposure is None:
            return
        with self._lock:
            counted = self._guard.counted
            for name in [name for name, (at, _) in self._unseen.items() if at < counted]:
                del self._unseen[name]
            if decision.exposure.exposed:
                self._unseen[decision.id] = (math.inf, decision.exposure.most)

    def recorded(self, decision: Decision) -> None:
        """It is recorded whole, with its probe if there is one, or never will be: the learner counts it by itself."""
        if self._clock is not None and decision.exposure is not None and decision.exposure.exposed:
            with self._lock:
                self._unseen[decision.id] = (self._clock(), decision.exposure.most)
