"""Between a service's own signature and the ensemble: its arguments to rows, an answer to what it returns."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pydantic
from _bentoml_sdk.io_models import IORootModel

from bandmaster.core import NO_ANSWER, Answer, Array, BandmasterError, Task

Returns = Literal["label", "scores"]

FIELDS: Mapping[str, str] = {
    "label": "label",
    "prediction": "label",
    "class_name": "label",
    "labels": "labels",
    "predictions": "labels",
    "confidence": "confidence",
    "score": "confidence",
    "scores": "scores",
    "probabilities": "scores",
}
"""The fields that are filled in a pydantic answer, and with what."""


@dataclass(frozen=True, slots=True)
class Rows:
    """How a method's arguments become the ensemble's rows, each of ``shape``; ``one`` where it answers only one.

    A service that defines ``to_rows(self, *args, **kwargs)``, with its method's own arguments, makes the rows itself.
    """

    name: str
    shape: tuple[int | None, ...]
    one: bool = False

    def of_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Array:
        """The rows (n, …) of a call. Raises ``BandmasterError`` when they are of another shape or not finite."""
        values = [*args, *kwargs.values()]
        return self.checked(values[0] if len(values) == 1 else values)

    def checked(self, value: Any) -> Array:
        """``value`` as rows; a single row gets its leading axis. Raises ``BandmasterError``."""
        try:
            x = _numbers(value)
        except (TypeError, ValueError):
            raise BandmasterError(f"{self.name} takes {self._wanted()}, and nothing but numbers") from None
        if x.ndim == len(self.shape):
            x = x[None]
        fits = x.ndim == len(self.shape) + 1 and all(
            want in (None, got) for want, got in zip(self.shape, x.shape[1:], strict=False)
        )
        if not fits:
            raise BandmasterError(f"{self.name} takes {self._wanted()}; this request has shape {list(x.shape)}")
        if not len(x):
            raise BandmasterError(f"{self.name} takes {self._wanted()}; this request has no row")
        if self.one and len(x) > 1:
            raise BandmasterError(f"{self.name} gives one answer; this request has {len(x)} rows: send one row each")
        if not np.isfinite(x).all():
            raise BandmasterError(f"{self.name} takes finite numbers; this request holds NaN, or one beyond float32")
        return x

    def _wanted(self) -> str:
        shape = " × ".join("any" if d is None else str(d) for d in self.shape)
        return f"rows of {shape} numbers"


@dataclass(frozen=True, slots=True)
class Reply:
    """How an answer becomes what a method returns; ``one`` where that holds a single row's answer.

    A service that defines ``from_answer(self, answer, classes)`` makes it itself.
    """

    returns: Returns
    annotation: Any
    classes: tuple[int | str, ...]
    one: bool
    task: Task = "classification"

    def __call__(self, answer: Answer) -> Any:
        """Raises ``BandmasterError`` when nobody answered."""
        if (answer.labels == NO_ANSWER).any():
            raise BandmasterError("no member could answer this request; the server's journal has their errors")
        kind, item = _kind(self.annotation), _item(self.annotation)
        if _is_model(kind):
            return _filled(kind, self._values(answer))
        if _is_model(item):
            rows = [self._values(answer, row) for row in range(len(answer.labels))]
            return [_filled(item, values) for values in rows]
        if kind is dict:
            return dict(zip(map(str, self.classes), answer.scores[0].tolist(), strict=True))
        labels = self._labels(answer)
        if kind in (int, float, str):
            return labels[0]
        if self.returns == "scores":
            return answer.scores if kind is np.ndarray else answer.scores.tolist()
        return np.array(labels) if kind is np.ndarray else labels

    def _labels(self, answer: Answer) -> list[int | str] | list[float]:
        if self.task == "regression":
            values: list[float] = answer.scores[:, 0].tolist()
            return values
        return [self.classes[i] for i in answer.labels]

    def _values(self, answer: Answer, row: int = 0) -> dict[str, Any]:
        labels = self._labels(answer)
        if self.one or _is_model(_item(self.annotation)):
            return {
                "label": labels[row],
                "labels": labels[row : row + 1],
                "confidence": float(answer.confidence[row]),
                "scores": answer.scores[row].tolist(),
            }
        values = {"labels": labels, "confidence": answer.confidence.tolist(), "scores": answer.scores.tolist()}
        return {**values, "label": labels}


def read_reply(
    method: Callable[..., Any],
    name: str,
    returns: Returns,
    classes: tuple[int | str, ...],
    output_spec: Any,
    task: Task = "classification",
) -> Reply:
    """Find out how to give what ``method`` is annotated to return, by trying it out.

    Raises ``BandmasterError`` when no answer can be given in that type.
    """
    try:
        annotation = typing.get_type_hints(method).get("return", Any)
    except NameError as problem:
        raise BandmasterError(f"{name}: its annotations cannot be read: {problem}") from None
    kind = _kind(annotation)
    if not _is_model(kind) and kind not in (np.ndarray, list, int, float, str, dict, Any):
        raise BandmasterError(
            f"{name} returns {annotation}; Bandmaster can give an np.ndarray, list, int, float, str, dict or pydantic "
            "model: define from_answer(self, answer, classes) in the service to give anything else"
        )
    why: Exception | None = None
    for one in (False, True):
        reply = Reply(returns, annotation, classes, one, task)
        if one or (kind not in (int, float, str, dict)):
            try:
                _encode(reply(_sample(len(classes), rows=1 if one else 2)), output_spec)
            except (ValueError, TypeError, AssertionError) as problem:
                why = problem
            else:
                return reply
    raise BandmasterError(
        f"{name} returns {annotation}, which an answer of this ensemble does not fit ({_short(why)}): define "
        f"from_answer(self, answer, classes) in the service; a model's fields filled without it: {', '.join(FIELDS)}"
    )


def check_arguments(method: Callable[..., Any], name: str, row_shape: tuple[int | None, ...]) -> None:
    """Raise ``BandmasterError`` when a method's several arguments cannot be the columns of a row."""
    parameters = [p for p in list(inspect.signature(method).parameters)[1:] if p not in ("ctx", "context")]
    wanted = row_shape[-1] if len(row_shape) == 1 else 1
    if len(parameters) > 1 and len(parameters) != (wanted or len(parameters)):
        raise BandmasterError(
            f"{name} takes {len(parameters)} arguments ({', '.join(parameters)}), but the members take rows of "
            f"{'×'.join(map(str, row_shape))} numbers; define to_rows(self, {', '.join(parameters)}) in the service"
        )


