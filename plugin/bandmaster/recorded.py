"""Recorded ensembles: a log with every member's output per request, and members and a meter that play it back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from bandmaster.core import (
    Array,
    BandmasterError,
    Ensemble,
    FloatArray,
    IntArray,
    Member,
    MemberAnswer,
    Profile,
    Request,
)
from bandmaster.features import features_of

NO_LABEL = -1
"""The class index of a request whose label never became known."""


@dataclass(frozen=True, slots=True)
class RecordedLog:
    """N requests in arrival order, answered by all M members.

    ``truth`` (N,) are class indices, ``NO_LABEL`` where unknown; ``delay`` (N,) counts requests until the label
    arrives; ``scores`` is (N, M, C), a row of zeros where a member abstained; the figures are (N, M), in s, J, the
    log's own money and [0, 1], NaN where nobody knows.
    """

    ensemble: Ensemble
    truth: IntArray
    delay: IntArray
    at: FloatArray
    features: FloatArray
    tags: tuple[tuple[str, ...], ...]
    phases: tuple[str, ...] | None
    scores: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    latency_s: FloatArray
    energy_j: FloatArray
    cost: FloatArray
    explainability: FloatArray
    sha256: str

    def __len__(self) -> int:
        return len(self.truth)

    def request(self, i: int) -> Request:
        """Request ``i``. Its only row holds ``i`` itself, which is all that a recorded member needs."""
        tags = self.tags[i] if self.tags else ()
        return Request(rows=np.array([[i]]), features=self.features[i], at=float(self.at[i]), tags=tags)

    def take(self, order: IntArray) -> RecordedLog:
        """The requests in another order. Arrival times stay as they were: it is the traffic that is redrawn."""
        return replace(
            self,
            tags=tuple(self.tags[i] for i in order) if self.tags else (),
            phases=tuple(self.phases[i] for i in order) if self.phases else None,
            **{name: getattr(self, name)[order] for name in _PER_REQUEST},
        )


_PER_REQUEST = ("truth", "delay", "features", "scores", "latency_s", "energy_j", "cost", "explainability")


class RecordedMember:
    """Answers request ``i``, given as the row ``[i]``, with what the log holds."""

    def __init__(self, name: str, scores: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
        self.name, self._scores = name, scores

    def predict(self, rows: Array) -> FloatArray:
        return self._scores[rows[:, 0]].astype(np.float64)


class RecordedMeter:
    """Gives the log's own figures for a recorded member."""

    def __init__(self, log: RecordedLog) -> None:
        self._log = log
        self._index = {name: m for m, name in enumerate(log.ensemble.names)}

    def run(self, member: Member, rows: Array, index: IntArray) -> MemberAnswer:
        i, m = int(rows[0, 0]), self._index[member.name]
        log = self._log
        return MemberAnswer(
            name=member.name,
            rows=index,
            scores=member.predict(rows[index]),
            latency_s=float(log.latency_s[i, m]),
            energy_j=float(log.energy_j[i, m]),
            energy_from="declared",
            cost=_known(log.cost[i, m]),
            explainability=_known(log.explainability[i, m]),
        )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def read_log(
    path: Path, members: Sequence[str] | None, profiles: dict[str, Profile], classes: Sequence[int | str] | None
) -> RecordedLog:
    """Read a recorded ensemble: parquet, CSV or Arrow by its suffix; columns as in the README.

    ``members`` picks and orders the members, ``None`` takes all that the log names. Raises ``BandmasterError``
    naming the file, the column and the fix.
    """
    frame = _read_frame(path)
    names = tuple(members) if members is not None else _members_of(frame)
    if not names:
        raise BandmasterError(f"{path}: no column ends in __pred, so there is no member; is it a recorded ensemble?")
    missing = [c for c in ("label", *(f"{n}__pred" for n in names)) if c not in frame.columns]
    if missing:
        raise BandmasterError(f"{path}: no column {missing[0]!r}; members in the log: {', '.join(_members_of(frame))}")
    known = tuple(classes) if classes else _classes_of(frame, names, path)
    ensemble = Ensemble(names, known, {n: profiles.get(n, Profile()) for n in names})
    figures = {
        name: np.stack([_figure(frame, n, name, getattr(ensemble.profiles[n], name)) for n in names], axis=1)
        for name in ("latency_s", "energy_j", "cost", "explainability")
    }
    return RecordedLog(
        ensemble=ensemble,
        truth=_indices(frame["label"], known, path, "label"),
        delay=_numbers(frame, "label_delay", 0.0).astype(np.int64),
        at=_numbers(frame, "ts", None),
        features=_features(frame),
        tags=_tags(frame),
        phases=tuple(frame["phase"].cast(pl.String).to_list()) if "phase" in frame.columns else None,
        scores=np.stack([_scores(frame, n, known, path) for n in names], axis=1),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        **figures,
    )


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
    except (pl.exceptions.PolarsError, OSError) as problem:
        raise BandmasterError(f"{path}: cannot be read as {path.suffix[1:]}: {problem}") from None
    if frame.is_empty():
        raise BandmasterError(f"{path}: holds no request")
    return frame


