"""A real HTTP server that speaks the Open Inference Protocol, and can be told to misbehave."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

Model = Callable[[np.ndarray], np.ndarray]
CLASSES = 3
ROWS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def softmax(rows: np.ndarray, turn: int = 0) -> np.ndarray:
    """Distributions over three classes for rows of four figures."""
    told = np.exp(np.roll(rows[:, :CLASSES], turn, axis=1).astype(np.float64))
    return np.asarray(told / told.sum(axis=1, keepdims=True))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HttpServer

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["content-length"])))

    def _answer(self, body: bytes | None) -> None:
        served = self.server.served
        served.seen.append((self.path, dict(self.headers.items())))
        served.asked.set()
        if served.fault is not None:
            served.fault(self)
            return
        parts = self.path.split("/")  # "", v2, models, NAME, [versions, V,] [infer]
        name = parts[3]
        if name not in served.models:
            self.reply({"error": f"Model {name} not found"}, 404)
        elif body is None:
            self.reply({"name": name, **served.metadata})
        else:
            given = json.loads(body)["inputs"][0]
            rows = np.array(given["data"], np.float32).reshape(given["shape"])
            self.reply({"outputs": [tensor(served.models[name](rows))]})

    def reply(self, said: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        for key, value in {"content-length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)


def tensor(values: np.ndarray, **other: Any) -> dict[str, Any]:
    """An answer's output."""
    shape, data = list(values.shape), values.ravel().tolist()
    return {"name": "probabilities", "datatype": "FP64", "shape": shape, "data": data, **other}


Fault = Callable[[Handler], None]


@dataclass
class Served:
    """What a server serves, how it misbehaves (``fault``), and what it has ``seen``: paths with their headers. Handlers
    that hang do so until ``released``.
    """

    models: dict[str, Model] = field(default_factory=lambda: {"m": softmax})
    fault: Fault | None = None
    url: str = ""
    connections: int = 0
    metadata: dict[str, Any] = field(default_factory=lambda: metadata())
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


def metadata(shape: tuple[int, ...] = (-1, 4), outputs: tuple[str, ...] = ("probabilities",)) -> dict[str, Any]:
    return {
        "platform": "none",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": list(shape)}],
        "outputs": [{"name": name, "datatype": "FP64", "shape": [-1, CLASSES]} for name in outputs],
    }


class HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, served: Served, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.served, self.open = served, set[socket.socket]()

    def get_request(self) -> tuple[socket.socket, Any]:
        accepted, address = super().get_request()
        self.served.connections += 1
        self.open.add(accepted)
        return accepted, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what these tests are about."""


@contextmanager
def serving(served: Served | None = None, *, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Served]:
    """A server from up to down; afterwards nobody listens, and its connections are cut."""
    served = served or Served()
    server = HttpServer(served, port)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    served.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        served.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
        for each in server.open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


# ---- How it may misbehave -------------------------------------------------------------------------------------------


def hang(handler: Handler) -> None:
    handler.server.served.released.wait()
    handler.close_connection = True


def die_before_an_answer(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def die_in_the_middle(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"outputs": [')
    die_before_an_answer(handler)


def drip(handler: Handler) -> None:
    """A byte every hundredth of a second: no read waits long, all of them for ever."""
    handler.send_response(200)
    handler.send_header("content-length", "1000000")
    handler.end_headers()
    _drip(handler, b" ")


def drip_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
    _drip(handler, b"a")


def _drip(handler: Handler, byte: bytes) -> None:
    with suppress(OSError):
        while not handler.server.served.released.wait(0.01):
            handler.wfile.write(byte)
    handler.close_connection = True


def flood(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("transfer-encoding", "chunked")
    handler.end_headers()
    chunk = b" " * 65536
    with suppress(OSError):
        while not handler.server.served.released.is_set():
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
    handler.close_connection = True


def bomb(handler: Handler) -> None:
    """A thousand times as large once it is decompressed."""
    handler.reply(gzip.compress(b" " * 50_000_000), headers={"content-encoding": "gzip"})


def saying(said: Any, status: int = 200, **headers: str) -> Fault:
    return lambda handler: handler.reply(said, status, headers)


def answering(values: Any, **other: Any) -> Fault:
    """An answer to inference with these figures, whatever was asked."""
    return saying({"outputs": [tensor(np.asarray(values, dtype=float)) | other]})
