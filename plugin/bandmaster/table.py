"""A log's or a stream's file, read column by column; every refusal names the file, the column and the row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from bandmaster.core import BandmasterError, BoolArray, FloatArray, IntArray
from bandmaster.features import features_of_each

Scores = np.ndarray[tuple[int, ...], np.dtype[np.floating[Any]]]
"""Probabilities of classes, in single precision, as there are many of them; or values, in double."""

Stamp = tuple[int, int, int]
"""What tells one file from another that took its place: inode, size, ns since it was changed."""

_Read = TypeVar("_Read")

NO_LABEL = -1
"""The class index of a request whose label never became known."""

_CLASS = "must be a class: an integer or a text, null where there is none"


class Table:
    """The rows of ``path``, and the ``classes`` that it lists in its metadata, ``None`` where it lists none.

    A column is read when it is asked for, so that the file may be larger than memory. Rows are counted from 0,
    ``first`` being the number of the first one.
    """

    def __init__(
        self,
        path: Path,
        rows: pl.LazyFrame | pl.DataFrame,
        sha256: str,
        classes: tuple[int | str, ...] | None,
        first: int = 0,
        stamp: Stamp | None = None,
    ) -> None:
        """``stamp`` is the file's when it was opened, where rows are read from it later."""
        self.path, self.sha256, self.classes, self._stamp = path, sha256, classes, stamp
        self._rows, self._first = rows.lazy(), first
        with readable(path):
            self.schema = self._rows.collect_schema()
            self._length: int = self._rows.select(pl.len()).collect().item()

    def __len__(self) -> int:
        return self._length

    def __contains__(self, name: str) -> bool:
        return name in self.schema

    @property
    def columns(self) -> list[str]:
        return self.schema.names()

    @property
    def frame(self) -> pl.DataFrame:
        """All of it, in memory."""
        with readable(self.path):
            return self._rows.collect()

    def column(self, name: str) -> pl.Series:
        try:
            with readable(self.path):
                return self._rows.select(name).collect()[name]
        except BandmasterError:
            self.require_unchanged()
            raise

    def require_unchanged(self) -> None:
        """Raise ``BandmasterError`` where the file is another than was opened: columns may be of either."""
        if self._stamp is not None and _stamp(self.path) != self._stamp:
            raise BandmasterError(f"{self.path}: has changed while it was read; read it again, or a copy of it")

    def part(self, start: int, stop: int) -> Table:
        """The rows from ``start`` on, before ``stop``."""
        return Table(
            self.path,
            self._rows.slice(start, stop - start),
            self.sha256,
            self.classes,
            self._first + start,
            self._stamp,
        )

    def refuse(self, name: str, bad: BoolArray, must: str) -> None:
        """Raise for the first row marked in ``bad``."""
        if bad.any():
            row = int(bad.argmax())
            held = self.column(name)[row]
            value = shortened(str(held.to_list() if isinstance(held, pl.Series) else held))
            raise BandmasterError(f"{self.path}: row {self._first + row}, column {name!r}: {value} {must}")

    def numbers(self, name: str, must: str, low: float = -np.inf, high: float = np.inf) -> FloatArray:
        """A numeric column, NaN where null. Refuses text, infinities and what lies outside [low, high]."""
        column = self.column(name)
        try:
            values = column.cast(pl.Float64, strict=False)
        except pl.exceptions.PolarsError:
            raise BandmasterError(f"{self.path}: column {name!r} holds {column.dtype}; it {must}") from None
        self.refuse(name, (values.is_null() & column.is_not_null()).to_numpy(), must)
        figures = np.array(values.fill_null(np.nan).to_numpy())
        self.refuse(name, np.isinf(figures) | (figures < low) | (figures > high), must)
        return figures

    def labels(self, name: str) -> pl.Series:
        """A column of classes as integers or text. Whole floats pass: that is what pandas makes of nulls."""
        column = self.column(name)
        if column.dtype.is_float():
            values = column.fill_nan(None)
            whole = values.cast(pl.Int64, strict=False)
            self.refuse(
                name, ((whole != values) | (whole.is_null() & values.is_not_null())).fill_null(False).to_numpy(), _CLASS
            )
            return whole
        if column.dtype.is_integer() or column.dtype == pl.Null:
            fitting = column.cast(pl.Int64, strict=False)
            self.refuse(name, (fitting.is_null() & column.is_not_null()).to_numpy(), _CLASS)
            return fitting
        if column.dtype in (pl.String, pl.Categorical, pl.Enum):
            return column.cast(pl.String)
        raise BandmasterError(f"{self.path}: column {name!r} holds {column.dtype}; it {_CLASS}")

    def indices(self, name: str, classes: Sequence[int | str], strange: int | None = None) -> IntArray:
        """The class index of each row of a column of classes, ``NO_LABEL`` where null.

        What is none of the ``classes`` has the index ``strange``; it is refused where that is ``None``.
        """
        column = self.labels(name)
        index = {c: i for i, c in enumerate(classes)}
        values = column.unique().drop_nulls()
        found = values.to_frame("value").with_columns(
            index=pl.Series([index.get(v, strange) for v in values], dtype=pl.Int64)
        )
        joined = column.to_frame("value").join(found, on="value", how="left", maintain_order="left")["index"]
        self.refuse(
            name,
            (column.is_not_null() & joined.is_null()).to_numpy(),
            f"is none of the {len(classes)} classes; name them all under classes: in the config",
        )
        return np.array(joined.fill_null(NO_LABEL).to_numpy())

    def answered_by(self) -> tuple[str, ...]:
        """The members whose answers there are."""
        return tuple(c.removesuffix("__pred") for c in self.columns if c.endswith("__pred"))

    def inputs(self) -> list[str]:
        """The columns x0 … xn, in order of their numbers."""
        return sorted((c for c in self.columns if is_input(c)), key=lambda c: int(c[1:]))

    def features(self) -> FloatArray:
        """What a policy may look at, (N, d): x0 … xn and then the numeric ctx_*, a summary where they are many."""
        context = (c for c in self.columns if c.startswith("ctx_") and self.schema[c].is_numeric())
        columns = [*self.inputs(), *sorted(context)]
        if not columns:
            return np.zeros((len(self), 0))
        return features_of_each(self.stacked(columns))

    def stacked(self, columns: Sequence[str]) -> FloatArray:
        """Numeric columns side by side, (N, columns), 0 where null."""
        must = "must be a number: it is a feature"
        return np.stack([np.nan_to_num(self.numbers(c, must)) for c in columns], axis=1)


