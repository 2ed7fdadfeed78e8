"""A running service is edited while it is asked: half of the edits are no configuration, and some are made by hand.

    python -m tests.faults.live_edits --edits 1000

Nobody who asks may notice; what can be used must be in force within two seconds, in the worker and in the learner, and
logged; what cannot must leave everything as it was, and be shown; revert must give back the exact bytes.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import yaml

from bandmaster.config import read_block
from bandmaster.config_manager import ConfigManager
from bandmaster.core import BandmasterError
from bandmaster.edits import Edits
from bandmaster.serving.discovery import in_force
from bandmaster.serving.live import digest
from tests.end_to_end.servers import Server, environment, served
from tests.faults.command import parser
from tests.serving.tiny import CLASSES, LABELS, ROWS, models, project

HEADER = "x-orchestration-decision"
CALLERS = 3
PATIENCE_S = 30.0
LIVE_S = 2.0
MEMBERS = ("linear", "tree", "bayes")
BY_HAND = 0.3
WRONG = 0.5


@dataclass
class Found:
    """What was seen: how many were asked and failed, how long (s) each edit took to come into force, how many were
    refused as they should be, and what was not as it must be.
    """

    asked: int = 0
    failed: list[str] = field(default_factory=list)
    live_s: list[float] = field(default_factory=list)
    refused: int = 0
    amiss: list[str] = field(default_factory=list)


async def ask(session: aiohttp.ClientSession, found: Found, seed: int) -> None:
    """Ask without a pause, and report each label."""
    rng = np.random.default_rng(seed)
    while True:
        k = int(rng.integers(len(ROWS)))
        found.asked += 1
        try:
            async with session.post("/classify", json={"input_series": [ROWS[k].tolist()]}) as response:
                text, name = await response.text(), response.headers.get(HEADER, "")
                if response.status != 200:
                    found.failed.append(f"/classify: {response.status} {text[:200]}")
                    continue
            async with session.post("/feedback", json={"decision_id": name, "label": CLASSES[LABELS[k]]}) as response:
                if response.status >= 400:
                    found.failed.append(f"/feedback: {response.status} {(await response.text())[:200]}")
        except (aiohttp.ClientError, TimeoutError) as problem:
            found.failed.append(f"{type(problem).__name__}: {problem}")


class Editor:
    """Makes edits, of all kinds, and looks whether they came into force."""

    def __init__(self, folder: Path, server: Server, found: Found, seed: int) -> None:
        self.file, self._server, self._found = folder / "bentofile.yaml", server, found
        self._read = partial(read_block, self.file)
        self._written = self.file.read_text()
        self.manager = ConfigManager(self._read, Edits(folder / "orchestration.db"))
        self._rng = np.random.default_rng(seed)
        self.overlays, self.made = [b""], 0
        self._extra = 0

    async def edit(self) -> None:
        wrong, by_hand = self._rng.random(2) < (WRONG, BY_HAND)
        if by_hand:
            await (self._wrong_by_hand() if wrong else self._by_hand())
        elif wrong:
            await self._refused()
        else:
            await self._applied()

    def _changes(self) -> Mapping[str, Any]:
        member = str(self._rng.choice(MEMBERS))
        kinds: list[Mapping[str, Any]] = [
            {f"members.{member}.active": bool(self._rng.random() < 0.5)},
            {f"members.{member}.weight": float(np.round(self._rng.uniform(0.5, 4.0), 3))},
            {"policy.explore": {"epsilon": float(np.round(self._rng.uniform(0.0, 0.2), 4))}},
            {"probes.share": float(np.round(self._rng.uniform(0.0, 0.2), 4))},
            {"members.extra.onnx": "extra.onnx", "members.extra.weight": float(self._rng.uniform(0.5, 2.0))},
            {"members.extra": None},
        ]
        return kinds[int(self._rng.choice(len(kinds), p=[0.35, 0.35, 0.1, 0.1, 0.05, 0.05]))]

    async def _applied(self) -> None:
        changes = self._changes()
        edit = await asyncio.to_thread(self.manager.apply, changes, "cli:test", f"{changes}")
        if edit is None:
            return
        self.made += 1
        self.overlays.append(edit.overlay.encode())
        await self._live(f"{changes}")

    async def _refused(self) -> None:
        wrong: list[Mapping[str, Any]] = [
            {"members.tree.weight": "heavy"},
            {"seed": -1},
            {"members.nobody.active": True},
            {"journal": "sqlite:///other.db"},
            {"policy.use": "oracle"},
            {f"members.{name}.active": False for name in (*MEMBERS, "fragile", "extra")},
            {"contract.accuracy.weight": -1.0, "members.tree.weight": 2.0},
        ]
        changes = wrong[int(self._rng.integers(len(wrong)))]
        before = self._bytes()
        try:
            await asyncio.to_thread(self.manager.apply, changes, "cli:test", "")
            self._found.amiss.append(f"{changes} was taken")
        except BandmasterError:
            self._found.refused += 1
        if self._bytes() != before:
            self._found.amiss.append(f"{changes} was refused and has changed a file")

    def _bytes(self) -> tuple[bytes, bytes]:
        edits = self.manager.edits
        return tuple(path.read_bytes() if path.exists() else b"" for path in (edits.path, edits.log))  # type: ignore[return-value]

    async def _by_hand(self) -> None:
        """As an editor does that writes into the file as it is; at the same moment somebody else edits the overlay."""
        document = yaml.safe_load(self._written)
        block = document["args"]["orchestration"]
        block["contract"]["accuracy"]["weight"] = float(np.round(self._rng.uniform(0.5, 0.95), 4))
        block["members"]["linear"]["weight"] = float(np.round(self._rng.uniform(0.5, 4.0), 4))
        self._written = yaml.safe_dump(document, sort_keys=False)
        changes = {"probes.share": float(np.round(self._rng.uniform(0.0, 0.2), 5))}
        _, edit = await asyncio.gather(
            asyncio.to_thread(self.file.write_text, self._written),
            asyncio.to_thread(self._applied_somehow, changes),
        )
        if edit is not None:
            self.made += 1
            self.overlays.append(edit.overlay.encode())
        await self._live("by hand")

    def _applied_somehow(self, changes: Mapping[str, Any]) -> Any:
        """An edit at the moment at which the file is half written may be refused, and is made again."""
        for _ in range(100):
            try:
                return self.manager.apply(changes, "cli:test", "at the same moment")
            except BandmasterError:
                time.sleep(0.01)
        self._found.amiss.append(f"{changes} was refused for a second")
        return None

    async def _wrong_by_hand(self) -> None:
        cut = self._written[: int(len(self._written) * self._rng.uniform(0.2, 0.9))]
        wrong = [
            "",
            cut + "\n  - [",
            self._written.replace("accuracy:", "acuracy:"),
            self._written.replace("linear.onnx", "gone.onnx"),
            self._written.replace("method: classify", "method: classified"),
        ]
        self.file.write_text(wrong[int(self._rng.integers(len(wrong)))])
        served_by = self._pages()[0]["digest"]
        await self._until("an error is shown", lambda pages: all(page["error"] for page in pages))
        if {page["digest"] for page in self._pages()} != {served_by}:
            self._found.amiss.append("what was no configuration has changed what is served")
        self._found.refused += 1
        self.file.write_text(self._written)
        await self._live("mended by hand")

    async def _live(self, what: str) -> None:
        wanted = digest(in_force(self._read)[0])
        began = time.monotonic()
        await self._until(what, lambda pages: all(p["digest"] == wanted and p["error"] is None for p in pages))
        self._found.live_s.append(time.monotonic() - began)

    async def _until(self, what: str, so: Any) -> None:
        end = time.monotonic() + PATIENCE_S
        while not so(await asyncio.to_thread(self._pages)):
            if time.monotonic() > end:
                self._found.amiss.append(f"{what}: not within {PATIENCE_S:g} s")
                return
            await asyncio.sleep(0.01)

    def _pages(self) -> list[dict[str, Any]]:
        state: Any = self._server.state()
        return [state["config"], state["worker"]["config"]]

    def audit(self) -> None:
        """The log must hold every edit, in order; and each version can be had back, to the byte."""
        history = self.manager.edits.history()
        if [edit.overlay.encode() for edit in history] != self.overlays[1:]:
            self._found.amiss.append(f"{len(self.overlays) - 1} edits were made, and {len(history)} others are logged")
        for version in self._rng.integers(len(self.overlays), size=5).tolist():
            self.manager.revert(version, "cli:test")
            if self._bytes()[0] != self.overlays[version]:
                self._found.amiss.append(f"revert {version} gave other bytes")


async def run(folder: Path, server: Server, edits: int, seed: int, shown: bool) -> Found:
    found = Found()
    editor = Editor(folder, server, found, seed)
    async with aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(total=30)) as session:
        callers = [asyncio.create_task(ask(session, found, seed + k)) for k in range(CALLERS)]
        for k in range(1, edits + 1):
            await editor.edit()
            if shown and k % 50 == 0:
                print(f"  {k}/{edits} edits, {found.asked} requests, {len(found.failed)} failed", flush=True)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    editor.audit()
    return found


@contextmanager
def service(folder: Path) -> Iterator[Server]:
    project(
        folder, seed=1, guard={"mode": "live", "baseline": "linear+tree"}, feedback={"window": "1 min", "rate": 1e9}
    )
    (folder / "extra.onnx").write_bytes(models()["bayes"])
    with served(".", folder=folder, env=environment(folder / "home")) as server:
        yield server


def edited(folder: Path, edits: int, seed: int = 0, shown: bool = False) -> Found:
    with service(folder) as server:
        return asyncio.run(run(folder, server, edits, seed, shown))


def main() -> int:
    asked = parser(__doc__, "edits", 1000).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = edited(Path(folder), asked.edits, asked.seed, shown=True)
    slow = sum(s > LIVE_S for s in found.live_s)
    print(
        f"{found.asked} requests, {len(found.failed)} failed; {len(found.live_s)} edits in force after "
        f"{np.median(found.live_s):.2f} s (at most {max(found.live_s):.2f} s, {slow} after more than {LIVE_S:g} s), "
        f"{found.refused} refused"
    )
    for line in [*found.failed[:20], *found.amiss[:20]]:
        print(f"  {line}")
    return 1 if found.failed or found.amiss or slow else 0


if __name__ == "__main__":
    sys.exit(main())
