"""Recorded ensembles: a log with every member's output per request, and members and a meter that play it back."""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from bandmaster.core import (
    DEFAULT_PROFILE,
    VALUE,
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
    Task,
)
from bandmaster.inputs import is_raw
from bandmaster.streams import answered, is_stream
from bandmaster.table import NO_LABEL, Scores, Table, is_input, read_table

OTHER = "other"
"""The last class where members answer what is never true: all of that is one class, which is always wrong."""


@dataclass(frozen=True, slots=True)
class RecordedLog:
    """N requests in arrival order, answered by all M members. Most logs have one row a request: then R is N.

    ``truth`` (R,) are class indices, ``NO_LABEL`` where unknown; ``delay`` (N,) counts requests until the label
    arrives; ``scores`` is (R, M, C), a row of zeros where a member abstained; the figures are (R, M), in s, J, the
    log's own money and [0, 1], NaN where nobody knows.

    ``scores`` and figures stay in the file's order, as they are large: in another order, request ``i`` is their row
    ``rows[i]``. ``profiles`` (N,) name each request's weights; ``None`` where all are judged by the contract's own.

    In regression labels are ``values`` (R,), NaN where unknown, and ``truth`` is 0 where they are known; ``scores`` are
    the members' values (R, M, 1), NaN where one gave none, which counts as its failure.

    Request ``i`` has the rows from ``bounds[i]`` to ``bounds[i + 1]``; ``bounds`` (N + 1,) is ``None`` where each has
    one. What belongs to a request, not to a row of it, is that of its first row; its features are the rows' mean.
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
    profiles: tuple[str, ...] | None = None
    values: FloatArray | None = None
    bounds: IntArray | None = None

    def __len__(self) -> int:
        return len(self.at)

    @property
    def rows(self) -> IntArray:
        """Each row's place in the file, (R,), request after request."""
        return np.arange(len(self.truth)) if self.order is None else self.order

    @property
    def starts(self) -> IntArray:
        """Each request's first row, (N,)."""
        return np.arange(len(self)) if self.bounds is None else self.bounds[:-1]

    @property
    def labelled(self) -> BoolArray:
        """Which requests (N,) have a label for each of their rows."""
        return np.logical_and.reduceat(self.truth != NO_LABEL, self.starts)

    def part(self, which: slice) -> RecordedLog:
        """The requests in ``which``, without a step: a view, for figures of their own."""
        start, stop, _ = which.indices(len(self))
        rows = slice(start, stop)
        if self.bounds is not None:
            rows = slice(int(self.bounds[start]), int(self.bounds[stop]))
        return replace(
            self,
            truth=self.truth[rows],
            delay=self.delay[start:stop],
            at=self.at[start:stop],
            features=self.features[start:stop],
            tags=self.tags[start:stop],
            phases=self.phases[start:stop] if self.phases else None,
            profiles=self.profiles[start:stop] if self.profiles else None,
            order=self.rows[rows],
            values=None if self.values is None else self.values[rows],
            bounds=None if self.bounds is None else self.bounds[start : stop + 1] - self.bounds[start],
        )

    def by_row(self, values: Array) -> Array:
        """Figures of requests (N, …), one for each of their rows, (R, …)."""
        return values if self.bounds is None else np.repeat(values, np.diff(self.bounds), axis=0)

    def by_request(self, values: FloatArray) -> FloatArray:
        """The mean over each request's rows of figures (R, …), as (N, …)."""
        if self.bounds is None:
            return values
        sizes = np.diff(self.bounds).reshape(-1, *[1] * (values.ndim - 1))
        return np.asarray(np.add.reduceat(values, self.starts) / sizes)

    @property
    def window_s(self) -> float:
        """How long after its request, at most, a label comes that comes before the log ends, s."""
        after = np.arange(len(self)) + self.delay
        (comes,) = np.nonzero((after < len(self)) & self.labelled)
        return float((self.at[after[comes]] - self.at[comes]).max(initial=0.0))

    def labels(self, i: int) -> tuple[int | float, ...]:
        """Request ``i``'s labels, one a row, as an outcome has them."""
        of = slice(i, i + 1) if self.bounds is None else slice(self.bounds[i], self.bounds[i + 1])
        return tuple((self.truth if self.values is None else self.values)[of].tolist())

    def request(self, i: int) -> Request:
        """Request ``i``. Its rows hold their places in the file, which is all that a recorded member needs."""
        tags = self.tags[i] if self.tags else ()
        if self.bounds is None:
            rows = np.array([[i if self.order is None else self.order[i]]])
        else:
            rows = self.rows[self.bounds[i] : self.bounds[i + 1], None]
        return Request(
            rows=rows,
            features=self.features[i],
            at=float(self.at[i]),
            tags=tags,
            profile=self.profiles[i] if self.profiles else DEFAULT_PROFILE,
        )

    def redrawn(self, order: IntArray) -> RecordedLog:
        """Some of the requests, any of them as often as named, in another order.

        Arrival times stay as they were, for it is the traffic that is redrawn; past the last one they begin again.
        """
        laps, within = np.divmod(np.arange(len(order)), len(self))
        lap = self.at[-1] - self.at[0] + (self.at[-1] - self.at[0]) / max(len(self) - 1, 1)
        rows, bounds = order, None
        if self.bounds is not None:
            rows = np.concatenate([np.arange(self.bounds[i], self.bounds[i + 1]) for i in order])
            bounds = np.r_[0, np.cumsum(np.diff(self.bounds)[order])]
        return replace(
            self,
            truth=self.truth[rows],
            delay=self.delay[order],
            at=self.at[within] + laps * lap,
            features=self.features[order],
            tags=tuple(self.tags[i] for i in order) if self.tags else (),
            phases=tuple(self.phases[i] for i in order) if self.phases else None,
            order=self.rows[rows],
            bounds=bounds,
            profiles=tuple(self.profiles[i] for i in order) if self.profiles else None,
            values=None if self.values is None else self.values[rows],
        )


