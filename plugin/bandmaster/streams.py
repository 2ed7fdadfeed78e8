"""Streams: labelled rows without an ensemble. Twelve members learn the first part, and answer the rest of it."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from bandmaster.answers import default_cache, keep, key
from bandmaster.core import BandmasterError, BoolArray, FloatArray, IntArray, Task
from bandmaster.features import LARGEST
from bandmaster.table import NO_LABEL, Scores, Table

TRAINING_SHARE = 0.2
"""Of a stream's rows, the first ones: members learn them, and only the rest is traffic."""

KINDS = ("naive_bayes", "logistic", "tree", "forest", "boosting", "mlp")

REGRESSION_KINDS = ("linear", "neighbours", "tree", "forest", "boosting", "mlp")

MEMBERS = (*KINDS, *(f"{kind}_late" for kind in KINDS))
"""The late ones learn the last quarter of the training rows alone: fewer rows, but newer ones."""


def is_stream(table: Table) -> bool:
    """Whether a table is a stream, x0 … xn and ``y``, and no log: it has neither ``label`` nor anybody's answers."""
    return "y" in table and "label" not in table and not table.answered_by()


def answered(
    table: Table,
    classes: Sequence[int | str] | None = None,
    cache: Path | None = None,
    told: Callable[[str], None] | None = None,
    task: Task = "classification",
) -> Table:
    """The stream's last 80 % as a recorded ensemble of the 12 ``MEMBERS``, with their probabilities of every class.

    In regression the members are of the ``REGRESSION_KINDS``, and answer with values. ``classes`` defaults to all that
    ``y`` holds. What members answer is kept in the folder ``cache`` (default: ``default_cache("streams")``), under a
    name that depends on the file's content, this code and scikit-learn's version. ``told`` hears when members must be
    trained first.

    Raises ``BandmasterError`` when the stream has no x0 … xn or no labels to learn, or the cache fails.
    """
    if task == "regression":
        return _valued(table, cache, told)
    labels = table.labels("y")
    classes = tuple(classes or sorted(labels.drop_nulls().unique().to_list()))
    first = int(TRAINING_SHARE * len(table))
    y = table.indices("y", classes)
    scores = _kept(table, repr(classes), cache, told, lambda: _answers(table, y, y != NO_LABEL, first, len(classes)))
    columns: list[pl.Series] = []
    for m, name in enumerate(MEMBERS):
        columns.append(pl.Series(f"{name}__pred", np.array(classes)[scores[:, m].argmax(axis=1)]))
        columns.append(pl.Series(f"{name}__proba", scores[:, m]))
    frame = table.frame[first:].drop("y").with_columns(labels[first:].rename("label"), *columns)
    return Table(table.path, frame, table.sha256, classes, first)


def _valued(table: Table, cache: Path | None, told: Callable[[str], None] | None) -> Table:
    """As ``answered``, in regression."""
    y, first = table.numbers("y", "must be a number, null where there is none"), int(TRAINING_SHARE * len(table))
    values = _kept(table, "regression", cache, told, lambda: _answers(table, y, ~np.isnan(y), first, None))
    names = (*REGRESSION_KINDS, *(f"{kind}_late" for kind in REGRESSION_KINDS))
    columns = [pl.Series(f"{name}__pred", values[:, m, 0].astype(np.float64)) for m, name in enumerate(names)]
    frame = table.frame[first:].drop("y").with_columns(pl.Series("label", y[first:], nan_to_null=True), *columns)
    return Table(table.path, frame, table.sha256, None, first)


def _kept(
    table: Table,
    what: str,
    cache: Path | None,
    told: Callable[[str], None] | None,
    make: Callable[[], Scores],
) -> Scores:
    """What members answer, made where it is not in the cache yet."""
    name = key(__file__, table.sha256, what, importlib.metadata.version("scikit-learn"))
    path = (cache or default_cache("streams")) / f"{name}.npy"
    if not path.is_file():
        if told is not None:
            rows = int(TRAINING_SHARE * len(table))
            told(f"{table.path}: a stream; {len(MEMBERS)} members learn its first {rows} rows, kept in {path.parent}")
        scores = make()
        keep(path, "what members answer to a stream", lambda temporary: _save(temporary, scores))
    return _load(path)


