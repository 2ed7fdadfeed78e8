"""Measures each member on given data: how often it is right, how well it knows, what it costs, how clear it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from bandmaster.core import Array, BandmasterError, FloatArray, IntArray, Member, Meter, Provenance
from bandmaster.inputs import one_by_one, rows_of, shaped
from bandmaster.intervals import Interval, wilson_interval
from bandmaster.table import NO_LABEL, Table, read_table

BINS = 15
"""Bins of the calibration error, as many as in Guo et al. 2017."""

TREE_DEPTH = 4
CHUNK = 50
"""Requests between two words of progress."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Requests of one row each: ``rows`` (N, …) for the members, ``truth`` (N,) class indices, ``NO_LABEL`` where
    unknown; ``of`` is how many the data held."""

    rows: Array
    truth: IntArray
    of: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found of one member.

    ``accuracy`` over ``labelled`` requests, failures counting as wrong, with its 95 % interval; ``calibration``, the
    expected calibration error over those that it answered; ``latency_s``, the median, its 95th percentile and the mean
    ``energy_j`` of ``requests`` single rows; ``explainability``, the share of ``judged`` requests on which a tree
    fitted on ``fitted`` others says what the member does. ``None`` where the sample does not tell. ``failed`` requests
    got no answer.
    """

    name: str
    requests: int
    failed: int
    labelled: int
    accuracy: float | None
    accuracy_interval: Interval | None
    calibration: float | None
    latency_s: float
    latency_p95_s: float
    energy_j: float | None
    energy_from: Provenance
    explainability: float | None
    fitted: int
    judged: int

    def values(self) -> Mapping[str, str]:
        """The figures as the config's ``members.<name>.profile`` has them; those unknown are left out."""
        shares = {"accuracy": self.accuracy, "calibration": self.calibration, "explainability": self.explainability}
        known = {name: f"{round(value, 4):g}" for name, value in shares.items() if value is not None}
        known["latency"] = _scaled(self.latency_s, {"s": 1.0, "ms": 1e-3, "us": 1e-6})
        if self.energy_j is not None:
            known["energy"] = _scaled(self.energy_j, {"J": 1.0, "mJ": 1e-3, "uJ": 1e-6})
        return known


def _scaled(value: float, units: Mapping[str, float]) -> str:
    unit, size = next(((u, s) for u, s in units.items() if value >= s), list(units.items())[-1])
    return f"{value / size:.3g} {unit}"


# ---- The data ------------------------------------------------------------------------------------------------


def read_sample(path: Path, shape: Sequence[int | None], classes: Sequence[int | str], most: int) -> Sample:
    """Read requests for members whose rows have ``shape``, at most ``most`` of them, drawn evenly.

    Parquet, CSV or Arrow: columns x0 … xn, or one column of lists; ``label`` where known (``y`` in a stream). Or an
    .npz with ``X`` and, where known, ``y``. Raises ``BandmasterError`` naming the file and what does not fit.
    """
    rows, truth = _read_arrays(path, classes) if path.suffix == ".npz" else _read_columns(path, classes)
    size = len(rows)
    if size < most:
        most = size
    # In file order: neighbours in time stay neighbours, and which are drawn depends on nothing but the size.
    drawn = np.sort(np.random.default_rng(0).permutation(size)[:most])
    return Sample(shaped(rows[drawn], shape, path), truth[drawn], size)


def _read_columns(path: Path, classes: Sequence[int | str]) -> tuple[Array, IntArray]:
    table = read_table(path)
    named = next((name for name in ("label", "y") if name in table), None)
    truth = table.indices(named, classes) if named else np.full(len(table), NO_LABEL)
    return rows_of(table)[0], truth


def _read_arrays(path: Path, classes: Sequence[int | str]) -> tuple[Array, IntArray]:
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays = {name: held[name] for name in ("X", "y") if name in held}
    except (OSError, ValueError) as problem:
        raise BandmasterError(f"{path}: cannot be read as .npz ({problem}); save it with np.savez(X=…, y=…)") from None
    rows, labels = arrays.get("X"), arrays.get("y")
    if rows is None or not len(rows) or not np.issubdtype(rows.dtype, np.number):
        raise BandmasterError(f"{path}: there is no array X of numbers, a row a request; save np.savez(X=…, y=…)")
    if labels is None:
        return rows, np.full(len(rows), NO_LABEL)
    if labels.shape != (len(rows),):
        raise BandmasterError(f"{path}: y has shape {labels.shape}, but X has {len(rows)} rows; give each one label")
    return rows, Table(path, pl.DataFrame({"y": labels}), "", None).indices("y", classes)


