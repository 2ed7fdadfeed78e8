"""What a server tells by the Open Inference Protocol, version 2, whichever way it is asked.

The protocol: https://github.com/kserve/open-inference-protocol. Triton, KServe and MLServer speak it, among others.
"""

from __future__ import annotations

import os
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec

from bandmaster.core import Array, BandmasterError, MemberFailure
from bandmaster.members.loop import LOOP

T = TypeVar("T")

MOST_BYTES = 1 << 22
"""The longest answer that is read of what a model is; or, but for its figures, of what it says."""

CLOSED_IN_S = 5.0
"""How long connections may take to be closed."""

ERROR_LENGTH = 200
"""What a server says of an error is cut to so many characters."""


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

    def authorization(self) -> dict[str, str]:
        """The header, or metadata, that lets us in: none where no token is named."""
        if self.token is None:
            return {}
        token = os.environ.get(self.token, "").strip()
        if not token or not token.isascii() or not token.isprintable():
            raise BandmasterError(
                f"{self.address}: the environment variable {self.token}, which is to hold the token, is not "
                "set, or holds none; set it, or leave token: out"
            )
        return {"authorization": f"Bearer {token}"}


class Tensor(msgspec.Struct, frozen=True):
    """What a server tells of one tensor of a model; −1 in its shape stands for any size."""

    name: str
    datatype: str
    shape: list[int]


class Metadata(msgspec.Struct, frozen=True):
    inputs: list[Tensor] | None = None
    outputs: list[Tensor] | None = None


class Output(msgspec.Struct, frozen=True):
    """A tensor of an answer; its data are an array or lists, flat or nested as its shape says."""

    name: str
    datatype: str
    shape: list[int]
    data: Any


class Unavailable(MemberFailure):
    """The server cannot be reached, or not just now."""


class Transport(Protocol):
    """A way to ask a server of one model. Calls from several threads share its connections, which the first one opens.

    What cannot be used, or is not there in so many ``seconds``, is a ``MemberFailure``, ``Unavailable`` where the
    server may well answer later.
    """

    form: str
    """What figures are sent as."""

    def metadata(self, seconds: float) -> Metadata: ...

    def infer(self, rows: Array, tensor: Tensor, output: str, most: int, seconds: float) -> list[Output]:
        """What the model answers to ``rows``, which have the datatype of its input ``tensor``: its ``output`` alone,
        unless that is ``""``. No more than some ``most`` bytes are read.
        """
        ...

    def close(self) -> None:
        """Close the connections. The next call opens others."""
        ...


def within(what: Coroutine[Any, Any, T], seconds: float) -> T:
    """What a coroutine returns, or raises; ``Unavailable`` after so many ``seconds``."""
    try:
        return LOOP.run(what, seconds)
    except TimeoutError:
        raise Unavailable(f"did not answer within {seconds:.3g} s") from None


def cut(text: str) -> str:
    """What a server says, short enough and fit to be shown."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * ERROR_LENGTH]).split())
    return shown if len(shown) <= ERROR_LENGTH else f"{shown[:ERROR_LENGTH]}…"
