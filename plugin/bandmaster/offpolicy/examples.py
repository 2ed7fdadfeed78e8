"""Decisions as Vowpal Wabbit has them: the same features as text, for a workspace, and as JSON, for its driver."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


@dataclass(frozen=True, slots=True)
class Example:
    """One decision: which of the actions was ``taken`` (an index), with which ``propensity``, its ``reward``, and the
    ``shared`` features by name.
    """

    taken: int
    propensity: float
    reward: float
    shared: tuple[tuple[str, float], ...]


def examples(rows: pl.DataFrame, features: Sequence[str], actions: Sequence[str]) -> Iterator[Example]:
    """The rows of a log as examples, in order. Numbers are features as they are; each text is one of its own."""
    index = {name: k for k, name in enumerate(actions)}
    columns = [_column(rows[name]) for name in features]
    plain = (rows[name].to_list() for name in ("action", "propensity", "reward"))
    for action, propensity, reward, *values in zip(*plain, *columns, strict=True):
        shared = tuple(feature for feature in values if feature is not None)
        yield Example(index[action], propensity, reward, shared)


def _column(column: pl.Series) -> list[tuple[str, float] | None]:
    """Each row's feature, ``None`` where there is nothing to say."""
    numbers = column.cast(pl.Float64, strict=False) if column.dtype not in (pl.Categorical, pl.Enum) else None
    if numbers is not None and numbers.null_count() == column.null_count():
        name = safe(column.name)
        return [None if value is None or value != value else (name, value) for value in numbers]
    texts = column.cast(pl.String)
    names = {text: safe(f"{column.name}={text}") for text in texts.unique() if text is not None}
    return [None if text is None else (names[text], 1.0) for text in texts]


def safe(name: str) -> str:
    """The name in characters that mean nothing to VW; different names stay different."""
    return _UNSAFE.sub(lambda found: f"_{ord(found[0]):x}_", name.replace("_", "__"))


def as_text(example: Example, actions: Sequence[str], labelled: bool) -> list[str]:
    """A line for what is shared and one an action; where ``labelled``, that taken has its cost, −reward."""
    shared = " ".join(f"{name}:{value!r}" for name, value in example.shared)
    lines = [f"shared |s {shared}"]
    for k, action in enumerate(actions):
        label = f"0:{-example.reward!r}:{example.propensity!r} " if labelled and k == example.taken else ""
        lines.append(f"{label}|a {action}")
    return lines
