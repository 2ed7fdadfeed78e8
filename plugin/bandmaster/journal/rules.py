"""What every journal decides the same way."""

from __future__ import annotations

from bandmaster.core import Answer, Decision, Status

PROBE_WAIT_S = 10.0
"""How long after its decision an outcome waits for probes that were announced and have not come."""

SNAPSHOTS_KEPT = 5


def awaits_probes(decision: Decision, answer: Answer) -> bool:
    """Whether probes were announced and have not come. None come if every member saw every row anyway."""
    if not decision.probed or answer.probes:
        return False
    complete = sum(len(said.rows) == len(answer.labels) for said in answer.ran)
    return complete < len(answer.weights)


def verdict(decided_at: float | None, waits: bool, outcome_at: float, *, now: float, window_s: float) -> Status:
    """What becomes of a decision's first outcome. All times are Unix seconds.

    ``decided_at`` is ``None`` while the decision is not stored; ``waits`` while its probes have not come.
    """
    if decided_at is None:
        return Status.EARLY
    if outcome_at - decided_at > window_s:
        return Status.LATE
    if waits and now < decided_at + PROBE_WAIT_S:
        return Status.EARLY
    return Status.JOINED