class RecordedMember:
    """Answers a request, given as its row in the file, with what the log holds."""

    def __init__(self, name: str, scores: Scores) -> None:
        self.name, self._scores = name, scores

    def predict(self, rows: Array) -> FloatArray:
        return self._scores[rows[:, 0]].astype(np.float64)


class RecordedMeter:
    """Gives the log's own figures for a recorded member.

    A call that several rows go in takes as long as its slowest row, as a service writes a call's latency on each of its
    rows; energy and cost are each row's share and add up; explainability is the rows' mean.
    """

    def __init__(self, log: RecordedLog) -> None:
        self._log = log
        self._index = {name: m for m, name in enumerate(log.ensemble.names)}

    def run(self, member: Member, rows: Array, index: IntArray, within_s: float = math.inf) -> MemberAnswer:
        log, m = self._log, self._index[member.name]
        if len(index) > 1:
            return self._several(member, rows[index], index)
        at = rows.item(int(index[0])), m
        took = log.latency_s.item(at), log.energy_j.item(at), log.cost.item(at), log.explainability.item(at)
        return self._answer(member, rows[index], index, *took)

    def _several(self, member: Member, rows: Array, index: IntArray) -> MemberAnswer:
        log, at = self._log, (rows[:, 0], self._index[member.name])
        latency, energy, cost = log.latency_s[at].max(), log.energy_j[at].sum(), log.cost[at].sum()
        explainability = log.explainability[at].mean()
        return self._answer(member, rows, index, float(latency), float(energy), float(cost), float(explainability))

    def _answer(
        self, member: Member, rows: Array, index: IntArray, latency: float, energy: float, cost: float, clear: float
    ) -> MemberAnswer:
        scores = member.predict(rows)
        failed = self._log.values is not None and bool(np.isnan(scores).any())
        return MemberAnswer(
            name=member.name,
            rows=index,
            scores=None if failed else scores,
            error="gave no value, as logged" if failed else None,
            latency_s=latency,
            energy_j=energy,
            energy_from="declared",
            cost=_known(cost),
            explainability=_known(clear),
        )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


# ---- Reading a log -----------------------------------------------------------------------------------------


