"""A member on a model server, asked by the Open Inference Protocol, version 2."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from bandmaster.core import Array, BandmasterError, FloatArray, MemberFailure, Task
from bandmaster.members.open_inference import MOST_BYTES, Endpoint, Output, Tensor, Transport, Unavailable, cut
from bandmaster.meter import checked

START_S = 5.0
"""How long a server may take to say what a model is, and to answer a first row."""

WARM_UP_RUNS = 3

MOST_PER_FIGURE = 64
"""The most bytes that one figure of an answer may take."""

MOST_FIGURES = 1 << 22
"""The most figures that a row may have, whatever a server tells: a first row is made by it."""

MOST_AXES = 8

DATATYPES = {"FP32": np.float32, "FP64": np.float64}
"""What of the protocol's tensors rows can be sent as; FP16 has no form in JSON."""


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
        self._transport = _transport(endpoint)
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
        self._transport.close()

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
        most = MOST_BYTES + MOST_PER_FIGURE * len(data) * (self.width or 1)
        outputs = self._transport.infer(data, tensor, self._output.name, most, due - time.monotonic())
        return self._scores(outputs), 0.0

    def misnamed(self, classes: Sequence[int | str]) -> str | None:
        """Nothing speaks against the classes: a server does not tell of labels."""
        return None

    # ---- What the model is ------------------------------------------------------------------------------------------

    def _meet(self, seconds: float) -> None:
        """Find out what the model takes and answers. Raises ``MemberFailure`` where that cannot be used, or is not what
        it was supposed to be.
        """
        told = self._transport.metadata(seconds)
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
                raise MemberFailure(
                    f"takes rows of shape {cut(str(shape))}, which are too large to be sent as {self._transport.form}"
                )
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

    def _scores(self, outputs: Sequence[Output]) -> FloatArray:
        wanted = self._output.name
        found = [output for output in outputs if output.name == wanted] if wanted else outputs
        if len(found) != 1:
            names = ", ".join(output.name for output in outputs)
            raise MemberFailure(f"answered with the tensors [{cut(names)}]; name one of them under output:")
        (output,) = found
        if not output.datatype.startswith("FP"):
            raise MemberFailure(f"answered with {cut(output.datatype)}, not probabilities; name theirs under output:")
        try:
            values = np.array(output.data)
        except ValueError as problem:
            raise MemberFailure(f"answered with what is no tensor: {problem}") from None
        if values.dtype.kind not in "fiu" or len(output.shape) not in (1, 2) or min(output.shape) < 0:
            raise MemberFailure(f"answered with what are no rows of numbers, in the shape {cut(str(output.shape))}")
        if values.size != math.prod(output.shape):
            raise MemberFailure(f"answered with {values.size} figures in the shape {cut(str(output.shape))}")
        one_each = self._task == "regression" and len(output.shape) == 1
        return values.astype(np.float64).reshape([*output.shape, 1] if one_each else output.shape)


def _transport(endpoint: Endpoint) -> Transport:
    """What speaks as the address says; imported here, so that nobody pays for what he does not use."""
    if not endpoint.url.startswith("grpc"):
        from bandmaster.members.over_http import Http

        return Http(endpoint)
    try:
        from bandmaster.members.over_grpc import Grpc
    except ImportError as problem:
        raise BandmasterError(
            f"open_inference: {endpoint.url} needs gRPC ({problem}); pip install 'bandmaster[grpc]'"
        ) from None
    return Grpc(endpoint)


def _chosen(tensors: list[Tensor] | None, name: str | None, what: str) -> Tensor | None:
    """The tensor of that name, or the only one; ``None`` where the server tells of none and no name is given."""
    if not tensors:
        return None if name is None else Tensor(name, "FP32", [])
    found = [tensor for tensor in tensors if name in (None, tensor.name)]
    if len(found) != 1:
        names = cut(", ".join(tensor.name for tensor in tensors))
        raise MemberFailure(f"has the {what}s {names}; name one of them under {what}:")
    return found[0]
