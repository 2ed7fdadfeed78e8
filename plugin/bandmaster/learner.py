"""The one learner: turns a settled decision into an experience, and everything that learns learns from it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import msgspec
import numpy as np

from bandmaster.combine import mean_known
from bandmaster.consensus import member_agreement, plan_agreement
from bandmaster.contract import Contract
from bandmaster.core import (
    NO_ANSWER,
    Answer,
    BandmasterError,
    BoolArray,
    Decision,
    DriftEvent,
    Ensemble,
    Evidence,
    Experience,
    Figures,
    FloatArray,
    Joined,
    Lesson,
    MemberAnswer,
    Reward,
    Said,
)
from bandmaster.counterfactual import earnings
from bandmaster.guard import Guard, Guarding
from bandmaster.metrics import NoFigureError, own_figures
from bandmaster.plans import compiled, in_service, parse_plan, pool_weights, stages_run
from bandmaster.rl_manager import RLManager
from bandmaster.state import Heard, StateManager

FORMAT = 5
"""Of snapshots; greater by one wherever what is kept in them changes."""


class Fits(msgspec.Struct, frozen=True):
    """What a snapshot must have been learned for, and the ``format`` it must have. ``plans`` is a checksum of those
    that the policy starts with: those that it offers later are its own to learn.
    """

    members: tuple[str, ...]
    classes: tuple[str, ...]
    policy: str
    plans: str
    format: int = 1


class Learned(msgspec.Struct, frozen=True):
    """A snapshot's payload: what it fits, and what each part dumped."""

    fits: Fits
    policy_state: bytes
    state: dict[str, Any]
    guard: dict[str, Any] | None = None
    conductor: bytes | None = None
    shadows: bytes | None = None


def _read(payload: bytes) -> Learned:
    try:
        return msgspec.msgpack.decode(payload, type=Learned)
    except (msgspec.DecodeError, ValueError) as problem:
        raise BandmasterError(f"a snapshot cannot be read: {problem}") from None