def read_log(
    path: Path, members: Sequence[str] | None, profiles: Mapping[str, Profile], classes: Sequence[int | str] | None
) -> RecordedLog:
    """Read one log, as ``read_logs`` does."""
    return read_logs([path], members, profiles, classes)[0]


def read_logs(
    paths: Sequence[Path],
    members: Sequence[str] | None,
    profiles: Mapping[str, Profile],
    classes: Sequence[int | str] | None,
    cache: Path | None = None,
    told: Callable[[str], None] | None = None,
    task: Task = "classification",
    weights: Mapping[str, float] | None = None,
    ask: Callable[[Table], Table] | None = None,
) -> list[RecordedLog]:
    """Read recorded ensembles and streams: parquet, CSV or Arrow by the suffix; columns as in docs/replay.md.

    ``members`` picks and orders the members, ``None`` takes all that a log names. The ``classes``, or else those that
    the files list in their metadata, or else the labels that are ever true in any of the logs are the ensemble's; one
    more, ``other``, follows where a member answers anything else. In regression labels and answers are numbers, and
    there are no classes. ``weights`` are those declared of members. A stream's members are trained here, unless the
    folder ``cache`` holds what they answer; ``told`` hears of that. ``ask`` makes a recorded ensemble of raw inputs.
    Raises ``BandmasterError`` naming the file, the column, the row (counted from 0) and the fix.
    """
    tables = []
    for path in paths:
        table = read_table(path)
        if is_stream(table):
            table = answered(table, classes, cache, told, task)
        elif ask is not None and is_raw(table):
            table = ask(table)
        tables.append(table)
    named = [_members(table, members) for table in tables]
    if task == "regression":
        ensembles = [_ensemble(names, (VALUE,), profiles, task, weights or {}) for names in named]
        return [_read_values(table, ensemble) for table, ensemble in zip(tables, ensembles, strict=True)]
    known = tuple(classes) if classes else _classes_of(tables, named)
    strange = any(_answers_beyond(table, names, known) for table, names in zip(tables, named, strict=True))
    whole = (*known, _unlike(OTHER, known)) if strange else known
    ensembles = [_ensemble(names, whole, profiles, task, weights or {}) for names in named]
    return [
        _read(table, ensemble, table.indices("label", known), _scores(table, ensemble, known))
        for table, ensemble in zip(tables, ensembles, strict=True)
    ]


def _ensemble(
    names: tuple[str, ...],
    classes: tuple[int | str, ...],
    profiles: Mapping[str, Profile],
    task: Task,
    weights: Mapping[str, float],
) -> Ensemble:
    return Ensemble(names, classes, {n: profiles.get(n, Profile()) for n in names}, task, weights)


def _read_values(table: Table, ensemble: Ensemble) -> RecordedLog:
    must = "must be a number, null where there is none"
    values = table.numbers("label", must)
    scores = np.stack([table.numbers(f"{n}__pred", must) for n in ensemble.names], axis=1)[..., None]
    log = _read(table, ensemble, np.where(np.isnan(values), NO_LABEL, 0), scores)
    if log.bounds is not None:  # a call fails as a whole
        failed = np.logical_or.reduceat(np.isnan(scores), log.starts)
        scores[np.repeat(failed, np.diff(log.bounds), axis=0)] = np.nan
    return replace(log, values=values)


