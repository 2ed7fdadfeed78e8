"""The Open Inference Protocol over gRPC, with tensors in binary.

The messages: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/open_inference_grpc.proto
"""

from __future__ import annotations

import math
import ssl
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio
import numpy as np
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from bandmaster.core import Array, BandmasterError, MemberFailure
from bandmaster.members.loop import LOOP
from bandmaster.members.open_inference import (
    CLOSED_IN_S,
    MOST_BYTES,
    Endpoint,
    Metadata,
    Output,
    Tensor,
    Unavailable,
    cut,
    within,
)

SERVICE = "/inference.GRPCInferenceService/"

FIELDS = {
    "ModelMetadataRequest": {"name": (1, "string"), "version": (2, "string")},
    "ModelMetadataResponse": {"inputs": (4, "Tensor*"), "outputs": (5, "Tensor*")},
    "ModelInferRequest": {
        "model_name": (1, "string"), "model_version": (2, "string"), "inputs": (5, "Tensor*"),
        "outputs": (6, "Tensor*"), "raw_input_contents": (7, "bytes*"),
    },
    "ModelInferResponse": {"outputs": (5, "Tensor*"), "raw_output_contents": (6, "bytes*")},
    "Tensor": {
        "name": (1, "string"), "datatype": (2, "string"), "shape": (3, "int64*"), "contents": (5, "Contents"),
    },
    "Contents": {"fp32_contents": (6, "float*"), "fp64_contents": (7, "double*")},
}  # fmt: skip
"""What we write and read of the protocol's messages: a field's number, and its type, with ``*`` where it is repeated.
``Tensor`` stands for each of the protocol's messages about one, which have the same fields as far as they have them."""

FIGURES = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
"""How a tensor's figures lie in its bytes."""

REFUSALS = frozenset({
    grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.UNIMPLEMENTED,
})  # fmt: skip
"""What a server says that will say the same another time."""

MOST_EVER = (1 << 31) - 1
"""gRPC has no longer messages."""

CHANNEL = (
    ("grpc.enable_http_proxy", 0),  # none is taken from the environment
    ("grpc.max_reconnect_backoff_ms", 1000),  # a server that is back is found at once: two minutes, unless told so
    ("grpc.client_idle_timeout_ms", 15_000),  # as long as over HTTP: what lies between forgets connections that idle
)


def _messages() -> dict[str, type[Any]]:
    """Of a pool of our own: another library in this process may have the protocol's file in the common one."""
    file = FileDescriptorProto(name="open_inference", package="inference", syntax="proto3")
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            of = kind.rstrip("*")
            typed = (
                {"type": FieldDescriptorProto.TYPE_MESSAGE, "type_name": f".inference.{of}"}
                if of in FIELDS
                else {"type": f"TYPE_{of.upper()}"}
            )
            label = FieldDescriptorProto.LABEL_REPEATED if kind != of else FieldDescriptorProto.LABEL_OPTIONAL
            message.field.add(name=field, number=number, label=label, **typed)
    pool = DescriptorPool()
    pool.Add(file)
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"inference.{name}")) for name in FIELDS}


MESSAGES = _messages()


