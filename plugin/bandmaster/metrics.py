"""Metrics of the user's own: ``module:function`` of decision, answer and outcome, imported and called with care."""

from __future__ import annotations

import importlib
import logging
import math
import numbers
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bandmaster.combine import pool
from bandmaster.contract import Contract, Metric
from bandmaster.core import Answer, BandmasterError, Decision, FloatArray, Joined, MemberAnswer, Outcome
from bandmaster.plans import Catalogue, pool_weights

if TYPE_CHECKING:  # it calls what is here
    from bandmaster.counterfactual import Evaluation


_log = logging.getLogger("bandmaster.metrics")


class NoFigureError(BandmasterError):
    """A user's function raised, or gave no finite number: there is no reward then."""


@dataclass(frozen=True, slots=True)
class ImportedFunction:
    """``module:function``, imported when it is first needed, as seen from the folder ``root``.

    It holds two texts and no function, so that it can be compared and sent to other processes.
    """

    spec: str
    root: Path

    def __str__(self) -> str:
        return self.spec

    def __call__(self, decision: Decision, answer: Answer, outcome: Outcome) -> float:
        figure: float = self.load()(decision, answer, outcome)
        return figure

    def load(self) -> Callable[..., Any]:
        """The function. Raises ``BandmasterError`` saying why it cannot be had."""
        return imported(self.spec, self.root)


@lru_cache
def imported(spec: str, root: Path) -> Callable[..., Any]:
    """``module:name``, as seen from the folder ``root``. Raises ``BandmasterError`` saying why it cannot be had."""
    module, _, name = spec.partition(":")
    try:
        with _first_on_path(root):
            importlib.invalidate_caches()
            function = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as problem:
        why = f"cannot be imported: {problem}; write module:name as seen from {root}"
        raise BandmasterError(f"{spec} {why}") from None
    except AttributeError:
        raise BandmasterError(f"{spec}: {module} has no {name!r}; name something that it defines") from None
    except Exception as problem:  # whatever the user's module does as it is imported
        raise BandmasterError(f"{spec}: importing {module} fails: {type(problem).__name__}: {problem}") from problem
    if not callable(function):
        raise BandmasterError(f"{spec} is a {type(function).__name__}, which cannot be called")
    return function  # type: ignore[no-any-return]


@contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def own_figures(contract: Contract, decision: Decision, answer: Answer, outcome: Outcome) -> dict[str, float]:
    """The raw figures of the user's own metrics, by name. Raises ``NoFigureError`` naming the metric and the fault."""
    return {m.name: _figure(m, decision, answer, outcome) for m in contract.own}


def _figure(metric: Metric, decision: Decision, answer: Answer, outcome: Outcome) -> float:
    assert metric.use is not None  # ``Contract.own`` holds no other
    try:
        figure = metric.use(decision, answer, outcome)
    except Exception as problem:  # the user's code may raise anything
        raise NoFigureError(
            f"contract.{metric.name}: {metric.use} raised {type(problem).__name__}: {problem}"
        ) from problem
    if not isinstance(figure, numbers.Real | np.bool_) or not math.isfinite(figure):
        raise NoFigureError(f"contract.{metric.name}: {metric.use} gave {figure!r}; it must give a finite number")
    return float(figure)


def plan_figures(
    contract: Contract, catalogue: Catalogue, joined: Joined, seen: Evaluation, scores: FloatArray
) -> Mapping[str, FloatArray]:
    """The figures (P,) that the user's own metrics would have had, had each plan been chosen.

    The functions are pure, and ``would_be`` says what there would have been to judge; where that is not known, or a
    function has no figure for it, the plan's is NaN. ``scores`` (n, M, C) are the members' recorded outputs,
    ``seen`` the plans' walks over them.
    """
    figures = {m.name: np.full(len(catalogue), np.nan) for m in contract.own}
    if not figures:
        return figures
    for k in np.flatnonzero(seen.determined.all(axis=0)):
        decision, answer = would_be(catalogue, int(k), joined, seen, scores)
        for metric in contract.own:
            try:
                figures[metric.name][k] = _figure(metric, decision, answer, joined.outcome)
            except NoFigureError as problem:  # the plan's figure stays unknown
                _log.debug("plan %s: %s", decision.plan, problem)
    return figures


def would_be(
    catalogue: Catalogue, plan: int, joined: Joined, seen: Evaluation, scores: FloatArray
) -> tuple[Decision, Answer]:
    """The decision and the answer there would have been, had ``plan`` been chosen and nobody probed.

    Only for a plan that ``seen`` determines on every row. Times and energy are those of the calls that were made,
    also where this plan's members would have seen fewer rows.
    """
    answer, ensemble = joined.answer, catalogue.ensemble
    said = {reply.name: reply for reply in (*answer.ran, *answer.probes)}  # a probe, which saw every row, goes last
    stop = seen.stop[:, plan]
    ran: list[MemberAnswer] = []
    heard = np.zeros(scores.shape[:2], dtype=np.bool_)
    for stage, names in enumerate(catalogue.plans[plan].stages[: int(stop.max()) + 1]):
        rows = np.flatnonzero(stop >= stage)
        for name in names:
            reply, i = said[name], ensemble.index(name)
            heard[rows, i] = True
            ran.append(replace(reply, rows=rows, scores=None if reply.scores is None else scores[rows, i]))
    if seen.values is not None:
        combined = seen.values[:, plan, None]
    else:
        combined = pool(scores, pool_weights(catalogue.plans[plan], ensemble, answer.weights) * heard)
    return _choosing(joined.decision, catalogue.names[plan]), Answer(
        scores=np.nan_to_num(combined),
        labels=seen.labels[:, plan],
        confidence=seen.confidence[:, plan],
        ran=tuple(ran),
        stages_run=int(stop.max()) + 1,
        weights=answer.weights,
    )


def _choosing(decision: Decision, plan: str) -> Decision:
    """The decision as if ``plan`` had been chosen and nobody probed; one that was not on offer had probability 0."""
    if plan not in decision.plans:
        plans, p = (*decision.plans, plan), np.append(decision.probabilities, 0.0)
        decision = replace(decision, plans=plans, probabilities=p)
    return replace(decision, chosen=decision.plans.index(plan), probe_p=0.0)
