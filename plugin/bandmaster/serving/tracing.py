"""A span for each decision and each member that ran, where BentoML traces the request (its ``tracing:`` options)."""

from __future__ import annotations

import time

from opentelemetry import trace

from bandmaster.core import Answer, BandmasterError, Decision, Ensemble
from bandmaster.plans import parse_plan, stages_run

_NS = 1e9


def traced(decision: Decision, answer: Answer, ensemble: Ensemble) -> None:
    """Add the spans of a request that has just been answered to the one under way; cheap where nobody traces it.

    A stage's members begin together, after the slowest of the stage before.
    """
    if not trace.get_current_span().is_recording():
        return
    from bentoml._internal.configuration.containers import BentoMLContainer

    tracer, end = BentoMLContainer.tracer_provider.get().get_tracer("bandmaster"), time.time_ns()
    begin = min(round(decision.at * _NS), end)
    span = tracer.start_span("bandmaster.decision", start_time=begin, attributes=_of_decision(decision, answer))
    within = trace.set_span_in_context(span)
    said = {reply.name: reply for reply in answer.ran}
    at = begin
    for stage, names in enumerate(_stages(decision, answer, ensemble)):
        for name in names:
            reply = said[name]
            of_member = {
                "bandmaster.member": name,
                "bandmaster.stage": stage,
                "bandmaster.energy_j": reply.energy_j,
                "bandmaster.energy_from": reply.energy_from,
            }
            member = tracer.start_span("bandmaster.member", context=within, start_time=at, attributes=of_member)
            if reply.error is not None:
                member.set_status(trace.Status(trace.StatusCode.ERROR, reply.error))
            member.end(at + round(reply.latency_s * _NS))
        at += round(max(said[name].latency_s for name in names) * _NS)
    span.end(end)


def _stages(decision: Decision, answer: Answer, ensemble: Ensemble) -> list[list[str]]:
    try:
        return stages_run(parse_plan(decision.plan, ensemble), answer)
    except BandmasterError:  # the ensemble has just been changed
        return [[reply.name] for reply in answer.ran]


def _of_decision(decision: Decision, answer: Answer) -> dict[str, str | float | bool]:
    return {
        "bandmaster.decision": decision.id,
        "bandmaster.plan": decision.plan,
        "bandmaster.propensity": decision.propensity,
        "bandmaster.policy": decision.policy,
        "bandmaster.policy_version": decision.policy_version,
        "bandmaster.profile": decision.profile,
        "bandmaster.confidence": float(answer.confidence.mean()),
        "bandmaster.probed": decision.probed,
    }
