"""Raw inputs: what members take. Members are asked about every row once, and what they say is kept."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from bandmaster.answers import default_cache, keep, key
from bandmaster.core import NO_ANSWER, Array, BandmasterError, Ensemble, Member, MemberAnswer, Meter
from bandmaster.features import features_of_each
from bandmaster.table import Table, named, readable

WARM_UP = 10
"""Rows to each member before the first that counts: caches fill, memory is taken."""


def is_raw(table: Table) -> bool:
    """Whether a table has labels, and nobody's answers yet."""
    return "label" in table and not table.answered_by()


def rows_of(table: Table) -> tuple[Array, list[str]]:
    """What members take (N, figures): x0 … xn, or the one column of lists; and the columns that hold it.

    Raises ``BandmasterError`` naming the file where there is neither.
    """
    if columns := table.inputs():
        return table.stacked(columns), columns
    lists = [c for c, dtype in table.schema.items() if isinstance(dtype, pl.List | pl.Array)]
    if len(lists) != 1:
        held = ", ".join(table.columns[:12])
        raise BandmasterError(
            f"{table.path}: there is neither x0 … xn nor exactly one column of lists to ask the members about, "
            f"but {held}"
        )
    column = table.column(lists[0]).cast(pl.List(pl.Float64), strict=False)
    width = column.list.len().fill_null(0).to_numpy()
    table.refuse(lists[0], width != width[0], f"must be a list of {width[0]} figures, as in the first row")
    return column.list.explode().fill_null(0.0).to_numpy().reshape(len(table), -1), lists


def shaped(rows: Array, shape: Sequence[int | None], path: Path) -> Array:
    """The rows (N, …) as the members take them. Free dimensions take what the data have, where one is free at most."""
    if len(rows.shape) - 1 == len(shape) and all(w in (None, h) for w, h in zip(shape, rows.shape[1:], strict=True)):
        return rows
    width, known = int(np.prod(rows.shape[1:])), int(np.prod([d for d in shape if d is not None]))
    free = sum(d is None for d in shape)
    if free > 1 or width % known or (free == 0 and width != known):
        raise BandmasterError(f"{path}: rows have {width} figures, but the members take rows of shape {tuple(shape)}")
    return rows.reshape(len(rows), *(-1 if d is None else d for d in shape))


def one_by_one(member: Member, rows: Array, meter: Meter) -> Iterator[MemberAnswer]:
    """What a member says to each of ``rows`` (N, …) alone, once it is warm."""
    index = np.zeros(1, dtype=np.int64)
    for i in range(min(WARM_UP, len(rows))):
        meter.run(member, rows[i : i + 1], index)
    for i in range(len(rows)):
        yield meter.run(member, rows[i : i + 1], index)


def asked(
    table: Table,
    ensemble: Ensemble,
    members: Mapping[str, Member],
    shape: Sequence[int | None],
    meter: Meter,
    models: str,
    cache: Path | None = None,
    told: Callable[[str], None] | None = None,
) -> Table:
    """The table as a recorded ensemble: what each member says to each row, alone, and what that takes.

    Where the members take many columns, x0 … xn become the summary that a policy is served with. ``models`` stands for
    the members' files. What they say is kept in the folder ``cache`` (default: ``default_cache("inputs")``), under a
    name that depends on it, on the table's content, on this code and on ONNX Runtime's version. ``told`` hears of it,
    and how far it is.

    Raises ``BandmasterError`` where rows do not fit the members, or the cache fails.
    """
    rows, columns = rows_of(table)
    rows = shaped(rows, shape, table.path)
    folder = cache or default_cache("inputs")
    answering = repr((ensemble.names, ensemble.classes, ensemble.task))
    name = key(__file__, table.sha256, answering, models, importlib.metadata.version("onnxruntime"))
    path = folder / f"{name}.parquet"
    if not path.is_file():
        if told is not None:
            told(f"{table.path}: raw inputs; {len(members)} members answer its {len(table)} rows, kept in {folder}")
        said = [_columns(name, member, rows, ensemble, meter, told) for name, member in members.items()]
        found = pl.DataFrame([column for columns in said for column in columns])
        keep(path, "what members say", found.write_parquet)
    with readable(path):
        answers = pl.read_parquet(path)
    features = features_of_each(rows, summarise=None in shape)
    given = table.frame.drop(columns)
    inputs = [pl.Series(f"x{k}", column) for k, column in enumerate(features.T)]
    classes = None if ensemble.regression else ensemble.classes
    return Table(table.path, given.with_columns(*inputs, *answers), table.sha256, classes)


def _columns(
    name: str,
    member: Member,
    rows: Array,
    ensemble: Ensemble,
    meter: Meter,
    told: Callable[[str], None] | None,
) -> list[pl.Series]:
    """One member's columns of a recorded ensemble."""
    said = list(one_by_one(member, rows, meter))
    if told is not None:
        failed = sum(reply.scores is None for reply in said)
        told(f"  {name}: {len(rows)} rows" + (f", {failed} of them failed" if failed else ""))
    took = [
        pl.Series(f"{name}__latency_s", [reply.latency_s for reply in said]),
        pl.Series(f"{name}__energy_j", [reply.energy_j for reply in said]),
    ]
    scores = [_scores(reply) for reply in said]
    if ensemble.regression:
        return [pl.Series(f"{name}__pred", [None if s is None else float(s[0]) for s in scores], pl.Float64), *took]
    labels = np.array([NO_ANSWER if s is None else s.argmax() for s in scores])
    proba = pl.Series(f"{name}__proba", [None if s is None else s.tolist() for s in scores], pl.List(pl.Float64))
    return [named(labels, ensemble.classes).alias(f"{name}__pred"), proba, *took]


def _scores(reply: MemberAnswer) -> Array | None:
    """What was said to the one row; ``None`` for a failure or an abstention."""
    return None if reply.scores is None or not reply.scores.any() else reply.scores[0]
