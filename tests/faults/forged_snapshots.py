"""Snapshots that were altered, cut, grown, swapped or forged: none may be loaded, and nothing may fail because of one.

    python -m tests.faults.forged_snapshots --snapshots 10000

puts each into the journal of a worker and of a learner, as whoever can write to the file could, and lets both read it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from bandmaster import hosting
from bandmaster.config import load
from bandmaster.core import Request, Snapshot
from bandmaster.journal.keys import Keys
from bandmaster.journal.places import locate
from bandmaster.journal.snapshots import seal_snapshot
from bandmaster.journal.sqlite import SqliteJournal
from bandmaster.serving.learning import LearningLoop
from bandmaster.serving.pages import Report
from bandmaster.serving.worker import Worker
from tests.faults.command import parser
from tests.serving.tiny import LABELS, ROWS, made_of, project

GOOD = 7
"""The version of the only honest snapshot."""

KINDS = ("bit", "byte", "cut", "grown", "random", "empty", "other key", "other version", "payload swapped", "text")


def altered(rng: np.random.Generator, kind: str, sealed: bytes, version: int) -> object:
    """What stands in the place of snapshot ``version`` instead of something honest."""
    raw = bytearray(sealed)
    at = int(rng.integers(len(raw)))
    if kind == "bit":
        raw[at] ^= 1 << int(rng.integers(8))
    elif kind == "byte":
        raw[at] = (raw[at] + int(rng.integers(1, 256))) % 256
    elif kind == "cut":
        del raw[at:]
    elif kind == "grown":
        raw[at:at] = rng.bytes(int(rng.integers(1, 64)))
    elif kind == "random":
        raw[:] = rng.bytes(int(rng.integers(0, 512)))
    elif kind == "empty":
        raw.clear()
    elif kind == "other key":
        return seal_snapshot(Keys(rng.bytes(32)), Snapshot(version, 0, 0.0, rng.bytes(64)))
    elif kind == "payload swapped":  # an honest head before a payload of somebody else's
        raw[at:] = rng.bytes(len(raw) - at)
    elif kind == "text":
        return "a text"
    return bytes(raw)  # and of "other version", where an honest one is put in another's place


async def attack(count: int, folder: Path, seed: int = 0, told: bool = False) -> Counter[str]:
    """How many were ``loaded``, ``failed`` a poll, and were refused, by kind."""
    config = load(project(folder, seed=1) / "bentofile.yaml")
    hosted = hosting.host(config)
    path, rng, found = locate(config.journal, config.root), np.random.default_rng(seed), Counter[str]()
    worker = Worker(made_of(config, hosted), worker=1)
    loop = LearningLoop(made_of(config, hosted))
    made = [(await worker.answer(Request(r[None], r, time.time())))[0] for r in ROWS[:60].astype("float32")]
    loop.settle(
        [Report(decision_id=d.id, at=time.time(), labels=(int(y),)) for d, y in zip(made, LABELS, strict=False)]
    )
    loop._version = GOOD - 1
    loop.tick()
    loop.close()
    worker.poll()
    assert worker.snapshot == GOOD, worker.snapshot
    with sqlite3.connect(path) as database:
        ((honest,),) = database.execute("SELECT sealed FROM snapshots WHERE version = ?", (GOOD,)).fetchall()
    key = worker._keys
    for i in range(count):
        kind, version = KINDS[i % len(KINDS)], GOOD + 1 + i
        with sqlite3.connect(path) as database:
            database.execute("DELETE FROM snapshots WHERE version > ?", (GOOD,))
            sealed = altered(rng, kind, honest, version)
            database.execute("INSERT INTO snapshots VALUES (?, ?)", (version, sealed))
        before = worker._serving.learned.dump() if i % 50 == 0 else b""
        worker.poll()
        found["loaded"] += worker.snapshot != GOOD
        found["changed"] += bool(before) and worker._serving.learned.dump() != before
        if i % 100 == 0:  # a learner that starts then takes the honest one up
            journal = SqliteJournal(path, key)
            latest = journal.latest_snapshot()
            found["loaded"] += latest is None or latest.version != GOOD
            journal.close()
            decision, answer = await worker.answer(Request(ROWS[:1].astype("float32"), ROWS[0], time.time()))
            found["unanswered"] += answer.labels[0] < 0 or not decision.id
        found[kind] += 1
        if told and i % 1000 == 0:
            print(f"  {i}: loaded {found['loaded']}", flush=True)
    await worker.close()
    return found


def main() -> int:
    asked = parser(__doc__, "snapshots", 10_000).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(attack(asked.snapshots, Path(folder), asked.seed, told=True))
    print(dict(found))
    return 1 if found["loaded"] or found["changed"] or found["unanswered"] else 0


if __name__ == "__main__":
    sys.exit(main())
