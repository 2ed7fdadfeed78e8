"""Real ``bentoml serve`` processes for tests: on loopback, each with a home of its own, always stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import psutil

from bandmaster.demo import free_port

DEADLINE_S = 60.0
POLL_S = 0.05

T = TypeVar("T")


def eventually(look: Callable[[], T | None], what: str, deadline_s: float = DEADLINE_S) -> T:
    """What ``look`` finds once it finds something; an ``AssertionError`` naming ``what`` if that takes too long."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(POLL_S)
    raise AssertionError(f"{what}: not within {deadline_s:g} s")


def environment(home: Path, **extra: str) -> dict[str, str]:
    """A clean environment for BentoML whose home is ``home``, and in which it has as many threads as elsewhere."""
    home.mkdir(parents=True, exist_ok=True)
    ours = ("BENTOML_", "BANDMASTER_", "PROMETHEUS_", "OMP_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    return kept | {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", **extra}


def bentoml(*arguments: str, folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a BentoML command to its end."""
    command = [sys.executable, "-m", "bentoml", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


@dataclass(frozen=True)
class Server:
    """A service that is up. ``client`` talks to it."""

    url: str
    client: httpx.Client
    process: subprocess.Popen[bytes]
    log: Path

    def state(self) -> dict[str, object]:
        state: dict[str, object] = self.client.get("/orchestration/state").raise_for_status().json()
        return state

    def counts(self) -> dict[str, int]:
        counts = self.state()["counts"]
        assert isinstance(counts, dict)
        return counts

    def processes(self, marker: str) -> list[psutil.Process]:
        """This server's own child processes whose command line holds ``marker``; dead ones have none."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # zombies too
                if any(marker in part for part in child.cmdline()):
                    found.append(child)
        return found

    def worker_and_learner(self) -> tuple[list[psutil.Process], list[psutil.Process]]:
        """The processes of the service's workers and of its learner, as they run now."""
        found = self.processes("_bentoml_impl.worker")
        learner = [p for p in found if any("Learner" in part for part in _words(p))]
        return [p for p in found if p not in learner], learner


def _words(process: psutil.Process) -> list[str]:
    with suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


@contextmanager
def served(what: str, *options: str, folder: Path, env: dict[str, str], port: int = 0) -> Iterator[Server]:
    """``bentoml serve what`` in ``folder``, from ready to stopped; on any port where none is given."""
    port = port or free_port()
    log = Path(env["BENTOML_HOME"]) / f"serve-{port}.log"
    command = [sys.executable, "-m", "bentoml", "serve", what, "--host", "127.0.0.1", "--port", str(port), *options]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, timeout=20) as client:

            def ready() -> bool:
                assert process.poll() is None, log.read_text()
                try:
                    return client.get("/readyz").status_code == 200
                except httpx.TransportError:
                    return False

            eventually(ready, f"bentoml serve {what} is ready (see {log})")
            yield Server(url, client, process, log)
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C does; by force, children included, what does not stop by then."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)
