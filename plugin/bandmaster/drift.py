"""Drift alarms: River's ADWIN on streams of surprises, by how much something did better or worse than promised."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bandmaster.core import BoolArray, DriftEvent, FloatArray

if TYPE_CHECKING:
    from river.drift import ADWIN


def _adwin(delta: float, clock: int = 32) -> ADWIN:
    """A detector that looks for a change at every ``clock``-th value.

    River brings scikit-learn along, which takes as long to import as all else that a server does: only who watches
    something waits for that.
    """
    from river.drift import ADWIN

    return ADWIN(delta=delta, clock=clock)


class Changes:
    """Tells which of several streams of values in [0, 1] have another mean than before, with one ADWIN each."""

    def __init__(self, size: int, *, delta: float) -> None:
        self._size, self._delta = size, delta
        self._detectors: list[ADWIN] = []  # made with the first values

    def update(self, values: FloatArray) -> BoolArray:
        """Feed one value to each stream, none where it is NaN; return which of them changed just now."""
        self._detectors = self._detectors or [_adwin(self._delta) for _ in range(self._size)]
        changed = np.zeros(len(values), dtype=np.bool_)
        for k in np.flatnonzero(~np.isnan(values)):
            self._detectors[k].update(values[k])
            changed[k] = self._detectors[k].drift_detected
        return changed


class DriftMonitor:
    """One ADWIN a stream (Bifet & Gavaldà 2007, "Learning from time-changing data with adaptive windowing").

    ADWIN watches how great surprises are. They also grow where a member is only given harder requests than before; but
    then they cancel out, as long as what is promised is calibrated. So an alarm is raised only where, since the change,
    they are one-sided too. ``names`` are the streams' own, as ``accuracy:linear``; ``delta`` in (0, 1) bounds ADWIN's
    false alarms. After a change a stream starts anew with the values since.
    """

    ONE_SIDED = 2.5
    """A sum of surprises this many of its standard errors from 0 (self-normalised) is no chance."""

    RECENT = 400
    """Values kept a stream, to tell when it changed: ADWIN is sure that it did before it knows when."""

    def __init__(self, names: Sequence[str], *, delta: float) -> None:
        self._names, self._delta = tuple(names), delta
        self._detectors: list[ADWIN] = []  # made with the first values
        self._recent: list[deque[float]] = [deque(maxlen=self.RECENT) for _ in self._names]

    def _detector(self) -> ADWIN:
        # By default it looks for a change at every 32nd value only; a member that few requests run has not that many.
        return _adwin(self._delta, clock=1)

    def update(self, values: Sequence[float], at: float) -> tuple[DriftEvent, ...]:
        """Feed one surprise to each stream, none where it is NaN; return the alarms that this raised. Surprises lie in
        [-1, 1], times what their request stands for.
        """
        self._detectors = self._detectors or [self._detector() for _ in self._names]
        events = []
        for k, value in enumerate(values):
            if math.isnan(value):
                continue
            self._recent[k].append(value)
            self._detectors[k].update(abs(value))
            if self._detectors[k].drift_detected and (alarm := self._alarm(k, at)):
                events.append(alarm)
        return tuple(events)

    def _alarm(self, k: int, at: float) -> DriftEvent | None:
        values = np.array(self._recent[k])
        change = _change(np.abs(values))
        before, since = values[:change], values[change:]
        self._recent[k] = deque(since.tolist(), maxlen=self.RECENT)
        self._detectors[k] = self._detector()
        for value in since.tolist():
            self._detectors[k].update(abs(value))
        grown = np.abs(since).mean() > np.abs(before).mean()
        if not grown or abs(since.sum()) < self.ONE_SIDED * np.sqrt((since**2).sum()):
            return None
        cause = f"{since.mean():+.3f} to what was promised, on average of {len(since)}; {before.mean():+.3f} before"
        return DriftEvent(self._names[k], at, cause, len(since))


def _change(values: FloatArray) -> int:
    """The index from which on ``values`` (n ≥ 2,) have another mean: the split of the greatest likelihood ratio.

    Page 1955, "A test for a change in a parameter occurring at an unknown point", for normal values of one variance.
    """
    split = np.arange(1, len(values))
    total = values.cumsum()
    apart = total[:-1] / split - (total[-1] - total[:-1]) / (len(values) - split)
    return int(split[(apart**2 * split * (len(values) - split)).argmax()])
