"""Feedback that is duplicated, reordered, late, forged and malformed: does the ledger balance to the last report?

    python -m tests.faults.feedback_storm --reports 1000000

A real service is asked over HTTP, and told of its decisions in lists of all lengths, by several callers at once. At the
end the journal must count what the callers were told: each report once, in one place; of every decision's reports one
is taken, and its label is kept; nothing that is forged is.
"""

from __future__ import annotations

import asyncio
import base64
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from bandmaster.config import load
from bandmaster.core import Outcome
from bandmaster.journal.codec import decode
from bandmaster.journal.ids import DecisionIds
from bandmaster.journal.keys import Keys
from bandmaster.journal.opening import open_journal
from tests.end_to_end.servers import Server, environment, served
from tests.faults.command import parser
from tests.serving.tiny import CLASSES, LABELS, ROWS, project

HEADER = "x-orchestration-decision"
CALLERS = 4
ROUND = 500
"""Decisions before the next reports."""
REPEATS = 6.0
"""How often a decision is reported again, on average."""
LATE, FORGED, MALFORMED = 0.05, 0.25, 0.02
"""Decisions that are only reported after the window; forged and malformed reports for each honest one."""
WINDOW_S = 20.0
KEPT = 5
"""Rounds' worth of reports that wait to be sent in another order."""

Report = tuple[str, str]


@dataclass
class Told:
    """What callers were told: of each decision the report that was taken, the number of duplicates and of refusals."""

    decisions: int = 0
    taken: dict[str, Report] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    taken_twice: int = 0
    forged_accepted: int = 0
    unexpected: Counter[int] = field(default_factory=Counter)

    def receipts(self, reports: list[Report], receipts: list[dict[str, Any]]) -> None:
        for report, receipt in zip(reports, receipts, strict=True):
            self.statuses[receipt["status"]] += 1
            if receipt["status"] != "duplicate":
                self.taken_twice += report[0] in self.taken
                self.taken[report[0]] = report


class Storm:
    """The callers."""

    def __init__(self, session: aiohttp.ClientSession, told: Told, rng: np.random.Generator) -> None:
        self._session, self.told, self._rng = session, told, rng
        self._strange = DecisionIds(Keys(b"another key, as long as it must be"))
        self.pool: list[Report] = []
        self.late: list[Report] = []
        self.sent = 0

    async def decide(self, count: int) -> None:
        """Ask, and put what is to be reported into the pool."""
        made = await _side_by_side([self._ask for _ in range(count)])
        for name, truth in made:
            labels = [truth, *self._rng.choice(CLASSES, size=self._rng.poisson(REPEATS))]
            late = self._rng.random() < LATE
            (self.late if late else self.pool).extend((name, str(label)) for label in labels)
        self.told.decisions += len(made)

    async def _ask(self) -> Report:
        row = int(self._rng.integers(len(ROWS)))
        async with self._session.post("/classify", json={"input_series": [ROWS[row].tolist()]}) as response:
            assert response.status == 200, await response.text()
            return response.headers[HEADER], CLASSES[LABELS[row]]

    async def report(self, count: int) -> None:
        """Send so many from the pool, picked at random, with forged and malformed ones between."""
        order = self._rng.permutation(len(self.pool))[:count]
        chosen = [self.pool[k] for k in order]
        left = np.ones(len(self.pool), dtype=bool)
        left[order] = False
        self.pool = [self.pool[k] for k in np.flatnonzero(left)]
        posts: list[Callable[[], Coroutine[Any, Any, None]]] = []
        while chosen:
            size = int(min(self._rng.geometric(0.05), 500))
            part, chosen = chosen[:size], chosen[size:]
            posts.append(lambda part=part: self._honest(part))  # type: ignore[misc]
            for _ in range(self._rng.poisson(FORGED * len(part))):
                posts.append(lambda near=part[0]: self._forged(near))  # type: ignore[misc]
            for _ in range(self._rng.poisson(MALFORMED * len(part))):
                posts.append(lambda near=part[0]: self._malformed(near))  # type: ignore[misc]
        await _side_by_side(posts)

    async def _honest(self, reports: list[Report]) -> None:
        status, body = await self._post([{"decision_id": name, "label": label} for name, label in reports])
        self.sent += len(reports)
        if status == 200:
            self.told.receipts(reports, body)
        else:
            self.told.unexpected[status] += 1

    async def _forged(self, near: Report) -> None:
        """An id that was never signed here, alone or in a list that is refused whole."""
        body = {"decision_id": self._forgery(near[0]), "label": near[1]}
        alone = self._rng.random() < 0.7
        status, _ = await self._post([body] if alone else [{"decision_id": near[0], "label": near[1]}, body])
        self.sent += 1
        self.told.statuses["unknown"] += status == 404
        self.told.forged_accepted += status < 400
        if status not in (404, 200, 202):
            self.told.unexpected[status] += 1

    def _forgery(self, real: str) -> str:
        raw = bytearray(base64.urlsafe_b64decode(real))
        kind = self._rng.integers(4)
        if kind == 0:  # another key's
            return self._strange.new(time.time())
        if kind == 1:  # another time, or another signature
            raw[self._rng.integers(len(raw))] ^= 1 << int(self._rng.integers(8))
            return base64.urlsafe_b64encode(bytes(raw)).decode()
        if kind == 2:
            return real[: self._rng.integers(len(real))]
        return base64.urlsafe_b64encode(self._rng.bytes(24)).decode()

    async def _malformed(self, near: Report) -> None:
        bodies: list[Any] = [
            {"decision_id": near[0], "label": "no class"},
            {"decision_id": near[0], "label": [near[1], near[1]]},
            {"decision_id": near[0], "reward": 2.0},
            {"decision_id": near[0]},
            {"decision_id": near[0], "label": near[1], "reward": 0.5},
            [],
            "text",
        ]
        status, _ = await self._post(bodies[self._rng.integers(len(bodies))])
        self.sent += 1
        self.told.statuses["malformed"] += status == 400
        if status != 400:
            self.told.unexpected[status] += 1

    async def _post(self, body: Any) -> tuple[int, Any]:
        async with self._session.post("/feedback", json=body) as response:
            return response.status, await response.json()


