"""What is counted of every request, series by series, for whoever looks at it over time. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from bandmaster.contract import Contract
from bandmaster.core import NO_ANSWER, Answer, BandmasterError, Decision, Ensemble, Experience
from bandmaster.counterfactual import alone
from bandmaster.plans import ALL, compiled, parse_plan, stages_run
from bandmaster.rehearsal import known_p

POLICY = "the policy's choice"
"""The name, among plans that would have answered, of what the policy chose, whatever a guard had answer."""

DECIDED: Mapping[str, str] = {
    "explored": "whether another plan than the most probable one was chosen",
    "exposed": "whether the policy's own choice answered, by the guard",
    "probed": "whether the members left out were asked, too, after the reply",
    "rows": "the rows of a request",
    "latency": "s, by the plan's stages",
    "energy": "J for the reply, by where the figure is from",
    "probe energy": "J for the probe, by where the figure is from",
    "confidence": "of the answer, over its rows",
    "unanswered": "whether nobody answered a row",
    "over limits": "whether no plan on offer kept within the limits",
    "ran": "s that each member took, where it ran for the reply",
    "failed": "whether each member failed, where it was asked",
    "weight": "what each member counts for by its recent accuracy",
}
"""The series of every request, by what their values are."""

SETTLED: Mapping[str, str] = {
    "reward": "what a request earned, a probe charged, by what answered",
    "term": "what each metric gave of that",
    "figure": "each metric's raw figure",
    "delay": "s from the decision to its outcome",
    "right": "whether each member was right, where that is known",
    "alone": "what each plan would have earned, had it answered all requests",
    "ahead": "by how much more the policy's choice would have earned than each of them",
    "alone accuracy": "how often it would have been right",
    "alone latency": "s that it would have taken",
    "alone energy": "J that it would have taken",
}
"""The series of requests whose outcome is known. What plans would have done alone is known where everybody was asked;
such a request counts for as many as that was improbable."""


class Tally(NamedTuple):
    """One value of a series, under a ``name`` where it has several, which counts ``weight`` times."""

    series: str
    name: str
    value: float
    weight: float = 1.0


def decided(decision: Decision, answer: Answer, ensemble: Ensemble) -> Iterator[Tally]:
    """What a decision and its answer add to the series of ``DECIDED``."""
    yield Tally("explored", "", float(decision.explored))
    if decision.exposure is not None:
        yield Tally("exposed", "", float(decision.exposure.exposed))
    yield Tally("probed", "", float(decision.probed))
    yield Tally("rows", "", float(len(answer.labels)))
    yield from _spent(decision, answer, ensemble)
    yield Tally("confidence", "", answer.sureness)
    yield Tally("unanswered", "", float((answer.labels == NO_ANSWER).any()))
    yield Tally("over limits", "", float(decision.over_limits))
    for said in answer.ran:
        yield Tally("ran", said.name, said.latency_s)
        yield Tally("failed", said.name, float(said.error is not None))
    if len(answer.weights) == len(ensemble.names):
        for name, weight in zip(ensemble.names, answer.weights.tolist(), strict=True):
            yield Tally("weight", name, weight)


def _spent(decision: Decision, answer: Answer, ensemble: Ensemble) -> Iterator[Tally]:
    try:
        stages = stages_run(parse_plan(decision.plan, ensemble), answer)
    except BandmasterError:  # it was another ensemble's
        stages = []
    if stages:
        took = {said.name: said.latency_s for said in answer.ran}
        yield Tally("latency", "", sum(max(took[name] for name in stage) for stage in stages))
    for series, calls in (("energy", answer.ran), ("probe energy", answer.probes)):
        spent: dict[str, float] = {}
        for said in calls:
            spent[said.energy_from] = spent.get(said.energy_from, 0.0) + said.energy_j
        for source, joules in spent.items():
            yield Tally(series, source, joules)


def settled(experience: Experience, contract: Contract, ensemble: Ensemble, baseline: str | None) -> Iterator[Tally]:
    """What an outcome adds to the series of ``SETTLED``. ``baseline`` is the guard's plan, if there is a guard."""
    joined, reward = experience.joined, experience.reward
    decision, under = joined.decision, contract.under(joined.decision.profile)
    yield Tally("reward", decision.policy if decision.is_policys else f"baseline: {decision.plan}", reward.value)
    for metric in under.metrics:
        if metric.weight and metric.name in reward.terms:
            yield Tally("term", metric.name, metric.weight * reward.terms[metric.name])
    for name, figure in reward.raw.items():
        yield Tally("figure", name, figure)
    yield Tally("delay", "", joined.outcome.at - decision.at)
    for name, share in zip(ensemble.names, experience.correct.tolist(), strict=True):
        if not math.isnan(share):
            yield Tally("right", name, share)
    yield from _alone(experience, contract, ensemble, baseline)


def _alone(experience: Experience, contract: Contract, ensemble: Ensemble, baseline: str | None) -> Iterator[Tally]:
    """What single members, all of them, the baseline and the policy's choice would have earned, each on its own."""
    if experience.joined.outcome.labels is None or not experience.known.all():
        return
    decision, p = experience.joined.decision, known_p(experience)
    if not p:
        return
    fixed = (parse_plan(plan, ensemble).name for plan in (ALL, baseline or ALL))
    names = {name: name for name in (*ensemble.names, *fixed)}
    names[POLICY] = intended = decision.exposure.intended if decision.exposure else decision.plan
    plans = compiled(tuple(dict.fromkeys(names.values())), ensemble)
    found = alone(plans, contract, experience)
    chosen = float(found.rewards[plans.index(intended)])
    for name, plan in names.items():
        k = plans.index(plan)
        if not np.isnan(earned := float(found.rewards[k])):
            yield Tally("alone", name, earned, 1.0 / p)
            if name != POLICY and not np.isnan(chosen):
                yield Tally("ahead", name, chosen - earned, 1.0 / p)
            for figure in ("accuracy", "latency", "energy"):
                if figure in found.raw and not np.isnan(found.raw[figure][k]):
                    yield Tally(f"alone {figure}", name, float(found.raw[figure][k]), 1.0 / p)
