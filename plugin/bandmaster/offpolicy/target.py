"""Target policies: what is judged by a log that another policy left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl

from bandmaster.core import BandmasterError, FloatArray
from bandmaster.offpolicy.learning import Learner
from bandmaster.offpolicy.log import ROW, BanditLog, gather, require, scan


class Target(Protocol):
    """A policy to be judged by a log."""

    def logged(self, log: BanditLog) -> pl.LazyFrame:
        """The log's rows with ``target``, the probability of the action that was taken; null where there is none.

        Raises ``BandmasterError`` when the log lacks what the policy looks at.
        """

    def actions(self, log: BanditLog) -> tuple[str, ...]:
        """All that the log or this policy ever does, sorted."""

    def spread(self, rows: pl.DataFrame, actions: Sequence[str]) -> FloatArray:
        """The probability of each of its ``actions`` on each of the log's rows, (n, A).

        Raises ``BandmasterError`` when only those of the actions that were taken are known.
        """


def parse_target(spec: str) -> Target:
    """The target that ``spec`` names: ``uniform``, ``column:NAME``, ``table:FILE`` or ``vw:OPTIONS``.

    Raises ``BandmasterError`` for anything else, or a file that is no table of probabilities.
    """
    kind, _, rest = spec.partition(":")
    if spec == "uniform":
        return Uniform()
    if kind == "column" and rest:
        return Column(rest)
    if kind == "table" and rest:
        return read_probabilities(Path(rest))
    if kind == "vw" and rest:
        return Learner(rest)
    raise BandmasterError(f"{spec}: names no target; uniform, column:NAME, table:FILE and vw:OPTIONS do")


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every action that the log has, alike likely."""

    def logged(self, log: BanditLog) -> pl.LazyFrame:
        return log.frame.with_columns(target=1.0 / len(log.actions))

    def actions(self, log: BanditLog) -> tuple[str, ...]:
        return log.actions

    def spread(self, rows: pl.DataFrame, actions: Sequence[str]) -> FloatArray:
        return np.full((len(rows), len(actions)), 1.0 / len(actions))


@dataclass(frozen=True, slots=True)
class Column:
    """As a column of the log says of the action that was taken."""

    name: str

    def logged(self, log: BanditLog) -> pl.LazyFrame:
        require(log.path, log.frame, (self.name,))
        probability = pl.col(self.name).cast(pl.Float64, strict=False)
        return log.frame.with_columns(target=pl.when(probability.is_between(0.0, 1.0)).then(probability))

    def actions(self, log: BanditLog) -> tuple[str, ...]:
        return log.actions

    def spread(self, rows: pl.DataFrame, actions: Sequence[str]) -> FloatArray:
        raise BandmasterError(
            f"column:{self.name}: says the probability of the action that was taken, and a model of rewards needs those"
            " of all; judge by ips and snips, or give a table"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """As a table says: ``given`` has ``action``, ``probability`` and the columns ``context`` that these depend on, all
    but the probability text. An action that a context does not list has none.
    """

    path: Path
    given: pl.DataFrame
    context: tuple[str, ...]

    def logged(self, log: BanditLog) -> pl.LazyFrame:
        require(log.path, log.frame, self.context)
        keyed = _keyed(log.frame, self.context)
        if self.context:
            known = self.given.select(self.context).unique().lazy()
            strange = gather(
                log.path, keyed.join(known, on=self.context, how="anti").select(ROW, *self.context).head(1)
            )
            if len(strange):
                row, *values = strange.row(0)
                told = ", ".join(f"{name}={value}" for name, value in zip(self.context, values, strict=True))
                raise BandmasterError(f"{self.path}: says nothing of {told}, which row {row} of {log.path} has")
        target = self.given.rename({"probability": "target"}).lazy()
        joined = keyed.join(target, on=["action", *self.context], how="left", maintain_order="left")
        return joined.with_columns(pl.col("target").fill_null(0.0))

    def actions(self, log: BanditLog) -> tuple[str, ...]:
        return tuple(sorted({*log.actions, *self.given["action"]}))

    def spread(self, rows: pl.DataFrame, actions: Sequence[str]) -> FloatArray:
        contexts = (
            self.given.select(self.context).unique(maintain_order=True) if self.context else pl.DataFrame({"": [0]})
        )
        matrix = np.zeros((len(contexts), len(actions)))
        at = self._at(self.given, contexts)
        action = {name: k for k, name in enumerate(actions)}
        matrix[at, [action[name] for name in self.given["action"]]] = self.given["probability"]
        return matrix[self._at(_keyed(rows.lazy(), self.context).collect(), contexts)]

    def _at(self, rows: pl.DataFrame, contexts: pl.DataFrame) -> list[int]:
        """Which of the contexts each row is in."""
        if not self.context:
            return [0] * len(rows)
        numbered = contexts.with_row_index("context")
        return rows.join(numbered, on=self.context, how="left", maintain_order="left")["context"].to_list()


def read_probabilities(path: Path) -> Table:
    """Read a table of probabilities. Raises ``BandmasterError`` where those of a context do not sum to 1."""
    rows = scan(path)
    require(path, rows, ("action", "probability"))
    read = gather(path, rows.with_row_index(ROW))
    context = tuple(name for name in read.columns if name not in (ROW, "action", "probability"))
    probability = pl.col("probability").cast(pl.Float64, strict=False)
    bad = read.filter(~probability.is_between(0.0, 1.0).fill_null(False))
    if len(bad):
        held = bad["probability"][0]
        raise BandmasterError(f"{path}: row {bad[ROW][0]}, column 'probability': {held} must be a number from 0 to 1")
    given = read.select(pl.col("action", *context).cast(pl.String), probability)
    if len(twice := given.filter(given.select("action", *context).is_duplicated())):
        raise BandmasterError(f"{path}: has action {twice['action'][0]} twice{_where(twice, context)}; once is enough")
    totals = given.group_by(context or pl.lit("").alias("all")).agg(pl.col("probability").sum())
    off = totals.filter((pl.col("probability") - 1.0).abs() > TOLERANCE)
    if len(off):
        raise BandmasterError(
            f"{path}: probabilities sum to {off['probability'][0]:g}{_where(off, context)}; they must to 1"
        )
    return Table(path, given, context)


TOLERANCE = 1e-6
"""How far the probabilities of a context may be from summing to 1."""


def _where(rows: pl.DataFrame, context: Sequence[str]) -> str:
    return f" where {', '.join(f'{name}={rows[name][0]}' for name in context)}" if context else ""


def _keyed(rows: pl.LazyFrame, context: Sequence[str]) -> pl.LazyFrame:
    return rows.with_columns(pl.col(name).cast(pl.String) for name in context)
