"""A member that is a method of another BentoML service of the same bento."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bandmaster.core import Array, FloatArray, MemberFailure, Task
from bandmaster.members.loop import LOOP

Ask = Callable[[str, Array], Coroutine[Any, Any, Any]]
"""Asks another service's method about rows; runs on ``LOOP``."""


@dataclass(frozen=True, slots=True)
class Called:
    """The ``service``, as in ``service:Other``, and its API ``method``, which takes rows (n, …)."""

    service: str
    method: str = "predict"

    @property
    def address(self) -> str:
        return f"{self.service}.{self.method}"


class BentoMember:
    """Another service's method, which answers rows (n, …) with (n, classes) probabilities, in regression (n, 1) or (n,)
    values. May be called from several threads at once. ``energy_j`` is what a row takes as declared.

    Until ``connect`` calls fail: a service answers only while it runs. What it takes and answers is what ``suppose``
    was told.
    """

    classes: tuple[int | str, ...] | None = None
    unmet: str | None = "is asked only once the service runs"

    def __init__(self, name: str, called: Called, task: Task = "classification", energy_j: float | None = None) -> None:
        self.name, self.called, self.energy_j = name, called, energy_j
        self._task = task
        self._ask: Ask | None = None
        self.input_shape: tuple[int | None, ...] | None = None
        self.width: int | None = None
        self.latency_s = 0.0

    def suppose(self, input_shape: tuple[int | None, ...], width: int) -> None:
        """Take it that it is like this, as others of its ensemble are."""
        self.input_shape, self.width = input_shape, width

    def connect(self, ask: Ask) -> None:
        """From now on it is asked so."""
        self._ask = ask

    def predict(self, rows: Array) -> FloatArray:
        """Return (n, C) distributions, or (n, 1) values, for rows (n, …). Raises what the call of the service does."""
        return self.predict_within(rows, math.inf)[0]

    def predict_within(self, rows: Array, seconds: float) -> tuple[FloatArray, float]:
        """The same; whatever the service does, the caller waits no longer. No CPU time is known to be spent there."""
        if self._ask is None:
            raise MemberFailure(f"{self.called.service} {self.unmet}")
        try:
            said = LOOP.run(self._ask(self.called.method, rows), seconds)
        except TimeoutError:
            raise MemberFailure(f"did not answer within {seconds:.3g} s") from None
        scores = np.array(said)
        if scores.dtype.kind not in "fiu":
            raise MemberFailure("answered with what are no numbers")
        if self._task == "regression" and scores.ndim == 1:
            scores = scores[:, None]
        return scores.astype(np.float64), 0.0

    def misnamed(self, classes: Sequence[int | str]) -> str | None:
        """Nothing speaks against the classes: a service does not tell of labels."""
        return None
