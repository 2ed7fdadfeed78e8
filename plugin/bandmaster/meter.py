"""Runs a member and says how long it took and what energy it used."""

from __future__ import annotations

import math
import time

import numpy as np

from bandmaster.core import Array, FloatArray, IntArray, Member, MemberAnswer, MemberFailure, Provenance, Task
from bandmaster.power import Power

WATTS_PER_CORE = 10.0
"""The power one busy core is taken to draw. A desktop or server core draws 5 to 15 W under load."""


_ESTIMATED: Provenance = "estimated"
_MEASURED: Provenance = "measured"
_DECLARED: Provenance = "declared"


class CpuTimeMeter:
    """Latency by the wall clock; energy as this thread's CPU time times what a busy second of a CPU takes: *measured*
    by the machine's ``power`` counters where those tell, else *estimated* by ``watts``.

    Members run their sessions on the calling thread alone (one ONNX Runtime thread), so its CPU time is theirs. Of one
    whose energy cannot be measured here it is what is *declared* of each row; where nothing is, what asking it took.
    """

    def __init__(
        self,
        classes: int,
        watts: float = WATTS_PER_CORE,
        task: Task = "classification",
        power: Power | None = None,
    ) -> None:
        """``classes`` is how many figures an answer must have to a row; in regression 1, the value."""
        self._classes, self._watts, self._task, self._power = classes, watts, task, power

    @property
    def energy_from(self) -> str:
        """How energy is found, in a sentence."""
        if self._power is None or self._power.watts is None:
            return f"estimated: CPU time of a member's thread × {self._watts:g} W"
        return (
            f"measured (RAPL): CPU time of a member's thread × {self._power.watts:.1f} W; the machine's "
            f"{self._power.idle_watts:.1f} W when idle are charged to nobody"
        )

    def run(self, member: Member, rows: Array, index: IntArray, within_s: float = math.inf) -> MemberAnswer:
        """Run ``member`` on ``rows[index]``. Whatever it raises or answers wrongly becomes the answer's error."""
        wall, cpu = time.perf_counter(), time.thread_time()
        scores, error, elsewhere, no_turn = None, None, 0.0, False
        asked = rows if len(index) == len(rows) else rows[index]
        try:
            ask = getattr(
                member, "predict_within", None
            )  # of Interruptible, which isinstance takes microseconds to see
            said, elsewhere = (member.predict(asked), 0.0) if ask is None else ask(asked, within_s)
            scores = checked(said, len(index), self._classes, self._task)
        except MemberFailure as failure:
            error, elsewhere, no_turn = str(failure), failure.busy_s, failure.no_turn
        except Exception as problem:  # any failure of a member is an outcome, never a crash
            error = f"{type(problem).__name__}: {problem}"
        latency, busy = time.perf_counter() - wall, time.thread_time() - cpu + elsewhere
        known = None if self._power is None else self._power.watts
        joules, source = (busy * self._watts, _ESTIMATED) if known is None else (busy * known, _MEASURED)
        if (declared := getattr(member, "energy_j", None)) is not None:
            joules, source = declared * len(index), _DECLARED
        return MemberAnswer(member.name, index, scores, latency, joules, source, error, teaches=not no_turn)


def checked(scores: FloatArray, rows: int, classes: int, task: Task = "classification") -> FloatArray:
    """Return ``scores`` if they are (rows, classes) distributions or abstentions, in regression (rows, 1) finite
    values. Raises ``ValueError`` if not.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != (rows, classes):
        raise ValueError(f"answered with shape {scores.shape} to {rows} rows of {classes} classes")
    if task == "regression":
        if not np.isfinite(scores).all():
            raise ValueError("answered with a value that is not finite")
        return scores
    total = scores.sum(axis=1)
    # NaN fails every comparison, so it is caught here too.
    if not (((np.abs(total - 1.0) < 1e-3) | (total == 0.0)).all() and (scores >= -1e-6).all()):
        raise ValueError("answered with figures that are no distribution over classes")
    return scores
