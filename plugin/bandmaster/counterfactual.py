"""What every plan would have answered, spent and earned on a request, from its members' recorded outputs.

Exact wherever the members that a plan needs are known: the product's advantage over a bandit that learns from
its own choice only. The request path walks one plan stage by stage (``orchestrator.Orchestrator.answer``); here
all plans are walked at once. A test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from bandmaster.combine import corrected_mean, mean_value, posterior, value_verdict, verdict
from bandmaster.consensus import plan_agreement
from bandmaster.contract import Contract
from bandmaster.core import BoolArray, Evidence, Experience, Figures, FloatArray, IntArray
from bandmaster.metrics import plan_figures
from bandmaster.plans import Catalogue, compiled


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Every plan on every row, all (n, P): class indices, their probabilities, the stage each stopped after
    (from 0), and whether all outputs that it needed were known. Where they were not, the rest means nothing.
    ``values`` are there in regression alone.
    """

    labels: IntArray
    confidence: FloatArray
    stop: IntArray
    determined: BoolArray
    values: FloatArray | None = None


def evaluate(
    catalogue: Catalogue, scores: FloatArray, known: BoolArray, weights: FloatArray, evidence: Evidence | None = None
) -> Evaluation:
    """Walk every plan over the rows.

    ``scores`` (n, M, C) are the members' distributions (zeros where one abstained, failed or is unknown),
    ``known`` (n, M) says whose answer, abstention or failure is known, ``weights`` (M,) or (n, M) are the
    weights by recent accuracy. ``evidence`` is what the scores speak for; plans with learned weights need it.
    In regression scores are values (n, M, 1), NaN where unknown.
    """
    regression = catalogue.ensemble.regression
    if regression:
        pooled = _mean_prefixes(catalogue, scores, weights, evidence)
        whole = ~np.any(catalogue.prefix_members & ~known[:, None, :], axis=-1)
    else:
        pooled, whole = _pool_prefixes(catalogue, scores, known, weights, evidence)
    labels, confidence = value_verdict(pooled) if regression else verdict(pooled)
    by_stage = confidence[:, catalogue.prefix]  # (n, P, S)
    seen = whole[:, catalogue.prefix]
    last = np.arange(catalogue.prefix.shape[1]) >= catalogue.stages[:, None] - 1
    # A walk ends where the plan says stop, or where an output is missing and nobody can say.
    ends = (by_stage >= catalogue.stop_at) | last | ~seen
    stop = ends.argmax(axis=-1)
    at_stop = catalogue.prefix[np.arange(len(catalogue)), stop]
    rows = np.arange(len(scores))[:, None]
    values = pooled[rows, at_stop, 0] if regression else None
    return Evaluation(labels[rows, at_stop], confidence[rows, at_stop], stop, whole[rows, at_stop], values)


def _mean_prefixes(
    catalogue: Catalogue, values: FloatArray, weights: FloatArray, evidence: Evidence | None
) -> FloatArray:
    """The mean value of every prefix, (n, U, 1)."""
    means = mean_value(values[:, None], catalogue.prefix_weights(weights))
    learned = catalogue.prefix_learned
    if learned.any():
        if evidence is None or evidence.errors is None:
            raise ValueError("plans with learned weights need evidence of errors")
        means[:, learned] = corrected_mean(values, evidence.errors, catalogue.prefix_members[learned])
    return means


def _pool_prefixes(
    catalogue: Catalogue, scores: FloatArray, known: BoolArray, weights: FloatArray, evidence: Evidence | None
) -> tuple[FloatArray, BoolArray]:
    """The pool of every prefix, (n, U, C), and whether all of its members are known, (n, U)."""
    members = catalogue.prefix_members
    by_prefix = catalogue.prefix_weights(weights)
    answered = scores.sum(axis=-1, keepdims=True) > 0.0
    total = np.matmul(by_prefix, answered)[..., 0]
    pooled = np.matmul(by_prefix, scores)
    safe = np.where(total > 0.0, total, 1.0)[..., None]
    pooled = pooled / safe
    learned = catalogue.prefix_learned
    if learned.any():
        if evidence is None:
            raise ValueError("plans with learned weights need evidence")
        pooled[:, learned] = posterior(evidence, members[learned]) * (total[:, learned] > 0.0)[..., None]
    return pooled, ~np.any(members & ~known[:, None, :], axis=-1)


