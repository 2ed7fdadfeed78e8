"""The demo: train, serve, send drifting traffic with late labels, compare. Everything in it is real.

It drives the ``bento/`` and ``models/`` of a clone, or of the wheel, from outside, as a user would: BentoML's command
serves, HTTP carries the images and the labels.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import joblib
import numpy as np
import polars as pl

import bandmaster
from bandmaster import build
from bandmaster.config import Config, load
from bandmaster.core import BandmasterError, DriftEvent, Ensemble, FloatArray, Joined
from bandmaster.counterfactual import evaluate
from bandmaster.files import write_text
from bandmaster.journal.keys import Keys
from bandmaster.journal.sqlite import SqliteJournal
from bandmaster.learner import Learner
from bandmaster.plans import compiled
from bandmaster.recorded import RecordedLog
from bandmaster.replay import Step, Traffic, replay
from bandmaster.results import Results
from bandmaster.visualizer.page import require_drawing

LABEL_DELAY = 50
"""Requests until a label arrives, live and replayed."""

CONCURRENCY = 8
RATE = 120.0
"""Requests a second, live: enough to be over soon, not so many that two cores are busy with the client."""

FEEDBACK_BATCH = 20
READY_S, SETTLE_S, STOP_S = 60.0, 30.0, 15.0

TOLERANCE = 1e-9
"""By how much a recorded and a replayed reward may differ: they are the same sums."""


@dataclass(frozen=True, slots=True)
class Demo:
    """What to do and where: ``requests`` sent live and replayed on each of ``seeds`` redraws of the traffic."""

    root: Path
    out: Path
    requests: int
    seed: int
    seeds: int

    @property
    def store(self) -> Path:
        return self.out / "bentoml"

    def traffic(self, seed: int) -> Path:
        return self.out / "traffic" / f"{self.requests}-{seed}.parquet"

    @property
    def journal(self) -> Path:
        return self.out / "journal" / "orchestration.db"


@dataclass(frozen=True, slots=True)
class Live:
    """What the live run did. ``reward`` is the mean that the service recorded, ``replayed`` what its journal gives
    when every decision is walked again from the members' recorded outputs; the largest difference of any one
    decision is ``disagreement``.
    """

    requests: int
    joined: int
    reward: float
    replayed: float
    disagreement: float
    accuracy: float
    energy_j: float
    seconds: float
    events: tuple[tuple[int, DriftEvent], ...]


def find_root() -> Path:
    """Where ``bento/`` and ``models/`` are: in the clone that this package is installed from, or brought by the wheel.

    Raises ``BandmasterError`` where they are in neither.
    """
    package = Path(bandmaster.__file__).parent
    for root in (package.parents[1], package / "_clone"):
        if (root / "models" / "train.py").is_file() and (root / "bento" / "bentofile.yaml").is_file():
            return root
    raise BandmasterError(f"{package}: brings no models/ and bento/; run the demo from a clone, with `make demo`")


def train(demo: Demo) -> None:
    """Train and store the ensemble, unless the store holds it already."""
    command = [sys.executable, "-m", "models.train", "--store", str(demo.store), "--out", str(demo.out / "models")]
    if subprocess.run(command, cwd=demo.root, env=_environment(demo), check=False).returncode:
        raise BandmasterError("the ensemble could not be trained; the lines above say why")


def record(demo: Demo, said: Callable[[], None]) -> list[Path]:
    """Record what every member says to each redraw of the traffic; ``said`` hears of each."""
    paths = [demo.traffic(seed) for seed in range(demo.seed, demo.seed + demo.seeds)]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    tasks = [joblib.delayed(_record)(demo, seed, p) for seed, p in enumerate(paths, start=demo.seed)]
    for _ in joblib.Parallel(n_jobs=-1, return_as="generator_unordered")(tasks):
        said()
    return paths


def _record(demo: Demo, seed: int, path: Path) -> None:
    os.environ.update(_environment(demo))
    sys.path.insert(0, str(demo.root))
    from models.record import record as record_traffic  # a script beside the package, not of it

    record_traffic(demo.requests, seed, demo.store).write_parquet(path)


def _environment(demo: Demo) -> dict[str, str]:
    return {
        **os.environ,
        "BENTOML_HOME": str(demo.store),
        "BENTOML_DO_NOT_TRACK": "True",
        "BANDMASTER_JOURNAL": f"sqlite:///{demo.journal}",
    }


@contextmanager
def serving(demo: Demo) -> Iterator[str]:
    """A real ``bentoml serve`` of ``bento/`` on a free port of this machine; gives its address."""
    shutil.rmtree(demo.journal.parent, ignore_errors=True)
    address = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "bentoml", "serve", ".", "--host", "127.0.0.1", "--port", address.split(":")[-1]]
    log_path = demo.out / "serve.log"
    with log_path.open("w") as log:
        server = subprocess.Popen(
            command,
            cwd=demo.root / "bento",
            env=_environment(demo),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_until_ready(server, address, log_path)
            yield address
        finally:
            _stop(server)


def free_port() -> int:
    """A port of loopback that nobody listens on.

    It is none of those that systems lend to clients: one of these could be gone before a server opens it.
    """
    for port in secrets.SystemRandom().sample(range(15_000, 32_000), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise BandmasterError("no port of 127.0.0.1 is free: of 100 between 15000 and 32000 every one is taken")


def _wait_until_ready(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            if httpx.get(f"{address}/orchestration/state", timeout=2.0).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass  # not listening yet: that is what is being waited for
        time.sleep(0.1)
    tail = "\n".join(log.read_text().splitlines()[-20:])
    raise BandmasterError(f"bentoml serve did not come up; the end of {log}:\n{tail}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


class Client:
    """Sends images in order, a few at a time, and each one's label ``LABEL_DELAY`` requests later."""

    def __init__(self, address: str, told: Callable[[int, float], None]) -> None:
        """``told`` hears how many requests were answered and the mean of the last rewards."""
        self._address, self._told = address, told
        self._due: deque[tuple[str, int]] = deque()
        self._rewards: deque[float] = deque(maxlen=200)
        self._answered = 0
        self._began = 0.0

    async def send(self, rows: FloatArray, labels: Sequence[int]) -> None:
        limits = httpx.Limits(max_connections=CONCURRENCY)
        async with httpx.AsyncClient(base_url=self._address, timeout=30.0, limits=limits) as http:
            waiting = iter(range(len(rows)))
            self._began = time.monotonic()
            await asyncio.gather(*(self._work(http, rows, labels, waiting) for _ in range(CONCURRENCY)))
            while self._due:
                await self._report(http)
            await self._settled(http, len(rows))

    async def _work(
        self, http: httpx.AsyncClient, rows: FloatArray, labels: Sequence[int], waiting: Iterator[int]
    ) -> None:
        for i in waiting:
            await asyncio.sleep(max(0.0, self._began + i / RATE - time.monotonic()))
            reply = await http.post("/predict", json={"images": [rows[i].tolist()]})
            reply.raise_for_status()
            self._due.append((reply.headers["x-orchestration-decision"], int(labels[i])))
            self._answered += 1
            if len(self._due) >= LABEL_DELAY + FEEDBACK_BATCH:
                await self._report(http)
            self._told(self._answered, float(np.mean(self._rewards)) if self._rewards else float("nan"))

    async def _report(self, http: httpx.AsyncClient) -> None:
        batch = [self._due.popleft() for _ in range(min(FEEDBACK_BATCH, len(self._due)))]
        reply = await http.post("/feedback", json=[{"decision_id": d, "label": label} for d, label in batch])
        reply.raise_for_status()
        self._rewards.extend(r["reward"] for r in reply.json() if r["reward"] is not None)

    async def _settled(self, http: httpx.AsyncClient, wanted: int) -> None:
        """Wait for the outcomes that came before their probes had run."""
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline:
            counts = (await http.get("/orchestration/state")).json()["counts"]
            if counts["joined"] >= wanted:
                return
            await asyncio.sleep(0.1)
        raise BandmasterError(f"{counts['joined']} of {wanted} labels were joined to their decisions in {SETTLE_S:g} s")


