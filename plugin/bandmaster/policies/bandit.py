"""The bandit: a planner that finds plans worth offering, scores for each, and Vowpal Wabbit that corrects them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from bandmaster.awaited import Awaited
from bandmaster.belief import Belief, bent_odds
from bandmaster.contract import Contract
from bandmaster.core import BandmasterError, Decision, Errors, Experience, Figures, FloatArray, Plan, Said, State
from bandmaster.counterfactual import revealed
from bandmaster.planner import NEVER, Chain, Planner, Proposal
from bandmaster.plans import Catalogue, compiled
from bandmaster.policies.examples import labelled, plan_lines, prior_rewards, shared_line
from bandmaster.policies.exploration import Exploration, spread
from bandmaster.policies.scores import PlanScores
from bandmaster.policies.vw import VowpalWabbit
from bandmaster.value_planner import ValuePlanner

VW_OPTIONS = "--cb_adf --cb_type mtr --clip_p 1 -l 0.01 -q sp -q sm"
"""Regression over plans, shared features (s) crossed with the plan (p) and with its members (m).

``--clip_p 1`` takes the importance weights out: rare explored plans would swamp the model otherwise.
"""


class BanditPolicy:
    """Exploration around plan scores that Vowpal Wabbit corrects, over plans that the planner renews.

    It starts with the catalogue that it is given. Once enough requests have been probed, it offers what the planner
    finds instead, besides the ``keep`` first plans of that catalogue. Where requests have features or tags, VW learns,
    from the chosen plan alone, by how much its score was wrong in this context; it starts with no correction at all, so
    that the first decisions are the scores' own.
    """

    name = "bandit"
    probes = True
    aims = True

    REPLAN = 1000
    """Outcomes between two searches for better plans, once there are many since members last changed; at first they
    come closer together."""

    REMEMBERED = 8
    """The best plans of so many former times are tried in every search, as what was may return."""

    MIXED, AT_LEAST = 0.15, 200
    """A search is due, too, where so great a share of requests is of other classes than at the last one, and at least
    so many outcomes have come since."""

    REVALUE = 50
    """The same in regression, where a search takes less and VW corrects nothing in between."""

    CORRECTED = 8
    """How many plans, the best by their scores, VW is asked about without tags: it corrects by hundredths."""

    TRIES = 80
    """Plans tried in a search, about."""

    VALUED = 8
    """The most plans that are offered in regression: sets of members are few, and most of them poor."""

    def __init__(
        self,
        catalogue: Catalogue,
        contract: Contract,
        profile: Figures,
        belief: Belief,
        *,
        keep: int = 0,
        explore: Exploration | None = None,
        seed: int = 0,
    ) -> None:
        """``belief`` is the learner's, which it only reads; ``explore`` is one of epsilon (default), squarecb and
        softmax, over the corrected scores.

        Raises ``BandmasterError`` for the others.
        """
        self._contract, self._explore = contract, explore or Exploration()
        self._first, self._profile, self._belief = catalogue, profile, belief
        self._kept = catalogue.plans[:keep]
        self._take(catalogue)
        spread(self._prior, self._explore, 0)  # refuses here what it would refuse at the first request
        self._learned = 0
        self._searched, self._changed = 0, 0  # outcomes learned by then; before any, probes that awaited theirs
        self._mix = np.full(belief.classes, 1.0 / belief.classes)  # when plans were last searched for
        self._scores: PlanScores | None = None  # the first outcome tells how many features there are
        self._planner = Planner(belief.members, belief.classes)
        self._awaited = Awaited()
        self._values = ValuePlanner(belief.members)  # the planner of a regression
        self._incumbent: Chain | None = None
        self._former: list[Chain] = []  # what was best when members changed, the newest last
        self._seed = seed
        self._vw = VowpalWabbit(f"{VW_OPTIONS} --random_seed {seed}")

    def _take(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._prior = prior_rewards(catalogue, self._contract, self._profile)
        self._plan_lines = plan_lines(catalogue, self._prior)

    @property
    def version(self) -> str:
        """How many outcomes have been learned, ``+`` how many probes await theirs."""
        return f"{self._learned}+{len(self._awaited)}" if len(self._awaited) else str(self._learned)

    def probabilities(self, state: State) -> FloatArray:
        return spread(state.within(self.values(state)), self._explore, self._learned)

    def probabilities_each(self, states: Sequence[State]) -> FloatArray:
        """``probabilities`` in each of several states, (n, P)."""
        known = {(len(state.features), len(state.expected)) for state in states}
        if self._scores is None or len(known) > 1 or self._scores.standard.size != len(states[0].features):
            return np.stack([self.probabilities(state) for state in states])
        foreseen = self._scores.foresee_each(states)
        scores = self._scores.rewards(foreseen)
        each = zip(states, scores, foreseen.z, strict=True)
        within = [state.within(self._corrected(own, z, state)) for state, own, z in each]
        return spread(np.stack(within), self._explore, self._learned)

    def values(self, state: State) -> FloatArray:
        """Every plan's expected reward (P,): its score, as VW corrects it where that may matter."""
        if self._scores is None or self._scores.standard.size != len(state.features):
            return self._prior
        foreseen = self._scores.foresee(state)
        return self._corrected(self._scores.rewards(foreseen), foreseen.z, state)

    def _corrected(self, scores: FloatArray, z: FloatArray, state: State) -> FloatArray:
        if self._corrects(state):
            # Of tags only VW knows anything: what the scores think little of may be the best for one.
            best = np.argsort(-scores, kind="stable")[: None if state.tags else self.CORRECTED]
            lines = [shared_line(z, state.tags), *(self._plan_lines[k] for k in best.tolist())]
            scores[best] -= self._vw.predict(lines)
        return scores

    def _corrects(self, state: State) -> bool:
        """Whether VW has a say: where a request tells it anything. Of plans alone the scores know more: corrected by
        what the chosen one happened to earn, they would follow luck. In regression, where one value's error is many
        times by what plans differ, it knows of tags, and of features less than nothing.
        """
        return bool(state.tags or (len(state.features) and not self._first.ensemble.regression))

    def notice(self, decision: Decision, said: Said, figures: Figures) -> None:
        """Know of a probe before its outcome. Until the first outcome comes, plans are searched for by probes alone."""
        if self._first.ensemble.regression or self._contract.by_consensus:
            return
        state = decision.state
        self._awaited.add(decision, said, figures, _odds(state, self._belief.members))
        if not self._learned and self._due(state.label_mix, len(self._awaited)):
            self._renew(state.label_mix, NEVER, None, self._ready(state), len(self._awaited))

    def forget(self, decision_id: str) -> bool:
        """Wait for this probe's outcome no longer."""
        return self._awaited.forget(decision_id)

    def learn(self, experience: Experience) -> None:
        decision = experience.joined.decision
        state, scores = decision.state, self._ready(decision.state)
        # Without features there is nothing that the planner's figures could be bent by; without labels it has none.
        if state.tags or len(state.features) or experience.truth is None:
            self._correct(experience, scores)
        if not self._learned:
            self._searched, self._changed = 0, 0
        self._learned += 1
        self._awaited.settle(decision)
        if experience.truth is None:
            self._awaited.clear()  # where rewards are reported, no labels are to be awaited
        self._plan(experience, scores)

    def _ready(self, state: State) -> PlanScores:
        """The scores; new ones where requests have other features than before."""
        if self._scores is None or self._scores.standard.size != len(state.features):
            self._scores = PlanScores(self.catalogue, self._contract, self._prior, len(state.features))
        return self._scores

    def _correct(self, experience: Experience, scores: PlanScores) -> None:
        """Learn by how much the scores were wrong: VW of the chosen plan, they themselves of all that is known."""
        decision = experience.joined.decision
        state = decision.state
        foreseen = scores.foresee(state)
        chosen = self.catalogue.index(decision.plan) if decision.plan in self.catalogue.names else None
        if chosen is not None and self._corrects(state):
            # VW minimises a cost: by how much the score promised too much.
            cost = scores.reward(foreseen, chosen) - experience.own
            # Its regression looks at the chosen plan alone.
            lines = [shared_line(foreseen.z, state.tags), self._plan_lines[chosen]]
            self._vw.learn(labelled(lines, 0, cost, decision.propensity))
        if experience.joined.outcome.reward is not None:  # which tells of no other plan
            scores.learn_one(state, foreseen, chosen, experience.own, decision.propensity)
        elif len(state.features) or experience.truth is None:
            seen = revealed(self.catalogue, self._contract, experience)
            scores.learn(state, foreseen, seen.rewards, seen.observed_p)

    def _plan(self, experience: Experience, scores: PlanScores) -> None:
        """Search for better plans where it is time to."""
        self._keep(experience)
        if self._forget(experience) or self._due(experience.mix, self._learned):
            errors = experience.evidence.errors if self._first.ensemble.regression else None
            self._renew(experience.mix, experience.repeats, errors, scores, self._learned)

    def _renew(
        self, mix: FloatArray, repeats: FloatArray, errors: Errors | None, scores: PlanScores, seen: int
    ) -> None:
        """Search for better plans, and offer them."""
        self._searched, self._mix = seen, mix
        limit = max(len(self._first) - len(self._stay(scores)), 1)
        proposal = self._search(mix, repeats, errors, limit)
        if proposal is not None:
            self._offer(proposal, scores, mix)

    def _keep(self, experience: Experience) -> None:
        """Let the planners see a probed request, and that of values every one."""
        if experience.corrected is not None:
            self._values.hear(experience.corrected)
        if experience.joined.outcome.reward is not None:
            return
        probed = bool(experience.known.all())
        if experience.truth is not None and probed:
            decision = experience.joined.decision
            state, said, took = decision.state, experience.said, experience.figures
            odds, stands = _odds(state, self._belief.members), decision.stands_for
            self._planner.learn(said, experience.truth, took, odds, stands, state.newest, state.since)
        if experience.values is not None and probed and (errors := experience.evidence.errors) is not None:
            self._values.learn(experience.scores[..., 0] - experience.values[:, None], errors, experience.figures)

    def _forget(self, experience: Experience) -> bool:
        """Let the planners know of members that have changed, and remember what was best; whether there are any."""
        if not experience.alarms:
            return False
        rang = {a.name for a in experience.alarms}
        changed = np.array([f"accuracy:{n}" in rang for n in self._first.ensemble.names])
        self._planner.forget(changed)
        self._values.forget()
        if not changed.any():
            return False
        self._awaited.clear()
        self._changed = self._learned
        if self._incumbent is not None:
            self._former = [*(c for c in self._former if c != self._incumbent), self._incumbent][-self.REMEMBERED :]
        return True

    def _due(self, mix: FloatArray, seen: int) -> bool:
        """Whether it is time to search again, so many outcomes having been ``seen``, or probes before any."""
        since = seen - self._searched
        most = self.REVALUE if self._first.ensemble.regression else self.REPLAN
        if since >= min(most, 20 + (self._searched - self._changed) // 8):
            return True
        return since >= self.AT_LEAST and float(np.add.reduce(np.abs(mix - self._mix))) / 2.0 > self.MIXED

    def _search(self, mix: FloatArray, repeats: FloatArray, errors: Errors | None, limit: int) -> Proposal | None:
        if errors is not None:
            return self._values.propose(errors, self._contract, limit=min(limit, self.VALUED))
        # What will be known soon need not be guessed, once enough is known to go by.
        guessed = self._awaited.rows(self._belief, overdue=len(self._planner.rows) >= self._planner.ENOUGH)
        return self._planner.propose(
            self._belief, mix, self._contract, self._chains(), self._standing(), guessed,
            repeats=repeats, limit=limit, tries=self.TRIES, rng=np.random.default_rng([self._seed, self._searched]),
        )  # fmt: skip

    def _stay(self, scores: PlanScores) -> tuple[Plan, ...]:
        """The plans of the first catalogue that stay on offer: those the user names; with features half of all, as what
        is good here may be bad on average, and the planner looks at averages. In regression only those that the user
        names: without what is learned of their errors, others are the same plans, only worse.
        """
        if self._first.ensemble.regression:
            return self._kept
        return self._first.plans[: max(len(self._kept), len(self._first) // 2 if scores.standard.size else 0)]

    def _standing(self) -> list[Chain]:
        """What is always on offer: the best plan of the last search, which others must beat, and every member alone."""
        alone: list[Chain] = [((m,),) for m in range(self._belief.members)]
        return alone if self._incumbent is None else [self._incumbent, *alone]

    def _chains(self) -> list[Chain]:
        """What the planner starts from: the plans on offer, and what was best at former times."""
        index = self._first.ensemble.index
        return [*(tuple(tuple(index(n) for n in s) for s in p.stages) for p in self.catalogue.plans), *self._former]

    def _offer(self, proposal: Proposal, scores: PlanScores, mix: FloatArray) -> None:
        names = self._first.ensemble.names
        found = [Plan(tuple(tuple(names[m] for m in s) for s in v.chain), "learned", v.stop_at) for v in proposal.plans]
        before = {_structure(p): k for k, p in enumerate(self.catalogue.plans)}
        plans = tuple(dict.fromkeys([*self._stay(scores), *found]))
        source = np.array([before.get(_structure(p), -1) for p in plans])
        self._take(compiled(tuple(p.name for p in plans), self._first.ensemble))
        worth, doubt = np.repeat(self._prior[:, None], proposal.by_class.shape[1], axis=1), np.zeros(len(plans))
        valued, at = np.zeros(len(plans), dtype=np.bool_), [plans.index(p) for p in found]
        worth[at], doubt[at], valued[at] = proposal.by_class, proposal.doubt, True
        scores.offer(self.catalogue, worth, doubt, valued, source)
        self._incumbent = proposal.plans[int((proposal.by_class @ mix - proposal.doubt).argmax())].chain

    def dump(self) -> bytes:
        scores = self._scores.dump() if self._scores else None
        return msgspec.msgpack.encode(
            _Dump(self._learned, self._searched, self._changed, self._mix.tolist(), self.catalogue.names,
                  self._incumbent, self._former, self._planner.dump(), self._awaited.dump(), self._values.dump(),
                  scores, self._vw.dump())
        )  # fmt: skip

    def load(self, snapshot: bytes) -> None:
        """Restore what ``dump`` gave, all of it or nothing. Raises ``BandmasterError`` on anything else."""
        try:
            dumped = msgspec.msgpack.decode(snapshot, type=_Dump)
            catalogue = compiled(dumped.plans, self._first.ensemble)
            scores = PlanScores.of(dumped.scores, catalogue, self._contract) if dumped.scores is not None else None
            planner = Planner(self._belief.members, self._belief.classes)
            planner.load(dumped.planner)
            awaited = Awaited.of(dumped.awaited, self._belief.members, self._belief.classes)
            mix = np.array(dumped.mix)
            if len(mix) != self._belief.classes or not np.isfinite(mix).all():
                raise ValueError(f"a mix of {len(mix)} classes")
            values = ValuePlanner(self._belief.members)
            values.load(dumped.values)
        except (msgspec.DecodeError, ValueError) as problem:
            raise BandmasterError(
                f"no snapshot of a bandit over {len(self._first.ensemble.names)} members: {problem}"
            ) from None
        self._vw.load(dumped.vw)
        self._take(catalogue)
        self._scores, self._planner, self._awaited, self._values = scores, planner, awaited, values
        self._learned, self._searched, self._changed = dumped.learned, dumped.searched, dumped.changed
        self._incumbent, self._former = dumped.incumbent, dumped.former
        self._mix = mix


class _Dump(msgspec.Struct, frozen=True):
    learned: int
    searched: int
    changed: int
    mix: list[float]
    plans: tuple[str, ...]
    incumbent: Chain | None
    former: list[Chain]
    planner: bytes
    awaited: bytes
    values: bytes
    scores: bytes | None
    vw: bytes


def _odds(state: State, members: int) -> FloatArray:
    """``bent_odds`` of a request that found ``state``; 0 (2, M) where nothing is known of its features."""
    odds = bent_odds(state.expected, state.usual)
    return np.zeros((2, members)) if odds is None else odds


def _structure(plan: Plan) -> tuple[object, ...]:
    """What stays of a plan when its thresholds move."""
    return plan.stages, plan.weights
