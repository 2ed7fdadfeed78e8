"""A member in a process of its own: what crashes or hangs there takes no worker along."""

from __future__ import annotations

import math
import os
import select
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

from bandmaster.core import CPU, Array, BandmasterError, FloatArray, MemberFailure, Task
from bandmaster.members.deadline import Deadline
from bandmaster.members.onnx import OnnxMember
from bandmaster.members.watchdog import WATCHDOG

START_S = 60.0
"""How long a model may take to be loaded."""

RESTART_S = 5.0
"""How long a process that died before it was ready is not started again."""

LONGEST_S = 1e6
"""What never ends is waited for so long; a poll takes no more."""

MOST_BYTES = 1 << 28
"""The longest message that is taken from a process."""


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
    busy_s: float = 0.0


Asked = Rows | Named
Told = Facts | Scores | Misnamed | Failed
_asked, _told = msgspec.msgpack.Decoder(Asked), msgspec.msgpack.Decoder(Told)


@dataclass(slots=True)
class _Child:
    """The process, our end of the link to it, when it was begun (monotonic s), whether its model is loaded, and until
    when it may still give the answer that nobody waits for any more; whether it was killed for taking too long.
    """

    process: subprocess.Popen[bytes]
    link: Connection
    begun: float
    ready: bool = False
    owed_until: float | None = None
    overdue: bool = False

    def end(self) -> None:
        self.overdue = True
        self.process.kill()


