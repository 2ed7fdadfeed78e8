"""A model of rewards, for estimators that want one: boosted trees, each half of the log foretold by the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from bandmaster.core import BandmasterError, FloatArray, IntArray
from bandmaster.table import is_input

CATEGORIES = 254
"""Categories that a tree tells apart; further ones share."""

PRIOR = 10.0
"""An action's mean reward counts as if so many decisions more had earned the mean of all."""

CHUNK = 200_000
"""Decisions × actions that are foretold at once."""


def features_in(columns: Sequence[str]) -> list[str]:
    """What a model looks at where nobody says: x0 … xn and ctx_*."""
    return [name for name in columns if is_input(name) or name.startswith("ctx_")]


def foretold(rows: pl.DataFrame, features: Sequence[str], actions: Sequence[str]) -> FloatArray:
    """The reward to expect of each action on each decision, (n, A), in [0, 1]; of at least 4 decisions.

    ``rows`` have ``action``, ``reward`` and the columns named ``features``, numbers or categories. Cross-fitted: no
    decision's own reward is in what is foretold of it (Chernozhukov et al. 2018, "Double/debiased machine learning",
    section 3). Deterministic.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.model_selection import KFold

    if len(rows) < 4:
        raise BandmasterError(f"a model of rewards wants 4 decisions or more, not {len(rows)}; judge by ips and snips")
    inputs, categorical = _inputs(rows, features)
    action = rows["action"].replace_strict(list(actions), list(range(len(actions))), return_dtype=pl.Int64).to_numpy()
    reward = rows["reward"].to_numpy()
    found = np.empty((len(rows), len(actions)))
    for learned, asked in KFold(2, shuffle=True, random_state=0).split(inputs):
        means = _means(action[learned], reward[learned], len(actions))
        trees = HistGradientBoostingRegressor(
            categorical_features=[*categorical, True, False], early_stopping=True, min_samples_leaf=50, random_state=0
        )
        trees.fit(_with_action(inputs[learned], action[learned], means), reward[learned])
        for part in np.array_split(asked, -(-len(asked) * len(actions) // CHUNK)):
            every = np.tile(np.arange(len(actions)), len(part))
            said = trees.predict(_with_action(np.repeat(inputs[part], len(actions), axis=0), every, means))
            found[part] = np.clip(said, 0.0, 1.0).reshape(len(part), -1)
    return found


def _inputs(rows: pl.DataFrame, features: Sequence[str]) -> tuple[FloatArray, list[bool]]:
    """The features as numbers, (n, d), and which of them are categories."""
    columns: list[FloatArray] = []
    categorical: list[bool] = []
    for name in features:
        numbers = rows[name].cast(pl.Float64, strict=False) if not _is_category(rows[name]) else None
        is_number = numbers is not None and numbers.null_count() == rows[name].null_count()
        categorical.append(not is_number)
        if numbers is not None and is_number:
            columns.append(numbers.fill_null(np.nan).to_numpy())
        else:
            columns.append(rows[name].cast(pl.String).rank("dense").fill_null(0).to_numpy() % CATEGORIES)
    return np.column_stack(columns).astype(np.float64) if columns else np.zeros((len(rows), 0)), categorical


def _is_category(column: pl.Series) -> bool:
    return column.dtype in (pl.Categorical, pl.Enum)


def _means(action: IntArray, reward: FloatArray, actions: int) -> FloatArray:
    """Each action's mean reward, (A,), drawn towards that of all."""
    count, total = np.bincount(action, minlength=actions), np.bincount(action, reward, minlength=actions)
    means: FloatArray = (total + PRIOR * reward.mean()) / (count + PRIOR)
    return means


def _with_action(inputs: FloatArray, action: IntArray, means: FloatArray) -> FloatArray:
    return np.column_stack([inputs, action % CATEGORIES, means[action]])
