"""What monitoring reads at BentoML's ``/metrics``: each worker counts its requests, the learner what came of them.

BentoML adds up what the processes of a service count. Of gauges, which only the learner has, the newest value holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from bandmaster.core import Answer, Decision, DriftEvent, Experience, MemberAnswer
from bandmaster.guard import Guard

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""The buckets of members' times."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's ``kind`` as Prometheus has it, what it ``tells``, and its labels. All names begin ``bandmaster_``."""

    kind: str
    tells: str
    labels: tuple[str, ...] = ()


WORKER = {
    "decisions": Metric("Counter", "requests decided, by the plan without its thresholds", ("plan", "policy")),
    "explored": Metric("Counter", "decisions for another plan than the most probable one"),
    "followed": Metric("Counter", "decisions in which the policy's own choice answered"),
    "unanswered": Metric("Counter", "requests of which a row found nobody to answer it"),
    "over_limits": Metric("Counter", "decisions for which no plan kept within the limits"),
    "probes": Metric("Counter", "requests about which everybody was asked, after the reply"),
    "member_seconds": Metric("Histogram", "what a member's call took, in s", ("member",)),
    "member_errors": Metric("Counter", "calls of a member that failed", ("member",)),
    "energy_joules": Metric("Counter", "energy spent, by where the figure is from, and what for", ("source", "what")),
}
"""What each worker counts."""

LEARNER = {
    "reward": Metric("Summary", "what requests earned, by the policy that decided", ("policy",)),
    "term": Metric("Summary", "each metric's term, in [0, 1]", ("metric",)),
    "outcomes": Metric("Counter", "outcomes reported, by what became of them", ("status",)),
    "drift_events": Metric("Counter", "alarms, by the detector", ("detector",)),
    "learner_lag_seconds": Metric("Gauge", "how old the newest decision was when the learner took it over"),
    "snapshot": Metric("Gauge", "the version of the snapshot that the learner published last"),
    "policy_share": Metric("Gauge", "share of the requests with room that the policy's choice answers, by the guard"),
    "baseline_pinned": Metric("Gauge", "1 while somebody has the baseline answer alone"),
    "guard_breached": Metric("Gauge", "1 while the guard's budget is used up"),
}
"""What the learner counts."""


@cache  # a process has each metric once, however many workers it has had
def _made(name: str) -> Any:
    # Imported here: BentoML says in the environment where processes meet, and it must have by then.
    import prometheus_client

    metric = (WORKER | LEARNER)[name]
    more: dict[str, Any] = {}
    if metric.kind == "Histogram":
        more["buckets"] = SECONDS
    if metric.kind == "Gauge":
        more["multiprocess_mode"] = "livemostrecent"
    return getattr(prometheus_client, metric.kind)(f"bandmaster_{name}", metric.tells, metric.labels, **more)


def begin(metrics: Mapping[str, Metric]) -> None:
    """Have what has no labels begin at 0, so that nothing is not taken for unknown."""
    for name, metric in metrics.items():
        if not metric.labels:
            _made(name)


@cache  # as many as there are to be seen at /metrics; looking one up takes longer than counting it
def _of(name: str, *labels: str) -> Any:
    return _made(name).labels(*labels) if labels else _made(name)


def _count(name: str, *labels: str, by: float = 1.0) -> None:
    _of(name, *labels).inc(by)


def answered(each: Sequence[tuple[Decision, Answer]]) -> None:
    """Count requests that a worker has answered: together, as one look at a counter takes longer than a sum."""
    counts = Counter[tuple[str, ...]]()
    for decision, answer in each:
        counts["decisions", decision.plan.partition("@")[0], decision.policy] += 1
        counts["explored",] += decision.explored
        counts["followed",] += decision.is_policys
        counts["unanswered",] += bool((answer.labels < 0).any())
        counts["over_limits",] += decision.over_limits
    for labels, count in counts.items():
        if count:
            _count(*labels, by=count)
    _called([said for _, answer in each for said in answer.ran], "reply")


def probed(probes: tuple[MemberAnswer, ...]) -> None:
    """Count a probe that has come to its end."""
    _count("probes")
    _called(probes, "probe")


def _called(calls: Sequence[MemberAnswer], what: str) -> None:
    joules = dict[str, float]()
    for said in calls:
        _of("member_seconds", said.name).observe(said.latency_s)
        if said.error is not None:
            _count("member_errors", said.name)
        joules[said.energy_from] = joules.get(said.energy_from, 0.0) + said.energy_j
    for source, spent in joules.items():
        _count("energy_joules", source, what, by=spent)


_untold: dict[tuple[str, ...], list[float]] = {}
"""By a metric's name and labels, how many values there were and their sum: what ``tell`` counts. The learner sees
thousands a second, and counting one takes longer than adding it up.
"""


def _add(value: float, *name_and_labels: str) -> None:
    added = _untold.setdefault(name_and_labels, [0.0, 0.0])
    added[0] += 1.0
    added[1] += value


def settled(status: str) -> None:
    """Count an outcome that was reported, once it is told."""
    _add(1.0, "outcomes", status)


def learned(experience: Experience) -> None:
    """Count what the learner has learned from, once it is told, and the alarms that it raised."""
    for alarm in experience.alarms:
        alarmed(alarm)
    _add(experience.reward.value, "reward", experience.joined.decision.policy)
    for name, term in experience.reward.terms.items():
        _add(term, "term", name)


def tell() -> None:
    """Have what was settled and learned since it was told last be seen."""
    for (name, *labels), (count, total) in _untold.items():
        metric = _of(name, *labels)
        if LEARNER[name].kind == "Summary":  # ``observe`` takes one value at a time
            metric._count.inc(count)
            metric._sum.inc(total)
        else:
            metric.inc(total)
    _untold.clear()


def alarmed(event: DriftEvent) -> None:
    """Count an alarm."""
    _count("drift_events", event.name)


def stands(lag_s: float, snapshot: int, guard: Guard | None, *, pinned: bool) -> None:
    """Say how the learner stands."""
    _made("learner_lag_seconds").set(lag_s)
    _made("snapshot").set(snapshot)
    _made("policy_share").set(1.0 if guard is None else guard.share)
    _made("guard_breached").set(guard is not None and guard.breached)
    _made("baseline_pinned").set(pinned)