class IsolatedMember:
    """As ``OnnxMember``, in a process that is killed when a call takes longer than its ``deadline``, and started again
    when it has died.

    It answers one call after the other. The process has no secret of ours in its environment, which is all but empty.
    That is no sandbox: it runs as the same user.

    Raises ``BandmasterError`` naming the file when the model cannot be used, or its process dies of it.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        task: Task = "classification",
        providers: Sequence[str] = (CPU,),
        deadline: Deadline | None = None,
        energy_j: float | None = None,
    ) -> None:
        """Finds out what the model is. Nothing keeps running; ``start``, or the first call, begins anew."""
        self.name, self._path, self._task, self._providers = name, path, task, providers
        self.energy_j = energy_j
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._stopped, self._not_before = False, 0.0
        self._what: tuple[object, ...] | None = None
        try:
            told = self._ask(None, START_S)
        except MemberFailure as failure:
            raise BandmasterError(f"{path}: member {name!r}: {failure}") from None
        finally:
            self._end()
        if not isinstance(told, Facts):
            raise BandmasterError(told.error if isinstance(told, Failed) else f"{path}: tells nothing of itself")
        self.input_shape, self.classes = told.input_shape, told.classes
        self.width, self.latency_s = told.width, told.latency_s
        self._deadline = deadline or Deadline.of(None, told.latency_s)

    def start(self) -> None:
        """Have the model loaded, without waiting for it."""
        with self._lock:
            self._stopped = False
            self._running()

    def start_at_once(self) -> None:
        """The same for one that is stopped, and wait for it. Raises ``MemberFailure`` where it cannot be loaded."""
        self._stopped = False
        self._ask(None, START_S)

    def stop(self) -> None:
        """End the process, and a call under way with it. Until ``start`` no other is begun."""
        self._stopped = True
        self._end()

    def _end(self) -> None:
        if (child := self._child) is not None:
            child.process.kill()  # whoever waits for it lets go of the lock
        with self._lock:
            self._drop()

    def predict(self, rows: Array) -> FloatArray:
        """Return (n, C) distributions, or (n, 1) values, for rows (n, …). Raises ``MemberFailure``."""
        return self.predict_within(rows, math.inf)[0]

    def predict_within(self, rows: Array, seconds: float) -> tuple[FloatArray, float]:
        """The same, with the CPU time that the process spent. Waiting for other callers counts."""
        asked = np.ascontiguousarray(rows, dtype=np.float32)
        start = time.monotonic()
        told = self._ask(Rows(asked.shape, asked.tobytes()), seconds, self._deadline.seconds(len(asked)))
        took = time.monotonic() - start
        if not isinstance(told, Scores):
            failed = told if isinstance(told, Failed) else Failed("gave no scores", took)
            raise MemberFailure(failed.error, _within(failed.busy_s, took))
        scores = np.frombuffer(told.data, dtype=np.float64).reshape(told.shape)
        return scores, _within(told.busy_s, took)

    def misnamed(self, classes: Sequence[int | str]) -> str | None:
        """As ``OnnxMember.misnamed``."""
        try:
            told = self._ask(Named(tuple(classes)), START_S)
        except MemberFailure as failure:
            return f"cannot be asked for its classes: {failure}"
        finally:
            self._end()
        return told.why if isinstance(told, Misnamed) else f"cannot be asked for its classes: {told}"

    def _ask(self, asked: Asked | None, seconds: float, own_s: float = START_S) -> Told:
        """What the process says to that, or (``None``) of itself, in at most so many ``seconds``. It is killed when it
        takes longer than ``own_s``.
        """
        due = time.monotonic() + min(seconds, LONGEST_S)
        if not self._lock.acquire(timeout=min(seconds, LONGEST_S)):
            raise MemberFailure(f"answered others for {seconds:.3g} s", no_turn=True)
        sent = time.monotonic()
        try:
            child = self._settled(self._running(), due)
            if not child.ready:
                facts = self._exchange(child, None, due, child.begun + START_S)
                child.ready = isinstance(facts, Facts)
                if isinstance(facts, Facts) and self._is_other(facts):
                    self._drop()
                    self._not_before = time.monotonic() + RESTART_S
                    raise MemberFailure("its file holds another model by now")
                if asked is None or not child.ready:
                    return facts
            sent = time.monotonic()
            return self._exchange(child, asked, due, sent + own_s)
        except TimeoutError:
            raise MemberFailure(f"did not answer within {seconds:.3g} s", time.monotonic() - sent) from None
        except (EOFError, OSError, ValueError, msgspec.DecodeError) as problem:
            late = self._child is not None and self._child.overdue
            died = self._drop()
            why = f"did not answer within {own_s:.3g} s" if late else f"its process {died or problem}"
            raise MemberFailure(why, time.monotonic() - sent) from None
        finally:
            self._lock.release()

    def _is_other(self, facts: Facts) -> bool:
        """Whether that is another model than the one that was found at first: its file may have been replaced since."""
        was, self._what = self._what, self._what or (facts.input_shape, facts.classes, facts.width)
        return was is not None and was != (facts.input_shape, facts.classes, facts.width)

    def _exchange(self, child: _Child, asked: Asked | None, due: float, killed_at: float) -> Told:
        """Send, where there is something to, and receive. Raises ``TimeoutError`` when it is due, and the answer owed
        then; ``EOFError`` or ``OSError`` when the process died or was killed.
        """
        now = time.monotonic()
        watching = WATCHDOG.watch(max(killed_at - now, 0.0), child.end)  # a link that is full knows no time limit
        try:
            if asked is not None:
                child.link.send_bytes(msgspec.msgpack.encode(asked))
            if not child.link.poll(max(min(due, killed_at + 1.0) - time.monotonic(), 0.0)):
                child.owed_until = killed_at
                raise TimeoutError
            return cast(Told, _told.decode(child.link.recv_bytes(MOST_BYTES)))
        finally:
            WATCHDOG.release(watching)

    def _settled(self, child: _Child, due: float) -> _Child:
        """The process once it has given the answer that an earlier caller had no time to wait for; or, where it died of
        that or was killed, another one. Raises ``TimeoutError`` where it is owed still.
        """
        if child.owed_until is not None:
            try:
                told = self._exchange(child, None, due, child.owed_until)
                child.owed_until, child.ready = None, child.ready or isinstance(told, Facts)
            except TimeoutError:
                raise
            except (EOFError, OSError):
                self._drop()
                child = self._running()
        return child

    def _running(self) -> _Child:
        """The process, started if there is none; but not at once where the last one died before it was ready."""
        if self._child is None:
            if self._stopped or time.monotonic() < self._not_before:
                raise MemberFailure("is stopped" if self._stopped else "died when it was started, a moment ago")
            ours, theirs = socket.socketpair()
            command = [sys.executable, "-m", __name__, str(theirs.fileno()), self.name, str(self._path)]
            command += [self._task, *self._providers]
            kept = {
                name: os.environ[name]
                for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "CUDA_VISIBLE_DEVICES")
                if name in os.environ
            }
            environment = kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            try:
                process = subprocess.Popen(
                    command,
                    env=environment,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            finally:
                theirs.close()
            self._child = _Child(process, Connection(ours.detach()), time.monotonic())
        return self._child

    def _drop(self) -> str | None:
        """Let go of the process, and say how it ended, if it had; another is begun by the next call."""
        child, self._child = self._child, None
        if child is None:
            return None
        code = child.process.poll()
        if code is not None and not child.ready:
            self._not_before = time.monotonic() + RESTART_S
        child.process.kill()
        child.process.wait()
        child.link.close()
        if code is None:  # it lived, or had closed the link and was about to go
            code = child.process.returncode
        return f"ended with status {code}" if code >= 0 else f"died of {_signal(-code)}"


def _within(busy_s: float, took_s: float) -> float:
    """What a process says it spent, as far as that can be."""
    return busy_s if 0.0 <= busy_s <= took_s else took_s


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def serve(link: Connection, name: str, path: Path, task: Task, providers: Sequence[str]) -> None:
    """The process's side: load the model, then answer until the other side is gone."""
    threading.Thread(target=_leave_with, args=(link.fileno(),), daemon=True).start()
    try:
        member = OnnxMember(name, path, task, providers)
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


def _leave_with(handle: int) -> None:
    """End this process when the other side is gone, whatever the model is at."""
    waiting = select.poll()
    waiting.register(handle, select.POLLRDHUP)
    waiting.poll()
    os._exit(0)


def _answered(member: OnnxMember, asked: Asked) -> Told:
    if isinstance(asked, Named):
        return Misnamed(member.misnamed(asked.classes))
    busy = time.thread_time()
    try:
        scores = member.predict(np.frombuffer(asked.data, dtype=np.float32).reshape(asked.shape))
    except Exception as problem:  # whatever it is, the other side is to hear of it
        return Failed(f"{type(problem).__name__}: {problem}", time.thread_time() - busy)
    return Scores(scores.shape, scores.tobytes(), time.thread_time() - busy)


if __name__ == "__main__":
    handle, name_, path_, task_, *providers_ = sys.argv[1:]
    assert task_ in get_args(Task)
    serve(Connection(int(handle)), name_, Path(path_), cast(Task, task_), providers_)