class Learner:
    """Owns all learning. Exactly one exists; everyone else reads what it publishes."""

    def __init__(
        self,
        ensemble: Ensemble,
        contract: Contract,
        state: StateManager,
        manager: RLManager,
        guarding: Guarding | None = None,
    ) -> None:
        """``manager`` holds a policy that has learned nothing yet."""
        self.ensemble, self.contract, self.state, self.manager = ensemble, contract, state, manager
        self.without_reward = 0
        self._profile = profile_figures(ensemble)
        self._plan = lru_cache(1 << 12)(partial(parse_plan, ensemble=ensemble))
        self._plans = lru_cache(64)(partial(compiled, ensemble=ensemble))
        self._by_consensus = contract.by_consensus
        self._nobody_knows = np.full(len(ensemble.names), np.nan)
        self._nobody_knows.setflags(write=False)
        self._live = {name: contract.is_live(name) for name in ("latency", "energy")}
        self.guard = Guard(guarding, ensemble, contract, self._profile) if guarding else None
        plans = hashlib.sha256("\n".join(manager.policy.catalogue.names).encode()).hexdigest()
        self._fits = Fits(ensemble.names, tuple(map(str, ensemble.classes)), manager.policy.name, plans, FORMAT)

    def refuses(self, joined: Joined) -> str | None:
        """Why this decision cannot be learned from, in a sentence; ``None`` when it can."""
        decision, outcome = joined.decision, joined.outcome
        if joined.answer.down:
            return f"decision {decision.id} found no member that could answer, which tells nothing of its plan"
        if (why := self._outdated(decision, joined.answer)) is not None:
            return why
        try:
            self.contract.under(decision.profile)
        except BandmasterError as problem:
            return f"decision {decision.id} was made under other profiles than today's: {problem}"
        if self._by_consensus != outcome.consensus:
            source = "consensus" if self._by_consensus else "labels"
            return f"decision {decision.id}: the contract takes accuracy from {source}, and never from both"
        if outcome.consensus and not self._complete(joined):
            return f"decision {decision.id} was not probed, so that there are no others' answers to agree with"
        if outcome.labels is not None and len(outcome.labels) != len(joined.answer.labels):
            return f"decision {decision.id} has {len(joined.answer.labels)} rows, but {len(outcome.labels)} labels came"
        return None

    def knows(self, decision: Decision, answer: Answer) -> bool:
        """Whether it may have been made under the present configuration."""
        try:
            self.contract.under(decision.profile)
        except BandmasterError:
            return False
        return self._outdated(decision, answer) is None

    def _complete(self, joined: Joined) -> bool:
        """Whether every member that was in service saw every row."""
        known, out = self.outputs(joined.answer)[1], joined.decision.state.out
        return bool((known | np.array(out, dtype=np.bool_)).all() if out else known.all())

    def _outdated(self, decision: Decision, answer: Answer) -> str | None:
        """Why this ensemble cannot have made the decision."""
        try:
            self._plans(decision.plans)
        except BandmasterError as problem:
            return f"decision {decision.id} was offered plans over other members than today's: {problem}"
        if len(answer.weights) != len(self.ensemble.names):
            return f"decision {decision.id} was made with {len(answer.weights)} members, not today's"
        if answer.scores.shape[1] != len(self.ensemble.classes):
            return f"decision {decision.id} was answered with other classes than today's models do"
        return None

    def learn(self, lesson: Lesson) -> Experience:
        """Learn from one settled decision, of which this is the ``lesson``; return what was learned from."""
        experience = self._experience(lesson)
        self._guard(experience)
        if alarms := self.state.observe(experience):
            experience = replace(experience, alarms=alarms)
        self.manager.learn(experience)
        return experience

    def _guard(self, experience: Experience) -> None:
        """Let the guard know what following the policy has cost here, or would have."""
        joined, guard = experience.joined, self.guard
        decision, answer, outcome = joined.decision, joined.answer, joined.outcome
        if guard is None or decision.exposure is None:
            return
        named, out = (*guard.baseline.names, decision.exposure.intended), decision.state.out
        plans = [in_service(name, self.ensemble, out) for name in named]
        both = compiled(tuple(dict.fromkeys(plans)), self.ensemble)
        found = alone = earnings(both, self.contract, experience)
        if answer.probes and not outcome.consensus:
            unprobed = self.experience(replace(joined, answer=replace(answer, probes=())))
            alone = earnings(both, self.contract, unprobed)
        guard.labelled, guard.heard = outcome.reward is None, max(guard.heard, outcome.at)
        best = guard.best(decision.profile, len(answer.labels)) if guard.labelled else 1.0
        guard.settle(decision, experience.own, best, float(found[0]), float(alone[0]))
        if guard.labelled:
            gained, without_probe = float(found[-1] - found[0]), float(alone[-1] - alone[0])
            guard.compare(joined, gained, without_probe)

    def experience(self, joined: Joined) -> Experience:
        """What a settled decision would teach now. Raises ``NoFigureError`` as ``lesson`` does."""
        return self._experience(self.lesson(joined))

    def lesson(self, joined: Joined) -> Lesson:
        """What a settled decision that ``refuses`` lets pass teaches by itself: its reward, and what members said.

        Raises ``NoFigureError`` where a metric of the user's own has no figure for it.
        """
        answer, labels = joined.answer, joined.outcome.labels
        ran = self._figures(answer.ran)
        figures = self._figures((*answer.ran, *answer.probes)) if answer.probes else ran
        reward = self._reward(joined, ran, charge_probe=True)
        own = self._reward(joined, ran, charge_probe=False) if answer.probes else reward
        scores, known = self.outputs(answer)
        said = Said.of(scores)
        truth = values = None
        if labels is not None and self.ensemble.regression:
            values = np.asarray(labels, dtype=np.float64)
        elif labels is not None:
            truth = np.asarray(labels)
        if joined.outcome.consensus:
            correct = member_agreement(scores)
        elif values is not None:
            correct = mean_known(self.contract.closeness(scores[..., 0] - values[:, None]), known)
        elif truth is not None:
            correct = mean_known(said.label == truth[:, None], known)  # an abstention is wrong
        else:
            correct = self._nobody_knows
        own_raw = own.raw if joined.outcome.reward is None else None
        habits = self._habits(answer, scores, said, known)
        return Lesson(joined, reward, own.value, own_raw, scores, said, known, figures, habits, truth, values, correct)

    def _habits(self, answer: Answer, scores: FloatArray, said: Said, known: BoolArray) -> FloatArray:
        """A lesson's, of what was said."""
        habits = np.full((4, len(self.ensemble.names)), np.nan)
        if not self.ensemble.regression:
            habits[0] = mean_known(np.maximum.reduce(scores, axis=-1), known)
            habits[1] = mean_known(said.label == answer.labels[:, None], known)
        for reply in (*answer.ran, *answer.probes):
            i = self.ensemble.index(reply.name)
            habits[2, i], habits[3, i] = reply.latency_s, reply.energy_j
            if reply.scores is None:
                habits[:2, i] = np.nan
        return habits

    def _experience(self, lesson: Lesson) -> Experience:
        """A lesson, and what is believed now."""
        speaks, corrected, values = self._speaks(lesson), None, lesson.values
        if values is not None and (errors := speaks().errors) is not None:
            error = lesson.scores[..., 0] - values[:, None] - errors.bias
            corrected = mean_known(self.contract.closeness(error), lesson.known)
        return Experience(
            joined=lesson.joined,
            reward=lesson.reward,
            own=lesson.own,
            own_raw=lesson.own_raw,
            scores=lesson.scores,
            said=lesson.said,
            known=lesson.known,
            figures=lesson.figures,
            habits=lesson.habits,
            truth=lesson.truth,
            values=values,
            correct=lesson.correct,
            speaks=speaks,
            mix=self.state.label_mix,
            repeats=self.state.repeats,
            corrected=corrected,
        )

    def _speaks(self, lesson: Lesson) -> Callable[[], Evidence]:
        """What was said speaks for, by what is believed now. Few ask where a reward was reported."""
        joined, said = lesson.joined, lesson.said
        if joined.outcome.reward is not None and not self.ensemble.regression:
            return partial(self.state.evidence, said, joined.decision.state, now=True)
        evidence = self.state.evidence(said, joined.decision.state, now=True)
        return lambda: evidence

    def notice(self, decision: Decision, answer: Answer) -> DriftEvent | None:
        """Learn what a request tells before its outcome is known; to be called once for each, with its probe. Returns
        the guard's alarm, where it raises one.

        Nothing is learned from what another ensemble decided.
        """
        heard, alarm = self.hear(decision, answer)
        if heard is not None:
            self.state.notice([heard])
        return alarm

    def hear(self, decision: Decision, answer: Answer) -> tuple[Heard | None, DriftEvent | None]:
        """``notice`` without its last part, which is due for many requests at once: ``state.notice`` of what was heard,
        if anything was.
        """
        if self._outdated(decision, answer) is not None:
            return None, None
        alarm = self.guard.notice(decision) if self.guard else None
        if answer.down:
            return None, alarm
        scores, known = self.outputs(answer)
        said = Said.of(scores)
        if answer.probes and known.all():
            self.manager.notice(decision, said, self._figures((*answer.ran, *answer.probes)))
        return Heard(said, known, answer.doubt, decision.probed), alarm

    def dump(self) -> bytes:
        """Everything learned, for a snapshot."""
        guard = self.guard.dump() if self.guard else None
        conductor, shadows = (part.dump() if part else None for part in (self.manager.conductor, self.manager.shadows))
        return msgspec.msgpack.encode(
            Learned(self._fits, self.manager.policy.dump(), self.state.dump(), guard, conductor, shadows)
        )

    def roll_back(self, payload: bytes) -> bytes:
        """Restore what ``dump`` gave, but for what the guard has counted since; return the snapshot of that.

        Raises ``BandmasterError`` as ``load`` does.
        """
        guard = self.guard.dump() if self.guard else None
        whole = msgspec.msgpack.encode(msgspec.structs.replace(_read(payload), guard=guard))
        self.load(whole)
        return whole

    def load(self, payload: bytes) -> None:
        """Restore what ``dump`` gave. Raises ``BandmasterError`` when it was learned for another configuration."""
        learned = _read(payload)
        if learned.fits.format != FORMAT:
            raise BandmasterError(
                f"a snapshot of format {learned.fits.format}, not {FORMAT}, is of another version of Bandmaster; "
                "learning starts anew from the journal"
            )
        if learned.fits != self._fits:
            raise BandmasterError(
                "a snapshot was learned for other members, classes, plans or policy; learning starts anew"
            )
        self.manager.policy.load(learned.policy_state)
        self.state.load(learned.state)
        if self.guard is not None and learned.guard is not None:
            self.guard.load(learned.guard)
        if self.manager.conductor is not None and self.manager.shadows is not None:
            self.manager.shadows.load(learned.shadows, learned.conductor, self.manager.conductor)
        elif self.manager.conductor is not None and learned.conductor is not None:
            self.manager.conductor.load(learned.conductor)

    def reward(self, joined: Joined) -> Reward:
        """The contract's verdict on what really ran, a probe's energy and cost included."""
        return self._reward(joined, self._figures(joined.answer.ran), charge_probe=True)

    def _reward(self, joined: Joined, ran: Figures, *, charge_probe: bool) -> Reward:
        """``ran`` are the figures of what ran for the reply."""
        answer, outcome = joined.answer, joined.outcome
        contract = self.contract.under(joined.decision.profile)
        raw = self._spent(joined, ran, charge_probe)
        raw["confidence"] = answer.sureness
        if outcome.reward is not None:
            terms = {m.name: m.term(raw[m.name]) for m in contract.metrics if m.name in raw}
            return Reward(outcome.reward, raw, terms)
        raw["accuracy"] = self._accuracy(joined)
        seen = answer if charge_probe else replace(answer, probes=())
        raw |= own_figures(self.contract, joined.decision, seen, outcome)
        return contract.reward(raw)

    def _accuracy(self, joined: Joined) -> float:
        """The answer's accuracy over the rows, or by consensus its agreement with the other members."""
        answer, labels = joined.answer, joined.outcome.labels
        if labels is not None and self.ensemble.regression:
            error = np.where(answer.labels == NO_ANSWER, np.nan, answer.scores[:, 0] - np.asarray(labels))
            return float(self.contract.closeness(error).mean())
        if labels is not None:
            return float((answer.labels == np.asarray(labels)).mean())
        heard = self.outputs(replace(answer, probes=()))[1]
        scores, _ = self.outputs(answer)
        (agreement,) = plan_agreement(scores, answer.labels[:, None], heard[:, None, :])
        if np.isnan(agreement):
            raise NoFigureError("contract.accuracy: no other member answered, so that there is no consensus")
        return float(agreement)

    def _spent(self, joined: Joined, figures: Figures, charge_probe: bool) -> dict[str, float]:
        plan = self._plan(joined.decision.plan)
        answer = joined.answer
        index = self.ensemble.index
        stages = [[index(name) for name in stage] for stage in stages_run(plan, answer)]
        ran = [i for stage in stages for i in stage]
        latency, energies, costs = figures.latency_s.tolist(), figures.energy_j.tolist(), figures.cost.tolist()
        energy, cost = sum(energies[i] for i in ran), sum(costs[i] for i in ran)
        if charge_probe and answer.probes:
            # A member that saw some rows for the reply and all of them for the probe ran twice, and is paid twice.
            probed, probes = [index(p.name) for p in answer.probes], self._figures(answer.probes)
            energy += float(probes.energy_j[probed].sum())
            cost += float(probes.cost[probed].sum())
        spent = {
            "latency": sum(max(latency[i] for i in stage) for stage in stages),
            "energy": energy,
            "cost": cost,
        }
        clear = figures.explainability.tolist()
        if ran and not any(math.isnan(clear[i]) for i in ran):
            weights = pool_weights(plan, self.ensemble, answer.weights)[ran]
            spent["explainability"] = float(weights @ figures.explainability[ran] / weights.sum())
        return {name: figure for name, figure in spent.items() if not math.isnan(figure)}

    def outputs(self, answer: Answer) -> tuple[FloatArray, BoolArray]:
        """What the members said, (n, M, C), and whose answer to which row is known, (n, M); probes included.

        In regression what a member did not say is NaN.
        """
        ensemble = self.ensemble
        n, size = len(answer.labels), len(ensemble.names)
        shape = n, size, len(ensemble.classes)
        scores = np.full(shape, np.nan) if ensemble.regression else np.zeros(shape)
        known = np.zeros((n, size), dtype=np.bool_)
        for said in (*answer.ran, *answer.probes):
            if not said.teaches:
                continue
            i = ensemble.index(said.name)
            # An index costs a fraction of an array of one.
            rows = int(said.rows[0]) if len(said.rows) == 1 else said.rows
            known[rows, i] = True
            if said.scores is not None:
                scores[rows, i] = said.scores
        return scores, known

    def _figures(self, answers: Sequence[MemberAnswer]) -> Figures:
        """What these answers took, as the contract means it; the last one of a member counts.

        What is declared is what one row takes: energy and cost are paid for each row that went in.
        """
        declared, size = self._profile, len(self.ensemble.names)
        latency, energy, paid = [math.nan] * size, [math.nan] * size, [1.0] * size
        cost, explainability = declared.cost.tolist(), declared.explainability.tolist()
        for said in answers:
            i = self.ensemble.index(said.name)
            latency[i], energy[i] = said.latency_s, said.energy_j
            paid[i] = len(said.rows)
            cost[i] = cost[i] * paid[i] if said.cost is None else said.cost
            explainability[i] = explainability[i] if said.explainability is None else said.explainability
        return Figures(
            latency_s=np.array(latency) if self._live["latency"] else declared.latency_s,
            energy_j=np.array(energy) if self._live["energy"] else declared.energy_j * np.array(paid),
            cost=np.array(cost),
            explainability=np.array(explainability),
        )


def profile_figures(ensemble: Ensemble) -> Figures:
    """The declared figures of every member, (M,); NaN where none is declared."""
    profiles = [ensemble.profiles.get(n) for n in ensemble.names]

    def column(name: str) -> FloatArray:
        values = [getattr(p, name) if p else None for p in profiles]
        return np.array([np.nan if v is None else v for v in values], dtype=np.float64)

    return Figures(column("latency_s"), column("energy_j"), column("cost"), column("explainability"))
