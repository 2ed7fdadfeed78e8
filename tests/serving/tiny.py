"""A tiny ensemble on scikit-learn's irises, and projects around it: what the serving tests serve."""

from __future__ import annotations

import json
import warnings
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

from bandmaster.config import Config, read_block
from bandmaster.config_manager import ConfigManager
from bandmaster.edits import Edits
from bandmaster.hosting import Hosted
from bandmaster.journal.places import locate
from bandmaster.serving.discovery import placed
from bandmaster.serving.live import Made

CLASSES = ("setosa", "versicolor", "virginica")
ROWS, LABELS = load_iris(return_X_y=True)
POISON = 1000.0
"""A first column above this makes the member ``fragile`` answer NaN."""

IRIS = '''
import bentoml
import numpy as np


@bentoml.service
class Iris:
    """The iris classifier of BentoML's quickstart."""

    @bentoml.api
    def classify(self, input_series: np.ndarray) -> np.ndarray:
        return np.zeros(len(input_series))

    @bentoml.api
    def one_by_one(self, rows: list[list[float]]) -> list[str]:
        """A method of the service's own that calls the orchestrated one."""
        return [str(self.classify(np.array([row]))[0]) for row in rows]

    @bentoml.api
    async def version(self) -> dict:
        return {"version": 7}
'''


def made_of(config: Config, hosted: Hosted) -> Made:
    """What a service is made of that serves by ``config``."""
    read = partial(read_block, Path(config.source.name))
    return Made(placed(config), hosted, ConfigManager(read, Edits(locate(config.journal, config.root))), read)


@cache
def models() -> dict[str, bytes]:
    """Four members by name, as ONNX files."""
    fitted = {
        "linear": LogisticRegression(max_iter=500),
        "tree": DecisionTreeClassifier(max_depth=2, random_state=0),
        "bayes": GaussianNB(),
    }
    converted = {"fragile": _fragile()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # skl2onnx reads attributes that scikit-learn will retire
        for name, model in fitted.items():
            model.fit(ROWS, LABELS)
            converted[name] = to_onnx(
                model, ROWS[:1].astype(np.float32), options={id(model): {"zipmap": False}}, target_opset=17
            )
    for model in converted.values():
        helper.set_model_props(model, {"classes": json.dumps(CLASSES)})
    return {name: model.SerializeToString() for name, model in converted.items()}


def _fragile() -> Any:
    """Answers a third each, and NaN where the first column exceeds ``POISON``: the root of a negative number."""
    values = {"bound": [[POISON]], "nought": [[0.0]], "third": [[1 / 3] * 3], "first": None}
    constants = [
        helper.make_tensor(name, TensorProto.FLOAT, np.shape(v), np.ravel(v)) for name, v in values.items() if v
    ]
    constants.append(helper.make_tensor("first", TensorProto.INT64, (1,), [0]))
    nodes = [
        helper.make_node("Gather", ["input", "first"], ["column"], axis=1),
        helper.make_node("Sub", ["bound", "column"], ["room"]),
        helper.make_node("Sqrt", ["room"], ["root"]),
        helper.make_node("Mul", ["root", "nought"], ["nothing"]),
        helper.make_node("Add", ["third", "nothing"], ["probabilities"]),
    ]
    rows = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 4])
    scores = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "fragile", [rows], [scores], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def block(**changes: Any) -> dict[str, Any]:
    """An orchestration block over the tiny ensemble; ``changes`` replace its keys, ``None`` removes one."""
    whole = {
        "service": "service:Iris",
        "method": "classify",
        "contract": {"accuracy": {"weight": 0.8}, "latency": {"weight": 0.2, "range": ["1 us", "100 ms"]}},
        "members": {name: {"onnx": f"{name}.onnx"} for name in ("linear", "tree", "bayes", "fragile")},
        "plans": {"subsets": 2, "cascades": 2, "stop_at": [0.8], "limit": 24},
        "policy": {"use": "bandit", "explore": {"epsilon": 0.1}},
        "probes": {"share": 0.1},
        "guard": "none",
        "journal": "sqlite:///orchestration.db",
    } | changes
    return {key: value for key, value in whole.items() if value is not None}


def project(folder: Path, source: str = IRIS, **changes: Any) -> Path:
    """Write a whole project: ``service.py``, ``bentofile.yaml`` and the models. Returns ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "service.py").write_text(source)
    whole = {
        "service": "bandmaster.auto:svc",
        "include": ["*.py", "*.onnx"],
        "args": {"orchestration": block(**changes)},
    }
    (folder / "bentofile.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
    for name, model in models().items():
        (folder / f"{name}.onnx").write_bytes(model)
    return folder
