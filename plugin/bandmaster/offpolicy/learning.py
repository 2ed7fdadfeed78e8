"""Targets that learn: played in the log's order, each decision foretold before it is learned from."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from bandmaster.core import BandmasterError, FloatArray
from bandmaster.offpolicy.examples import as_text, examples, safe
from bandmaster.offpolicy.log import ROW, BanditLog
from bandmaster.offpolicy.model import features_in
from bandmaster.policies.vw import VowpalWabbit


@dataclass(frozen=True, slots=True)
class Learner:
    """Vowpal Wabbit with these ``options``, among them ``--cb_explore_adf``. What is shared is in namespace ``s``, what
    is an action's own in ``a``.

    It learns from what was logged, as its own driver does (progressive validation: Blum, Kalai & Langford 1999); its
    value is that of the policies that it was, one a decision (Dudík, Erhan, Langford & Li 2014, "Doubly robust policy
    evaluation and optimization", section 5.2). A column ``reward_delay`` of the log says after how many further
    rows of the file a reward became known.
    """

    options: str

    def logged(self, log: BanditLog) -> pl.LazyFrame:
        rows, actions = log.loaded(), log.actions
        taken = [actions.index(name) for name in rows["action"]]
        every = self.spread(rows, actions)
        return rows.lazy().with_columns(target=pl.Series(every[np.arange(len(rows)), taken]))

    def actions(self, log: BanditLog) -> tuple[str, ...]:
        return log.actions

    def spread(self, rows: pl.DataFrame, actions: Sequence[str]) -> FloatArray:
        learner, names = self._workspace(), [safe(name) for name in actions]
        at = rows[ROW].to_numpy()
        known = at + (rows["reward_delay"].fill_null(0).to_numpy() if "reward_delay" in rows.columns else 0)
        found = np.empty((len(rows), len(actions)))
        waiting: list[tuple[int, int, list[str]]] = []  # from which row of the file on each is known
        for k, example in enumerate(examples(rows, features_in(rows.columns), actions)):
            while waiting and waiting[0][0] < at[k]:
                learner.learn(heapq.heappop(waiting)[2])
            labelled = as_text(example, names, labelled=True)
            if known[k] == at[k] and not (waiting and waiting[0][0] == at[k]):
                found[k] = learner.predict_and_learn(labelled)
            else:
                found[k] = learner.predict(as_text(example, names, labelled=False))
                heapq.heappush(waiting, (int(known[k]), k, labelled))
        if not np.allclose(found.sum(axis=1), 1.0, atol=1e-4) or (found < 0.0).any():
            raise BandmasterError(f"vw:{self.options}: says what are no probabilities; explore otherwise")
        return found

    def _workspace(self) -> VowpalWabbit:
        if "--cb_explore_adf" not in self.options.split():
            raise BandmasterError(f"vw:{self.options}: explores nothing; add --cb_explore_adf")
        return VowpalWabbit(self.options)