def spend(
    catalogue: Catalogue,
    stages_run: IntArray,
    figures: Figures,
    weights: FloatArray,
    *,
    counts: Callable[[str], bool] = lambda metric: True,
) -> Mapping[str, FloatArray]:
    """Latency (s), energy (J), cost and explainability, as far as each ``counts``, of each plan after ``stages_run``
    (B, P) stages, ≥ 1. Figures are (B, M), or (1, M) where they are the same on all requests.

    A stage takes as long as its slowest member, a plan as long as its stages; energy and cost add up over
    members; explainability is the weighted mean over the members that ran.
    """

    def at_last(of_stages: FloatArray) -> FloatArray:
        """Of (B, P, S), or (P, S) where they are the same on all requests, each plan's at its last stage."""
        of_stages = of_stages.reshape(-1, *catalogue.prefix.shape)
        return np.asarray(of_stages[np.arange(len(of_stages))[:, None], np.arange(len(catalogue)), stages_run - 1])

    def until_stop(per_stage: FloatArray) -> FloatArray:
        return at_last(np.cumsum(per_stage, axis=-1))

    def by_stage(values: FloatArray) -> FloatArray:
        return np.where(catalogue.stage_members, values[..., None, None, :], 0.0)

    def explainability() -> FloatArray:
        by_prefix = catalogue.prefix_weights(weights)
        of_prefix = np.where(catalogue.prefix_members, figures.explainability[..., None, :], 0.0) * by_prefix
        return at_last((of_prefix.sum(axis=-1) / by_prefix.sum(axis=-1))[..., catalogue.prefix])

    spent: Mapping[str, Callable[[], FloatArray]] = {
        "latency": lambda: until_stop(by_stage(figures.latency_s).max(axis=-1)),
        "energy": lambda: until_stop(by_stage(figures.energy_j).sum(axis=-1)),
        "cost": lambda: until_stop(by_stage(figures.cost).sum(axis=-1)),
        "explainability": explainability,
    }
    return {name: figure() for name, figure in spent.items() if counts(name)}


def plan_raw(
    catalogue: Catalogue,
    evaluation: Evaluation,
    accuracy: FloatArray,
    figures: Figures,
    weights: FloatArray,
    counts: Callable[[str], bool],
) -> dict[str, FloatArray]:
    """The raw figures (P,) of every plan on one request of several rows, as far as they count.

    ``accuracy`` (P,) is each plan's over the rows. ``figures`` are those of each member's call on all rows: of energy
    and cost, a plan pays for the rows that it sends.
    """
    spent = spend(catalogue, (evaluation.stop.max(axis=0) + 1)[None], figures, weights, counts=counts)
    raw = {
        "accuracy": accuracy,
        "confidence": evaluation.confidence.mean(axis=0),
        **{name: values[0] for name, values in spent.items()},
    }
    if len(evaluation.stop) > 1:
        by_row = spend(catalogue, evaluation.stop + 1, figures, weights, counts=counts)
        raw |= {name: by_row[name].mean(axis=0) for name in ("energy", "cost") if name in by_row}
    return raw


def _on_all_rows(figures: Figures, known: BoolArray) -> Figures:
    """What calls on the ``known`` (n, M) rows would have taken on all: energy and cost in proportion."""
    if len(known) == 1:
        return figures
    share = len(known) / np.maximum(known.sum(axis=0), 1)
    return replace(figures, energy_j=figures.energy_j * share, cost=figures.cost * share)


@dataclass(frozen=True, slots=True)
class Revealed:
    """What one request tells about the plans of a catalogue, both (P,): ``rewards``, NaN where a plan's is unknown, and
    ``observed_p``, NaN there too: the probability, at least, with which it became known.
    """

    rewards: FloatArray
    observed_p: FloatArray


def earnings(catalogue: Catalogue, contract: Contract, experience: Experience) -> FloatArray:
    """What the plans of ``catalogue`` would have earned on a settled request, (P,), under its profile: NaN where what
    ran does not tell. The chosen plan keeps what really came of it.
    """
    decision, outcome = experience.joined.decision, experience.joined.outcome
    rewards = np.full(len(catalogue), np.nan)
    if outcome.labels is not None or outcome.consensus:
        rewards = _walk(catalogue, contract.under(decision.profile), experience).rewards
    if decision.plan in catalogue.names:
        rewards[catalogue.index(decision.plan)] = experience.own
    return rewards


