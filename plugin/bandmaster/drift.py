"""Drift alarms: River's ADWIN on streams of values in [0, 1], such as a member's accuracy or the reward."""

from __future__ import annotations

import math
from collections.abc import Sequence

from river.drift import ADWIN

from bandmaster.core import DriftEvent, FloatArray


class DriftMonitor:
    """One ADWIN a stream (Bifet & Gavaldà 2007, "Learning from time-changing data with adaptive windowing").

    ``names`` are the streams' own, as ``accuracy:linear``; ``delta`` in (0, 1) bounds ADWIN's false alarms.
    """

    def __init__(self, names: Sequence[str], *, delta: float) -> None:
        self._names = tuple(names)
        self._detectors = [ADWIN(delta=delta) for _ in self._names]

    def update(self, values: FloatArray, at: float) -> tuple[DriftEvent, ...]:
        """Feed one value in [0, 1] to each stream, none where it is NaN; return the alarms that this raised."""
        events = []
        for name, detector, value in zip(self._names, self._detectors, values.tolist(), strict=True):
            if math.isnan(value):
                continue
            before = detector.estimation
            detector.update(value)
            if detector.drift_detected:
                cause = f"mean went from {before:.3f} to {detector.estimation:.3f} over the last {detector.width:.0f}"
                events.append(DriftEvent(name, at, cause))
        return tuple(events)
