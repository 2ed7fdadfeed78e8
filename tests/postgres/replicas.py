"""Replicas of the tiny service over one PostgreSQL, and what can be done to them."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.end_to_end.servers import Server, environment, served
from tests.serving.tiny import CLASSES, LABELS, ROWS, project

KEY = secrets.token_hex(32)
LIVE: dict[str, Any] = {"seed": 3, "probes": {"share": 0.2}, "guard": {"mode": "live", "baseline": "linear"}}


def replica(database: str, folder: Path, **changes: Any) -> AbstractContextManager[Server]:
    """One replica, from ready to stopped; ``changes`` replace keys of its block."""
    if not folder.exists():
        project(folder, journal=database, **LIVE | changes)
    return served(".", folder=folder, env=environment(folder / "home", BANDMASTER_KEY=KEY))


def ask(server: Server, n: int) -> str:
    """Have row ``n`` answered; the decision's id."""
    answer = server.client.post("/classify", json={"input_series": ROWS[n : n + 1].tolist()})
    return str(answer.raise_for_status().headers["x-orchestration-decision"])


def tell(server: Server, id_: str, n: int) -> httpx.Response:
    """Report the label of row ``n``."""
    return server.client.post("/feedback", json=_label(id_, n))


def tell_all(server: Server, ids: Sequence[str], rows: Sequence[int]) -> httpx.Response:
    """Report several rows' labels in one post."""
    return server.client.post("/feedback", json=[_label(id_, n) for id_, n in zip(ids, rows, strict=True)])


def _label(id_: str, n: int) -> dict[str, object]:
    return {"decision_id": id_, "label": CLASSES[LABELS[n]]}


def following(server: Server) -> int:
    """The snapshot that a worker of this replica follows."""
    worker = server.state()["worker"]
    assert isinstance(worker, dict)
    return int(worker["snapshot_version"])


def leads(server: Server) -> bool:
    """Whether it learns; not, too, where it cannot say."""
    with suppress(httpx.HTTPError):
        return bool(server.state()["leads"])
    return False


def kill(server: Server) -> None:
    """``kill -9`` of every process of a replica, as when its machine dies."""
    whole = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    for process in whole:
        os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs(whole, timeout=20)


class Cable:
    """A network between a replica and its database: what is sent arrives, until it is cut; then nothing does, and
    nobody is told.
    """

    def __init__(self, port: int) -> None:
        """``port`` is where the database listens."""
        self._to = port
        self._whole = threading.Event()
        self._whole.set()
        self._entry = socket.create_server(("127.0.0.1", 0))
        self.port = self._entry.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    def _accept(self) -> None:
        with suppress(OSError):  # it is closed
            while True:
                near, _ = self._entry.accept()
                threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        self._whole.wait()
        try:
            far = socket.create_connection(("127.0.0.1", self._to))
        except OSError:  # the database is away
            near.close()
            return
        for end in (near, far):  # else what comes in pieces waits for 40 ms, as between no client and its database
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while carried := source.recv(65536):
                self._whole.wait()
                sink.sendall(carried)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self._entry.close()


@contextmanager
def cable(port: int) -> Iterator[Cable]:
    made = Cable(port)
    try:
        yield made
    finally:
        made.mend()
        made.close()
