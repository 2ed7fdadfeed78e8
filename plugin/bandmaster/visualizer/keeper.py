"""Keeps a journal's chronicle: adds what the learner learns, and catches up with what it holds from before."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Protocol

from bandmaster.core import Answer, Decision, Experience, Joined
from bandmaster.learner import Learner
from bandmaster.metrics import NoFigureError
from bandmaster.seldom import Seldom
from bandmaster.visualizer.chronicle import About, Chronicle
from bandmaster.visualizer.tallies import Tally, decided, settled

PAGE = 50
"""So many decisions, and outcomes, are caught up with at a time: a few hundredths of a second."""

EVERY_S = 1.0
"""How often readers see what was added."""

_log = logging.getLogger("bandmaster.keeper")


class Holds(Protocol):
    """A journal, as far as a chronicle needs it."""

    def since(self, seq: int) -> Iterator[Joined]: ...

    def answered_after(self, at: float, id_: str) -> Iterator[tuple[Decision, Answer]]: ...


class Keeper:
    """For whoever learns: what goes wrong here costs figures, and no lesson."""

    def __init__(self, journal: Path) -> None:
        """Raises ``BandmasterError`` where the chronicle can be neither used nor made."""
        self.chronicle = Chronicle(journal)
        self._whole, self._flushed = False, 0.0
        self._seldom = Seldom(_log)

    def decided(self, learner: Learner, decision: Decision, answer: Answer) -> None:
        """Add a decision that the journal holds since just now."""
        try:
            self.chronicle.decided(decision, decided(decision, answer, learner.ensemble))
        except Exception:
            self._failed()

    def learned(self, learner: Learner, joined: Joined, experience: Experience | None) -> None:
        """Add an outcome that was settled just now, and taught that; one that is not the next in order is caught up
        with later.
        """
        try:
            if joined.seq == self.chronicle.seq + 1:
                self.chronicle.settled(joined, _told(learner, experience))
        except Exception:
            self._failed()

    def tick(self, learner: Learner, journal: Holds, now: float) -> None:
        """Catch up, as long as there is something, and let readers see what was added."""
        due = abs(now - self._flushed) >= EVERY_S  # the clock may have gone back
        if self._whole and not due:
            return
        with self._seldom_failing():
            if due:
                self._flushed = now
                self.chronicle.describe(about(learner))
            self._whole = self.catch_up(learner, journal)
            if due:
                self.chronicle.flush(now if self._whole else None)

    def catch_up(self, learner: Learner, journal: Holds) -> bool:
        """Add what the journal holds from before, a ``PAGE`` of it at most; whether that is all."""
        chronicle, outcomes, decisions = self.chronicle, 0, 0
        for joined in islice(journal.since(chronicle.seq), PAGE):
            chronicle.settled(joined, _told(learner, _experience(learner, joined)))
            outcomes += 1
        if not self._whole:
            for decision, answer in islice(journal.answered_after(chronicle.at, chronicle.id), PAGE):
                chronicle.found(decision, decided(decision, answer, learner.ensemble))
                decisions += 1
        return max(outcomes, decisions) < PAGE

    def close(self) -> None:
        """Let readers see the last of it."""
        with self._seldom_failing():
            self.chronicle.flush()
        self.chronicle.close()

    @contextmanager
    def _seldom_failing(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self._failed()

    def _failed(self) -> None:
        """Of whatever kind the failure is: it must not keep anybody from learning."""
        self._seldom.error("the dashboard lacks something", exc_info=True)


def about(learner: Learner) -> About:
    """Whose chronicle a learner's is."""
    ensemble = learner.ensemble
    return About(ensemble.names, ensemble.classes, ensemble.task, learner.contract.describe(), _baseline(learner))


def _baseline(learner: Learner) -> str | None:
    return learner.guard.guarding.baseline if learner.guard else None


def _told(learner: Learner, experience: Experience | None) -> Iterator[Tally]:
    if experience is None:
        return iter(())
    return settled(experience, learner.contract, learner.ensemble, _baseline(learner))


def _experience(learner: Learner, joined: Joined) -> Experience | None:
    """What an outcome teaches; ``None`` where that is nothing."""
    if learner.refuses(joined) is not None:
        return None
    try:
        return learner.experience(joined)
    except NoFigureError:
        return None