async def _side_by_side(calls: list[Callable[[], Coroutine[Any, Any, Any]]]) -> list[Any]:
    """Call them all, as many at once as there are callers."""
    waiting, results = iter(calls), list[Any]()

    async def caller() -> None:
        for call in waiting:
            results.append(await call())

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return results


async def play(server: Server, reports: int, seed: int, shown: bool) -> Told:
    rng, told = np.random.default_rng(seed), Told()
    async with aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(total=60)) as session:
        storm, shown_at = Storm(session, told, rng), 0
        while storm.sent + len(storm.pool) + len(storm.late) < reports:
            await storm.decide(ROUND)
            spare = len(storm.pool) - KEPT * ROUND
            if spare > 0:
                await storm.report(spare)
            if shown and storm.sent - shown_at >= reports / 20:
                shown_at = storm.sent
                print(f"  {storm.sent}/{reports}: {dict(told.statuses)}", flush=True)
        await storm.report(len(storm.pool))
        await asyncio.sleep(WINDOW_S + 1.0)  # the last decision's window has passed, too
        storm.pool = storm.late
        await storm.report(len(storm.pool))
        print(f"  {storm.sent} reports sent: {dict(told.statuses)}", flush=True)
    return told


@dataclass(frozen=True)
class Balance:
    """What was found; all but the first three must be 0: see ``holds``."""

    reports: int
    decisions: int
    taken: int
    off_the_ledger: int
    taken_twice: int
    kept_another: int
    forged_accepted: int
    unexpected: int

    @property
    def holds(self) -> bool:
        wrong = (self.off_the_ledger, self.taken_twice, self.kept_another, self.forged_accepted, self.unexpected)
        return not any(wrong)


def stormed(reports: int, folder: Path, seed: int = 0, shown: bool = False) -> Balance:
    """One service through one storm."""
    project(folder, seed=1, feedback={"window": f"{WINDOW_S:g} s", "rate": 1e9})
    with served(".", folder=folder, env=environment(folder / "home")) as server:
        told = asyncio.run(play(server, reports, seed, shown))
    config = load(folder / "bentofile.yaml")
    journal = open_journal(config.journal, config.root, Keys.of(folder), WINDOW_S)
    learned = journal.counts().joined  # by the service; what comes now nobody learns from
    journal.due(time.time())
    counts = journal.counts()
    kept = {name: decode(raw, Outcome) for name, raw in journal._all("SELECT id, outcome FROM outcomes")}
    rewards = journal._all("SELECT count(*), count(DISTINCT seq) FROM rewards")[0]
    journal.close()
    statuses = told.statuses
    first = statuses["joined"] + statuses["early"] + statuses["late"]
    off = (
        abs(counts.decisions - told.decisions)
        + abs(counts.joined + counts.late + counts.early - first)
        + abs(counts.late - statuses["late"])
        + abs(counts.duplicate - statuses["duplicate"])
        + abs(counts.unknown - statuses["unknown"])
        + abs(rewards[0] - learned)
        + abs(rewards[0] - rewards[1])
        + len(kept.keys() ^ told.taken.keys())
    )
    other = sum(kept[n].labels != (CLASSES.index(label),) for n, (_, label) in told.taken.items() if n in kept)
    return Balance(
        reports=sum(statuses.values()),
        decisions=told.decisions,
        taken=len(told.taken),
        off_the_ledger=off,
        taken_twice=told.taken_twice,
        kept_another=other,
        forged_accepted=told.forged_accepted,
        unexpected=sum(told.unexpected.values()),
    )


def main() -> int:
    asked = parser(__doc__, "reports", 1_000_000).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = stormed(asked.reports, Path(folder), asked.seed, shown=True)
    print(found)
    return 0 if found.holds else 1


if __name__ == "__main__":
    sys.exit(main())
