"""What no entry shows by itself: entries that do not go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bandmaster.config.contract import ERRORS, IN_UNIT
from bandmaster.config.records import MemberConfig
from bandmaster.config.values import PROFILE_FIELDS
from bandmaster.contract import Metric
from bandmaster.core import VALUE, BandmasterError, Ensemble, Task
from bandmaster.limits import Limits
from bandmaster.plans import parse_plan
from bandmaster.probes import Probing
from bandmaster.yaml_reader import At

_FIGURE = {"latency": "34 ms", "energy": "124 mJ", "cost": "0.001", "explainability": "0.4"}


def check_declared(
    at: At, metrics: Sequence[Metric], profiles: Mapping[str, Mapping[str, float]], members: Sequence[MemberConfig]
) -> None:
    """A term unknown for any member is off for the whole contract; better to hear so before serving."""
    for metric in metrics:
        only_declared = metric.name in ("explainability", "cost") and _weighs(metric, profiles)
        if not only_declared and metric.source != "profile":
            continue
        other = f"weigh {metric.name} with 0" if only_declared else f"take {metric.name}'s from: profile out"
        for member in members:
            if getattr(member.profile, PROFILE_FIELDS[metric.name]) is None:
                at.book.refuse(
                    (*at.path, "members", member.name),
                    f"has no profile.{metric.name}, which the contract counts; "
                    f"add profile: {{{metric.name}: {_FIGURE[metric.name]}}}, or {other}",
                )


def check_unmetered(
    at: At,
    metrics: Sequence[Metric],
    profiles: Mapping[str, Mapping[str, float]],
    limits: Limits,
    members: Sequence[MemberConfig],
) -> None:
    """What a member takes that runs elsewhere, or on no CPU, cannot be measured here; where it counts, it must be
    declared.
    """
    # Where it is taken from profiles, all members have been asked for it already.
    weighed = any(m.name == "energy" and m.source == "live" and _weighs(m, profiles) for m in metrics)
    if not weighed and limits.energy is None:
        return
    who, other = ("the contract", "weigh energy with 0") if weighed else ("limits.energy", "take limits.energy out")
    for member in members:
        if not member.is_metered and member.profile.energy_j is None:
            where = "elsewhere" if member.is_elsewhere else f"on {', '.join(member.providers)}"
            at.book.refuse(
                (*at.path, "members", member.name),
                f"runs {where}, where its energy cannot be measured, and {who} counts that; add profile: {{energy: "
                f"{_FIGURE['energy']}}}, what one row takes there, or {other}",
            )


def _weighs(metric: Metric, profiles: Mapping[str, Mapping[str, float]]) -> bool:
    return metric.weight > 0 or any(weights.get(metric.name, 0.0) > 0 for weights in profiles.values())


def check_consensus(at: At, metrics: Sequence[Metric], members: Sequence[MemberConfig], probes: Probing) -> None:
    """Consensus needs others to agree with, and requests that all members answer."""
    if not any(m.name == "accuracy" and m.source == "consensus" for m in metrics):
        return
    place = (*at.path, "contract", "accuracy", "from")
    if 0 < len(members) < 3:
        at.book.refuse(place, "consensus needs at least 3 members to agree; add members, or take from: consensus out")
    if probes.share == 0.0:
        at.book.refuse(place, "consensus learns from probes alone, and probes.share is 0; write probes: {share: 0.02}")


def check_task(at: At, task: Task, metrics: Sequence[Metric], members: tuple[str, ...]) -> None:
    """What is for classes, or for values, alone."""
    block = at.value if isinstance(at.value, Mapping) else {}
    accuracy = next((m for m in metrics if m.name == "accuracy"), None)
    place = (*at.path, "contract", "accuracy")
    if task == "classification":
        if accuracy and accuracy.error:
            at.book.refuse((*place, "error"), "is for values; write task: regression, or leave it out")
        return
    written = block.get("contract")
    entry = written.get("accuracy") if isinstance(written, Mapping) else None
    if isinstance(written, Mapping) and entry is None:
        at.book.refuse(
            place, f"is missing, and in regression nothing else says what is right; add {ERRORS} and a weight"
        )
    elif isinstance(entry, Mapping) and "error" not in entry:
        at.book.refuse((*place, "error"), f"is missing; add {ERRORS}, {IN_UNIT}")
    if accuracy and accuracy.source == "consensus":
        at.book.refuse((*place, "from"), "consensus is among classes; in regression take it out")
    if any(m.name == "confidence" and m.weight for m in metrics):
        at.book.refuse((*at.path, "contract", "confidence"), "is a probability, and values have none; take it out")
    if "classes" in block:
        at.book.refuse((*at.path, "classes"), "are not there in regression; take them out")
    plans = block.get("plans")
    for key in ("cascades", "stop_at"):
        if isinstance(plans, Mapping) and key in plans and plans[key] not in (0, 1):
            why = "stops at a confidence, which values do not have; take it out: in regression plans are subsets"
            at.book.refuse((*at.path, "plans", key), why)
    named = plans.get("include") if isinstance(plans, Mapping) else None
    for i, plan in enumerate(named if isinstance(named, list) else []):
        if isinstance(plan, str) and members:
            try:
                parse_plan(plan, Ensemble(members, (VALUE,), task="regression"))
                if plan.endswith("~learned"):
                    why = (
                        f"plan {plan!r}: what is learned of errors is the bandit's own; write a+b, ~recent or ~declared"
                    )
                    at.book.refuse((*at.path, "plans", "include", str(i)), why)
            except BandmasterError as error:
                at.book.refuse((*at.path, "plans", "include", str(i)), str(error))


def check_prices(at: At, limits: Limits, members: Sequence[MemberConfig]) -> None:
    """What a plan will cost is known from its members' profiles alone."""
    for member in members:
        if limits.cost and member.profile.cost is None:
            at.book.refuse(
                (*at.path, "members", member.name),
                "has no profile.cost, which limits.cost counts; add profile: {cost: 0.001}, or take limits.cost out",
            )
