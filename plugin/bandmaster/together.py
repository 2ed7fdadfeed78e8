"""Walks the plans of several requests at once, as rows of one: members and NumPy take little longer for ten than for
one. ``Orchestrator`` walks one request, and minds limits and faults; tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from bandmaster.calling import Caller
from bandmaster.combine import heard_posterior, pool, verdict, weights_in_force
from bandmaster.core import (
    Answer,
    BoolArray,
    Decision,
    Evidence,
    FloatArray,
    IntArray,
    MemberAnswer,
    Request,
    Said,
    State,
)
from bandmaster.plans import Catalogue

ONLY = np.zeros(1, dtype=np.int64)
"""The index of a request's only row."""


def walk_together(
    decided: Sequence[tuple[Decision, Request]],
    catalogue: Catalogue,
    caller: Caller,
    evidence: Callable[[Said, State], Evidence],
) -> list[Answer] | None:
    """The answers to requests of one row each, with time to spare and nobody out of service, that were decided at the
    same time over the plans of ``catalogue``, a classification's.

    ``None`` where a member fails: that may be of one request's row, and be no concern of the others.
    """
    ensemble = catalogue.ensemble
    state = _state_of_all([decision.state for decision, _ in decided])
    rows = np.concatenate([request.rows for _, request in decided])
    chosen = np.array([decision.chosen for decision, _ in decided])
    weights = weights_in_force(state.members.accuracy, ensemble)
    heard = np.zeros((len(rows), len(ensemble.names), len(ensemble.classes)))
    combined, stages_run = np.zeros((len(rows), len(ensemble.classes))), np.zeros(len(rows), dtype=np.int64)
    said, pending = list[MemberAnswer](), np.arange(len(rows))
    for stage in range(catalogue.stop_at.shape[1]):
        plans = chosen[pending]
        asked = catalogue.stage_members[plans, stage]
        for member in np.flatnonzero(asked.any(axis=0)).tolist():
            index = pending[asked[:, member]]
            (reply,) = caller.call([ensemble.names[member]], rows, index)
            if reply.scores is None:
                return None
            heard[index, member] = reply.scores
            said.append(reply)
        prefix = catalogue.prefix[plans, stage]
        combined[pending] = _combined(catalogue, prefix, heard[pending], weights, evidence, state.of(pending))
        stages_run[pending] = stage + 1
        unsure = combined[pending].max(axis=1) < catalogue.stop_at[plans, stage]
        pending = pending[unsure & (stage + 1 < catalogue.stages[plans])]
        if not len(pending):
            break
    labels, confidence = verdict(combined)
    whole = Answer(combined, labels, confidence, tuple(said), 0, weights, stand_ins=caller.faults is not None)
    return _parts(whole, stages_run)


def _state_of_all(states: Sequence[State]) -> State:
    expected, usual = (np.stack([getattr(s, of) for s in states]) for of in ("expected", "usual"))
    return replace(states[0], expected=expected, usual=usual)


def _combined(
    catalogue: Catalogue,
    prefix: IntArray,
    heard: FloatArray,
    weights: FloatArray,
    evidence: Callable[[Said, State], Evidence],
    state: State,
) -> FloatArray:
    """The answers (n, C) to rows of which (n, M, C) was ``heard`` from the members of each one's ``prefix`` (n,)."""
    learned = catalogue.prefix_learned[prefix]
    if not learned.any():
        return pool(heard, catalogue.prefix_weights(weights)[prefix])
    members: BoolArray = catalogue.prefix_members[prefix]
    likely = heard_posterior(heard, evidence(Said.of(heard), state), members[:, None])
    if learned.all():
        return likely
    return np.where(learned[:, None], likely, pool(heard, catalogue.prefix_weights(weights)[prefix]))


def _parts(whole: Answer, stages_run: IntArray) -> list[Answer]:
    """Each row's own answer. What a call took, it took for all of its rows; its energy is shared."""
    ran: list[list[MemberAnswer]] = [[] for _ in whole.labels]
    for said in whole.ran:
        assert said.scores is not None  # nobody failed
        share = said.energy_j / len(said.rows)
        for k, row in enumerate(said.rows.tolist()):
            own = MemberAnswer(said.name, ONLY, said.scores[k : k + 1], said.latency_s, share, said.energy_from)
            ran[row].append(own)
    return [
        Answer(
            whole.scores[i : i + 1],
            whole.labels[i : i + 1],
            whole.confidence[i : i + 1],
            tuple(ran[i]),
            stages,
            whole.weights,
            stand_ins=whole.stand_ins,
        )
        for i, stages in enumerate(stages_run.tolist())
    ]