def read_images(log: Path) -> tuple[FloatArray, list[int]]:
    """The images of a recorded log, (n, pixels), and what they show."""
    frame = pl.read_parquet(log)
    pixels = [c for c in frame.columns if c[0] == "x" and c[1:].isdigit()]
    return frame.select(pixels).to_numpy(), frame["label"].to_list()


def send_live(address: str, log: Path, told: Callable[[int, float], None]) -> float:
    """Send the traffic of a recorded log to a running service. Returns the seconds that took."""
    images, labels = read_images(log)
    began = time.monotonic()
    asyncio.run(Client(address, told).send(images, labels))
    return time.monotonic() - began


def review(demo: Demo, config: Config, ensemble: Ensemble, seconds: float) -> Live:
    """Read the journal that the live run left, and replay it: every reward computed anew from recorded answers, every
    plan walked again from recorded outputs.
    """
    # A copy: the journal itself has an owner, the learner that is still running.
    copy = demo.out / "journal.db"
    copy.unlink(missing_ok=True)
    with closing(sqlite3.connect(demo.journal)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    with closing(SqliteJournal(copy, Keys.of(demo.journal.parent), config.feedback.window_s)) as journal:
        learner = build.learner(config, build.catalogue(config, ensemble), np.random.default_rng(0))
        recorded, replayed, accuracy, energy, times = [], [], [], [], []
        for joined in journal.since(0):
            found = journal.reward(joined.decision.id)
            if found is None:
                raise BandmasterError(f"{demo.journal}: decision {joined.decision.id} was settled without a reward")
            recorded.append(found.value)
            replayed.append(learner.reward(joined).value if _walked_alike(learner, joined) else np.nan)
            accuracy.append(found.raw["accuracy"])
            energy.append(found.raw["energy"])
            times.append(joined.outcome.at)
        events = tuple((int(np.searchsorted(times, e.at)), e) for e in journal.events())
        counts = journal.counts()
    difference = np.abs(np.subtract(recorded, replayed))
    return Live(
        requests=counts.decisions,
        joined=counts.joined,
        reward=float(np.mean(recorded)),
        replayed=float(np.mean(replayed)),
        disagreement=float("inf") if np.isnan(difference).any() else float(difference.max()),
        accuracy=float(np.mean(accuracy)),
        energy_j=float(np.mean(energy)),
        seconds=seconds,
        events=events,
    )


def _walked_alike(learner: Learner, joined: Joined) -> bool:
    """Whether walking the plan again from what its members said gives the answer that was given.

    Plans with learned weights answered by a belief that is another by now: there the answer stands as recorded.
    """
    chosen = compiled((joined.decision.plan,), learner.ensemble)
    if chosen.plans[0].weights == "learned":
        return True
    scores, known = learner.outputs(joined.answer)
    walked = evaluate(chosen, scores, known, joined.answer.weights)
    return bool((walked.labels[:, 0] == joined.answer.labels).all())


def compare(demo: Demo, config: Config, logs: Sequence[RecordedLog], told: Callable[[Step], None]) -> Results:
    """Replay every policy on every redraw; leaves ``results.json`` and a trace for the picture."""
    bench = build.bench(config, logs, Traffic(delay=LABEL_DELAY))
    (results,) = replay(bench, build.POLICIES, demo.seeds, progress=told, trace=demo.out / "trace.parquet")
    return results


def write(demo: Demo, results: Results, live: Live) -> None:
    """Leave ``results.json``, with what the live run recorded, ``timing.json`` and the picture in ``demo.out``."""
    told = {
        "requests": live.requests,
        "joined": live.joined,
        "reward": live.reward,
        "replayed_reward": live.replayed,
        "largest_disagreement": live.disagreement,
        "accuracy": live.accuracy,
        "energy_j": live.energy_j,
        "seconds": live.seconds,
        "drift_events": len(live.events),
    }
    results.write(demo.out / "results.json")
    text = json.dumps({**results.as_json(), "live": told}, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(demo.out / "results.json", text + "\n")
    _draw(demo, live, demo.out / "demo.png")


def _draw(demo: Demo, live: Live, path: Path) -> None:
    """The picture: reward over time by policy on the first traffic, its phases shaded, live drift alarms marked."""
    require_drawing("the picture")
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    trace = pl.read_parquet(demo.out / "trace.parquet").filter(pl.col("seed") == 0)
    window = max(demo.requests // 30, 20)
    figure, axes = plt.subplots(figsize=(11, 4.6), layout="constrained")
    shades = plt.get_cmap("Pastel1")
    first = trace.filter(pl.col("policy") == "bandit").sort("position")
    phases = first["phase"].to_list()
    starts = [i for i in range(len(phases)) if i == 0 or phases[i] != phases[i - 1]]
    kinds = list(dict.fromkeys(phases))
    for start, end in zip(starts, [*starts[1:], len(phases)], strict=True):
        axes.axvspan(start, end, color=shades(kinds.index(phases[start]) % 9), alpha=0.45, lw=0)
        axes.text((start + end) / 2, 1.01, phases[start], ha="center", va="bottom", fontsize=7, rotation=30)
    for policy, colour in zip(("constant", "random", "scoring", "bandit"), ("C7", "C1", "C0", "C3"), strict=True):
        rewards = trace.filter(pl.col("policy") == policy).sort("position")["reward"].rolling_mean(window)
        axes.plot(rewards.to_numpy(), color=colour, lw=2.2 if policy == "bandit" else 1.3, label=policy)
    marks = [place for place, _ in live.events]
    axes.plot(marks, np.full(len(marks), 0.02), "k^", ms=5, label="drift alarm (live run)", clip_on=False)
    axes.set(xlim=(0, len(phases)), ylim=(0, 1), xlabel="request", ylabel=f"reward, mean of the last {window}")
    figure.legend(loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def read_config(demo: Demo) -> Config:
    """The bento's own configuration: what is compared is what is served."""
    return load(demo.root / "bento" / "bentofile.yaml")


def wait_for_interrupt() -> None:
    """Return when Ctrl-C is pressed."""
    try:
        signal.pause()
    except KeyboardInterrupt:
        return
