"""One decision, told: what was offered and chosen and why, what members said, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from bandmaster.combine import mean_value, pool
from bandmaster.core import NO_ANSWER, VALUE, Answer, Decision, FloatArray, IntArray, MemberAnswer
from bandmaster.journal.reading import Recorded

Label = int | float | str | None
"""A class as it is named, or a value; ``None`` where nobody answered."""

SHOWN = 20
"""So many rows of a request are told of, and so many plans, the most probable ones."""


class Offered(msgspec.Struct, frozen=True):
    """A plan, and the probability with which it was to answer."""

    plan: str
    probability: float


class Say(msgspec.Struct, frozen=True):
    """What a member said to each row and how sure it was, ``None`` where it did not see it or abstained; what that
    took, in s and J; whether it ran for the reply or after it, for a probe; and how it failed, if it did.
    """

    member: str
    labels: list[Label]
    confidence: list[float | None]
    latency_s: float
    energy_j: float
    energy_from: str
    probe: bool
    error: str | None


class Explained(msgspec.Struct, frozen=True):
    """A decision's page. ``why`` is one sentence, ``combined`` says how the answer was made of what members said, and
    ``everybody`` what all members at once, pooled alike, would have answered; ``None`` where not all were asked.
    """

    id: str
    at: float
    policy: str
    policy_version: str
    profile: str
    why: str
    plan: str
    propensity: float
    offered: list[Offered]
    plans: int
    said: list[Say]
    combined: str
    labels: list[Label]
    confidence: list[float]
    everybody: list[Label] | None
    probe_p: float
    outcome: list[Label] | None
    outcome_at: float | None
    source: str
    reward: float | None
    terms: dict[str, float]
    raw: dict[str, float]
    state: dict[str, object]


def explain(recorded: Recorded, classes: Sequence[int | str]) -> Explained:
    """Tell what is recorded of one decision; ``classes`` are the ensemble's."""
    decision, answer, outcome, reward = recorded.decision, recorded.answer, recorded.outcome, recorded.reward
    order = np.argsort(-decision.probabilities, kind="stable")[:SHOWN]
    labels = None if outcome is None or outcome.labels is None else [_label(x, classes) for x in outcome.labels[:SHOWN]]
    return Explained(
        id=decision.id,
        at=decision.at,
        policy=decision.policy,
        policy_version=decision.policy_version,
        profile=decision.profile,
        why=why(decision),
        plan=decision.plan,
        propensity=decision.propensity,
        offered=[Offered(decision.plans[k], float(decision.probabilities[k])) for k in order],
        plans=len(decision.plans),
        said=[
            *(_say(said, answer, classes, probe=False) for said in answer.ran),
            *(_say(said, answer, classes, probe=True) for said in answer.probes),
        ],
        combined=combined(decision, answer),
        labels=_answered(answer.scores, answer.labels, classes),
        confidence=answer.confidence[:SHOWN].tolist(),
        everybody=_everybody(answer, classes),
        probe_p=decision.probe_p,
        outcome=labels,
        outcome_at=outcome.at if outcome else None,
        source=outcome.source if outcome else "",
        reward=reward.value if reward else None,
        terms=dict(reward.terms) if reward else {},
        raw=dict(reward.raw) if reward else {},
        state=_state(decision, classes),
    )


def why(decision: Decision) -> str:
    """Why this plan answered, in a sentence; it admits where that was to explore."""
    exposure, p = decision.exposure, decision.probabilities
    most, plans = int(p.argmax()), len(decision.plans)
    if decision.over_limits:
        return f"No plan on offer kept within the limits; {decision.plan} was drawn of those that break them least."
    if exposure is not None and not decision.is_policys:
        return (
            f"The guard had its baseline, {decision.plan}, answer instead of {exposure.intended}, which the policy had "
            f"chosen with probability {exposure.p:.3g}: that was to answer with probability {exposure.share:.3g}."
        )
    if exposure is not None:
        return (
            f"The policy chose {decision.plan}, with probability {exposure.p:.3g}, and the guard let that answer, with "
            f"probability {exposure.share:.3g}."
        )
    if plans == 1:
        return f"{decision.plan} was the only plan on offer."
    if decision.chosen == most or decision.propensity >= p[most]:
        return (
            f"Of {plans} plans {decision.plan} promised the most by what has been learned, and so had the greatest "
            f"probability, {decision.propensity:.3g}."
        )
    return (
        f"This was exploration: {decision.plan} was drawn with probability {decision.propensity:.3g} to learn how good "
        f"it is, while {decision.plans[most]} promised more and had probability {p[most]:.3g}."
    )


