"""Who reports outcomes, and whose labels contradict the answers more than others' do: one who lies, or is wrong.

A label contradicts an answer the more rarely, the surer the answer was. How rarely is learned, for each bucket of
confidence, from everybody's outcomes. Against that, each reporter has a detector of a share of forged labels: a sum of
log-likelihood ratios that starts anew whenever it falls to 0 (Page 1954, "Continuous inspection schemes"). As each
ratio has mean 1 while labels are honest, false alarms are at least 1 / ``RISK`` outcomes apart on average, whatever
the confidences (Shin, Ramdas & Rinaldo 2024, "E-detectors", section 3), as far as what is expected is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from bandmaster.core import CONFIDENCE_EDGES, NO_ANSWER, DriftEvent, Joined

SHARES = (0.1, 0.3, 0.9)
"""Shares of forged labels that are looked for. A reporter whose contradictions exceed others' by less than about .04
stays below the least of them: its requests may simply be other ones."""

RISK = 1e-5
"""One over the number of requests between two false alarms, for each reporter."""

MEMORY = 2_000.0
"""Rows after which what is expected at some confidence counts for 1/e."""

KNOWN = 30.0
"""Rows from which on what is expected at some confidence is taken for known."""

_SURE = math.log(len(SHARES) / RISK)


@dataclass(slots=True)
class _Reporter:
    """Rows that it reported where something was expected, how many of them ``contradicted``, and how many were
    ``expected`` to; the evidence for each share of ``SHARES``, and whether it has been enough; the number of
    everybody's rows when it reported last.
    """

    rows: int = 0
    contradicted: int = 0
    expected: float = 0.0
    evidence: list[float] = field(default_factory=lambda: [0.0] * len(SHARES))
    suspected: bool = False
    last: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one reporter: of so many ``rows`` the share whose labels ``contradicted`` the answer, and that
    was ``expected`` to by what everybody's do at the same confidence; ``suspected`` where that is too many.
    """

    name: str
    rows: int
    contradicted: float
    expected: float
    suspected: bool


class Reporters:
    """Keeps book of who reported what. For classes; of values and reported rewards nothing follows."""

    def __init__(self) -> None:
        size = len(CONFIDENCE_EDGES) + 1
        self._seen, self._contradicted = [0.0] * size, [0.0] * size
        self._by: dict[str, _Reporter] = {}
        self._rows = 0

    def saw(self, joined: Joined) -> DriftEvent | None:
        """Take an outcome in; the alarm, where it is the one that makes its reporter suspected."""
        outcome, answer = joined.outcome, joined.answer
        if outcome.labels is None or not outcome.source:
            return None
        reporter = self._by.setdefault(outcome.source, _Reporter())
        before = reporter.suspected
        buckets = CONFIDENCE_EDGES.searchsorted(answer.confidence, side="right").tolist()
        said = [
            (bucket, answered != label)
            for answered, label, bucket in zip(answer.labels.tolist(), outcome.labels, buckets, strict=True)
            if answered != NO_ANSWER
        ]
        self._judge(reporter, said)
        self._learn(reporter, said)
        if before or not reporter.suspected:
            return None
        rate, expected = reporter.contradicted / reporter.rows, reporter.expected / reporter.rows
        cause = (
            f"its labels contradict answers more than others' do at the same confidence ({rate:.3f} of "
            f"{reporter.rows} rows, {expected:.3f} expected): it is wrong or lies, or its requests have changed"
        )
        return DriftEvent(f"feedback:{outcome.source}", outcome.at, cause, reporter.rows)

    def _judge(self, reporter: _Reporter, said: list[tuple[int, bool]]) -> None:
        """Weigh one request's rows, each its bucket and whether its label contradicts: together, as they may go
        together. The mean of ratios whose means are 1 has mean 1, however they depend on each other.
        """
        ratios = []
        for bucket, contradicts in said:
            if self._seen[bucket] < KNOWN:
                continue
            expected = (self._contradicted[bucket] + 0.5) / (self._seen[bucket] + 1.0)
            reporter.rows, reporter.contradicted = reporter.rows + 1, reporter.contradicted + contradicts
            reporter.expected += expected
            ratios.append([_ratio(expected, share, contradicts) for share in SHARES])
        if not ratios:
            return
        for k, mean in enumerate(np.mean(ratios, axis=0).tolist()):
            reporter.evidence[k] = min(max(reporter.evidence[k] + math.log(mean), 0.0), _SURE)
        reporter.suspected = max(reporter.evidence) > (0.0 if reporter.suspected else _SURE * (1.0 - 1e-12))

    def _learn(self, reporter: _Reporter, said: list[tuple[int, bool]]) -> None:
        """Learn from a request's rows what is to be expected of others."""
        self._rows += len(said)
        reporter.last = self._rows
        if reporter.suspected and not self._are_all_suspected():
            return  # what it says is no measure for others, nor for itself
        keep = 1.0 - 1.0 / MEMORY
        for bucket, contradicts in said:
            self._seen[bucket] = self._seen[bucket] * keep + 1.0
            self._contradicted[bucket] = self._contradicted[bucket] * keep + contradicts

    def _are_all_suspected(self) -> bool:
        """Whether that goes for everybody who has reported of late: then the world has changed, or nobody can tell."""
        return all(r.suspected for r in self._by.values() if self._rows - r.last < MEMORY)

    def standings(self) -> list[Standing]:
        """Everybody, by name."""
        return [
            Standing(name, r.rows, r.contradicted / max(r.rows, 1), r.expected / max(r.rows, 1), r.suspected)
            for name, r in sorted(self._by.items())
        ]


def _ratio(expected: float, share: float, contradicts: bool) -> float:
    """How much likelier that is where such a share of the labels is forged."""
    forged = expected + (1.0 - expected) * share
    return forged / expected if contradicts else (1.0 - forged) / (1.0 - expected)