def named(indices: IntArray, classes: Sequence[int | str]) -> pl.Series:
    """Class indices as the classes themselves, as text unless all are integers; null where negative."""
    plain = all(isinstance(c, int) for c in classes)
    values = [(classes[i] if plain else str(classes[i])) if i >= 0 else None for i in indices]
    return pl.Series(values, dtype=pl.Int64 if plain else pl.String)


def is_input(column: str) -> bool:
    """Whether a column is one of x0 … xn."""
    return column[:1] == "x" and column[1:].isdecimal()


def shortened(value: str) -> str:
    """What a message shows of a value."""
    return value if len(value) <= 60 else f"{value[:59]}…"


def by_suffix(path: Path, readers: Mapping[str, Callable[[Path], _Read]]) -> Callable[[Path], _Read]:
    """The reader for a file. Raises ``BandmasterError`` when there is none for its suffix, or no such file."""
    if path.suffix not in readers:
        raise BandmasterError(f"{path}: a log ends in {', '.join(readers)}, not in {path.suffix or 'nothing'!r}")
    if not path.is_file():
        raise BandmasterError(f"{path}: no such file")
    return readers[path.suffix]


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what goes wrong in reading ``path`` into a ``BandmasterError`` that names it."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as problem:
        why = str(problem).partition("\n")[0]
        raise BandmasterError(
            f"{path}: cannot be read as {path.suffix[1:]} ({why}); is the file complete, and its suffix right?"
        ) from None


def read_table(path: Path) -> Table:
    """Open parquet, CSV or Arrow, by its suffix. Raises ``BandmasterError`` when the file is not that, or empty.

    A CSV is held in memory: a column of it cannot be read without the others.
    """
    readers: dict[str, Callable[[Path], pl.LazyFrame]] = {
        ".parquet": lambda path: pl.scan_parquet(path, glob=False),
        # All rows say what type a column has: the first hundred may hold whole numbers only, or nothing.
        ".csv": lambda path: pl.read_csv(path, infer_schema_length=None, glob=False).lazy(),
        ".arrow": lambda path: pl.scan_ipc(path, glob=False),
        ".feather": lambda path: pl.scan_ipc(path, glob=False),
    }
    reader = by_suffix(path, readers)
    with readable(path):
        stamp, rows = _stamp(path), reader(path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        classes = _stored_classes(path)
    table = Table(path, rows, sha256, classes, stamp=stamp)
    if not len(table):
        raise BandmasterError(f"{path}: holds no request")
    return table


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _stored_classes(path: Path) -> tuple[int | str, ...] | None:
    stored = pl.read_parquet_metadata(path).get("classes") if path.suffix == ".parquet" else None
    if not stored:
        return None
    try:
        classes = json.loads(stored)
    except ValueError:
        classes = None
    if not isinstance(classes, list) or not classes or any(type(c) not in (int, str) for c in classes):
        raise BandmasterError(
            f"{path}: metadata 'classes' must be a JSON list of numbers or texts, not {stored[:60]!r}"
        )
    if len(set(classes)) != len(classes):
        raise BandmasterError(f"{path}: metadata 'classes' names one class twice; list each once")
    return tuple(classes)
