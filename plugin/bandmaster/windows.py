"""An ensemble played a window of requests at a time: what an agent sees that changes the ensemble itself.

All members of the ensemble run side by side and are pooled alike: the plan ``a+b+c``. Rewards are computed by the very
functions that judge plans in hindsight.
"""

from __future__ import annotations

import numpy as np

from bandmaster.contract import Contract
from bandmaster.core import BandmasterError, BoolArray
from bandmaster.counterfactual import evaluate, spend
from bandmaster.plans import compiled, side_by_side
from bandmaster.recorded import RecordedLog
from bandmaster.replay import figures_of
from bandmaster.seen import Answered, Seen, Watch


class Windows:
    """Plays a log with whatever ensemble it is told, ``size`` requests at a time. Labels are known when a window ends.

    Raises ``BandmasterError`` for a log that cannot be played so.
    """

    def __init__(self, log: RecordedLog, contract: Contract, size: int) -> None:
        if log.ensemble.regression or log.bounds is not None:
            what = "values" if log.ensemble.regression else "requests of several rows"
            raise BandmasterError(f"windows play requests of one row that have classes, and this log has {what}")
        if len(log) < size:
            raise BandmasterError(f"a log of {len(log)} requests has no window of {size}; make windows smaller")
        self.log, self.contract, self.size = log, contract, size
        self.at = 0
        self._watch = Watch(log.ensemble, contract)

    def __len__(self) -> int:
        """How many windows there are in all."""
        return len(self.log) // self.size

    @property
    def over(self) -> bool:
        return self.at >= len(self)

    def seen(self) -> Seen:
        return self._watch.seen()

    def play(self, active: BoolArray) -> float:
        """The mean reward a request of the next window, answered by the ``active`` members (M,), one at least."""
        part = self.log.part(slice(self.at * self.size, (self.at + 1) * self.size))
        plan = compiled((side_by_side(self.log.ensemble, active),), self.log.ensemble)
        scores = self.log.scores[part.rows].astype(np.float64)
        weights = np.ones(scores.shape[:2])
        answer = evaluate(plan, scores, np.ones(scores.shape[:2], dtype=np.bool_), weights)
        labels, figures = answer.labels[:, 0], figures_of(part, self.contract)
        raw = {
            "accuracy": (labels == part.truth).astype(np.float64),
            "confidence": answer.confidence[:, 0],
            **{name: values[:, 0] for name, values in spend(plan, answer.stop + 1, figures, weights).items()},
        }
        earned = self.contract.rewards(raw)[part.labelled]
        rows = Answered(
            said=scores.argmax(axis=2),
            sure=scores.max(axis=2),
            known=np.broadcast_to(active, scores.shape[:2]),
            labels=labels,
            truth=part.truth,
            latency_s=figures.latency_s,
            energy_j=figures.energy_j,
        )
        self._watch.add(rows, float(earned.sum()), len(earned))
        self._watch.close(active)
        self.at += 1
        return self.seen().reward
