"""Recorded ensembles: a log with every member's output per request, and members and a meter that play it back."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from bandmaster.core import (
    Array,
    BandmasterError,
    BoolArray,
    Ensemble,
    FloatArray,
    IntArray,
    Member,
    MemberAnswer,
    Profile,
    Request,
)
from bandmaster.features import features_of

Scores = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

NO_LABEL = -1
"""The class index of a request whose label never became known."""


@dataclass(frozen=True, slots=True)
class RecordedLog:
    """N requests in arrival order, answered by all M members.

    ``truth`` (N,) are class indices, ``NO_LABEL`` where unknown; ``delay`` (N,) counts requests until the label
    arrives; ``scores`` is (N, M, C), a row of zeros where a member abstained; the figures are (N, M), in s, J, the
    log's own money and [0, 1], NaN where nobody knows.

    ``scores`` and figures stay in the file's order, as they are large: in another order, request ``i`` is their row
    ``rows[i]``.
    """

    ensemble: Ensemble
    truth: IntArray
    delay: IntArray
    at: FloatArray
    features: FloatArray
    tags: tuple[tuple[str, ...], ...]
    phases: tuple[str, ...] | None
    scores: Scores
    latency_s: FloatArray
    energy_j: FloatArray
    cost: FloatArray
    explainability: FloatArray
    sha256: str
    unused: tuple[str, ...] = ()
    order: IntArray | None = None

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def rows(self) -> IntArray:
        """Each request's row in the file, (N,)."""
        return np.arange(len(self)) if self.order is None else self.order

    def request(self, i: int) -> Request:
        """Request ``i``. Its only row holds its row in the file, which is all that a recorded member needs."""
        tags = self.tags[i] if self.tags else ()
        row = i if self.order is None else self.order[i]
        return Request(rows=np.array([[row]]), features=self.features[i], at=float(self.at[i]), tags=tags)

    def redrawn(self, order: IntArray) -> RecordedLog:
        """Some of the requests in another order. Arrival times stay as they were: it is the traffic that is redrawn."""
        return replace(
            self,
            truth=self.truth[order],
            delay=self.delay[order],
            at=self.at[: len(order)],
            features=self.features[order],
            tags=tuple(self.tags[i] for i in order) if self.tags else (),
            phases=tuple(self.phases[i] for i in order) if self.phases else None,
            order=self.rows[order],
        )


class RecordedMember:
    """Answers a request, given as its row in the file, with what the log holds."""

    def __init__(self, name: str, scores: Scores) -> None:
        self.name, self._scores = name, scores

    def predict(self, rows: Array) -> FloatArray:
        return self._scores[rows[:, 0]].astype(np.float64)


class RecordedMeter:
    """Gives the log's own figures for a recorded member."""

    def __init__(self, log: RecordedLog) -> None:
        self._log = log
        self._index = {name: m for m, name in enumerate(log.ensemble.names)}

    def run(self, member: Member, rows: Array, index: IntArray) -> MemberAnswer:
        at = rows.item(0), self._index[member.name]
        log = self._log
        return MemberAnswer(
            name=member.name,
            rows=index,
            scores=member.predict(rows[index]),
            latency_s=log.latency_s.item(at),
            energy_j=log.energy_j.item(at),
            energy_from="declared",
            cost=_known(log.cost.item(at)),
            explainability=_known(log.explainability.item(at)),
        )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


# ---- Reading a log -----------------------------------------------------------------------------------------


def read_log(
    path: Path, members: Sequence[str] | None, profiles: Mapping[str, Profile], classes: Sequence[int | str] | None
) -> RecordedLog:
    """Read a recorded ensemble: parquet, CSV or Arrow by its suffix; columns as in docs/replay.md.

    ``members`` picks and orders the members, ``None`` takes all that the log names. Raises ``BandmasterError``
    naming the file, the column, the row (counted from 0) and the fix.
    """
    frame = _read_frame(path)
    names = tuple(members) if members is not None else _members_of(frame)
    if not names:
        raise BandmasterError(f"{path}: no column ends in __pred, so there is no member; is it a recorded ensemble?")
    table = _Table(path, frame, ("label", *(f"{n}__pred" for n in names)))
    known = tuple(classes) if classes else _classes_of(table)
    ensemble = Ensemble(names, known, {n: profiles.get(n, Profile()) for n in names})

    def figures(name: str) -> FloatArray:
        return np.stack([_figure(table, n, name, getattr(ensemble.profiles[n], name)) for n in names], axis=1)

    return RecordedLog(
        ensemble=ensemble,
        truth=table.indices("label", known),
        delay=_delays(table),
        at=_times(table),
        features=_features(table),
        tags=_tags(path, frame),
        phases=tuple(frame["phase"].cast(pl.String).fill_null("").to_list()) if "phase" in frame.columns else None,
        scores=_scores(table, names, known),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        latency_s=figures("latency_s"),
        energy_j=figures("energy_j"),
        cost=figures("cost"),
        explainability=figures("explainability"),
        unused=tuple(c for c in frame.columns if not _is_used(c, names)),
    )