# ---- The measuring -------------------------------------------------------------------------------------------


def measure(member: Member, sample: Sample, meter: Meter, heard: Callable[[], None] = lambda: None) -> Measured:
    """Send a member the sample, a row a request, and say what came of it. ``heard`` is called after each ``CHUNK``."""
    size, said = len(sample.rows), []
    for reply in one_by_one(member, sample.rows, meter):
        said.append(reply)
        if len(said) % CHUNK == 0 or len(said) == size:
            heard()
    latency = np.array([reply.latency_s for reply in said])
    answered = np.array([reply.scores is not None and reply.scores.sum() > 0.0 for reply in said])
    if not answered.any():
        raise BandmasterError(f"member {member.name!r} answered none of {size} requests; the first: {said[0].error}")
    scores = np.stack([reply.scores[0] for reply in said if reply.scores is not None and reply.scores.sum() > 0.0])
    labels = scores.argmax(axis=1)
    labelled = sample.truth != NO_LABEL
    right = labels == sample.truth[answered]
    told = labelled[answered]
    explained, fitted, judged = fidelity(sample.rows[answered].reshape(int(answered.sum()), -1), labels)
    count = int(labelled.sum())
    return Measured(
        name=member.name,
        requests=size,
        failed=int((~answered).sum()),
        labelled=count,
        accuracy=float(right.sum() / count) if count else None,
        accuracy_interval=wilson_interval(int(right.sum()), count) if count else None,
        calibration=calibration_error(scores.max(axis=1)[told], right[told]) if told.any() else None,
        latency_s=float(np.median(latency)),
        latency_p95_s=float(np.quantile(latency, 0.95)),
        energy_j=float(np.mean([reply.energy_j for reply in said])),
        energy_from=said[0].energy_from,
        explainability=explained,
        fitted=fitted,
        judged=judged,
    )


def calibration_error(confidence: FloatArray, right: Array) -> float:
    """The expected calibration error in [0, 1]: the mean distance of confidence from accuracy over bins.

    Naeini, Cooper & Hauskrecht 2015 ("Obtaining well calibrated probabilities using Bayesian binning"), of the top
    class and with 15 bins as Guo et al. 2017 ("On calibration of modern neural networks", eq. 3), except that bins are
    equal in mass, not in width, so that each holds enough to tell. ``confidence`` and ``right`` are (n,), n ≥ 1. What
    chance alone gives a perfectly calibrated member shrinks as 1/√n: about 0.04 at 1,000 requests, 0.01 at 10,000.
    """
    edges = np.quantile(confidence, np.arange(1, BINS) / BINS)
    bins = np.searchsorted(edges, confidence, side="right")  # the same confidence is never parted
    gaps = np.bincount(bins, weights=confidence - right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def fidelity(rows: FloatArray, labels: IntArray) -> tuple[float | None, int, int]:
    """How well a depth-4 decision tree fitted on half of ``rows`` (n, d) gives the member's ``labels`` on the other.

    ``labels`` are (n,). The share of agreement, in [0, 1], which Craven & Shavlik 1996 ("Extracting tree-structured
    representations of trained networks") call fidelity, and the two halves' sizes. ``None`` with fewer than two rows in
    either half.
    """
    order = np.random.default_rng(0).permutation(len(rows))
    fit, judge = order[: len(rows) // 2], order[len(rows) // 2 :]
    if len(fit) < 2:
        return None, len(fit), len(judge)
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_depth=TREE_DEPTH, random_state=0).fit(np.nan_to_num(rows[fit]), labels[fit])
    agree = tree.predict(np.nan_to_num(rows[judge])) == labels[judge]
    return float(agree.mean()), len(fit), len(judge)
