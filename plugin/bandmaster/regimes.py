"""Members that change: noticed by how they surprise the belief, which then learns them anew or remembers them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import numpy as np

from bandmaster.belief import Belief
from bandmaster.combine import mean_known, posterior
from bandmaster.core import BoolArray, DriftEvent, Ensemble, Experience, FloatArray, IntArray, Said
from bandmaster.drift import DriftMonitor


class Regimes:
    """Watches every member's surprises and the answers', and has the ``belief`` react.

    Accuracy itself would not do: it also changes with the mix of classes, and with when the policy has a member run;
    neither says that the member has changed. So two streams a member are watched: how much oftener it is right than
    all that was said on that request promised; and, on probes alone, which no policy picks, than its own word did. The
    first tells soon that a member has gone bad, the second that it is good again, though nobody relies on it. A member
    that is again what it once was is known sooner: what speaks for each of its former regimes is added up over probes.
    """

    RETURNED = 12.0
    """A former regime is taken up again once so much speaks for it rather than for the present one, in log-likelihood.
    By chance that happens once in more than exp(12), or 160,000, probes (Lorden 1971, "Procedures for reacting to a
    change in distribution", theorem 2)."""

    RECENT = 400
    """Outcomes kept, to learn a changed member from."""

    def __init__(self, ensemble: Ensemble, belief: Belief, *, delta: float, relearn: bool) -> None:
        """``delta`` in (0, 1) as in ``DriftMonitor``; ``relearn`` or only report."""
        self._ensemble, self._belief, self._relearn = ensemble, belief, relearn
        names = [f"accuracy:{n}" for n in ensemble.names]
        self._monitor = DriftMonitor([*names, *names, "reward"], delta=delta)
        self._recent: deque[tuple[Said, BoolArray, IntArray]] = deque(maxlen=self.RECENT)
        # Page's cumulative sums (1954, "Continuous inspection schemes") and how many probes they are of.
        self._speaks = np.zeros((len(names), belief.SHELF))
        self._probes = np.zeros((len(names), belief.SHELF), dtype=np.int64)

    def observe(self, experience: Experience) -> tuple[DriftEvent, ...]:
        """Watch one settled request that the belief has learned; return the alarms, the reaction to them done."""
        truth = experience.truth
        if truth is not None:
            self._recent.append((experience.said, experience.known, truth))
        alarms = self._monitor.update(_surprises(experience), experience.joined.outcome.at)
        once = {a.name: a for a in (*alarms, *self._returned(experience))}
        for m, name in enumerate(self._ensemble.names if once and self._relearn and truth is not None else ()):
            if f"accuracy:{name}" in once:
                self._belief.relearn(m, *self._since(m, once[f"accuracy:{name}"].seen))
                self._speaks[m], self._probes[m] = 0.0, 0
        return tuple(once.values())

    def _returned(self, experience: Experience) -> Iterator[DriftEvent]:
        """Alarms of members that probes show to be again what they once were.

        Classes tell alone: how sure a member is also differs with which requests the policy has it run on.
        """
        truth, decision = experience.truth, experience.joined.decision
        if truth is None or not experience.known.all():
            return
        # Probes are aimed at what is unsure: those that stand for less than a request count for less.
        counts = min(decision.stands_for, 1.0)
        for m, name in enumerate(self._ensemble.names):
            likelier = self._belief.likelier(m, experience.said.label[:, m], truth).mean(axis=1)
            k = slice(len(likelier))
            self._speaks[m, k] = speaks = np.maximum(self._speaks[m, k] + counts * likelier, 0.0)
            self._probes[m, k] = probes = np.where(speaks > 0.0, self._probes[m, k] + 1, 0)
            if speaks.max(initial=0.0) >= self.RETURNED:
                best = int(speaks.argmax())
                cause = f"again what it once was: exp({speaks[best]:.0f}) times likelier, of {probes[best]} probes"
                yield DriftEvent(f"accuracy:{name}", experience.joined.outcome.at, cause, int(probes[best]))

    def _since(self, member: int, seen: int) -> tuple[Said, IntArray]:
        """The last ``seen`` rows, as far as kept, on which it is known what ``member`` said, and their labels."""
        labels, buckets, truths = [], [], []
        for said, known, truth in reversed(self._recent):
            rows = known[:, member]
            labels.append(said.label[rows, member])
            buckets.append(said.bucket[rows, member])
            truths.append(truth[rows])
            if sum(map(len, truths)) >= seen:
                break
        return Said(np.concatenate(labels), np.concatenate(buckets)), np.concatenate(truths)


def _surprises(experience: Experience) -> list[float]:
    """By how much each member (M,), each on its own word (M,), and the answer did better or worse than promised.

    In [-1, 1], on its own word times what the probe stands for; NaN where nothing is known. Where there are no labels
    to promise, perfection is taken for promised.
    """
    unknown = [math.nan] * len(experience.correct)
    if experience.truth is None:
        return [*(experience.correct - 1.0).tolist(), *unknown, experience.reward.value - 1.0]
    known, labels = experience.known, experience.joined.answer.labels
    rows = np.arange(len(known))
    likely = posterior(experience.evidence, known[:, None])[:, 0]
    # Class C, an abstention, is never right.
    promised = np.concatenate([likely, np.zeros((len(known), 1))], axis=1)
    together = mean_known(promised[rows[:, None], experience.said.label], known)
    probed = unknown
    if known.all():
        # Probes are aimed at what is unsure: weighed by what they stand for, they are of all requests alike.
        alone = (experience.correct - _promised_alone(experience)) * experience.joined.decision.stands_for
        probed = alone.tolist()
    answered = np.where(labels >= 0, likely[rows, labels], 0.0)
    right = labels == experience.truth
    return [*(experience.correct - together).tolist(), *probed, float((right - answered).mean())]


def _promised_alone(experience: Experience) -> FloatArray:
    """How probably each member (M,) is right by its own word, where all members are known to have answered or not."""
    label, known = experience.said.label, experience.known
    alone = posterior(experience.evidence, np.eye(known.shape[1], dtype=np.bool_))
    shown = np.minimum(label, alone.shape[-1] - 1)
    own = alone[np.arange(len(label))[:, None], np.arange(label.shape[1]), shown]
    return np.asarray((own * (label < alone.shape[-1])).mean(axis=0))
