"""A real gRPC server that speaks the Open Inference Protocol, and can be told to misbehave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from bandmaster.members.over_grpc import MESSAGES, SERVICE
from tests.members.servers import CLASSES, Model, softmax

Fault = Callable[["Served", grpc.ServicerContext], bytes]
Response = MESSAGES["ModelInferResponse"]
FORMS = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "INT64": "<i8"}


@dataclass(frozen=True)
class Seen:
    method: str
    question: Any
    peer: str
    metadata: dict[str, str | bytes]
    remaining_s: float | None


@dataclass
class Served:
    """What a server serves, how it misbehaves (``fault``), and what it has ``seen``. Who hangs does so until
    ``released``.
    """

    models: dict[str, Model] = field(default_factory=lambda: {"m": softmax})
    fault: Fault | None = None
    url: str = ""
    metadata: bytes = field(default_factory=lambda: metadata())
    seen: list[Seen] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def answer(self, method: str, question: Any, context: grpc.ServicerContext) -> bytes:
        told = dict(context.invocation_metadata())
        self.seen.append(Seen(method, question, context.peer(), told, context.time_remaining()))
        self.asked.set()
        if self.fault is not None:
            return self.fault(self, context)
        name = question.name if method == "ModelMetadata" else question.model_name
        if name not in self.models:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Model {name} not found")
        if method == "ModelMetadata":
            return self.metadata
        (given,), (content,) = question.inputs, question.raw_input_contents
        rows = np.frombuffer(content, FORMS[given.datatype]).reshape(given.shape)
        return answer(self.models[name](rows))


def metadata(
    inputs: tuple[dict[str, Any], ...] = ({"name": "x", "datatype": "FP32", "shape": [-1, 4]},),
    outputs: tuple[str, ...] = ("probabilities",),
) -> bytes:
    told = [{"name": name, "datatype": "FP64", "shape": [-1, CLASSES]} for name in outputs]
    return bytes(MESSAGES["ModelMetadataResponse"](inputs=inputs, outputs=told).SerializeToString())


def answer(values: Any, datatype: str = "FP64", raw: list[bytes] | None = None, **other: Any) -> bytes:
    """An answer's message, with its figures in binary."""
    values = np.asarray(values)
    told = {"name": "probabilities", "datatype": datatype, "shape": values.shape, **other}
    raw = [values.astype(FORMS[datatype]).tobytes()] if raw is None else raw
    return bytes(Response(outputs=[told], raw_output_contents=raw).SerializeToString())


@contextmanager
def serving(served: Served | None = None, *, port: int = 0, tls: tuple[bytes, bytes] | None = None) -> Iterator[Served]:
    """A server from up to down; afterwards nobody listens, and its connections are cut. ``tls``: key, certificate."""
    served = served or Served()

    def handler(method: str) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(
            lambda question, context: served.answer(method, question, context),
            request_deserializer=MESSAGES[f"{method}Request"].FromString,
        )

    methods = {method: handler(method) for method in ("ModelMetadata", "ModelInfer")}
    with ThreadPoolExecutor(8) as threads:
        server = grpc.server(
            threads,
            [grpc.method_handlers_generic_handler(SERVICE.strip("/"), methods)],
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)],
        )
        address = f"127.0.0.1:{port}"
        if tls is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, grpc.ssl_server_credentials([tls]))
        served.url = f"{'grpc' if tls is None else 'grpcs'}://127.0.0.1:{port}"
        server.start()
        try:
            yield served
        finally:
            served.released.set()
            server.stop(None).wait()


# ---- How it may misbehave -------------------------------------------------------------------------------------------


def hang(served: Served, context: grpc.ServicerContext) -> bytes:
    served.released.wait()
    return b""


def bomb(served: Served, context: grpc.ServicerContext) -> bytes:
    """A thousand times as large once it is decompressed."""
    context.set_compression(grpc.Compression.Gzip)
    return answer(np.zeros((1, 10**7)))


def saying(content: bytes) -> Fault:
    return lambda served, context: content


def failing(code: grpc.StatusCode, details: str = "") -> Fault:
    return lambda served, context: context.abort(code, details)


def answering(values: Any, **other: Any) -> Fault:
    """An answer to inference with these figures, whatever was asked."""
    return saying(answer(values, **other))
