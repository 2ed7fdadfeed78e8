"""Fills the disk that a journal lies on while a worker answers, then makes room again; prints what was seen, as JSON.

unshare -Urm sh -c 'mount -t tmpfs -o size=16m none FOLDER && python -m tests.faults.full_disk FOLDER'
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from bandmaster import hosting
from bandmaster.config import load
from bandmaster.core import BandmasterError, Request
from bandmaster.serving.learning import LearningLoop
from bandmaster.serving.pages import Report
from bandmaster.serving.worker import Worker
from tests.serving.tiny import LABELS, ROWS, made_of, project

MANY = 40


def fill(folder: Path) -> Path:
    """A file that takes all the room there is."""
    path, size = folder / "filler", 1 << 20
    with path.open("wb", buffering=0) as file:
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2
    return path


async def main(folder: Path) -> dict[str, object]:
    config = load(project(folder, guard={"mode": "live", "baseline": "linear"}, seed=1) / "bentofile.yaml")
    hosted = hosting.host(config)
    loop, worker = LearningLoop(made_of(config, hosted)), Worker(made_of(config, hosted), worker=1)

    async def ask() -> list[tuple[str, bool]]:
        made = [(await worker.answer(Request(r[None], r, time.time())))[0] for r in ROWS[:MANY].astype("float32")]
        await asyncio.sleep(0.2)  # for the probes
        return [(d.id, d.exposure is not None and d.exposure.exposed) for d in made]

    def settle(made: list[tuple[str, bool]]) -> list[str]:
        ids = [name for name, _ in made]
        reports = [
            Report(decision_id=i, at=time.time(), labels=(int(y),)) for i, y in zip(ids, LABELS[:MANY], strict=True)
        ]
        return [receipt.status for receipt in loop.settle(reports)]

    seen: dict[str, object] = {}
    before = await ask()
    seen["settled before"] = sorted(set(settle(before)))
    loop.tick()
    filler = fill(folder)
    during = await ask()
    seen["answered while full"] = len(during)
    seen["unrecorded"] = worker.page(time.time())["unrecorded"]
    seen["exposed after the first"] = sum(exposed for _, exposed in during[1:])
    try:
        seen["feedback while full"] = settle(await ask())
    except BandmasterError as problem:
        seen["feedback while full"] = str(problem).partition(": ")[2]
    for _ in range(3):
        try:
            loop.tick()
        except BandmasterError as problem:
            seen["tick while full"] = str(problem).partition(": ")[2]
    filler.unlink()
    after = await ask()
    seen["settled after"] = sorted(set(settle(after)))
    loop.tick()
    seen["unrecorded at last"] = worker.page(time.time())["unrecorded"]
    await worker.close()
    counts = loop.state().counts
    seen["decisions"], seen["joined"] = counts["decisions"], counts["joined"]
    loop.close()
    return seen


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(Path(sys.argv[1])))))