def revealed(catalogue: Catalogue, contract: Contract, experience: Experience) -> Revealed:
    """What the plans of ``catalogue`` would have earned on a settled request, under its profile, by all that ran.

    A reward becomes known by a probe, or because a plan was sampled, of those offered when the decision was made, that
    ran all that it needs. Which plans did is exact for plans that the recorded outputs determine; one that they do not
    counts as not covering, so that ``observed_p`` is a lower bound of the true probability, never above it. Whichever
    plan had been sampled, a probe is taken to have been as likely as after the chosen one's answer. The chosen plan
    keeps what really came of it, failures included; a probe is not its doing.
    """
    decision = experience.joined.decision
    contract = contract.under(decision.profile)
    rewards, observed_p = np.full(len(catalogue), np.nan), np.full(len(catalogue), np.nan)
    by_consensus = experience.joined.outcome.consensus
    if experience.joined.outcome.labels is not None or by_consensus:
        now = _walk(catalogue, contract, experience)
        same = decision.plans == catalogue.names
        then = now if same else _walk(compiled(decision.plans, catalogue.ensemble), contract, experience)
        rewards = now.rewards
        covers = (now.needs @ (1.0 - then.needs).T) == 0.0  # (of plan, by plan)
        sampled = covers @ np.where(np.isnan(then.rewards), 0.0, decision.probabilities)
        # Consensus knows nothing of a request that was not probed.
        p = decision.probe_p + (0.0 if by_consensus else 1.0 - decision.probe_p) * sampled
        observed_p = np.where(np.isnan(rewards), np.nan, np.minimum(p, 1.0))
    if decision.plan in catalogue.names:
        chosen = catalogue.index(decision.plan)
        rewards[chosen] = experience.own
        own_p = decision.probe_p if by_consensus else decision.propensity
        observed_p[chosen] = np.fmax(observed_p[chosen], own_p)
    return Revealed(rewards, observed_p)


def alone(catalogue: Catalogue, contract: Contract, experience: Experience) -> Alone:
    """What each plan of ``catalogue`` would have come to on a settled request of known labels, under its profile."""
    return _walk(catalogue, contract.under(experience.joined.decision.profile), experience, lambda figure: True)


@dataclass(frozen=True, slots=True)
class Alone:
    """Every plan of a catalogue on one request: its reward (P,), NaN where unknown, the ``raw`` figures (P,) that make
    it, and which answers to which rows it needs, (P, n·M), 1 or 0.
    """

    rewards: FloatArray
    raw: Mapping[str, FloatArray]
    needs: FloatArray


def _walk(
    catalogue: Catalogue, contract: Contract, experience: Experience, counts: Callable[[str], bool] | None = None
) -> Alone:
    joined, weights = experience.joined, experience.joined.answer.weights
    seen = evaluate(catalogue, experience.scores, experience.known, weights, experience.evidence)
    until = np.arange(catalogue.stage_members.shape[1]) <= seen.stop[..., None]  # (n, P, S)
    needs = np.asarray((catalogue.stage_members & until[..., None]).any(axis=2))  # (n, P, M)
    if experience.values is not None and seen.values is not None:
        accuracy = contract.closeness(seen.values - experience.values[:, None]).mean(axis=0)
    elif experience.truth is not None:
        accuracy = (seen.labels == experience.truth[:, None]).mean(axis=0)
    else:
        accuracy = plan_agreement(experience.scores, seen.labels, needs)
    figures = _on_all_rows(experience.figures, experience.known)
    raw = plan_raw(catalogue, seen, accuracy, figures, weights, counts or contract.counts)
    raw |= plan_figures(contract, catalogue, joined, seen, experience.scores)
    rewards = np.where(seen.determined.all(axis=0), contract.rewards(raw), np.nan)
    if joined.answer.stand_ins:
        # Others would have stood in for a plan whose members all fail, and which would, and how well, nobody knows.
        failed = {said.name for said in (*joined.answer.ran, *joined.answer.probes) if said.error is not None}
        stands = np.array([name not in failed for name in catalogue.ensemble.names])
        rewards = np.where((needs & stands).any(axis=2).all(axis=0), rewards, np.nan)
    return Alone(rewards, raw, np.swapaxes(needs, 0, 1).reshape(len(catalogue), -1).astype(np.float64))