def regressors() -> dict[str, Any]:
    """A scikit-learn regressor of each of the ``REGRESSION_KINDS``, untrained."""
    from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
    from sklearn.linear_model import Ridge
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeRegressor

    return {
        "linear": make_pipeline(StandardScaler(), Ridge()),
        "neighbours": make_pipeline(StandardScaler(), KNeighborsRegressor()),
        "tree": DecisionTreeRegressor(max_depth=8, random_state=0),
        "forest": RandomForestRegressor(n_estimators=50, random_state=0),
        "boosting": HistGradientBoostingRegressor(early_stopping=False, random_state=0),
        "mlp": make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(32,), random_state=0)),
    }


def models() -> dict[str, Any]:
    """A scikit-learn classifier of each of the ``KINDS``, untrained."""
    # Here, so that nobody else pays for importing it.
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    # Nobody stops early: what that holds out must have two rows of every class.
    return {
        "naive_bayes": GaussianNB(),
        "logistic": make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
        "tree": DecisionTreeClassifier(max_depth=8, random_state=0),
        "forest": RandomForestClassifier(n_estimators=50, random_state=0),
        "boosting": HistGradientBoostingClassifier(early_stopping=False, random_state=0),
        "mlp": make_pipeline(StandardScaler(), MLPClassifier((32,), random_state=0)),
    }


# ---- Training ----------------------------------------------------------------------------------------------


def _answers(table: Table, y: IntArray | FloatArray, labelled: BoolArray, first: int, classes: int | None) -> Scores:
    """Every member's probabilities (N - first, members, classes) on the rows from ``first`` on; its values, of one
    column, where there are no classes.
    """
    inputs = table.inputs()
    if not inputs:
        raise BandmasterError(f"{table.path}: has y, but no column x0 … xn; a stream needs what members look at")
    x = np.clip(table.stacked(inputs), -LARGEST, LARGEST)
    late = first - first // 4
    if not labelled[late:first].any():
        raise BandmasterError(
            f"{table.path}: column 'y' holds no label in rows {late} to {first - 1}, the end of what members learn "
            f"from; give a stream of more rows, labelled in its first {TRAINING_SHARE:.0%}"
        )
    # Members learn from what is labelled, in the first part and in its last quarter.
    parts = [np.flatnonzero(labelled[:first]), late + np.flatnonzero(labelled[late:first])]
    kinds = KINDS if classes is not None else REGRESSION_KINDS
    tasks = (joblib.delayed(_answer)(kind, x[rows], y[rows], x[first:], classes) for rows in parts for kind in kinds)
    return np.stack(joblib.Parallel(n_jobs=-1)(tasks), axis=1)


def _answer(kind: str, x: FloatArray, y: IntArray | FloatArray, asked: FloatArray, classes: int | None) -> Scores:
    """One model's probabilities (n, classes) for the rows ``asked``, 0 for classes that it never met; or its values."""
    from sklearn.dummy import DummyClassifier
    from sklearn.exceptions import ConvergenceWarning

    if classes is None:
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            # A handful of rows cannot be asked for the five nearest.
            kind = kind if len(x) >= 5 else "linear"
            values: Scores = regressors()[kind].fit(x, y).predict(asked)[:, None]
        return values
    # Where all rows are of one class there is nothing to learn, and most models refuse to.
    model = models()[kind] if (y != y[0]).any() else DummyClassifier()
    # One thread, so that sums are the same on any number of cores.
    with threadpool_limits(1), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # members are fixed, not tuned
        found = model.fit(x, y).predict_proba(asked)
    scores = np.zeros((len(asked), classes), dtype=np.float32)
    scores[:, model.classes_] = found
    # Naive Bayes has no figure where all features were constant: then every class is as probable as the next.
    scores[~np.isfinite(scores).all(axis=1)] = 1.0 / classes
    return scores


# ---- What was answered before ------------------------------------------------------------------------------


def _save(path: Path, scores: Scores) -> None:
    with path.open("wb") as file:  # np.save would add .npy to a path
        np.save(file, scores)


def _load(path: Path) -> Scores:
    try:
        scores: Scores = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as problem:
        raise BandmasterError(f"{path}: cannot be read ({problem}); delete it, and it is made anew") from None
    return scores
