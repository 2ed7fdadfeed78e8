"""An ensemble played a window of requests at a time: what an agent sees that changes the ensemble itself.

All members of the ensemble run side by side and are pooled alike, the plan ``a+b+c``, or by weights, ``a+0.5*b``.
Rewards are computed by the very functions that judge plans in hindsight.
"""

from __future__ import annotations

import math

import numpy as np

from bandmaster.combine import mean_known
from bandmaster.contract import Contract
from bandmaster.core import BandmasterError, Figures, FloatArray, IntArray
from bandmaster.counterfactual import evaluate, spend
from bandmaster.plans import ALL, Catalogue, compiled, side_by_side
from bandmaster.recorded import RecordedLog
from bandmaster.replay import figures_of
from bandmaster.seen import Answered, Seen, Watch

AT_ONCE = 1 << 22
"""So many of members' probabilities are looked at together."""


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
        self._usual: FloatArray | None = None

    def __len__(self) -> int:
        """How many windows there are in all."""
        return len(self.log) // self.size

    @property
    def over(self) -> bool:
        return self.at >= len(self)

    def seen(self) -> Seen:
        return self._watch.seen()

    def play(self, weights: FloatArray) -> float:
        """The mean reward a request of the next window, answered by the members whose ``weights`` (M,) are above 0, as
        one's at least is, pooled by these.
        """
        part, plan = self._window(self.at), compiled((side_by_side(self.log.ensemble, weights),), self.log.ensemble)
        figures = figures_of(part, self.contract)
        scores, labels, earned = self._answer(part, plan, figures)
        rows = Answered(
            said=scores.argmax(axis=2),
            sure=scores.max(axis=2),
            known=np.broadcast_to(weights > 0.0, scores.shape[:2]),
            labels=labels,
            truth=part.truth,
            latency_s=figures.latency_s,
            energy_j=figures.energy_j,
        )
        self._watch.add(rows, float(earned.sum()), len(earned))
        self._watch.close(weights)
        self.at += 1
        return self.seen().reward

    @property
    def usual(self) -> float:
        """What a request of the window played last would have earned on average, had all members answered, pooled
        alike: what of its reward is the window's own luck.
        """
        if self._usual is None:
            self._usual = self._usually()
        usual = float(self._usual[self.at - 1])
        return self.seen().reward if math.isnan(usual) else usual  # as the reward, where nobody knows better

    def _usually(self) -> FloatArray:
        """That of all windows, (W,): of many at once, which takes a fraction of one after the other."""
        plan, row = compiled((ALL,), self.log.ensemble), self.log.scores[0].size
        many = max(AT_ONCE // (row * self.size), 1) * self.size
        earned = np.full(len(self) * self.size, np.nan)
        for start in range(0, len(earned), many):
            part = self.log.part(slice(start, min(start + many, len(earned))))
            earned[start : start + len(part)][part.labelled] = self._answer(
                part, plan, figures_of(part, self.contract)
            )[2]
        by_window = earned.reshape(-1, self.size).T
        return mean_known(by_window, ~np.isnan(by_window))

    def _window(self, k: int) -> RecordedLog:
        return self.log.part(slice(k * self.size, (k + 1) * self.size))

    def _answer(self, part: RecordedLog, plan: Catalogue, figures: Figures) -> tuple[FloatArray, IntArray, FloatArray]:
        """Members' distributions (n, M, C), a single plan's answers to the rows (n,), and what each request earns that
        has a label.
        """
        scores = part.scores[part.rows].astype(np.float64)
        everyone = np.ones(scores.shape[:2], dtype=np.bool_)
        alike = np.ones(scores.shape[:2])  # where others are meant, the plan has them
        answer = evaluate(plan, scores, everyone, alike)
        labels = answer.labels[:, 0]
        spent = spend(plan, answer.stop + 1, figures, alike)
        raw = {
            "accuracy": (labels == part.truth).astype(np.float64),
            "confidence": answer.confidence[:, 0],
            **{name: values[:, 0] for name, values in spent.items()},
        }
        return scores, labels, self.contract.rewards(raw)[part.labelled]
