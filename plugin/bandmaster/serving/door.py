"""What stands in front of the service: a cap on bodies, tokens that are needed from afar, limits on how often."""

from __future__ import annotations

import functools
import hmac
import ipaddress
import logging
import math
import os
import re
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import bentoml
import psutil
from bentoml.exceptions import BentoMLException, InvalidArgument
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Message

from bandmaster.core import BandmasterError
from bandmaster.seldom import Seldom

_log = logging.getLogger("bandmaster.door")

MAX_BODY = 1 << 20
"""Bytes. A JSON body costs twenty times its size in memory while it is parsed."""

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
"""Of every answer on Bandmaster's own routes: no browser keeps it, runs it or frames it."""

FORWARDING = {"forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "x-original-forwarded-for"}
FORWARDING_PREFIXES = ("x-forwarded-", "cf-")


class BodyTooLarge(BentoMLException):
    error_code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class _Read:
    """An input model for BentoML, which asks an instance for its class's fields: pydantic warns of that every time."""

    __slots__ = ("_made", "model_fields")

    def __init__(self, model_fields: Mapping[str, Any], made: Any) -> None:
        self.model_fields, self._made = model_fields, made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made, name)


def capped(spec: type[Any], scope: Scope | None = None, instead: bytes = b"{}") -> type[Any]:
    """BentoML's input model ``spec``, refusing bodies over ``MAX_BODY`` before they are read whole (413), and those
    that cannot be parsed (400; BentoML would give 500 for some).

    Of whoever may not pass by ``scope`` the body is not read: ``instead`` stands for it, so that the method is called,
    and refuses him with a sentence.

    Not a middleware: a class decorated *under* ``@bentoml.service`` has no service to add one to.
    """

    async def from_http_request(cls: type[Any], request: Request, serde: Any) -> Any:
        barred = scope is not None and identify(request, scope)[0] is None
        whole = _as_json(request, instead) if barred else await read_body(request)
        try:
            made = await super(capped_spec, cls).from_http_request(whole, serde)
        except ValidationError:
            raise  # BentoML's own 400, which says where and what
        except (ValueError, RecursionError, HTTPException) as problem:
            why = problem.detail if isinstance(problem, HTTPException) else problem
            raise InvalidArgument(f"the body cannot be read ({why}); send what /docs.json describes") from None
        return made if getattr(cls, "__root_input__", False) else _Read(cls.model_fields, made)

    capped_spec: Any = type(
        spec.__name__, (spec,), {"__module__": spec.__module__, "from_http_request": classmethod(from_http_request)}
    )
    return cast(type[Any], capped_spec)


async def read_body(request: Request) -> Request:
    """The same request with its body read. Raises ``BodyTooLarge``, trusting no declared length."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise BodyTooLarge(f"a body has at most {MAX_BODY} bytes and this one has more; send fewer rows at a time")

    return _with(request.scope, bytes(body))


def _as_json(request: Request, body: bytes) -> Request:
    """The same request, with this JSON for its body."""
    headers = [(name, value) for name, value in request.scope["headers"] if name != b"content-type"]
    return _with({**request.scope, "headers": [*headers, (b"content-type", b"application/json")]}, body)


def _with(scope: MutableMapping[str, Any], body: bytes) -> Request:
    async def replay() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(scope, replay)


class Refusal(Exception):  # noqa: N818 - not always an error: the learner may be starting
    """An answer other than 200, with a sentence. BentoML's own errors hide theirs from 401, 403 and 5xx."""

    def __init__(self, status: HTTPStatus, sentence: str, again_in_s: float | None = None) -> None:
        super().__init__(sentence)
        self.status, self.again_in_s = status, again_in_s

    def response(self, context: bentoml.Context | None = None) -> JSONResponse:
        again = {} if self.again_in_s is None else {"retry-after": str(math.ceil(self.again_in_s))}
        if context is not None:
            context.response.status_code = self.status  # BentoML overwrites the response's own with this
        return JSONResponse({"error": str(self)}, status_code=self.status, headers=HEADERS | again)


class Scope(StrEnum):
    """What a token is for."""

    FEEDBACK = "feedback"
    DASHBOARD = "dashboard"
    ADMIN = "admin"

    @property
    def variable(self) -> str:
        """The environment variable that holds its tokens; with ``_FILE`` behind it, that which names their file."""
        return f"BANDMASTER_{self.name}_TOKEN"

    @property
    def tokens(self) -> tuple[Token, ...]:
        """Its tokens, with white space between them; none where none is set.

        Raises ``BandmasterError`` where the file that is named cannot be read, or what is set holds no token, or one
        that could be guessed.
        """
        if given := os.environ.get(self.variable):
            return self._parse(os.fsencode(given), self.variable)
        if not (file := os.environ.get(f"{self.variable}_FILE")):
            return ()
        try:
            return self._parse(Path(file).read_bytes(), f"{self.variable}_FILE: {file}")
        except OSError as problem:
            raise BandmasterError(f"{self.variable}_FILE: {file} cannot be read ({problem.strerror})") from None

    def _parse(self, text: bytes, place: str) -> tuple[Token, ...]:
        parted = [re.fullmatch(rb"(?:([A-Za-z0-9_.-]{1,64}):)?(.*)", word, re.DOTALL) for word in text.split()]
        found = tuple(Token(m[2], m[1].decode() if m[1] else str(self)) for m in parted if m)
        if not found:
            raise BandmasterError(f"{place} is empty; write the token into it")
        if any(len(token.secret) < LEAST_SECRET for token in found):  # not shown: it may be a part of one
            raise BandmasterError(
                f"{place} holds a token of fewer than {LEAST_SECRET} characters; give the output of "
                "`openssl rand -hex 32`, as it is or as name:token, with white space only between tokens"
            )
        return found


