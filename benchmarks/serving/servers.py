"""Services under measurement: real ``bentoml serve`` processes in a folder of their own, and the CPU time they take."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from bandmaster.core import BandmasterError
from bandmaster.demo import free_port

READY_S, STOP_S = 180.0, 30.0

THEIRS = Path(__file__).parent / "service.py"

ASKED: Mapping[str, Any] = {"guard": "none", "feedback": {"rate": 100_000}}
"""What is set in the block that ``bandmaster init`` writes: the policy answers, and whatever is reported is taken."""

UNTRACED: Mapping[str, Any] = {"tracing": {"excluded_urls": ".*"}}
"""BentoML's own settings without its spans."""

BARE = 'raise ImportError("not installed")\n'
"""What stands in the place of packages that BentoML does not bring along."""


@dataclass(frozen=True, slots=True)
class Server:
    """A service that is up."""

    address: str
    process: psutil.Process

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds that its processes have taken so far, by what they are: ``worker``, ``learner``, ``other``."""
        spent = {"worker": 0.0, "learner": 0.0, "other": 0.0}
        for process in (self.process, *self.process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                words, times = process.cmdline(), process.cpu_times()
                works = any("_bentoml_impl.worker" in word for word in words)
                learns = works and any(word.endswith("Learner") for word in words)
                spent["learner" if learns else "worker" if works else "other"] += times.user + times.system
        return spent


def project(folder: Path, models: Mapping[str, bytes], service: str) -> Path:
    """A folder with the hand-written service, its models, and the block that has ``service`` orchestrated, as
    ``bandmaster init`` writes it: with the ranges of latency and energy around what these models take.
    """
    folder.mkdir(parents=True)
    shutil.copy(THEIRS, folder / "service.py")
    for name, model in models.items():
        (folder / f"{name}.onnx").write_bytes(model)
    file = folder / "bentofile.yaml"
    file.write_text(f'service: "service:{service}"\n')
    command = [sys.executable, "-m", "bandmaster", "init", file.name, *(f"{name}.onnx" for name in models)]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    written = yaml.safe_load(file.read_text())
    written["args"]["orchestration"] |= ASKED
    file.write_text(yaml.safe_dump(written))
    (folder / "bare").mkdir()
    for package in ("uvloop", "httptools"):
        (folder / "bare" / f"{package}.py").write_text(BARE)
    return folder


@contextmanager
def served(
    what: str,
    folder: Path,
    name: str,
    *,
    bare: bool = False,
    settings: Mapping[str, Any] | None = None,
    one_thread: bool = False,
) -> Iterator[Server]:
    """``bentoml serve what`` on a free port of this machine, from ready to stopped; ``name`` tells its files from other
    servers'. A ``bare`` one has nothing but what BentoML itself brings along; ``settings`` are BentoML's own, of its
    services; members by hand run in ``one_thread`` each where they are to, as Bandmaster's do.
    """
    home = folder / name
    home.mkdir()
    port = free_port()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("BENTOML_", "BANDMASTER_", "PROMETHEUS_"))}
    env = kept | {
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "BANDMASTER_JOURNAL": f"sqlite:///{home / 'journal' / 'orchestration.db'}",
        "MEMBERS_IN_ONE_THREAD": "1" if one_thread else "",
    }
    if settings:
        env["BENTOML_CONFIG"] = str(home / "bentoml.yaml")
        (home / "bentoml.yaml").write_text(yaml.safe_dump({"services": dict(settings)}))
    if bare:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder / "bare"), env.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "bentoml", "serve", what, "--host", "127.0.0.1", "--port", str(port)]
    with (home / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}", home / "serve.log")
        yield Server(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < end:
        with suppress(httpx.TransportError):  # not listening yet: that is what is being waited for
            if httpx.get(f"{address}/readyz", timeout=5.0).status_code == httpx.codes.OK:
                return
        time.sleep(0.1)
    raise BandmasterError(f"bentoml serve did not come up; the end of {log}:\n{log.read_text()[-2000:]}")
