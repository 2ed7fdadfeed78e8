"""A member in a process of its own: what crashes or hangs there takes no worker along."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast, get_args

import msgspec
import numpy as np

from bandmaster.core import Array, BandmasterError, FloatArray, Task
from bandmaster.members.onnx import OnnxMember

START_S = 60.0
"""How long a model may take to be loaded."""


class Rows(msgspec.Struct, frozen=True, tag=True):
    """Asks for an answer to these rows (float32)."""

    shape: tuple[int, ...]
    data: bytes


class Named(msgspec.Struct, frozen=True, tag=True):
    """Asks whether these are the model's classes."""

    classes: tuple[int | str, ...]


class Facts(msgspec.Struct, frozen=True, tag=True):
    """What a model is: see ``OnnxMember``."""

    input_shape: tuple[int | None, ...]
    classes: tuple[int | str, ...] | None
    width: int
    latency_s: float


class Scores(msgspec.Struct, frozen=True, tag=True):
    """The answer (float64), and the CPU time (s) that it took."""

    shape: tuple[int, ...]
    data: bytes
    busy_s: float


class Misnamed(msgspec.Struct, frozen=True, tag=True):
    why: str | None


class Failed(msgspec.Struct, frozen=True, tag=True):
    error: str


Asked = Rows | Named
Told = Facts | Scores | Misnamed | Failed
_asked, _told = msgspec.msgpack.Decoder(Asked), msgspec.msgpack.Decoder(Told)


@dataclass(slots=True)
class _Child:
    """The process, our end of the link to it, and whether its model is loaded."""

    process: subprocess.Popen[bytes]
    link: Connection
    ready: bool = False


class IsolatedMember:
    """As ``OnnxMember``, in a process that is killed when it does not answer in time, and started again when it died.

    It answers one call after the other. The process has no secret of ours in its environment, which is all but empty.
    That is no sandbox: it runs as the same user.

    Raises ``BandmasterError`` naming the file when the model cannot be used, or its process dies of it.
    """

    def __init__(self, name: str, path: Path, task: Task = "classification") -> None:
        """Finds out what the model is. Nothing keeps running; ``start``, or the first call, begins anew."""
        self.name, self._path, self._task = name, path, task
        self._lock = threading.Lock()
        self._child: _Child | None = None
        try:
            facts = self._facts(self._begun(), time.monotonic() + START_S)
        except TimeoutError:
            raise BandmasterError(f"{path}: member {name!r} took longer than {START_S:g} s to load") from None
        except EOFError:
            raise BandmasterError(f"{path}: member {name!r}: its process {self._died()}") from None
        finally:
            self.stop()
        self.input_shape, self.classes = facts.input_shape, facts.classes
        self.width, self.latency_s = facts.width, facts.latency_s

    def start(self) -> None:
        """Have the model loaded, without waiting for it."""
        with self._lock:
            self._begun()

    def stop(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.process.kill()
            self._child.process.wait()
            self._child.link.close()
            self._child = None

    def predict(self, rows: Array) -> FloatArray:
        """Return (n, C) distributions, or (n, 1) values, for rows (n, …)."""
        return self.predict_within(rows, math.inf)[0]

    def predict_within(self, rows: Array, seconds: float) -> tuple[FloatArray, float]:
        """The same, with the CPU time that the process spent. Waiting for other callers counts."""
        asked = np.ascontiguousarray(rows, dtype=np.float32)
        told = self._ask(Rows(asked.shape, asked.tobytes()), seconds)
        if not isinstance(told, Scores):
            raise BandmasterError(told.error if isinstance(told, Failed) else "gave no scores")
        return np.frombuffer(told.data, dtype=np.float64).reshape(told.shape), told.busy_s

    def misnamed(self, classes: Sequence[int | str]) -> str | None:
        """As ``OnnxMember.misnamed``."""
        try:
            told = self._ask(Named(tuple(classes)), START_S)
        finally:
            self.stop()
        return told.why if isinstance(told, Misnamed) else f"cannot be asked for its classes: {told}"

    def _ask(self, asked: Asked, seconds: float) -> Told:
        due = time.monotonic() + seconds
        if not self._lock.acquire(timeout=min(seconds, threading.TIMEOUT_MAX)):
            raise TimeoutError(f"answered others for {seconds:.3g} s")
        try:
            child = self._begun()
            if not child.ready:
                self._facts(child, due)
            child.link.send_bytes(msgspec.msgpack.encode(asked))
            return self._heard(child, due)
        except TimeoutError:
            if self._child is not None and self._child.ready:
                self.stop()  # whatever it is at, nobody waits for it any more
                self._begun()
            raise TimeoutError(f"did not answer within {seconds:.3g} s") from None
        except (EOFError, OSError) as problem:
            died = self._died() or str(problem)
            self.stop()
            self._begun()
            raise BandmasterError(f"its process {died}") from None
        finally:
            self._lock.release()

    def _begun(self) -> _Child:
        """The process, started if there is none."""
        if self._child is None:
            ours, theirs = socket.socketpair()
            command = [sys.executable, "-m", __name__, str(theirs.fileno()), self.name, str(self._path), self._task]
            kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
            environment = kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            process = subprocess.Popen(
                command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
            )
            theirs.close()
            self._child = _Child(process, Connection(ours.detach()))
        return self._child

    def _facts(self, child: _Child, due: float) -> Facts:
        """What the model is, once it is loaded."""
        told = self._heard(child, due)
        if not isinstance(told, Facts):
            raise BandmasterError(told.error if isinstance(told, Failed) else f"{self._path}: tells nothing of itself")
        child.ready = True
        return told

    def _heard(self, child: _Child, due: float) -> Told:
        left_s = due - time.monotonic()
        if not child.link.poll(None if left_s == math.inf else max(left_s, 0.0)):
            raise TimeoutError
        return cast(Told, _told.decode(child.link.recv_bytes()))

    def _died(self) -> str:
        """How the process ended, waiting for it to; it has closed its end of the link."""
        if self._child is None:
            return "is gone"
        code = self._child.process.wait()
        return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def serve(link: Connection, name: str, path: Path, task: Task) -> None:
    """The process's side: load the model, then answer until the other side is gone."""
    try:
        member = OnnxMember(name, path, task)
    except BandmasterError as problem:
        link.send_bytes(msgspec.msgpack.encode(Failed(str(problem))))
        return
    told: Told = Facts(member.input_shape, member.classes, member.width, member.latency_s)
    while True:
        link.send_bytes(msgspec.msgpack.encode(told))
        try:
            asked = _asked.decode(link.recv_bytes())
        except EOFError:
            return
        told = _answered(member, asked)


def _answered(member: OnnxMember, asked: Asked) -> Told:
    if isinstance(asked, Named):
        return Misnamed(member.misnamed(asked.classes))
    busy = time.thread_time()
    try:
        scores = member.predict(np.frombuffer(asked.data, dtype=np.float32).reshape(asked.shape))
    except Exception as problem:  # whatever it is, the other side is to hear of it
        return Failed(f"{type(problem).__name__}: {problem}")
    return Scores(scores.shape, scores.tobytes(), time.thread_time() - busy)


if __name__ == "__main__":
    handle, name_, path_, task_ = sys.argv[1:]
    assert task_ in get_args(Task)
    serve(Connection(int(handle)), name_, Path(path_), cast(Task, task_))
