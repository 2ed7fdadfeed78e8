"""A member that is an ONNX model in this process."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from bandmaster.core import CPU, Array, BandmasterError, FloatArray, MemberFailure, Task
from bandmaster.members.watchdog import WATCHDOG

WARM_UP_RUNS = 5
FATAL = 4
"""ONNX Runtime's log level at which it does not print what it also raises."""

LABEL_ROWS = 32
"""Rows of noise on which a model's labels are compared with its probabilities."""


class OnnxMember:
    """One ONNX Runtime session on one thread. Sessions may be called from several threads at once.

    The model has one input of shape (n, …) and, among its outputs, one of shape (n, classes) whose rows are
    probabilities; in regression, one of shape (n, 1) or (n,) that holds values. ``input_shape`` is a row's shape,
    ``None`` in it where the model takes any size. ``classes`` is what the model's metadata says (a JSON list under the
    key ``classes``), or ``None``. ``latency_s`` is the median of a few warm runs on one row.

    Raises ``BandmasterError`` naming the file when it is no such model.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        task: Task = "classification",
        providers: Sequence[str] = (CPU,),
        energy_j: float | None = None,
    ) -> None:
        """``providers`` of ONNX Runtime run it, each what those before it cannot; in the end the CPU does."""
        self.name, self._task, self.energy_j = name, task, energy_j
        there = onnxruntime.get_available_providers()
        for provider in providers:
            if provider not in there:
                raise BandmasterError(
                    f"{path}: member {name!r} is to run on {provider}, for which this ONNX Runtime is not made; it has "
                    f"{', '.join(there)}: write one of them under providers:, or install another, as onnxruntime-gpu"
                )
        options = onnxruntime.SessionOptions()
        # One thread: the CPU time of the calling thread is then the member's own, and workers do not fight.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        except Exception as problem:  # onnxruntime raises its own classes, none of them public
            raise BandmasterError(f"{path}: ONNX Runtime cannot load member {name!r}: {problem}") from None
        at_work = self._session.get_providers()
        if missing := [provider for provider in providers if provider not in at_work]:
            # ONNX Runtime takes the others then, and says so in its log alone.
            raise BandmasterError(
                f"{path}: member {name!r} is to run on {missing[0]}, which does not work here; take that out of "
                "providers:"
            )
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) < 2:
            shapes = ", ".join(f"{i.name}{i.shape}" for i in inputs)
            raise BandmasterError(f"{path}: member {name!r} must have one input of shape (n, …), not {shapes}")
        self._input = inputs[0].name
        self._dtype = _DTYPES.get(inputs[0].type)
        if self._dtype is None:
            raise BandmasterError(f"{path}: member {name!r} takes {inputs[0].type}; export it with a float input")
        self.input_shape = tuple(d if isinstance(d, int) else None for d in inputs[0].shape[1:])
        self.classes = self._stored_classes(path)
        self._output, self.width, self.latency_s = self._try_out(path)

    def predict(self, rows: Array) -> FloatArray:
        """Return (n, C) distributions, or (n, 1) values, for rows (n, …). Raises what ONNX Runtime raises."""
        return self.predict_within(rows, math.inf)[0]

    def predict_within(self, rows: Array, seconds: float) -> tuple[FloatArray, float]:
        """The same; ONNX Runtime ends a run between two of its operators. No time is spent elsewhere."""
        options, watching = onnxruntime.RunOptions(), None
        options.log_severity_level = FATAL
        if seconds < math.inf:
            watching = WATCHDOG.watch(seconds, lambda: setattr(options, "terminate", True))
        try:
            given = {self._input: np.ascontiguousarray(rows, dtype=self._dtype)}
            outputs = self._session.run([self._output], given, options)
        except Exception:
            if watching is not None and not WATCHDOG.release(watching):
                raise MemberFailure(f"did not answer within {seconds:.3g} s") from None
            raise
        if watching is not None:
            WATCHDOG.release(watching)
        scores = np.asarray(outputs[0], dtype=np.float64)
        return scores.reshape(len(scores), -1) if self._task == "regression" else scores, 0.0

    def misnamed(self, classes: Sequence[int | str]) -> str | None:
        """Why ``classes`` cannot be what this model answers with, in that order; ``None`` if nothing speaks against it.

        A model that also gives labels, as scikit-learn's do, must mostly give that of its most probable class; not
        always, since a support vector machine's probabilities are fitted apart from its labels.
        """
        labels = [o.name for o in self._session.get_outputs() if o.type in _LABELS and len(o.shape) == 1]
        if not labels:
            return None
        noise = np.random.default_rng(0).normal(size=(LABEL_ROWS, 1, *(d or 1 for d in self.input_shape)))
        wrong = []
        for row in noise.astype(self._dtype):
            labelled, scores = self._session.run([labels[0], self._output], {self._input: row})
            said, best = labelled.tolist()[0], int(scores.argmax())
            if said not in (classes[best], best):  # a model that counts its classes may have them named
                wrong.append((said, best))
        if len(wrong) <= LABEL_ROWS // 2:
            return None
        said, best = wrong[0]
        return (
            f"answers {said!r} where class number {best} is the most probable, but that is named {classes[best]!r}; "
            "list the labels in the model's order under classes:, as in classes: [cat, dog] "
            "(scikit-learn: list(model.classes_))"
        )

    def _stored_classes(self, path: Path) -> tuple[int | str, ...] | None:
        stored = self._session.get_modelmeta().custom_metadata_map.get("classes")
        if stored is None:
            return None
        try:
            classes = json.loads(stored)
        except ValueError:
            classes = None
        if not isinstance(classes, list) or not all(type(c) in (int, str) for c in classes):
            raise BandmasterError(f"{path}: metadata 'classes' must be a JSON list of numbers or texts, not {stored!r}")
        return tuple(classes)

    def _try_out(self, path: Path) -> tuple[str, int, float]:
        """Find the output that holds distributions by running one row; time a few more runs."""
        row = np.zeros((1, *(d or 1 for d in self.input_shape)), dtype=self._dtype)
        regression = self._task == "regression"
        axes = (1, 2) if regression else (2,)
        names = [o.name for o in self._session.get_outputs() if o.type in _DTYPES and len(o.shape) in axes]
        try:
            values = self._session.run(names, {self._input: row}) if names else []
        except Exception as problem:
            raise BandmasterError(f"{path}: member {self.name!r} fails on a row of zeros: {problem}") from None
        if regression:
            found = [(n, 1) for n, v in zip(names, values, strict=True) if v.size == 1]
        else:
            found = [(n, v.shape[1]) for n, v in zip(names, values, strict=True) if abs(float(v.sum()) - 1.0) < 1e-3]
        if regression and len(found) != 1:
            raise BandmasterError(
                f"{path}: member {self.name!r} has {len(found)} outputs of one float a row; in regression it must have "
                "exactly one, its value"
            )
        if not found:
            raise BandmasterError(
                f"{path}: member {self.name!r} has no output of shape (n, classes) whose rows sum to 1; export the "
                "probabilities (for scikit-learn: options={'zipmap': False})"
            )
        times = []
        for _ in range(WARM_UP_RUNS):
            start = time.perf_counter()
            self._session.run([found[0][0]], {self._input: row})
            times.append(time.perf_counter() - start)
        return *found[0], sorted(times)[len(times) // 2]


_LABELS = ("tensor(int64)", "tensor(int32)", "tensor(string)")
_DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
