"""A member on a model server, asked over HTTP by the Open Inference Protocol, version 2.

The protocol: https://github.com/kserve/open-inference-protocol. Triton, KServe and MLServer speak it, among others.
"""

from __future__ import annotations

import math
import os
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np

from bandmaster.core import Array, BandmasterError, FloatArray, MemberFailure, Task
from bandmaster.members.loop import LOOP
from bandmaster.meter import checked

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

START_S = 5.0
"""How long a server may take to say what a model is, and to answer a first row."""

WARM_UP_RUNS = 3

MOST_BYTES = 1 << 22
"""The longest answer that is read of what a model is; or, but for its figures, of what it says."""

MOST_PER_FIGURE = 64
"""The most bytes that one figure of an answer may take."""

MOST_FIGURES = 1 << 22
"""The most figures that a row may have, whatever a server tells: a first row is made by it."""

MOST_AXES = 8

TRIES = 2
"""How often a request is sent whose connection is lost before an answer begins: a server closes those that have idled
for some seconds, at times just when they are to be used. To ask a model twice does no harm."""

ERROR_LENGTH = 200
"""What a server says of an error is cut to so many characters."""

BUSY = frozenset({408, 425, 429})
"""Statuses below 500 with which a server says that it may well answer later."""

DATATYPES = {"FP32": np.float32, "FP64": np.float64}
"""What of the protocol's tensors rows can be sent as; FP16 has no form in JSON."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model of a server: its base ``url``, the ``model``, and the ``version`` (``None``: the server's choice).

    ``input`` and ``output`` name tensors where there are several or the server tells of none. ``token`` names the
    environment variable that holds a bearer token.
    """

    url: str
    model: str
    version: str | None = None
    input: str | None = None
    output: str | None = None
    token: str | None = None

    @property
    def address(self) -> str:
        version = "" if self.version is None else f"/versions/{self.version}"
        return f"{self.url.rstrip('/')}/v2/models/{self.model}{version}"


class Tensor(msgspec.Struct, frozen=True):
    """What a server tells of one tensor of a model; −1 in its shape stands for any size."""

    name: str
    datatype: str
    shape: list[int]


class Metadata(msgspec.Struct, frozen=True):
    inputs: list[Tensor] | None = None
    outputs: list[Tensor] | None = None


