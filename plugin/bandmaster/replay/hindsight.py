"""Every plan in hindsight: what each alone would have earned, all of them walked at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bandmaster.combine import weights_in_force
from bandmaster.contract import Contract
from bandmaster.core import Answer, BoolArray, Decision, Figures, FloatArray, IntArray, Joined, Outcome
from bandmaster.counterfactual import Evaluation, evaluate, spend
from bandmaster.metrics import plan_figures
from bandmaster.plans import Catalogue, pool_weights
from bandmaster.recorded import RecordedLog, RecordedMember, RecordedMeter
from bandmaster.references import Played, said
from bandmaster.replay.trace import figures_of, profiles_of, spent, stages_of
from bandmaster.replay.traffic import Drawn
from bandmaster.results import Measures, mean
from bandmaster.state import RecentAccuracy, StateManager, Tracking

CHUNK = 1 << 22
"""Figures in the largest array of the vectorised evaluation of many requests; bounds its memory."""


MEASURED = ("accuracy", "confidence", "latency", "energy", "cost", "members_per_request")
"""The fields of ``Measures`` after the reward, as the metrics are called."""


@dataclass(frozen=True, slots=True)
class FixedPlans:
    """What each plan alone would have earned: ``rewards`` (requests that count, P), NaN where there is no label, and
    its means.
    """

    rewards: FloatArray
    measures: tuple[Measures, ...]


def fixed_plans(
    drawn: Drawn, catalogue: Catalogue, contract: Contract, tracking: Tracking, first: int = 0
) -> FixedPlans:
    """Evaluate every plan alone on every request from the ``first`` that counts on.

    The combiner is as deployed: weights by recent accuracy learn prequentially, from the labels that had arrived
    and the members that the plan ran, before ``first`` too; nobody probes. A test holds this equal to driving
    ``answer`` and ``settle`` with the constant policy.
    """
    return fixed_plans_from((first,), drawn, catalogue, contract, tracking)[0]


def fixed_plans_from(
    firsts: Sequence[int], drawn: Drawn, catalogue: Catalogue, contract: Contract, tracking: Tracking
) -> list[FixedPlans]:
    """As ``fixed_plans``, for each of these first requests that count, all from one evaluation."""
    if contract.by_consensus:  # which speaks on probes alone
        drawn = replace(drawn, arrivals=((),) * len(drawn.log))
    log = drawn.log
    rewards = np.empty((len(log), len(catalogue)))
    totals = {first: {name: np.zeros(len(catalogue)) for name in MEASURED} for first in firsts}
    for group, which in _by_history(catalogue):
        weights = _prequential_weights(drawn, contract, tracking, group)
        widest = 1 if log.bounds is None else int(np.diff(log.bounds).max())
        step = max(1, CHUNK // (len(group.prefix_members) * len(log.ensemble.classes) * widest))
        for part in _parts(firsts, len(log), step):
            raw = _evaluate(group, contract, log, weights, part)
            rewards[part, which] = contract.rewards_under(profiles_of(log)[part], raw)
            for name in MEASURED:
                summed = (np.nan_to_num(raw[name]) if name == "accuracy" else raw[name]).sum(axis=0)
                for first, total in totals.items():
                    if part.start >= first:
                        total[name][which] += summed
    rewards[~log.labelled] = np.nan
    return [_means(rewards[first:], log.labelled[first:], totals[first]) for first in firsts]


def _parts(firsts: Sequence[int], requests: int, step: int) -> Iterator[slice]:
    """The requests from the earliest of ``firsts`` on, at most ``step`` at once, none across one of them."""
    for begin, end in itertools.pairwise(sorted({*firsts, requests})):
        for start in range(begin, end, step):
            yield slice(start, min(start + step, end))


def _means(rewards: FloatArray, labelled: BoolArray, total: Mapping[str, FloatArray]) -> FixedPlans:
    means = {name: total[name] / (labelled.sum() if name == "accuracy" else len(rewards)) for name in MEASURED}
    plans = zip(*(means[name].tolist() for name in MEASURED), strict=True)
    return FixedPlans(rewards, tuple(Measures(mean(rewards[:, k]), *figures) for k, figures in enumerate(plans)))


def _by_history(catalogue: Catalogue) -> list[tuple[Catalogue, IntArray]]:
    """The plans, as catalogues with their indices, parted by whose answers their weights have learned from.

    A member that a plan always runs is heard on every request, whatever the plan; only cascades weighted by recent
    accuracy hear their later members at times, each cascade at times of its own.
    """
    apart = [k for k, p in enumerate(catalogue.plans) if p.weights == "recent" and len(p.stages) > 1]
    groups = [[k for k in range(len(catalogue)) if k not in apart], *([k] for k in apart)]
    return [
        (Catalogue.of(catalogue.ensemble, [catalogue.plans[k] for k in which]), np.array(which))
        for which in groups
        if which
    ]


def _evaluate(
    catalogue: Catalogue, contract: Contract, log: RecordedLog, weights: FloatArray, part: slice
) -> dict[str, FloatArray]:
    """Each metric of every plan on the requests in ``part``, (B, P)."""
    part_log = log.part(part)
    rows, row_weights = part_log.rows, part_log.by_row(weights[part])
    scores = log.scores[rows].astype(np.float64)
    seen = evaluate(catalogue, scores, np.ones(scores.shape[:2], dtype=np.bool_), row_weights)
    accuracy = (seen.labels == part_log.truth[:, None]).astype(np.float64)
    if part_log.values is not None and seen.values is not None:
        accuracy = contract.closeness(seen.values - part_log.values[:, None])
    raw = {
        "accuracy": np.where(part_log.labelled[:, None], part_log.by_request(accuracy), np.nan),
        "confidence": part_log.by_request(seen.confidence),
        **_own(catalogue, contract, log, seen, weights, part),
    }
    own = figures_of(part_log, contract)
    if log.bounds is not None:
        return raw | _spent_by_calls(catalogue, part_log, seen, own, row_weights)
    members = catalogue.stage_members.sum(axis=2).cumsum(axis=1)
    return {
        **raw,
        "members_per_request": members[np.arange(len(catalogue)), seen.stop].astype(np.float64),
        **spend(
            catalogue,
            seen.stop + 1,
            _once(own),
            row_weights,
            counts=lambda name: name != "explainability" or contract.counts(name),  # the others are reported too
        ),
    }


def _once(figures: Figures) -> Figures:
    """The figures (B, M), each kind as (1, M) where it is the same on all requests, as declared ones are: what plans
    spend of it, stage by stage, need not be added up for every request anew.
    """

    def once(values: FloatArray) -> FloatArray:
        return (
            values[:1] if np.array_equal(values, np.broadcast_to(values[:1], values.shape), equal_nan=True) else values
        )

    return Figures(once(figures.latency_s), once(figures.energy_j), once(figures.cost), once(figures.explainability))


def _spent_by_calls(
    catalogue: Catalogue, log: RecordedLog, seen: Evaluation, figures: Figures, weights: FloatArray
) -> dict[str, FloatArray]:
    """What every plan spends on requests of several rows, and how many members run, (N, P); ``weights`` (R, M)."""
    found: dict[str, list[FloatArray]] = {}
    for k, plan in enumerate(catalogue.plans):
        played = Played(
            plans=(plan.name,),
            plan=np.zeros(len(log), dtype=np.int64),
            stages_run=seen.stop[:, k] + 1,
            label=seen.labels[:, k],
            confidence=seen.confidence[:, k],
            weights=np.stack([pool_weights(plan, catalogue.ensemble, w) for w in weights[log.starts]]),
            probed=np.zeros(len(log), dtype=np.bool_),
            propensity=np.ones(len(log)),
        )
        stages = stages_of(log, played)
        ran = np.logical_or.reduceat(stages.any(axis=1), log.starts)
        figures_of_plan = spent(log, played, stages, figures) | {"members_per_request": ran.sum(axis=1).astype(float)}
        for name, values in figures_of_plan.items():
            found.setdefault(name, []).append(values)
    return {name: np.stack(columns, axis=1) for name, columns in found.items()}


def _own(
    catalogue: Catalogue, contract: Contract, log: RecordedLog, seen: Evaluation, weights: FloatArray, part: slice
) -> dict[str, FloatArray]:
    """The user's own metrics of every plan on the requests in ``part``, (B, P). In the states that their functions see,
    members' statistics are the priors: each plan had a history of its own.
    """
    requests = range(*part.indices(len(log)))
    figures = {m.name: np.full((len(requests), len(catalogue)), np.nan) for m in contract.own}
    if not figures:
        return figures
    states, meter = StateManager(log.ensemble), RecordedMeter(log)
    members = [RecordedMember(name, log.scores[:, m]) for m, name in enumerate(log.ensemble.names)]
    p, labelled, end = np.full(len(catalogue), 1.0 / len(catalogue)), log.labelled, 0
    for b, i in enumerate(requests):
        request = log.request(i)
        of, end = slice(end, end + len(request.rows)), end + len(request.rows)
        if not labelled[i]:
            continue
        every = np.arange(len(request.rows))
        heard = tuple(meter.run(member, request.rows, every) for member in members)
        scores = log.scores[request.rows[:, 0]].astype(np.float64)
        values = None if seen.values is None else seen.values[of]
        one = Evaluation(seen.labels[of], seen.confidence[of], seen.stop[of], seen.determined[of], values)
        state = states.get_state(request)
        decision = Decision(str(i), request.at, catalogue.names, p, 0, "constant", "0", state)
        answer = Answer(scores[:, 0], one.labels[:, 0], one.confidence[:, 0], heard, 1, weights[i])
        joined = Joined(0, decision, answer, Outcome(request.at, labels=log.labels(i)))
        for name, found in plan_figures(contract, catalogue, joined, one, scores).items():
            figures[name][b] = found
    return figures


def _prequential_weights(drawn: Drawn, contract: Contract, tracking: Tracking, catalogue: Catalogue) -> FloatArray:
    """The weights by recent accuracy (N, M) in force at each request, had a plan of ``catalogue`` been played."""
    log = drawn.log
    if log.values is not None:
        right = contract.closeness(log.scores[log.rows, :, 0] - log.values[:, None])
    else:
        right = (said(log) == log.truth[:, None]).astype(np.float64)
    correct, rows, starts = log.by_request(right).copy(), log.rows, np.r_[log.starts, len(log.truth)]
    walked = len(catalogue) == 1 and catalogue.stages[0] > 1
    recent = np.empty(correct.shape)
    accuracy = RecentAccuracy(log.ensemble, tracking)
    everyone = np.ones((1, len(log.ensemble.names)), dtype=np.bool_)
    for i, arriving in enumerate(drawn.arrivals):
        recent[i] = accuracy.value
        if walked:
            weights = weights_in_force(recent[i], log.ensemble)
            own = slice(starts[i], starts[i + 1])
            scores = log.scores[rows[own]].astype(np.float64)
            stop = evaluate(catalogue, scores, np.repeat(everyone, len(scores), axis=0), weights).stop[:, 0]
            heard = catalogue.stage_members[0].cumsum(axis=0)[stop] > 0  # (n, M)
            seen = heard.sum(axis=0)
            correct[i] = np.where(seen > 0, (right[own] * heard).sum(axis=0) / np.maximum(seen, 1), np.nan)
        for j in arriving:
            accuracy.update(correct[j])
    return weights_in_force(recent, log.ensemble)
