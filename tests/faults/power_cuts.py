"""Cuts the power while a service decides and learns: what does the disk hold of what was acknowledged?

    python -m tests.faults.power_cuts --cuts 20

needs the rights to mount. The journal lies on a file system in a file. A cut copies that file as it is: what the inner
file system still had in memory is not in it. The copy is mounted, which replays its own log as after any power cut.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bandmaster import hosting
from bandmaster.config import load
from bandmaster.core import Request
from bandmaster.journal.keys import Keys
from bandmaster.journal.opening import open_journal
from bandmaster.serving.learning import LearningLoop
from bandmaster.serving.pages import Report
from bandmaster.serving.worker import Worker
from tests.end_to_end.servers import environment
from tests.faults.command import parser
from tests.serving.tiny import LABELS, ROWS, made_of, project

MEGABYTES = 1024
"""A disk that is far from full when the power goes; the file is sparse."""

ROOT = Path(__file__).parents[2]


@dataclass
class Held:
    """What was acknowledged before the cuts, and what of it the disks did not hold. ``due`` are the decisions that had
    to be there: all of them, or with group commit those that a tick of the learner had taken over.
    """

    feedback: int = 0
    feedback_lost: int = 0
    due: int = 0
    due_lost: int = 0
    decisions: int = 0
    decisions_lost: int = 0


async def serve(folder: Path) -> None:
    """Answer, learn and tick for ever, and say so line by line once it is acknowledged."""
    config = load(folder / "bentofile.yaml")
    hosted = hosting.host(config)
    loop, worker = LearningLoop(made_of(config, hosted)), Worker(made_of(config, hosted), worker=1)
    made, known = list[str](), list[str]()
    for i in range(10**9):
        row = ROWS[i % len(ROWS)][None].astype("float32")
        made.append((await worker.answer(Request(row, row[0], time.time())))[0].id)
        print(f"d {made[-1]}", flush=True)
        if i % 200 == 199:
            loop.tick()
            print("t", flush=True)
            made, known = [], made
        if i % 20 == 0 and known:  # of what a tick has taken over, so that this takes over nothing more
            name = known.pop()
            loop.settle([Report(decision_id=name, at=time.time(), labels=(int(LABELS[0]),))])
            print(f"f {name}", flush=True)


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


def cut(folder: Path, durability: str, after_s: float, held: Held) -> None:
    """One service, one cut, and what is left."""
    image, copy = folder / "image", folder / "copy"
    with image.open("wb") as file:
        file.truncate(MEGABYTES << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    said = folder / "said"
    with mounted(image, folder / "disk") as disk:
        project(disk, durability=durability, probes={"share": 0})
        subprocess.run(["sync", "-f", str(disk)], check=True)
        command = [sys.executable, "-m", "tests.faults.power_cuts", "--serve", str(disk)]
        with (
            said.open("w") as output,
            subprocess.Popen(command, cwd=ROOT, env=environment(folder / "home"), stdout=output) as service,
        ):
            while not said.stat().st_size:
                time.sleep(0.01)
                assert service.poll() is None, "the service died before it began"
            time.sleep(after_s)
            service.kill()
        subprocess.run(["cp", "--sparse=always", str(image), str(copy)], check=True)
    with mounted(copy, folder / "left") as left:
        _compare(said.read_text().splitlines(keepends=True), left, durability, held)


def _compare(said: list[str], left: Path, durability: str, held: Held) -> None:
    lines = [line.split() for line in said if line.endswith("\n")]
    ticked = max((n for n, (what, *_) in enumerate(lines) if what == "t"), default=0)
    config = load(left / "bentofile.yaml")
    journal = open_journal(config.journal, config.root, Keys.of(left))
    journal.drain()
    decisions = {name for (name,) in journal._all("SELECT id FROM decisions")}
    outcomes = {name for (name,) in journal._all("SELECT id FROM outcomes")}
    journal.close()
    for n, (what, *name) in enumerate(lines):
        if what == "f":
            held.feedback += 1
            held.feedback_lost += name[0] not in outcomes
        elif what == "d":
            lost, due = name[0] not in decisions, durability == "full" or n < ticked
            held.decisions, held.decisions_lost = held.decisions + 1, held.decisions_lost + lost
            held.due, held.due_lost = held.due + due, held.due_lost + (lost and due)


def cuts(count: int, durability: str, seed: int = 0, told: bool = False) -> Held:
    """So many cuts, each at another moment."""
    held, rng = Held(), np.random.default_rng(seed)
    for k in range(count):
        with tempfile.TemporaryDirectory() as folder:
            cut(Path(folder), durability, float(rng.uniform(0.5, 2.5)), held)
        if told:
            print(f"  {k + 1}/{count}: {held}", flush=True)
    return held


def main() -> int:
    made = parser(__doc__, "cuts", 20)
    made.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    asked = made.parse_args()
    if asked.serve is not None:
        with suppress(KeyboardInterrupt):
            asyncio.run(serve(asked.serve))
        return 0
    lost = 0
    for durability in ("group", "full"):
        print(f"durability: {durability}", flush=True)
        held = cuts(asked.cuts, durability, asked.seed, told=True)
        lost += held.feedback_lost + held.due_lost
    print(f"lost of what was promised: {lost}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
