"""Asks a service as fast as it answers, and reports labels, from a process of its own: orders on stdin, reports on
stdout, a line of JSON each.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httptools
import msgspec
import numpy as np
import uvloop

from bandmaster.serving.front import DECISION_HEADER

OK = (200, 202)
AT_ONCE = 100
"""Labels that are reported in one post."""


class Order(msgspec.Struct, frozen=True):
    """Who is asked: so many ``callers``, each with the next request as soon as one is answered, for so many seconds.
    With ``labels`` each answer's label is reported, ``AT_ONCE`` together. Where it is said, no more than ``most`` are
    asked, beginning with the first, and the report names the decisions.
    """

    address: str
    callers: int
    seconds: float
    labels: bool = False
    most: int | None = None


class Report(msgspec.Struct, frozen=True):
    """What came of it. ``right`` is the share of correct answers; times are of single requests."""

    answered: int
    per_s: float
    p50_s: float
    p99_s: float
    right: float
    decisions: list[str] = []


class Load:
    """A process that asks."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018 they are pipes
        self._told, self._said = process.stdin, process.stdout

    def __call__(self, order: Order) -> Report:
        print(msgspec.json.encode(order).decode(), file=self._told, flush=True)
        said = self._said.readline()
        assert said, f"{order.address} was not answered to the end: see above"
        return msgspec.json.decode(said, type=Report)


@contextmanager
def load(requests: Path) -> Iterator[Load]:
    """What asks: with the images and labels of the file ``requests``, an ``npz``, in turn."""
    command = [sys.executable, "-m", "benchmarks.serving.load", str(requests)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Load(process)
        assert process.stdin is not None
        process.stdin.close()


class Connection(asyncio.Protocol):
    """One HTTP connection: a general client would take more of the machine than the server does."""

    @classmethod
    async def to(cls, address: str) -> Connection:
        where = urlsplit(address)
        assert where.hostname and where.port  # noqa: PT018 it is a server's
        _, connection = await asyncio.get_running_loop().create_connection(cls, where.hostname, where.port)
        return connection

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self.decision = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by name

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def connection_lost(self, problem: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(problem or ConnectionError("the server closed the connection"))

    async def post(self, made: bytes) -> bytes:
        """The answer's body to a ``request``. Raises ``ConnectionError`` for one that is no success."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(made)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == DECISION_HEADER.encode():
            self.decision = value.decode()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        assert self._answer is not None
        body, status, self._body = bytes(self._body), self._parser.get_status_code(), bytearray()
        self._parser = httptools.HttpResponseParser(self)
        if status in OK:
            self._answer.set_result(body)
        else:
            self._answer.set_exception(ConnectionError(f"{status}: {body[:200]!r}"))


def request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


class _Asking:
    """One order being carried out."""

    def __init__(self, order: Order, asked: Iterator[tuple[bytes, int]]) -> None:
        self._order, self._asked = order, asked
        self._took = list[float]()
        self._right = 0
        self._due = deque[tuple[str, int]]()
        self._left = math.inf if order.most is None else order.most
        self._decisions = list[str]()

    async def report(self) -> Report:
        began = time.perf_counter()
        await asyncio.gather(*(self._call(began + self._order.seconds) for _ in range(self._order.callers)))
        seconds = time.perf_counter() - began
        took, count = np.array(self._took), len(self._took)
        p50, p99 = np.quantile(took, [0.5, 0.99])
        return Report(count, count / seconds, float(p50), float(p99), self._right / count, self._decisions)

    async def _call(self, end: float) -> None:
        connection = await Connection.to(self._order.address)
        now = time.perf_counter()
        while now < end and self._left > 0:
            self._left -= 1
            made, label = next(self._asked)
            body = await connection.post(made)
            before, now = now, time.perf_counter()
            self._took.append(now - before)
            self._right += json.loads(body) == [label]
            if self._order.most is not None:
                self._decisions.append(connection.decision)
            if self._order.labels:
                self._due.append((connection.decision, label))
                if len(self._due) >= AT_ONCE:
                    await connection.post(self._labels())
                    now = time.perf_counter()
        connection.close()

    def _labels(self) -> bytes:
        reported = [self._due.popleft() for _ in range(AT_ONCE)]
        return request("/feedback", msgspec.json.encode([{"decision_id": d, "label": n} for d, n in reported]))


def _obey(requests: Path) -> None:
    with np.load(requests) as held:
        images, labels = held["images"], held["labels"]
    bodies = [request("/predict", msgspec.json.encode({"images": [image.tolist()]})) for image in images]
    every = list(zip(bodies, labels.tolist(), strict=True))
    asked = itertools.cycle(every)
    for line in sys.stdin:
        order = msgspec.json.decode(line, type=Order)
        report = uvloop.run(_Asking(order, asked if order.most is None else itertools.cycle(every)).report())
        print(msgspec.json.encode(report).decode(), flush=True)


if __name__ == "__main__":
    _obey(Path(sys.argv[1]))
