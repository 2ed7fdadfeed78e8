"""The Open Inference Protocol over HTTP, as JSON."""

from __future__ import annotations

import ssl
from typing import TypeVar

import aiohttp
import msgspec

from bandmaster.core import Array, MemberFailure
from bandmaster.members.loop import LOOP
from bandmaster.members.open_inference import (
    CLOSED_IN_S,
    ERROR_LENGTH,
    MOST_BYTES,
    Endpoint,
    Metadata,
    Output,
    Tensor,
    Unavailable,
    cut,
    within,
)

T = TypeVar("T")

TRIES = 2
"""How often a request is sent whose connection is lost before an answer begins: a server closes those that have idled
for some seconds, at times just when they are to be used. To ask a model twice does no harm."""

BUSY = frozenset({408, 425, 429})
"""Statuses below 500 with which a server says that it may well answer later."""


class Reply(msgspec.Struct, frozen=True):
    outputs: list[Output]


class Failed(msgspec.Struct, frozen=True):
    error: str


class Http:
    """See ``Transport``."""

    form = "JSON"

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._session: aiohttp.ClientSession | None = None
        self._headers = {"content-type": "application/json", "accept-encoding": "identity", **endpoint.authorization()}

    def metadata(self, seconds: float) -> Metadata:
        return _decoded(self._asked("", None, MOST_BYTES, seconds), Metadata, "what the model is")

    def infer(self, rows: Array, tensor: Tensor, output: str, most: int, seconds: float) -> list[Output]:
        body = {"inputs": [{"name": tensor.name, "shape": rows.shape, "datatype": tensor.datatype,
                            "data": rows.ravel().tolist()}]}  # fmt: skip
        if output:
            body["outputs"] = [{"name": output}]
        return _decoded(self._asked("/infer", msgspec.json.encode(body), most, seconds), Reply, "an answer").outputs

    def close(self) -> None:
        if self._session is not None:
            LOOP.run(self._close(), CLOSED_IN_S)

    def _asked(self, path: str, body: bytes | None, most: int, seconds: float) -> bytes:
        """What the server says. Raises ``MemberFailure`` where that is an error, or takes longer."""
        try:
            status, content = within(self._exchanged(path, body, most), seconds)
        except aiohttp.InvalidURL as problem:
            raise MemberFailure(cut(f"its address cannot be used: {problem}")) from None
        except (aiohttp.ClientError, OSError) as problem:
            raise Unavailable(cut(f"{type(problem).__name__}: {problem}")) from None
        except ValueError as problem:  # of an address, or an answer's head, that nobody foresaw
            raise MemberFailure(cut(f"cannot be asked: {problem}")) from None
        if status == 200:
            return content
        kind = Unavailable if status >= 500 or status in BUSY else MemberFailure
        raise kind(f"the server answered {status}: {_sentence(content)}")

    async def _exchanged(self, path: str, body: bytes | None, most: int) -> tuple[int, bytes]:
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


def _decoded(content: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:  # NaN is none of JSON's numbers
        raise MemberFailure(f"the server's answer is not {what}: {cut(str(problem))}") from None


def _sentence(content: bytes) -> str:
    """What a server says of an error, in its own words as far as they are text."""
    try:
        text = msgspec.json.decode(content, type=Failed).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = content[: 4 * ERROR_LENGTH].decode(errors="replace")
    return cut(text) or "nothing"