class Grpc:
    """See ``Transport``."""

    form = "one message"

    def __init__(self, endpoint: Endpoint) -> None:
        try:
            urlsplit(endpoint.url).port  # noqa: B018 -- gRPC would take 70000 for 4464
        except ValueError as problem:
            raise BandmasterError(f"{endpoint.address}: its address cannot be used: {problem}") from None
        self._endpoint = endpoint
        self._authorization = tuple(endpoint.authorization().items())
        self._channels: dict[int, grpc.aio.Channel] = {}

    def metadata(self, seconds: float) -> Metadata:
        question = MESSAGES["ModelMetadataRequest"](name=self._endpoint.model, version=self._endpoint.version or "")
        told = self._asked("ModelMetadata", question, MOST_BYTES, seconds)
        inputs, outputs = (
            [Tensor(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in tensors]
            for tensors in (told.inputs, told.outputs)
        )
        return Metadata(inputs, outputs)

    def infer(self, rows: Array, tensor: Tensor, output: str, most: int, seconds: float) -> list[Output]:
        question = MESSAGES["ModelInferRequest"](
            model_name=self._endpoint.model,
            model_version=self._endpoint.version or "",
            inputs=[{"name": tensor.name, "datatype": tensor.datatype, "shape": rows.shape}],
            outputs=[{"name": output}] if output else [],
            raw_input_contents=[rows.astype(FIGURES[tensor.datatype]).tobytes()],
        )
        answer = self._asked("ModelInfer", question, most, seconds)
        raw: list[bytes | None] = list(answer.raw_output_contents) or [None] * len(answer.outputs)
        if len(raw) != len(answer.outputs):
            raise MemberFailure(f"answered with the contents of {len(raw)} tensors, but {len(answer.outputs)} tensors")
        return [
            Output(tensor.name, tensor.datatype, list(tensor.shape), _figures(tensor, content))
            for tensor, content in zip(answer.outputs, raw, strict=True)
        ]

    def close(self) -> None:
        if self._channels:
            LOOP.run(self._close(), CLOSED_IN_S)

    def _asked(self, method: str, question: Any, most: int, seconds: float) -> Any:
        """The answer's message. Raises ``MemberFailure`` where the server says an error, or takes longer."""
        try:
            content = within(self._exchanged(method, question.SerializeToString(), most, seconds), seconds)
            return MESSAGES[f"{method}Response"].FromString(content)
        except grpc.aio.AioRpcError as error:
            code = error.code()
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise Unavailable(f"did not answer within {seconds:.3g} s") from None
            kind = MemberFailure if code in REFUSALS else Unavailable
            raise kind(f"{code.name}: {cut(error.details() or '') or 'nothing'}") from None
        except CancelledError:
            raise Unavailable("its connection was closed meanwhile") from None
        except OSError as problem:  # of the files of authorities
            raise Unavailable(cut(f"{type(problem).__name__}: {problem}")) from None
        except DecodeError as problem:
            raise MemberFailure(f"the server's answer is no {method}Response: {cut(str(problem))}") from None

    async def _exchanged(self, method: str, question: bytes, most: int, seconds: float) -> bytes:
        call = self._channel(most).unary_unary(SERVICE + method)
        timeout = None if seconds == math.inf else seconds
        return bytes(await call(question, timeout=timeout, metadata=self._authorization))

    def _channel(self, most: int) -> grpc.aio.Channel:
        """One that takes answers of ``most`` bytes. A channel has one limit, so that there is one for each power of two
        that is asked for.
        """
        limit = min(1 << most.bit_length(), MOST_EVER)
        if limit not in self._channels:
            scheme, _, place = self._endpoint.url.rstrip("/").partition("://")
            target, options = f"dns:///{place}", (*CHANNEL, ("grpc.max_receive_message_length", limit))
            self._channels[limit] = (
                grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(_authorities()), options)
                if scheme == "grpcs"
                else grpc.aio.insecure_channel(target, options)
            )
        return self._channels[limit]

    async def _close(self) -> None:
        while self._channels:
            _, channel = self._channels.popitem()
            await channel.close()


def _figures(tensor: Any, raw: bytes | None) -> Array | list[float]:
    if raw is None:
        return list(tensor.contents.fp64_contents if tensor.datatype == "FP64" else tensor.contents.fp32_contents)
    if tensor.datatype not in FIGURES:
        return []
    try:
        return np.frombuffer(raw, FIGURES[tensor.datatype])
    except ValueError as problem:
        raise MemberFailure(f"answered with what is no tensor: {problem}") from None


def _authorities() -> bytes:
    """The certificates that https trusts, too; where there is none, gRPC trusts those that it brings along."""
    places = ssl.get_default_verify_paths()  # as SSL_CERT_FILE and SSL_CERT_DIR say
    files = [Path(places.cafile)] if places.cafile else []
    files += sorted(Path(places.capath).glob("*.[0-9]")) if places.capath else []
    return b"\n".join(file.read_bytes() for file in files if file.is_file())