class Output(msgspec.Struct, frozen=True):
    """A tensor of an answer; its data are flat, or nested as its shape says."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any]


class Reply(msgspec.Struct, frozen=True):
    outputs: list[Output]


class Failed(msgspec.Struct, frozen=True):
    error: str


class Unavailable(MemberFailure):
    """The server cannot be reached, or not just now."""


class RemoteMember:
    """A model on a server that speaks the Open Inference Protocol. May be called from several threads at once, which
    share its connections.

    The model has one input of shape (n, …) and an output of shape (n, classes) whose rows are probabilities, in
    regression (n, 1) or (n,). ``energy_j`` is what a row takes as declared.

    A server that is down is met when it is back: until then ``unmet`` says why, ``input_shape`` and ``width`` are what
    ``suppose`` was told, ``None`` before, and ``latency_s`` is 0. A server that does not tell a model's shape is found
    out about by ``suppose`` likewise. Raises ``BandmasterError`` naming the address where the server answers, but has
    no such model.
    """

    classes: tuple[int | str, ...] | None = None
    """A server does not tell of them."""

    def __init__(
        self, name: str, endpoint: Endpoint, task: Task = "classification", energy_j: float | None = None
    ) -> None:
        self.name, self.energy_j = name, energy_j
        self._endpoint, self._task = endpoint, task
        self._session: aiohttp.ClientSession | None = None
        self._headers = _headers(endpoint)
        self._input = self._output = Tensor("", "", [])
        self.input_shape: tuple[int | None, ...] | None = None
        self.width: int | None = None
        self.latency_s = 0.0
        self.unmet: str | None = "has not been asked yet"
        self._try(None)

    def suppose(self, input_shape: tuple[int | None, ...], width: int) -> None:
        """Take it that the model is like this, as others of its ensemble are, as far as its server has not told."""
        if self.unmet is None and self.width is None:
            self._try(input_shape)
        self.input_shape = self.input_shape or input_shape
        self.width = self.width or width

    def _try(self, supposed: tuple[int | None, ...] | None) -> None:
        """Ask what the model is, and a few rows. Nothing keeps connected."""
        try:
            self._meet(START_S)
            shape = self.input_shape or supposed
            if shape is not None:
                self.input_shape = shape
                self._try_out(np.zeros((1, *(d or 1 for d in shape)), dtype=np.float32))
        except Unavailable as failure:
            self.unmet = str(failure)
        except MemberFailure as failure:
            raise BandmasterError(f"{self._endpoint.address}: member {self.name!r}: {failure}") from None
        finally:
            self.stop()

    def stop(self) -> None:
        """Close the connections. The next call opens others."""
        if self._session is not None:
            LOOP.run(self._close(), START_S)

    def predict(self, rows: Array) -> FloatArray:
        """Return (n, C) distributions, or (n, 1) values, for rows (n, …). Raises ``MemberFailure``."""
        return self.predict_within(rows, math.inf)[0]

    def predict_within(self, rows: Array, seconds: float) -> tuple[FloatArray, float]:
        """The same; whatever the server does, the caller waits no longer. No CPU time is known to be spent there."""
        due = time.monotonic() + seconds
        if self.unmet is not None:
            self._meet(seconds)
        tensor = self._input
        data = np.asarray(rows, dtype=DATATYPES[tensor.datatype])
        body = {"inputs": [{"name": tensor.name, "shape": data.shape, "datatype": tensor.datatype,
                            "data": data.ravel().tolist()}]}  # fmt: skip
        if self._output.name:
            body["outputs"] = [{"name": self._output.name}]
        most = MOST_BYTES + MOST_PER_FIGURE * len(data) * (self.width or 1)
        content = self._asked("/infer", msgspec.json.encode(body), most, due - time.monotonic())
        return self._scores(content), 0.0

    def misnamed(self, classes: Sequence[int | str]) -> str | None:
        """Nothing speaks against the classes: a server does not tell of labels."""
        return None

    # ---- What the model is ------------------------------------------------------------------------------------------

    def _meet(self, seconds: float) -> None:
        """Find out what the model takes and answers. Raises ``MemberFailure`` where that cannot be used, or is not what
        it was supposed to be.
        """
        told = _decoded(self._asked("", None, MOST_BYTES, seconds), Metadata, "what the model is")
        given = _chosen(told.inputs, self._endpoint.input, "input")
        gives = _chosen(told.outputs, self._endpoint.output, "output")
        if given is None:
            raise MemberFailure("the server does not tell what the model takes; name its tensor, as in input: input-0")
        if given.datatype not in DATATYPES:
            raise MemberFailure(f"takes {given.datatype}, not {' or '.join(DATATYPES)}; export it with a float input")
        if given.shape:
            if len(given.shape) < 2 or given.shape[0] >= 0:
                raise MemberFailure(
                    f"must take any number of rows, (-1, …), not {tuple(given.shape)}; have the server batch them"
                )
            shape = tuple(None if size < 0 else size for size in given.shape[1:])
            if math.prod(size or 1 for size in shape) > MOST_FIGURES or len(shape) > MOST_AXES:
                raise MemberFailure(f"takes rows of shape {_cut(str(shape))}, which are too large to be sent as JSON")
            if self.input_shape not in (None, shape):
                raise MemberFailure(f"takes rows of shape {shape}, but its ensemble's have {self.input_shape}")
            self.input_shape = shape
        self._input, self._output, self.unmet = given, gives or Tensor("", "", []), None

    def _try_out(self, row: FloatArray) -> None:
        """Find out how many classes the model answers with, and how long it takes."""
        times = []
        for _ in range(WARM_UP_RUNS):
            start = time.perf_counter()
            scores, _ = self.predict_within(row, START_S)
            times.append(time.perf_counter() - start)
        try:
            width = 1 if self._task == "regression" else scores.shape[-1]
            checked(scores, 1, width, self._task)
        except ValueError as problem:
            raise MemberFailure(f"{problem}; name the tensor of probabilities, as in output: probabilities") from None
        self.width, self.latency_s = width, sorted(times)[len(times) // 2]

    # ---- What it says -----------------------------------------------------------------------------------------------

    def _scores(self, content: bytes) -> FloatArray:
        outputs = _decoded(content, Reply, "an answer").outputs
        wanted = self._output.name
        found = [output for output in outputs if output.name == wanted] if wanted else outputs
        if len(found) != 1:
            names = ", ".join(output.name for output in outputs)
            raise MemberFailure(f"answered with the tensors [{_cut(names)}]; name one of them under output:")
        (output,) = found
        if not output.datatype.startswith("FP"):
            raise MemberFailure(f"answered with {_cut(output.datatype)}, not probabilities; name theirs under output:")
        try:
            values = np.array(output.data)
        except ValueError as problem:
            raise MemberFailure(f"answered with what is no tensor: {problem}") from None
        if values.dtype.kind not in "fiu" or len(output.shape) not in (1, 2) or min(output.shape) < 0:
            raise MemberFailure(f"answered with what are no rows of numbers, in the shape {_cut(str(output.shape))}")
        if values.size != math.prod(output.shape):
            raise MemberFailure(f"answered with {values.size} figures in the shape {_cut(str(output.shape))}")
        one_each = self._task == "regression" and len(output.shape) == 1
        return values.astype(np.float64).reshape([*output.shape, 1] if one_each else output.shape)

    def _asked(self, path: str, body: bytes | None, most: int, seconds: float) -> bytes:
        """What the server says. Raises ``MemberFailure`` where that is an error, or takes longer."""
        import aiohttp  # here, so that what reads configurations alone does not pay for importing it

        try:
            status, content = LOOP.run(self._exchanged(path, body, most), seconds)
        except TimeoutError:
            raise Unavailable(f"did not answer within {seconds:.3g} s") from None
        except aiohttp.InvalidURL as problem:
            raise MemberFailure(_cut(f"its address cannot be used: {problem}")) from None
        except (aiohttp.ClientError, OSError) as problem:
            raise Unavailable(_cut(f"{type(problem).__name__}: {problem}")) from None
        except ValueError as problem:  # of an address, or an answer's head, that nobody foresaw
            raise MemberFailure(_cut(f"cannot be asked: {problem}")) from None
        if status == 200:
            return content
        kind = Unavailable if status >= 500 or status in BUSY else MemberFailure
        raise kind(f"the server answered {status}: {_sentence(content)}")

    async def _exchanged(self, path: str, body: bytes | None, most: int) -> tuple[int, bytes]:
        import aiohttp

        if self._session is None:
            secure = self._endpoint.url.startswith("https")
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=ssl.create_default_context() if secure else True),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None),  # callers have their own
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # a few bytes could become gigabytes
                trust_env=False,  # no proxy, and no password, is taken from the environment
            )
        url, method = self._endpoint.address + path, "GET" if body is None else "POST"
        for attempt in range(1, TRIES + 1):
            try:
                async with self._session.request(method, url, data=body, allow_redirects=False) as reply:
                    return reply.status, await _read(reply, most)
            except aiohttp.ClientConnectorError:
                raise
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                if attempt == TRIES:
                    raise
        raise AssertionError  # the last try has returned or raised

    async def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


async def _read(reply: aiohttp.ClientResponse, most: int) -> bytes:
    content = bytearray()
    async for chunk in reply.content.iter_any():
        content += chunk
        if len(content) > most:
            reply.close()
            raise MemberFailure(f"answered with more than {most} bytes")
    return bytes(content)


def _headers(endpoint: Endpoint) -> dict[str, str]:
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    if endpoint.token is not None:
        token = os.environ.get(endpoint.token, "").strip()
        if not token or not token.isascii() or not token.isprintable():
            raise BandmasterError(
                f"{endpoint.address}: the environment variable {endpoint.token}, which is to hold the token, is not "
                "set, or holds none; set it, or leave token: out"
            )
        headers["authorization"] = f"Bearer {token}"
    return headers


def _decoded(content: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:  # NaN is none of JSON's numbers
        raise MemberFailure(f"the server's answer is not {what}: {_cut(str(problem))}") from None


def _chosen(tensors: list[Tensor] | None, name: str | None, what: str) -> Tensor | None:
    """The tensor of that name, or the only one; ``None`` where the server tells of none and no name is given."""
    if not tensors:
        return None if name is None else Tensor(name, "FP32", [])
    found = [tensor for tensor in tensors if name in (None, tensor.name)]
    if len(found) != 1:
        names = _cut(", ".join(tensor.name for tensor in tensors))
        raise MemberFailure(f"has the {what}s {names}; name one of them under {what}:")
    return found[0]


def _sentence(content: bytes) -> str:
    """What a server says of an error, in its own words as far as they are text."""
    try:
        text = msgspec.json.decode(content, type=Failed).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = content[: 4 * ERROR_LENGTH].decode(errors="replace")
    return _cut(text) or "nothing"


def _cut(text: str) -> str:
    shown = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * ERROR_LENGTH]).split())
    return shown if len(shown) <= ERROR_LENGTH else f"{shown[:ERROR_LENGTH]}…"
