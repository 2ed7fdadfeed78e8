"""Logs of decisions: what was done, with which probability, and what it earned. Scanned, never loaded whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from bandmaster.core import BandmasterError
from bandmaster.table import by_suffix, readable, shortened


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns tell what, and the rewards ``low`` and ``high`` that are worth nothing and all."""

    action: str = "action"
    propensity: str = "propensity"
    reward: str = "reward"
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class BanditLog:
    """So many ``decisions``, in the log's order, of which some may have no reward yet.

    ``frame`` has ``action`` (text), ``propensity`` in (0, 1] and ``reward`` in [0, 1] of those that have one, null
    where the file holds something else (``check`` says where), and beside them the file's other columns as they are.
    """

    path: Path
    frame: pl.LazyFrame
    decisions: int
    rows: pl.LazyFrame
    columns: Columns

    @property
    def actions(self) -> tuple[str, ...]:
        """All that were ever taken, sorted. Scans the log."""
        action = pl.col(self.columns.action).cast(pl.String)
        return tuple(gather(self.path, self.rows.select(action=action.drop_nulls().unique().sort()))["action"])

    def loaded(self, features: Sequence[str] | None = None) -> pl.DataFrame:
        """The decisions that have a reward, in memory, with these columns beside what was done, or with all.

        Raises ``BandmasterError`` as ``check`` does.
        """
        wanted = pl.all() if features is None else pl.col("action", "propensity", "reward", *features)
        rows = gather(self.path, self.frame.select(wanted))
        if rows.select(pl.any_horizontal(pl.col("action", "propensity", "reward").is_null()).any()).item():
            self.check()
        return rows

    def check(self) -> None:
        """Raise ``BandmasterError`` for the first row, from 0, whose action, propensity or reward is none."""
        names = self.columns
        low, high = names.low, names.high
        self.refuse(pl.col(names.action).is_null(), names.action, "must name an action")
        self.refuse(
            ~_number(names.propensity).is_between(0.0, 1.0, closed="right").fill_null(False),
            names.propensity,
            "must be a probability above 0, at most 1",
        )
        self.refuse(
            pl.col(names.reward).is_not_null() & ~_number(names.reward).is_between(low, high).fill_null(False),
            names.reward,
            f"must be a number from {low:g} to {high:g}; give the range that rewards have",
        )

    def refuse(self, bad: pl.Expr, column: str, must: str) -> None:
        """Raise for the first row of the file where ``bad`` is true."""
        found = gather(self.path, self.rows.filter(bad).select(ROW, pl.col(column).cast(pl.String)).head(1))
        if len(found):
            row, held = found.row(0)
            held = "nothing" if held is None else shortened(held)
            raise BandmasterError(f"{self.path}: row {row}, column {column!r}: {held} {must}")


def read(path: Path, columns: Columns | None = None, where: Mapping[str, str] | None = None) -> BanditLog:
    """Open a log of decisions: parquet, CSV or Arrow by its suffix, one row a decision.

    ``where`` keeps the rows whose columns have these values. Raises ``BandmasterError`` when the file is not that,
    lacks a column, or holds no decision.
    """
    columns, where = columns or Columns(), where or {}
    if not columns.low < columns.high:
        raise BandmasterError(f"rewards from {columns.low:g} to {columns.high:g}: no range; give the lower one first")
    rows = scan(path)
    require(path, rows, (columns.action, columns.propensity, columns.reward, *where))
    rows = rows.with_row_index(ROW)
    for name, value in where.items():
        rows = rows.filter(pl.col(name).cast(pl.String) == value)
    decisions = gather(path, rows.select(pl.len())).item()
    if not decisions:
        told = ", ".join(f"{name}={value}" for name, value in where.items())
        raise BandmasterError(f"{path}: holds no decision{' where ' + told if told else ''}")
    return BanditLog(path, _frame(rows, columns), decisions, rows, columns)


def _frame(rows: pl.LazyFrame, columns: Columns) -> pl.LazyFrame:
    action, propensity, reward = pl.col(columns.action), _number(columns.propensity), _number(columns.reward)
    proper = propensity.is_between(0.0, 1.0, closed="right") & action.is_not_null()
    inside = reward.is_between(columns.low, columns.high)
    return rows.drop_nulls(columns.reward).with_columns(
        action=action.cast(pl.String),
        propensity=pl.when(proper).then(propensity),
        reward=pl.when(inside).then((reward - columns.low) / (columns.high - columns.low)),
    )


def _number(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.Float64, strict=False)


ROW = "row of the file"
"""The column that keeps a decision's row in the file, for messages."""


def scan(path: Path) -> pl.LazyFrame:
    """The rows of parquet, CSV (all of it text) or Arrow. Raises ``BandmasterError`` when the file is not that."""
    scanners: dict[str, Callable[[Path], pl.LazyFrame]] = {
        ".parquet": lambda path: pl.scan_parquet(path, glob=False),
        ".csv": lambda path: pl.scan_csv(path, infer_schema=False, glob=False),
        ".arrow": lambda path: pl.scan_ipc(path, glob=False),
        ".feather": lambda path: pl.scan_ipc(path, glob=False),
    }
    return by_suffix(path, scanners)(path)


def gather(path: Path, rows: pl.LazyFrame) -> pl.DataFrame:
    """What a scan of ``path`` gives, streamed. Raises ``BandmasterError`` when the file cannot be read."""
    with readable(path):
        return rows.collect(engine="streaming")


def require(path: Path, rows: pl.LazyFrame, columns: tuple[str, ...]) -> None:
    """Raise ``BandmasterError`` unless all these columns are there."""
    with readable(path):
        there = rows.collect_schema().names()
    for column in columns:
        if column not in there:
            has = ", ".join(name for name in there if name != ROW)
            raise BandmasterError(f"{path}: has no column {column!r}; it has {has}: name the right one")