def _read(table: Table, ensemble: Ensemble, truth: IntArray, scores: Scores) -> RecordedLog:
    def figures(name: str) -> FloatArray:
        declared = [getattr(ensemble.profiles[n], name) for n in ensemble.names]
        if not any(f"{n}__{name}" in table for n in ensemble.names):
            return np.broadcast_to(np.array(declared, dtype=np.float64), (len(table), len(declared)))
        columns = [_figure(table, n, name, d) for n, d in zip(ensemble.names, declared, strict=True)]
        return np.stack(columns, axis=1)

    bounds = _bounds(table)
    first = np.arange(len(table)) if bounds is None else bounds[:-1]
    tags, phases, profiles = _tags(table), _texts(table, "phase", ""), _texts(table, "profile", DEFAULT_PROFILE)
    features = table.features()
    if bounds is not None:
        features = np.add.reduceat(features, first) / np.diff(bounds)[:, None]
    log = RecordedLog(
        ensemble=ensemble,
        truth=truth,
        delay=_delays(table)[first],
        at=read_times(table)[first],
        features=features,
        tags=tuple(tags[i] for i in first) if tags else (),
        phases=tuple(phases[i] for i in first) if phases else None,
        profiles=tuple(profiles[i] for i in first) if profiles else None,
        bounds=bounds,
        scores=scores,
        sha256=table.sha256,
        latency_s=figures("latency_s"),
        energy_j=figures("energy_j"),
        cost=figures("cost"),
        explainability=figures("explainability"),
        unused=tuple(c for c in table.columns if not _is_used(c, ensemble.names)),
    )
    table.require_unchanged()
    return log


def _is_used(column: str, members: Sequence[str]) -> bool:
    member, mark, what = column.rpartition("__")
    if mark and member in members:
        return what in ("pred", "conf", "proba", "latency_s", "energy_j", "cost", "explainability")
    return (
        column in ("label", "label_delay", "request", "ts", "phase", "profile")
        or is_input(column)
        or column.startswith("ctx_")
    )


# ---- Members and classes -----------------------------------------------------------------------------------


