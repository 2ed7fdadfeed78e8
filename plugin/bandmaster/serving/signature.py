"""Between a service's own signature and the ensemble: its arguments to rows, an answer to what it returns."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pydantic

from bandmaster.core import NO_ANSWER, Answer, Array, BandmasterError

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
class Signature:
    """How a service's method is fed to the ensemble and what it gives back.

    A service that defines ``to_rows(self, *args, **kwargs)`` (its method's own arguments to an array of rows) or
    ``from_answer(self, answer, classes)`` is asked instead.
    """

    name: str
    returns: Returns
    annotation: Any
    classes: tuple[int | str, ...]
    row_shape: tuple[int | None, ...]

    def rows(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Array:
        """The rows (n, …) of a call. Raises ``BandmasterError`` when they are of another shape or not finite."""
        values = [*args, *kwargs.values()]
        try:
            x = _numbers(values[0] if len(values) == 1 else values)
        except (TypeError, ValueError):
            raise BandmasterError(f"{self.name} takes {self._wanted()}, and nothing but numbers") from None
        return self.checked(x)

    def checked(self, x: Array) -> Array:
        """``x`` as rows; a single row gets its leading axis."""
        if x.ndim == len(self.row_shape):
            x = x[None]
        fits = x.ndim == len(self.row_shape) + 1 and all(
            want in (None, got) for want, got in zip(self.row_shape, x.shape[1:], strict=False)
        )
        if not fits:
            raise BandmasterError(f"{self.name} takes {self._wanted()}; this request has shape {list(x.shape)}")
        if not len(x):
            raise BandmasterError(f"{self.name} takes {self._wanted()}; this request has no row")
        if not np.isfinite(x).all():
            raise BandmasterError(f"{self.name} takes finite numbers; this request holds NaN or infinity")
        return x

    def _wanted(self) -> str:
        shape = " × ".join("any" if d is None else str(d) for d in self.row_shape)
        return f"rows of {shape} numbers"

    def reply(self, answer: Answer) -> Any:
        """An answer in the type that the service returns. Raises ``BandmasterError`` when nobody answered."""
        if (answer.labels == NO_ANSWER).any():
            raise BandmasterError("no member answered")
        labels = [self.classes[i] for i in answer.labels]
        kind = typing.get_origin(self.annotation) or self.annotation
        if inspect.isclass(kind) and issubclass(kind, pydantic.BaseModel):
            return _filled(kind, answer, labels)
        value: Any = answer.scores if self.returns == "scores" else np.array(labels)
        if kind is np.ndarray:
            return value
        if kind in (int, float, str):
            return kind(value[0])
        if kind is dict:
            return {str(c): float(p) for c, p in zip(self.classes, answer.scores[0], strict=True)}
        return value.tolist()


def read_signature(
    method: Callable[..., Any],
    name: str,
    returns: Returns,
    classes: tuple[int | str, ...],
    row_shape: tuple[int | None, ...],
) -> Signature:
    """Read a method's return annotation. Raises ``BandmasterError`` when no answer can be given in that type."""
    try:
        annotation = typing.get_type_hints(method).get("return", list)
    except NameError as problem:
        raise BandmasterError(f"{name}: its annotations cannot be read: {problem}") from None
    kind = typing.get_origin(annotation) or annotation
    model = inspect.isclass(kind) and issubclass(kind, pydantic.BaseModel)
    if not model and kind not in (np.ndarray, list, int, float, str, dict, Any):
        raise BandmasterError(
            f"{name} returns {annotation}; Bandmaster can give an np.ndarray, list, int, float, str, dict or pydantic "
            "model: define from_answer(self, answer, classes) in the service to give anything else"
        )
    if model:
        unknown = [f for f, info in kind.model_fields.items() if info.is_required() and f not in FIELDS]
        if unknown:
            raise BandmasterError(
                f"{name} returns {kind.__name__}, whose field {unknown[0]!r} nobody can fill; the fields known are "
                f"{', '.join(FIELDS)}: define from_answer(self, answer, classes) in the service to fill others"
            )
    return Signature(name, returns, annotation, classes, row_shape)


def _numbers(value: Any) -> Array:
    if isinstance(value, pydantic.RootModel):
        value = value.root
    if isinstance(value, pydantic.BaseModel):
        value = list(value.model_dump().values())
    if isinstance(value, list) and value and isinstance(value[0], pydantic.BaseModel):
        value = [list(v.model_dump().values()) for v in value]
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    x = np.asarray(value)
    if x.dtype.kind not in "fiub":
        raise ValueError(x.dtype)
    return x.astype(np.float32)


def _filled(kind: type[pydantic.BaseModel], answer: Answer, labels: list[int | str]) -> pydantic.BaseModel:
    one = len(labels) == 1
    values = {
        "label": labels[0],
        "labels": labels,
        "confidence": float(answer.confidence[0]) if one else answer.confidence.tolist(),
        "scores": answer.scores[0].tolist() if one else answer.scores.tolist(),
    }
    return kind(**{f: values[FIELDS[f]] for f in kind.model_fields if f in FIELDS})
