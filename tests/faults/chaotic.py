"""An ensemble whose members fail on demand, for real: ONNX models that a column of their own tells what to do."""

from __future__ import annotations

import json
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper

from bandmaster.core import FloatArray, IntArray

MEMBERS = ("ash", "birch", "cedar", "doum", "elm")
CLASSES = ("low", "middle", "high")
FEATURES = 4
"""The columns that tell of the class; there follows one for each member."""

SPIN = 1 << 40
"""Turns of a loop that nobody waits for to end; a turn takes about a microsecond."""

SERVICE = """
from __future__ import annotations

import bentoml
import numpy as np
from numpy.typing import NDArray

@bentoml.service(workers=1, traffic={"timeout": 30})
class Chaos:
    @bentoml.api
    async def predict(self, rows: NDArray[np.float32]) -> list[str]:
        raise RuntimeError("the ensemble answers")
"""


class Fault(IntEnum):
    """What a member does where its column holds this: answer, answer NaN, raise, hang, answer in another shape, or take
    some 5 ms.
    """

    NONE = 0
    NAN = 1
    RAISE = 2
    HANG = 3
    SHAPE = 4
    SLOW = 5


TRUTH = np.random.default_rng(7).normal(size=(FEATURES, len(CLASSES)))


def requests(n: int, seed: int = 0) -> tuple[FloatArray, IntArray]:
    """Rows (n, FEATURES + members) of which nobody fails, and their classes (n,)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, FEATURES))
    return np.hstack([x, np.zeros((n, len(MEMBERS)))]), np.asarray((x @ TRUTH).argmax(axis=1))


@cache
def models() -> dict[str, bytes]:
    """The members as ONNX files; each knows the truth but for some noise of its own."""
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(len(MEMBERS), FEATURES, len(CLASSES))) * np.linspace(0.2, 0.8, len(MEMBERS))[:, None, None]
    return {name: _model(FEATURES + i, 3.0 * (TRUTH + noise[i])) for i, name in enumerate(MEMBERS)}


def _model(column: int, weights: FloatArray) -> bytes:
    def constant(name: str, values: Any, kind: int = TensorProto.FLOAT) -> Any:
        return helper.make_tensor(name, kind, np.shape(values), np.ravel(values))

    def node(op: str, given: str, gives: str, **attributes: Any) -> Any:
        return helper.make_node(op, given.split(), gives.split(), **attributes)

    turn = helper.make_graph(
        [node("Identity", "goes_on", "still"), node("Add", "turns one", "more")],
        "turn",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("turns", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]),
        ],
        [constant("one", [1.0])],
    )
    nodes = [
        node("Gather", "rows features", "x", axis=1),
        node("MatMul", "x weights", "logits"),
        node("Gather", "rows column", "codes", axis=1),
        node("ReduceMax", "codes", "code", keepdims=0),
        *(node("Equal", f"code {f.name}", f"is_{f.name}") for f in Fault if f),
        *(node("Cast", f"is_{f.name}", f"f_{f.name}", to=TensorProto.FLOAT) for f in Fault if f),
        *(node("Cast", f"is_{f.name}", f"i_{f.name}", to=TensorProto.INT64) for f in Fault if f),
        node("Neg", "f_NAN", "minus"),
        node("Sqrt", "minus", "root"),
        node("Mul", "i_RAISE far", "beyond"),
        node("Gather", "nought beyond", "found", axis=0),
        node("Mul", "i_HANG spin", "long"),
        node("Mul", "i_SLOW some", "short"),
        node("Add", "long short", "turns_to_go"),
        helper.make_node("Loop", ["turns_to_go", "yes", "nought"], ["turned"], body=turn),
        node("Mul", "turned nought", "nothing"),
        node("Add", "root found", "troubles"),
        node("Mul", "troubles nought", "trouble"),
        node("Add", "nothing trouble", "all_of_it"),
        node("Add", "logits all_of_it", "disturbed"),
        node("Softmax", "disturbed", "whole", axis=-1),
        node("Sub", "classes i_SHAPE", "wide"),
        node("Slice", "whole start wide last", "probabilities"),
    ]
    constants = [
        constant("features", list(range(FEATURES)), TensorProto.INT64),
        constant("column", [column], TensorProto.INT64),
        constant("weights", weights.astype(np.float32)),
        *(constant(f.name, float(f)) for f in Fault if f),
        constant("far", 10**6, TensorProto.INT64),
        constant("spin", SPIN, TensorProto.INT64),
        constant("some", 5_000, TensorProto.INT64),
        constant("yes", True, TensorProto.BOOL),
        constant("nought", [0.0]),
        constant("classes", [len(CLASSES)], TensorProto.INT64),
        constant("start", [0], TensorProto.INT64),
        constant("last", [1], TensorProto.INT64),
    ]
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", FEATURES + len(MEMBERS)])
    scores = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", "classes_given"])
    graph = helper.make_graph(nodes, "chaos", [rows], [scores], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"classes": json.dumps(CLASSES)})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def project(folder: Path, **changes: Any) -> Path:
    """Write a whole project; ``changes`` replace keys of its block. Returns ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    block = {
        "service": "service:Chaos",
        "contract": {"accuracy": {"weight": 0.8}, "latency": {"weight": 0.2, "range": ["10 us", "50 ms"]}},
        "members": {name: {"onnx": f"{name}.onnx", "deadline": "500 ms"} for name in MEMBERS},
        "plans": {"subsets": 2, "cascades": 2, "stop_at": [0.8], "limit": 24},
        "probes": {"share": 0.05},
        "guard": "none",
        "faults": {"cooldown": "200 ms"},
    } | changes
    (folder / "service.py").write_text(SERVICE)
    whole = {"service": "bandmaster.auto:svc", "args": {"orchestration": block}}
    (folder / "bentofile.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
    for name, model in models().items():
        (folder / f"{name}.onnx").write_bytes(model)
    return folder