def _members(table: Table, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The members to read. Raises ``BandmasterError`` unless the table has their answers, and labels."""
    held = table.answered_by()
    names = tuple(wanted) if wanted is not None else held
    if not names:
        raise BandmasterError(
            f"{table.path}: no column ends in __pred, so there is no member; is it a recorded ensemble?"
        )
    missing = next((c for c in ("label", *(f"{n}__pred" for n in names)) if c not in table), None)
    if missing is not None:
        raise BandmasterError(f"{table.path}: no column {missing!r}; members in the log: {', '.join(held) or 'none'}")
    return names


def _classes_of(tables: Sequence[Table], named: Sequence[Sequence[str]]) -> tuple[int | str, ...]:
    """The classes that the files list, or else the labels that are ever true, sorted.

    Where members' figures are one a class, of classes that nobody lists, all that occur are classes.
    """
    listed = {table.classes for table in tables}
    if len(listed) > 1:
        raise BandmasterError(
            f"{', '.join(str(t.path) for t in tables)}: their metadata list other 'classes'; make them agree, or list "
            "all under classes: in the config"
        )
    if (classes := listed.pop()) is not None:
        return classes
    figured = any(f"{n}__proba" in table for table, names in zip(tables, named, strict=True) for n in names)
    kinds: set[pl.DataType] = set()
    found: set[int | str] = set()
    for table, names in zip(tables, named, strict=True):
        columns = {c: table.labels(c) for c in ("label", *(f"{n}__pred" for n in names))}
        kinds |= {values.dtype for values in columns.values() if values.null_count() < len(values)}
        if len(kinds) > 1:
            raise BandmasterError(
                f"{table.path}: label and __pred columns mix text and numbers; give all of them one type"
            )
        for column, values in columns.items():
            if figured or column == "label":
                found.update(values.drop_nulls().unique().to_list())
    if not found:
        where = ", ".join(str(table.path) for table in tables)
        raise BandmasterError(f"{where}: no row has a label, so that no class is known; list them under classes:")
    return tuple(sorted(found, key=lambda c: (isinstance(c, str), c)))


def _answers_beyond(table: Table, members: Sequence[str], known: Sequence[int | str]) -> bool:
    """Whether a member ever answers something that is none of the classes."""
    return any(set(table.labels(f"{n}__pred").drop_nulls().unique().to_list()) - set(known) for n in members)


def _unlike(name: str, taken: Sequence[int | str]) -> str:
    """``name``, in as many brackets as it takes to be none of those ``taken``."""
    while name in taken:
        name = f"({name})"
    return name


# ---- Columns -----------------------------------------------------------------------------------------------


def _delays(table: Table) -> IntArray:
    if "label_delay" not in table:
        return np.zeros(len(table), dtype=np.int64)
    delays = table.numbers("label_delay", "must be a whole number of requests, 0 or more", 0.0, 1e15)
    return np.nan_to_num(delays).astype(np.int64)


def _bounds(table: Table) -> IntArray | None:
    """Where each request's rows begin, and the last one's end, (N + 1,); ``None`` where every request has one row."""
    if "request" not in table:
        return None
    names = table.column("request")
    must = "must name each row's request, and the rows of one request must follow each other"
    table.refuse("request", names.is_null().to_numpy(), must)
    starts = np.flatnonzero(np.r_[True, (names != names.shift()).to_numpy()[1:]])
    again = np.zeros(len(table), dtype=np.bool_)
    again[starts] = (
        names.gather(starts).is_duplicated().to_numpy() & ~names.gather(starts).is_first_distinct().to_numpy()
    )
    table.refuse("request", again, must)
    return np.r_[starts, len(table)] if len(starts) < len(table) else None


def read_times(table: Table) -> FloatArray:
    """When each request came (N,), in Unix s: the column ``ts``; one a second where there is none."""
    if "ts" not in table:
        return np.arange(len(table), dtype=np.float64)
    must = "must be Unix time in seconds, in every row"
    times = table.numbers("ts", must)
    table.refuse("ts", np.isnan(times), must)
    table.refuse("ts", np.diff(times, prepend=times[:1]) < 0.0, "is earlier than the row before; sort the log by ts")
    return times


def _texts(table: Table, column: str, missing: str) -> tuple[str, ...] | None:
    """A column as texts; ``None`` where there is none."""
    if column not in table:
        return None
    if (held := table.schema[column]).is_nested():
        raise BandmasterError(f"{table.path}: column {column!r} holds {held}; give it text")
    return tuple(table.column(column).cast(pl.String).fill_null(missing).to_list())


def _figure(table: Table, member: str, name: str, declared: float | None) -> FloatArray:
    column = f"{member}__{name}"
    fallback = np.nan if declared is None else declared
    if column not in table:
        return np.full(len(table), fallback)
    high, must = (1.0, "must lie in [0, 1]") if name == "explainability" else (np.inf, "must be a figure, 0 or more")
    values = table.numbers(column, must, 0.0, high)
    return np.where(np.isnan(values), fallback, values)


def _tags(table: Table) -> tuple[tuple[str, ...], ...]:
    columns = [c for c in table.columns if c.startswith("ctx_") and not table.schema[c].is_numeric()]
    if not columns:
        return ()
    if nested := [c for c in columns if table.schema[c].is_nested()]:
        raise BandmasterError(
            f"{table.path}: column {nested[0]!r} holds {table.schema[nested[0]]}; give it numbers or text"
        )
    texts = [table.column(c).cast(pl.String).fill_null("") for c in columns]
    return tuple(tuple(f"{c[4:]}={v}" for c, v in zip(columns, row, strict=True)) for row in zip(*texts, strict=True))


# ---- Scores ------------------------------------------------------------------------------------------------


IN_MEMORY = 1 << 30
"""The most bytes of scores that are held in memory; more lie in a temporary file, of which memory holds what it can."""

AT_ONCE = 1 << 26
"""Figures that are read at once."""


def _scores(table: Table, ensemble: Ensemble, known: Sequence[int | str]) -> Scores:
    """The distributions (N, M, C): as logged, or the top class's probability with the rest spread evenly.

    ``other`` gets no more of the rest than any class, though it stands for many: it must not outweigh the answer.
    """
    shape = (len(table), len(ensemble.names), len(ensemble.classes))
    scores, step = _room(shape), max(1, AT_ONCE // (shape[1] * shape[2]))
    first = np.zeros((2, shape[1]), dtype=np.int64)
    for start in range(0, len(table), step):
        part = table if step >= len(table) else table.part(start, start + step)
        _read_scores(part, ensemble, known, scores[start : start + step], first)
    _require_order(table, ensemble.names, first)
    return scores


def _room(shape: tuple[int, ...]) -> Scores:
    """Zeros in single precision: in memory, or in a file that goes with them."""
    size = 4 * math.prod(shape)
    if size <= IN_MEMORY:
        return np.zeros(shape, dtype=np.float32)
    folder = tempfile.TemporaryDirectory(prefix="bandmaster-")
    path = Path(folder.name) / "scores"
    try:
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):  # to learn now that there is no room, not at a page in use
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
        scores = np.memmap(path, np.float32, "r+", shape=shape)
    except OSError as problem:
        folder.cleanup()
        raise BandmasterError(
            f"{folder.name}: cannot take {size / 1e9:.3g} GB of members' scores ({problem.strerror}); "
            "name a folder that can in TMPDIR"
        ) from None
    weakref.finalize(scores, folder.cleanup)
    return scores


def _read_scores(table: Table, ensemble: Ensemble, known: Sequence[int | str], scores: Scores, first: IntArray) -> None:
    """Put the distributions into ``scores`` (N, M, C), zeros until now. Counts in ``first`` (2, M) each member's logged
    ones, and how many of them put first what it answered.
    """
    strange = len(known) if len(ensemble.classes) > len(known) else None
    for m, member in enumerate(ensemble.names):
        pred = table.indices(f"{member}__pred", known, strange)
        column = f"{member}__proba"
        # Logged figures are one a known class; whoever answered another is taken at that word.
        logged = (pred != NO_LABEL) & (pred != strange) & (column in table)
        if (spread := (pred != NO_LABEL) & ~logged).any():
            _spread(scores[:, m], spread, pred, _confidences(table, f"{member}__conf", len(ensemble.classes)))
        if column in table:
            given = _logged_scores(table, column, logged, len(known))
            scores[logged, m, : len(known)] = given
            first[:, m] += len(given), (given.argmax(axis=1) == pred[logged]).sum()


def _confidences(table: Table, name: str, width: int) -> FloatArray:
    if name not in table:
        return np.ones(len(table))
    conf = np.nan_to_num(table.numbers(name, "must be a probability in [0, 1]", 0.0, 1.0))
    # The named class must stay the most probable one, whatever confidence came with it.
    return np.clip(conf, min(1.0, 1.0 / width + 1e-3), 1.0)


def _spread(scores: Scores, which: BoolArray, pred: IntArray, conf: FloatArray) -> None:
    """Fill the rows ``which`` of one member's ``scores`` (N, C) from its top classes and their probabilities."""
    scores[which] = ((1.0 - conf[which]) / max(scores.shape[1] - 1, 1))[:, None]
    scores[which, pred[which]] = conf[which]


def _logged_scores(table: Table, name: str, which: BoolArray, width: int) -> FloatArray:
    """The distributions (rows ``which``, width) of a column of lists."""
    column = table.column(name)
    try:
        lists = column.cast(pl.List(pl.Float64))
    except pl.exceptions.PolarsError:
        raise BandmasterError(f"{table.path}: column {name!r} holds {column.dtype}; give lists of numbers") from None
    table.refuse(
        name, which & (lists.list.len().fill_null(0).to_numpy() != width), f"must hold {width} figures, one a class"
    )
    held = lists.filter(pl.Series(which)).list.explode().fill_null(np.nan).to_numpy()
    scores = held.reshape(-1, width)
    unfair = which.copy()
    unfair[which] = ~((scores >= 0.0).all(axis=1) & (np.abs(scores.sum(axis=1) - 1.0) < 1e-3))
    table.refuse(name, unfair, "is no distribution: figures ≥ 0 that sum to 1")
    return np.asarray(scores)


def _require_order(table: Table, members: Sequence[str], first: IntArray) -> None:
    """Raise ``BandmasterError`` where figures seem to be in another order than the classes.

    One answer may differ from its own most probable class (some libraries calibrate the two apart); most do not.
    """
    for member, (distributions, agreeing) in zip(members, first.T.tolist(), strict=True):
        if 2 * agreeing < distributions:
            raise BandmasterError(
                f"{table.path}: column '{member}__proba': most rows put another class than __pred first; list the "
                "classes in the order of the figures, in the file's metadata 'classes' or under classes: in the config"
            )