def _is_used(column: str, members: Sequence[str]) -> bool:
    member, mark, what = column.rpartition("__")
    if mark and member in members:
        return what in ("pred", "conf", "proba", "latency_s", "energy_j", "cost", "explainability")
    return column in ("label", "label_delay", "ts", "phase") or _is_feature(column) or column.startswith("ctx_")


def _is_feature(column: str) -> bool:
    return column[:1] == "x" and column[1:].isdecimal()


def _read_frame(path: Path) -> pl.DataFrame:
    readers: dict[str, Callable[[Path], pl.DataFrame]] = {
        ".parquet": pl.read_parquet,
        ".csv": pl.read_csv,
        ".arrow": pl.read_ipc,
        ".feather": pl.read_ipc,
    }
    reader = readers.get(path.suffix)
    if reader is None:
        raise BandmasterError(f"{path}: a log ends in {', '.join(readers)}, not in {path.suffix or 'nothing'!r}")
    if not path.is_file():
        raise BandmasterError(f"{path}: no such file")
    try:
        frame = reader(path)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as problem:
        why = str(problem).partition("\n")[0]
        raise BandmasterError(
            f"{path}: cannot be read as {path.suffix[1:]} ({why}); is the file complete, and its suffix right?"
        ) from None
    if frame.is_empty():
        raise BandmasterError(f"{path}: holds no request")
    return frame


def _members_of(frame: pl.DataFrame) -> tuple[str, ...]:
    return tuple(c.removesuffix("__pred") for c in frame.columns if c.endswith("__pred"))


class _Table:
    """A log's frame, read column by column; every refusal names the file, the column and the row."""

    def __init__(self, path: Path, frame: pl.DataFrame, answers: Sequence[str]) -> None:
        self.path, self.frame = path, frame
        missing = next((c for c in answers if c not in frame.columns), None)
        if missing is not None:
            held = ", ".join(_members_of(frame)) or "none"
            raise BandmasterError(f"{path}: no column {missing!r}; members in the log: {held}")
        self.answers = {name: self._labels(name) for name in answers}

    def __len__(self) -> int:
        return len(self.frame)

    def __contains__(self, name: str) -> bool:
        return name in self.frame.columns

    def refuse(self, name: str, bad: BoolArray, must: str) -> None:
        """Raise for the first row marked in ``bad``."""
        if bad.any():
            row = int(bad.argmax())
            held = self.frame[name][row]
            value = str(held.to_list() if isinstance(held, pl.Series) else held)
            value = value if len(value) <= 60 else f"{value[:59]}…"
            raise BandmasterError(f"{self.path}: row {row}, column {name!r}: {value} {must}")

    def numbers(self, name: str, must: str, low: float = -np.inf, high: float = np.inf) -> FloatArray:
        """A numeric column, NaN where null. Refuses text, infinities and what lies outside [low, high]."""
        column = self.frame[name]
        try:
            values = column.cast(pl.Float64, strict=False)
        except pl.exceptions.PolarsError:
            raise BandmasterError(f"{self.path}: column {name!r} holds {column.dtype}; it {must}") from None
        self.refuse(name, (values.is_null() & column.is_not_null()).to_numpy(), must)
        figures = np.array(values.fill_null(np.nan).to_numpy())
        self.refuse(name, np.isinf(figures) | (figures < low) | (figures > high), must)
        return figures

    def indices(self, name: str, classes: Sequence[int | str]) -> IntArray:
        """The class index of each row of a column of answers, ``NO_LABEL`` where null."""
        column = self.answers[name]
        index = {c: i for i, c in enumerate(classes)}
        values = column.unique().drop_nulls()
        found = values.to_frame("value").with_columns(
            index=pl.Series([index.get(v, NO_LABEL) for v in values], dtype=pl.Int64)
        )
        joined = column.to_frame("value").join(found, on="value", how="left", maintain_order="left")["index"]
        indices = joined.fill_null(NO_LABEL).to_numpy()
        strange = column.is_not_null().to_numpy() & (indices == NO_LABEL)
        self.refuse(name, strange, f"is none of the {len(classes)} classes; name them all under classes: in the config")
        return np.array(indices)

    def _labels(self, name: str) -> pl.Series:
        """A column of answers as integers or text. Whole floats pass: that is what pandas makes of nulls."""
        column = self.frame[name]
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


_CLASS = "must be a class: an integer or a text, null where there is none"


def _classes_of(table: _Table) -> tuple[int | str, ...]:
    """The classes as the file's metadata lists them, or else all that occur, sorted."""
    if table.path.suffix == ".parquet" and (stored := pl.read_parquet_metadata(table.path).get("classes")):
        return _stored_classes(table.path, stored)
    columns = [c for c in table.answers.values() if c.null_count() < len(c)]
    if len({c.dtype for c in columns}) > 1:
        raise BandmasterError(f"{table.path}: label and __pred columns mix text and numbers; give all of them one type")
    return tuple(sorted({v for c in columns for v in c.drop_nulls().unique().to_list()}))


def _stored_classes(path: Path, stored: str) -> tuple[int | str, ...]:
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


