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

from bandmaster.core import CONFIDENCE_EDGES, NO_ANSWER, DriftEvent, Joined

SHARES = (0.1, 0.3, 0.9)
"""Shares of forged labels that are looked for. A reporter whose contradictions exceed others' by less than about .04
stays below the least of them: its requests may simply be other ones."""

RISK = 1e-5
MEMORY = 2_000.0
"""Rows after which what is expected at some confidence counts for 1/e."""

KNOWN = 30.0
"""Rows from which on what is expected at some confidence is taken for known."""

_SURE = math.log(len(SHARES) / RISK)


@dataclass(slots=True)
class _Reporter:
    """Rows that it reported, how many of them ``contradicted`` and how many were ``expected`` to; the evidence for each
    share of ``SHARES``, and whether it has been enough.
    """

    rows: int = 0
    contradicted: int = 0
    expected: float = 0.0
    evidence: list[float] = field(default_factory=lambda: [0.0] * len(SHARES))
    suspected: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one reporter: so many ``rows``, the share that ``contradicted``, and was ``expected`` to."""

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

    def saw(self, joined: Joined) -> DriftEvent | None:
        """Take an outcome in; the alarm, where it is the one that makes its reporter suspected."""
        outcome, answer = joined.outcome, joined.answer
        if outcome.labels is None or not outcome.source:
            return None
        reporter = self._by.setdefault(outcome.source, _Reporter())
        before = reporter.suspected
        buckets = CONFIDENCE_EDGES.searchsorted(answer.confidence, side="right").tolist()
        for said, label, bucket in zip(answer.labels.tolist(), outcome.labels, buckets, strict=True):
            if said != NO_ANSWER:
                self._count(reporter, bucket, said != label)
        if before or not reporter.suspected:
            return None
        rate, expected = reporter.contradicted / reporter.rows, reporter.expected / reporter.rows
        cause = (
            f"its labels contradict answers more than others' do at the same confidence ({rate:.3f} of "
            f"{reporter.rows} rows, {expected:.3f} expected): it is wrong or lies, or its requests have changed"
        )
        return DriftEvent(f"feedback:{outcome.source}", outcome.at, cause, reporter.rows)

    def _count(self, reporter: _Reporter, bucket: int, contradicts: bool) -> None:
        seen = self._seen[bucket]
        if seen >= KNOWN:
            expected = (self._contradicted[bucket] + 0.5) / (seen + 1.0)
            reporter.rows, reporter.contradicted = reporter.rows + 1, reporter.contradicted + contradicts
            reporter.expected += expected
            self._weigh(reporter, expected, contradicts)
        if not reporter.suspected:  # what it says is no measure for others, nor for itself
            keep = 1.0 - 1.0 / MEMORY
            self._seen[bucket] = seen * keep + 1.0
            self._contradicted[bucket] = self._contradicted[bucket] * keep + contradicts

    @staticmethod
    def _weigh(reporter: _Reporter, expected: float, contradicts: bool) -> None:
        for k, share in enumerate(SHARES):
            forged = expected + (1.0 - expected) * share
            ratio = forged / expected if contradicts else (1.0 - forged) / (1.0 - expected)
            reporter.evidence[k] = min(max(reporter.evidence[k] + math.log(ratio), 0.0), _SURE)
        reporter.suspected = max(reporter.evidence) > (0.0 if reporter.suspected else _SURE * (1.0 - 1e-12))

    def standings(self) -> list[Standing]:
        """Everybody, by name."""
        return [
            Standing(name, r.rows, r.contradicted / max(r.rows, 1), r.expected / max(r.rows, 1), r.suspected)
            for name, r in sorted(self._by.items())
        ]
