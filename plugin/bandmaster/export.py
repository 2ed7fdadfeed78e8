"""The journal as a table: what `bandmaster evaluate` and `bandmaster replay` read, and anyone's own tools."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bandmaster.core import BandmasterError, Ensemble, Joined, MemberAnswer
from bandmaster.files import naming
from bandmaster.learner import Learner
from bandmaster.metrics import NoFigureError

_BATCH = 5_000
"""Decisions that are held in memory at once."""


def export(
    joined: Iterable[Joined],
    learner: Learner,
    path: Path,
    *,
    complete: bool = False,
    told: Callable[[int], None] | None = None,
) -> int:
    """Write settled decisions, given in order of arrival, to a parquet file, whole or not at all; returns how many.

    One row for each row of a request, in order of arrival: the columns of a recorded ensemble (docs/replay.md), null
    for members that did not run, and ``action`` (the plan), ``propensity``, ``reward``, ``reward_delay``, ``probed``,
    ``probe_p``, ``policy`` and ``policy_version``. Delays count what was written of what came between a request and its
    outcome: requests the ``label_delay``, rows the ``reward_delay``. Rewards are by the learner's contract, computed
    anew from what was recorded: with another contract, they are what it would have said. ``complete`` keeps the
    requests that every member answered. Those that every member failed at are left out.
    ``told`` hears how many decisions have been read.

    Raises ``BandmasterError`` for a decision of another ensemble, or when the file cannot be written.
    """
    count = 0
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            parts: list[Path] = []
            for batch in _batches(joined, learner, complete, told):
                parts.append(Path(folder) / f"{len(parts):06d}.parquet")
                batch.write_parquet(parts[-1])
                count += batch["request"].n_unique()
            if not parts:
                raise BandmasterError(f"{path}: there is nothing to export: no such decision is settled")
            whole = Path(folder) / "whole.parquet"
            metadata = {"classes": json.dumps(list(learner.ensemble.classes))}
            _with_delays(parts)
            rows = pl.scan_parquet(parts, missing_columns="insert", extra_columns="ignore")
            rows.sink_parquet(whole, metadata=None if learner.ensemble.regression else metadata)
            os.replace(whole, path)
    return count


def _with_delays(parts: Sequence[Path]) -> None:
    """Put the delays of its rows into each part, in the place of the time when their outcome came."""
    keys = pl.concat([pl.read_parquet(part, columns=["request", "ts", "outcome_ts"]) for part in parts])
    requests = keys.with_row_index("row").group_by("request", maintain_order=True)
    known = requests.agg(pl.col("ts", "outcome_ts").first(), end=pl.col("row").last() + 1)
    arrived = np.searchsorted(known["ts"].to_numpy(), known["outcome_ts"].to_numpy(), side="right")
    arrived = np.maximum(arrived, np.arange(1, len(known) + 1))  # so many requests had come, this one at least
    of = np.repeat(np.arange(len(known)), np.diff(known["end"].to_numpy(), prepend=0))
    in_requests = arrived[of] - 1 - of
    in_rows = known["end"].to_numpy()[arrived[of] - 1] - 1 - np.arange(len(keys))
    start = 0
    for part in parts:
        rows = pl.read_parquet(part).drop("outcome_ts")
        own = slice(start, start := start + len(rows))
        rows.with_columns(label_delay=in_requests[own], reward_delay=in_rows[own]).write_parquet(part)


def _batches(
    joined: Iterable[Joined], learner: Learner, complete: bool, told: Callable[[int], None] | None
) -> Iterator[pl.DataFrame]:
    stream, read = iter(joined), 0
    while batch := list(itertools.islice(stream, _BATCH)):
        rows = [row for one in batch for row in _rows(one, learner, complete)]
        read += len(batch)
        if told is not None:
            told(read)
        if rows:
            yield pl.DataFrame(rows, schema_overrides=_schema(learner.ensemble), infer_schema_length=None)


def _schema(ensemble: Ensemble) -> dict[str, Any]:
    """The types of what may be null throughout."""
    label: Any = pl.Float64 if ensemble.regression else None
    if label is None:
        label = pl.String if any(isinstance(c, str) for c in ensemble.classes) else pl.Int64
    schema: dict[str, Any] = {"label": label, "reward": pl.Float64}
    for name in ensemble.names:
        schema |= {f"{name}__pred": label, f"{name}__proba": pl.List(pl.Float64)}
        schema |= {f"{name}__{figure}": pl.Float64 for figure in FIGURES}
    return schema


FIGURES = ("latency_s", "energy_j", "cost", "explainability")


def _rows(joined: Joined, learner: Learner, complete: bool) -> Iterator[dict[str, Any]]:
    decision, answer = joined.decision, joined.answer
    if answer.down:  # it says nothing of its plan
        return
    if (why := learner.refuses(joined)) is not None:
        raise BandmasterError(f"{why}; export with the configuration that it was made under")
    _, known = learner.outputs(answer)
    if complete and not known.all():
        return
    shared = {
        "request": decision.id,
        "ts": decision.at,
        "outcome_ts": joined.outcome.at,
        "profile": decision.profile,
        "action": decision.plan,
        "propensity": decision.propensity,
        "reward": _reward(joined, learner),
        "probed": decision.probed,
        "probe_p": decision.probe_p,
        "policy": decision.policy,
        "policy_version": decision.policy_version,
        **{f"x{k}": value for k, value in enumerate(decision.state.features.tolist())},
        **dict(_context(tag) for tag in decision.state.tags),
    }
    said = {reply.name: reply for reply in (*answer.ran, *answer.probes)}
    for row in range(len(answer.labels)):
        members = [_member(name, said.get(name), row, learner.ensemble) for name in learner.ensemble.names]
        yield shared | {"label": _label(joined, row, learner.ensemble)} | dict(itertools.chain(*members))


def _context(tag: str) -> tuple[str, str]:
    name, _, value = tag.partition("=")
    return f"ctx_{name}", value


def _reward(joined: Joined, learner: Learner) -> float | None:
    try:
        return learner.reward(joined).value
    except NoFigureError:
        return None


def _label(joined: Joined, row: int, ensemble: Ensemble) -> int | float | str | None:
    labels = joined.outcome.labels
    if labels is None:
        return None
    return labels[row] if ensemble.regression else ensemble.classes[int(labels[row])]


def _member(name: str, reply: MemberAnswer | None, row: int, ensemble: Ensemble) -> Iterator[tuple[str, Any]]:
    """What a member said to a row and what that took; nothing where it did not see it."""
    at = np.flatnonzero(reply.rows == row) if reply is not None else np.zeros(0)
    saw = reply is not None and len(at) > 0
    scores = reply.scores[int(at[0])] if reply is not None and saw and reply.scores is not None else None
    label: int | float | str | None = None
    if scores is not None and ensemble.regression:
        label = float(scores[0])
    elif scores is not None and scores.max() > 0.0:
        label = ensemble.classes[int(scores.argmax())]
    yield f"{name}__pred", label
    if not ensemble.regression:
        yield f"{name}__proba", None if scores is None else scores.tolist()
    figures = {figure: getattr(reply, figure) for figure in FIGURES} if saw else dict.fromkeys(FIGURES)
    yield from ((f"{name}__{figure}", value) for figure, value in figures.items())
