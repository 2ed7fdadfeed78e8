"""A member's model is replaced again and again while it is asked, every fifth time by one that does not fit.

    python -m tests.faults.replaced_models --swaps 200

Nobody who asks may notice but by the answers; what fits must answer within two seconds, what does not must be shown.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import httpx
import numpy as np
from onnx import helper
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

from tests.end_to_end.servers import Server, environment, eventually, served
from tests.faults.command import parser
from tests.serving.tiny import CLASSES, LABELS, ROWS, project

CALLERS = 3
LIVE_S = 2.0
ROW = {"input_series": [ROWS[0].tolist()]}
"""A setosa."""


@cache
def model(turned: int = 0, classes: tuple[str, ...] = CLASSES) -> bytes:
    """A classifier that says of a setosa that it is the class so many further on."""
    labels = (LABELS + turned) % len(classes)
    fitted = LogisticRegression(max_iter=500).fit(ROWS, labels)
    made = to_onnx(fitted, np.float32(ROWS[:1]), options={id(fitted): {"zipmap": False}}, target_opset=17)
    helper.set_model_props(made, {"classes": json.dumps(classes)})
    return bytes(made.SerializeToString())


@dataclass
class Load:
    """What callers were answered, in order, while they ask without pause."""

    url: str
    said: list[tuple[int, str]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def call(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self.over.is_set():
                answer = client.post("/classify", json=ROW)
                self.said.append((answer.status_code, answer.json()[0] if answer.status_code == 200 else answer.text))

    def until(self, label: str) -> None:
        """Wait until all that is answered is this label, for a hundred answers."""

        def only() -> bool:
            since = self.said[-100:]
            return len(since) == 100 and {said for _, said in since} == {label}

        eventually(only, f"{label} is answered")

    @property
    def failed(self) -> list[tuple[int, str]]:
        """What was not answered with 200 and a class."""
        return [said for said in self.said if said[0] != 200 or said[1] not in CLASSES]


@contextmanager
def load(server: Server) -> Iterator[Load]:
    """Callers, from here to there."""
    under = Load(server.url)
    callers = [threading.Thread(target=under.call) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    try:
        yield under
    finally:
        under.over.set()
        for caller in callers:
            caller.join()


def put(path: Path, content: bytes) -> None:
    """As ``mv`` does: the file is there whole, or the one before."""
    path.with_suffix(".new").write_bytes(content)
    os.replace(path.with_suffix(".new"), path)


def worker(server: Server) -> dict[str, object]:
    """The page of the configuration that the worker serves by."""
    page = server.state()["worker"]
    assert isinstance(page, dict)
    found: dict[str, object] = page["config"]
    return found


def alone(member: dict[str, object]) -> dict[str, object]:
    """A block of this member alone, so that nobody stands in where it fails."""
    return {"members": {"one": member}, "policy": {"use": "constant", "plan": "one"}}


@dataclass
class Found:
    """What was seen: how many requests there were, which failed, how long (s) it took each model to answer first, and
    how many models were refused as they should be.
    """

    asked: int = 0
    failed: list[tuple[int, str]] = field(default_factory=list)
    live_s: list[float] = field(default_factory=list)
    refused: int = 0


def replaced(folder: Path, swaps: int) -> Found:
    """Replace the model of a running service so often."""
    found, turned = Found(), 0
    project(folder, **alone({"onnx": "one.onnx"}))
    put(folder / "one.onnx", model())
    with served(".", folder=folder, env=environment(folder / "home")) as server, load(server) as under:
        under.until(CLASSES[0])
        for swap in range(1, swaps + 1):
            if swap % 5 == 0:
                put(folder / "one.onnx", model(classes=("a", "b", "c")))
                eventually(lambda: worker(server)["error"], "the page says that it does not fit")
                found.refused += 1
                continue
            turned = (turned + 1) % len(CLASSES)
            begun, before = time.monotonic(), len(under.said)
            put(folder / "one.onnx", model(turned))
            while CLASSES[turned] not in {label for _, label in under.said[before:]}:
                assert time.monotonic() < begun + 60.0, under.said[-1]
                time.sleep(0.01)
            found.live_s.append(time.monotonic() - begun)
            under.until(CLASSES[turned])
    found.asked, found.failed = len(under.said), under.failed
    return found


def main() -> int:
    asked = parser(__doc__, "swaps", 200).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = replaced(Path(folder) / "iris", asked.swaps)
    times = np.array(found.live_s)
    print(f"{found.asked} requests, {len(found.failed)} failed {found.failed[:3]}")
    print(f"{len(times)} models live after {np.median(times):.2f} s (median; at most {times.max():.2f} s)")
    print(f"{found.refused} refused")
    return int(bool(found.failed) or times.max() > LIVE_S)


if __name__ == "__main__":
    sys.exit(main())