def combined(decision: Decision, answer: Answer) -> str:
    """How the answer was made of what members said, in a sentence."""
    names = [said.name for said in answer.ran if said.scores is not None]
    failed = [said.name for said in answer.ran if said.scores is None]
    lost = f" {_and(failed)} failed." if failed else ""
    if not names:
        return f"Nobody answered.{lost}"
    if len(names) == 1:
        return f"It is what {names[0]} said.{lost}"
    by = {"recent": "by their recent accuracy", "declared": "by their declared weights",
          "learned": "by what has been learned of what they say"}  # fmt: skip
    how = by.get(decision.plan.rpartition("~")[2] if "~" in decision.plan else "", "")
    how = how or ("by the plan's own weights" if "*" in decision.plan else "alike")
    stages = f", in {answer.stages_run} stages, each asked where the ones before were not sure enough"
    return f"{_and(names)} were pooled {how}{stages if answer.stages_run > 1 else ''}.{lost}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _say(said: MemberAnswer, answer: Answer, classes: Sequence[int | str], *, probe: bool) -> Say:
    n = len(answer.labels)
    labels, sure = list[Label]([None] * n), list[float | None]([None] * n)
    if said.scores is not None:
        for row, scores in zip(said.rows.tolist(), said.scores, strict=True):
            if tuple(classes) == (VALUE,):
                labels[row] = float(scores[0])
            elif scores.any():
                labels[row], sure[row] = _label(int(scores.argmax()), classes), float(scores.max())
    took = said.latency_s, said.energy_j, said.energy_from
    return Say(said.name, labels[:SHOWN], sure[:SHOWN], *took, probe, said.error)


def _everybody(answer: Answer, classes: Sequence[int | str]) -> list[Label] | None:
    """What the constant ensemble, ``all``, would have answered, where every member saw every row."""
    n, known = len(answer.labels), dict[str, FloatArray]()
    for said in (*answer.ran, *answer.probes):
        if len(said.rows) == n and said.scores is not None:
            known[said.name] = said.scores
        elif said.error is not None:
            known.setdefault(said.name, np.full((n, answer.scores.shape[1]), np.nan if _values(classes) else 0.0))
    if len(known) < len(answer.weights):
        return None
    scores, alike = np.stack(list(known.values()), axis=1), np.ones(len(known))
    together = mean_value(scores, alike) if _values(classes) else pool(scores, alike)
    heard = np.nan_to_num(together).any(axis=1) | _values(classes)
    labels = np.where(heard, np.nan_to_num(together).argmax(axis=1), NO_ANSWER)
    return _answered(together, labels, classes)


def _answered(scores: FloatArray, labels: IntArray, classes: Sequence[int | str]) -> list[Label]:
    if _values(classes):
        values = zip(scores[:SHOWN, 0].tolist(), labels.tolist(), strict=False)
        return [None if label == NO_ANSWER else value for value, label in values]
    return [_label(label, classes) for label in labels[:SHOWN].tolist()]


def _values(classes: Sequence[int | str]) -> bool:
    return tuple(classes) == (VALUE,)


def _label(label: int | float, classes: Sequence[int | str]) -> Label:
    if _values(classes):
        return float(label)
    return None if label == NO_ANSWER else classes[int(label)] if int(label) < len(classes) else int(label)


def _state(decision: Decision, classes: Sequence[int | str]) -> dict[str, object]:
    """What was known when it was decided."""
    state = decision.state
    return {
        "features": state.features[:SHOWN].tolist(),
        "tags": list(state.tags),
        "label_mix": {} if _values(classes) else dict(zip(map(str, classes), state.label_mix.tolist(), strict=False)),
        "reward": state.reward,
        "accuracy": state.members.accuracy.tolist(),
        "probe_share": state.probe_share,
        "doubt": state.doubt,
        "out": list(state.out),
        "requests": state.requests,
        "version": state.version,
    }