def _delays(table: _Table) -> IntArray:
    if "label_delay" not in table:
        return np.zeros(len(table), dtype=np.int64)
    delays = table.numbers("label_delay", "must be a whole number of requests, 0 or more", 0.0, 1e15)
    return np.nan_to_num(delays).astype(np.int64)


def _times(table: _Table) -> FloatArray:
    if "ts" not in table:
        return np.arange(len(table), dtype=np.float64)
    must = "must be Unix time in seconds, in every row"
    times = table.numbers("ts", must)
    table.refuse("ts", np.isnan(times), must)
    return times


def _figure(table: _Table, member: str, name: str, declared: float | None) -> FloatArray:
    column = f"{member}__{name}"
    fallback = np.nan if declared is None else declared
    if column not in table:
        return np.full(len(table), fallback)
    high, must = (1.0, "must lie in [0, 1]") if name == "explainability" else (np.inf, "must be a figure, 0 or more")
    values = table.numbers(column, must, 0.0, high)
    return np.where(np.isnan(values), fallback, values)


def _features(table: _Table) -> FloatArray:
    frame = table.frame
    columns = [c for c in frame.columns if _is_feature(c)]
    columns += [c for c in frame.columns if c.startswith("ctx_") and frame[c].dtype.is_numeric()]
    columns.sort(key=lambda c: (c.startswith("ctx_"), int(c[1:]) if c[1:].isdecimal() else 0, c))
    if not columns:
        return np.zeros((len(frame), 0))
    numbers = [np.nan_to_num(table.numbers(c, "must be a number: it is a feature")) for c in columns]
    return np.stack([features_of(row[None]) for row in np.stack(numbers, axis=1)])


def _tags(path: Path, frame: pl.DataFrame) -> tuple[tuple[str, ...], ...]:
    columns = [c for c in frame.columns if c.startswith("ctx_") and not frame[c].dtype.is_numeric()]
    if not columns:
        return ()
    if nested := [c for c in columns if frame[c].dtype.is_nested()]:
        raise BandmasterError(f"{path}: column {nested[0]!r} holds {frame[nested[0]].dtype}; give it numbers or text")
    texts = frame.select(pl.col(columns).cast(pl.String).fill_null("")).rows()
    return tuple(tuple(f"{c[4:]}={v}" for c, v in zip(columns, row, strict=True)) for row in texts)


def _scores(table: _Table, members: Sequence[str], classes: Sequence[int | str]) -> Scores:
    """The distributions (N, M, C): as logged, or the top class's probability with the rest spread evenly."""
    scores = np.zeros((len(table), len(members), len(classes)), dtype=np.float32)
    for m, member in enumerate(members):
        pred = table.indices(f"{member}__pred", classes)
        if f"{member}__proba" in table:
            scores[:, m] = _logged_scores(table, f"{member}__proba", pred, len(classes))
        else:
            _spread(scores[:, m], pred, _confidences(table, f"{member}__conf", len(classes)))
    return scores


def _confidences(table: _Table, name: str, width: int) -> FloatArray:
    if name not in table:
        return np.ones(len(table))
    conf = np.nan_to_num(table.numbers(name, "must be a probability in [0, 1]", 0.0, 1.0))
    # The named class must stay the most probable one, whatever confidence came with it.
    return np.clip(conf, min(1.0, 1.0 / width + 1e-3), 1.0)


def _spread(scores: Scores, pred: IntArray, conf: FloatArray) -> None:
    """Fill one member's ``scores`` (N, C) from its top classes and their probabilities."""
    answered = np.flatnonzero(pred != NO_LABEL)
    scores[answered] = ((1.0 - conf[answered]) / max(scores.shape[1] - 1, 1))[:, None]
    scores[answered, pred[answered]] = conf[answered]


def _logged_scores(table: _Table, name: str, pred: IntArray, width: int) -> FloatArray:
    """The distributions of a column of lists, zeros where the member gave no answer."""
    answered = pred != NO_LABEL
    column = table.frame[name]
    try:
        lists = column.cast(pl.List(pl.Float64))
    except pl.exceptions.PolarsError:
        raise BandmasterError(f"{table.path}: column {name!r} holds {column.dtype}; give lists of numbers") from None
    table.refuse(
        name, answered & (lists.list.len().fill_null(0).to_numpy() != width), f"must hold {width} figures, one a class"
    )
    held = lists.filter(pl.Series(answered)).list.explode().fill_null(np.nan).to_numpy()
    scores = np.zeros((len(table), width))
    scores[answered] = held.reshape(-1, width)
    fair = (scores >= 0.0).all(axis=1) & (np.abs(scores.sum(axis=1) - 1.0) < 1e-3)
    table.refuse(name, answered & ~fair, "is no distribution: figures ≥ 0 that sum to 1")
    # One answer may differ from its own most probable class (some libraries calibrate the two apart); most do not.
    if 2 * int((scores.argmax(axis=1) == pred).sum()) < int(answered.sum()):
        raise BandmasterError(
            f"{table.path}: column {name!r}: most rows put another class than __pred first; list the classes in the "
            "order of the figures, in the file's metadata 'classes' or under classes: in the config"
        )
    return scores