_SELDOM = {scope: Seldom(_log) for scope in Scope}


@dataclass(frozen=True, slots=True)
class Token:
    """A secret, and whom it was given to: ``name:secret``, or the secret alone."""

    secret: bytes
    holder: str


LEAST_SECRET = 16
"""Characters: what is shorter can be guessed, or is a part of something that was meant to be one token."""

LOCAL = "local"
"""Who asks from this machine without a token."""


class Bucket:
    """Lets ``rate`` > 0 a second pass in the long run, and ``burst`` at once (a token bucket; Turner 1986, "New
    directions in communications").

    >>> bucket = Bucket(rate=2.0, burst=1.0)
    >>> bucket.take(0.0), bucket.take(0.0), bucket.take(0.5)
    (0.0, 0.5, 0.0)
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._left, self._at = burst, -math.inf

    def take(self, now: float, count: float = 1.0) -> float:
        """0 where so many may pass ``now`` (s), else after how many seconds they may. More than fit pass when it is
        full, and are waited for afterwards.
        """
        if now > self._at:
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
            self._at = now
        lacking = min(count, self._burst) - self._left
        if lacking > 1e-9:  # of a rounded time
            return lacking / self._rate
        self._left -= count
        return 0.0


class Door:
    """Who may pass, and how often. One for each worker."""

    DENIED = 10.0
    """Wrong tokens a second, whosoever, that are told that they are wrong."""
    ASKED = 50.0
    """Requests a second that one holder may make in a scope other than feedback."""
    BURST_S = 5.0
    """What is saved up at most: so many seconds' worth."""

    def __init__(self, outcomes: float, clock: Callable[[], float] = time.monotonic) -> None:
        """One holder may report so many ``outcomes`` a second."""
        self._rates = {Scope.FEEDBACK: outcomes}
        self._clock = clock
        self._denied = Bucket(self.DENIED, self.BURST_S * self.DENIED)
        self._buckets: dict[tuple[Scope, str], Bucket] = {}

    def enter(self, request: Request, scope: Scope, count: int = 1) -> str:
        """The name of whoever asks ``count`` things at once. Raises ``Refusal``: 401, or 429 and when to come again."""
        holder, why = identify(request, scope)
        if holder is None:
            wait_s = self._denied.take(self._clock())
            raise self._busy(wait_s) if wait_s else Refusal(HTTPStatus.UNAUTHORIZED, why)
        if (scope, holder) not in self._buckets:  # no more than there were names
            rate = self._rates.get(scope, self.ASKED)
            self._buckets[scope, holder] = Bucket(rate, self.BURST_S * rate)
        if wait_s := self._buckets[scope, holder].take(self._clock(), count):
            raise self._busy(wait_s)
        return holder

    def _busy(self, wait_s: float) -> Refusal:
        return Refusal(HTTPStatus.TOO_MANY_REQUESTS, f"too many at once; come again in {wait_s:.1f} s", wait_s)


def identify(request: Request, scope: Scope) -> tuple[str | None, str]:
    """Who asks, or ``None`` and, in a sentence, why that is refused.

    Open without a token only when this server listens on loopback alone, the peer is on loopback, and no proxy
    speaks for somebody else.
    """
    try:
        tokens = scope.tokens
    except BandmasterError as problem:
        _SELDOM[scope].error("%s", problem)
        return None, f"{scope} needs a token, and this service cannot read its own; its log says why"
    if not tokens:
        if _is_near(request) and only_loopback():
            return LOCAL, ""
        return None, (
            f"{scope} needs a token unless the service is bound to loopback (bentoml serve --host 127.0.0.1) and asked "
            f"from there without a proxy: start it with {scope.variable} set and send Authorization: Bearer <token>"
        )
    given = request.headers.get("authorization", "").encode("latin-1")  # as the bytes came
    right = [hmac.compare_digest(given, b"Bearer " + token.secret) for token in tokens]  # every one, whichever it is
    if any(right):
        return tokens[right.index(True)].holder, ""
    wanted = f"Authorization: Bearer <a token of the service's {scope.variable}, without its name>"
    return None, f"{scope} needs the header {wanted}; it is missing or wrong"


def _is_near(request: Request) -> bool:
    """Whether somebody on this machine asks for himself: no proxy and no web page that speaks for somebody else, but
    our own page.

    A proxy that adds no header of its own cannot be told from a client.
    """
    named = request.headers.get("host", "")
    host = _hostname(named)
    foreign = any(h in FORWARDING or h.startswith(FORWARDING_PREFIXES) for h in request.headers)
    foreign |= request.headers.get("origin", f"http://{named}") != f"http://{named}"
    peer = request.client is not None and is_loopback(request.client.host)
    return peer and not foreign and (host == "localhost" or is_loopback(host))


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@functools.cache
def only_loopback() -> bool:
    """Whether every TCP socket on which this process listens is bound to loopback, and there is one."""
    bound = [c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    return bool(bound) and all(map(is_loopback, bound))