def _sample(classes: int, rows: int) -> Answer:
    scores = np.full((rows, classes), 1.0 / classes)
    return Answer(scores, np.zeros(rows, dtype=np.int64), scores[:, 0], (), 1, np.ones(1))


def _encode(value: Any, output_spec: Any) -> None:
    """What BentoML will do with every answer; raises what it would raise then."""
    if isinstance(output_spec, type) and issubclass(output_spec, IORootModel):
        value = output_spec(value)
    value.model_dump_json()


def _short(problem: Exception | None) -> str:
    if isinstance(problem, pydantic.ValidationError):
        first = problem.errors()[0]
        return ".".join(map(str, first["loc"])) + ": " + first["msg"]
    return str(problem)


def _kind(annotation: Any) -> Any:
    return typing.get_origin(annotation) or annotation


def _item(annotation: Any) -> Any:
    arguments = typing.get_args(annotation)
    return arguments[0] if _kind(annotation) is list and arguments else None


def _is_model(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, pydantic.BaseModel)


def _filled(kind: type[pydantic.BaseModel], values: Mapping[str, Any]) -> pydantic.BaseModel:
    return kind(**{f: values[FIELDS[f]] for f in kind.model_fields if f in FIELDS})


def _numbers(value: Any) -> Array:
    if isinstance(value, pydantic.BaseModel):
        fields = [getattr(value, f) for f in type(value).model_fields]
        return _numbers(fields[0] if len(fields) == 1 else fields)
    if isinstance(value, list) and any(isinstance(v, pydantic.BaseModel) for v in value):
        value = [_numbers(v) for v in value]
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    x = np.asarray(value)
    if x.dtype.kind not in "fiub":
        raise ValueError(x.dtype)
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
        return x.astype(np.float32)
