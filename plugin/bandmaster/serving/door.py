"""What stands in front of the service: a cap on bodies, and the tokens that are needed from afar."""

from __future__ import annotations

import functools
import hmac
import ipaddress
import logging
import os
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import psutil
from bentoml.exceptions import BentoMLException, InvalidArgument
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from bandmaster.core import BandmasterError
from bandmaster.seldom import Seldom

_seldom = Seldom(logging.getLogger("bandmaster.door"))

MAX_BODY = 1 << 20
"""Bytes. A JSON body costs twenty times its size in memory while it is parsed."""

FORWARDING = {"forwarded", "via", "origin", "x-real-ip", "x-client-ip", "true-client-ip", "x-original-forwarded-for"}
FORWARDING_PREFIXES = ("x-forwarded-", "cf-")


class BodyTooLarge(BentoMLException):
    error_code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


def capped(spec: type[Any]) -> type[Any]:
    """BentoML's input model ``spec``, refusing bodies over ``MAX_BODY`` before they are read whole (413), and those
    that cannot be parsed (400; BentoML would give 500 for some).

    Not a middleware: a class decorated *under* ``@bentoml.service`` has no service to add one to.
    """

    async def from_http_request(cls: type[Any], request: Request, serde: Any) -> Any:
        whole = await _read(request)
        try:
            return await super(capped_spec, cls).from_http_request(whole, serde)
        except ValidationError:
            raise  # BentoML's own 400, which says where and what
        except (ValueError, RecursionError, HTTPException) as problem:
            why = problem.detail if isinstance(problem, HTTPException) else problem
            raise InvalidArgument(f"the body cannot be read ({why}); send what /docs.json describes") from None

    capped_spec: Any = type(
        spec.__name__, (spec,), {"__module__": spec.__module__, "from_http_request": classmethod(from_http_request)}
    )
    return cast(type[Any], capped_spec)


async def _read(request: Request) -> Request:
    """The same request with its body read. Raises ``BodyTooLarge``, trusting no declared length."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise BodyTooLarge(f"a body has at most {MAX_BODY} bytes and this one has more; send fewer rows at a time")

    async def replay() -> Message:
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return Request(request.scope, replay)


class Scope(StrEnum):
    """What a token is for."""

    FEEDBACK = "feedback"
    DASHBOARD = "dashboard"

    @property
    def variable(self) -> str:
        """The environment variable that holds its token; with ``_FILE`` behind it, that which names a file with it."""
        return f"BANDMASTER_{self.name}_TOKEN"

    @property
    def token(self) -> bytes | None:
        """Raises ``BandmasterError`` where the file that is named cannot be read, or is empty."""
        if given := os.environ.get(self.variable):
            return os.fsencode(given)
        if not (file := os.environ.get(f"{self.variable}_FILE")):
            return None
        try:
            found = Path(file).read_bytes().strip()
        except OSError as problem:
            raise BandmasterError(f"{self.variable}_FILE: {file} cannot be read ({problem.strerror})") from None
        if not found:
            raise BandmasterError(f"{self.variable}_FILE: {file} is empty; write the token into it")
        return found


def denial(request: Request, scope: Scope) -> str | None:
    """Why a request is refused, in a sentence; ``None`` when it may pass.

    Open without a token only when this server listens on loopback alone, the peer is on loopback, and no proxy
    speaks for somebody else.
    """
    try:
        token = scope.token
    except BandmasterError as problem:
        _seldom.error("%s", problem)
        return f"{scope} needs a token, and this service cannot read its own; its log says why"
    if not token:
        if _is_near(request) and only_loopback():
            return None
        return (
            f"{scope} needs a token unless the service is bound to loopback (bentoml serve --host 127.0.0.1) and asked "
            f"from there without a proxy: start it with {scope.variable} set and send Authorization: Bearer <token>"
        )
    given = request.headers.get("authorization", "").encode("latin-1")  # as the bytes came
    if hmac.compare_digest(given, b"Bearer " + token):
        return None
    return f"{scope} needs the header Authorization: Bearer <the service's {scope.variable}>; it is missing or wrong"


def _is_near(request: Request) -> bool:
    """Whether somebody on this machine asks for himself: no proxy and no web page that speaks for somebody else.

    A proxy that adds no header of its own cannot be told from a client.
    """
    host = _hostname(request.headers.get("host", ""))
    foreign = any(h in FORWARDING or h.startswith(FORWARDING_PREFIXES) for h in request.headers)
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