def _members_of(frame: pl.DataFrame) -> tuple[str, ...]:
    return tuple(c.removesuffix("__pred") for c in frame.columns if c.endswith("__pred"))


def _classes_of(frame: pl.DataFrame, names: Sequence[str], path: Path) -> tuple[int | str, ...]:
    columns = [frame["label"], *(frame[f"{n}__pred"] for n in names)]
    if path.suffix == ".parquet" and (stored := pl.read_parquet_metadata(path).get("classes")):
        return tuple(json.loads(stored))
    if len({c.dtype == pl.String for c in columns}) > 1:
        raise BandmasterError(f"{path}: label and __pred columns mix text and numbers; give all of them one type")
    return tuple(sorted({v for c in columns for v in c.drop_nulls().unique().to_list()}))


def _indices(column: pl.Series, classes: Sequence[int | str], path: Path, name: str) -> IntArray:
    index = {c: i for i, c in enumerate(classes)}
    found = [index.get(v, NO_LABEL) for v in column.to_list()]
    for row, (value, i) in enumerate(zip(column.to_list(), found, strict=True)):
        if value is not None and i == NO_LABEL:
            raise BandmasterError(f"{path}: row {row}, column {name!r}: {value!r} is none of the classes")
    return np.array(found, dtype=np.int64)


def _numbers(frame: pl.DataFrame, name: str, default: float | None) -> FloatArray:
    """A numeric column; where absent ``default``, or the row number if that is ``None``."""
    if name not in frame.columns:
        return np.arange(len(frame), dtype=np.float64) if default is None else np.full(len(frame), default)
    try:
        return frame[name].cast(pl.Float64, strict=True).to_numpy()
    except pl.exceptions.PolarsError as problem:
        raise BandmasterError(f"column {name!r} must be numeric: {problem}") from None


def _figure(frame: pl.DataFrame, member: str, name: str, declared: float | None) -> FloatArray:
    column = f"{member}__{name}"
    fallback = np.nan if declared is None else declared
    if column not in frame.columns:
        return np.full(len(frame), fallback)
    values = _numbers(frame, column, np.nan)
    return np.where(np.isnan(values), fallback, values)


def _features(frame: pl.DataFrame) -> FloatArray:
    columns = [c for c in frame.columns if c[:1] == "x" and c[1:].isdigit()]
    columns += [c for c in frame.columns if c.startswith("ctx_") and frame[c].dtype.is_numeric()]
    columns.sort(key=lambda c: (c.startswith("ctx_"), int(c[1:]) if c[1:].isdigit() else 0, c))
    if not columns:
        return np.zeros((len(frame), 0))
    table = np.nan_to_num(frame.select(pl.col(columns).cast(pl.Float64)).to_numpy())
    return np.stack([features_of(row[None]) for row in table])


def _tags(frame: pl.DataFrame) -> tuple[tuple[str, ...], ...]:
    columns = [c for c in frame.columns if c.startswith("ctx_") and not frame[c].dtype.is_numeric()]
    if not columns:
        return ()
    texts = frame.select(pl.col(columns).cast(pl.String).fill_null("")).rows()
    return tuple(tuple(f"{c[4:]}={v}" for c, v in zip(columns, row, strict=True)) for row in texts)


def _scores(
    frame: pl.DataFrame, member: str, classes: Sequence[int | str], path: Path
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """A member's distributions (N, C): as logged, or its top class's probability with the rest spread evenly."""
    rows, width = len(frame), len(classes)
    pred = _indices(frame[f"{member}__pred"], classes, path, f"{member}__pred")
    answered = pred != NO_LABEL
    if f"{member}__proba" in frame.columns:
        proba = np.array([p or [0.0] * width for p in frame[f"{member}__proba"].to_list()], dtype=np.float32)
        if proba.shape != (rows, width):
            raise BandmasterError(f"{path}: {member}__proba must hold {width} figures a row, one a class")
        return proba
    conf = np.nan_to_num(_numbers(frame, f"{member}__conf", 1.0))
    # The named class must stay the most probable one, whatever confidence came with it.
    conf = np.clip(conf, min(1.0, 1.0 / width + 1e-3), 1.0)
    scores = np.repeat(((1.0 - conf) / max(width - 1, 1))[:, None], width, axis=1)
    scores[np.arange(rows)[answered], pred[answered]] = conf[answered]
    scores[~answered] = 0.0
    return scores.astype(np.float32)
