"""A model file from a stranger reads no other file, runs no code of its own and cannot take all memory at start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from bandmaster.core import BandmasterError
from bandmaster.members.onnx import OnnxMember

SECRET = np.full((4, 3), 0.25, dtype=np.float32).tobytes()


def saved(path: Path, nodes: list[NodeProto], weights: list[TensorProto], *domains: str) -> Path:
    rows = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 4])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "hostile", [rows], [scores], weights)
    imports = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())
    return path


def weights_in(location: str) -> TensorProto:
    tensor = TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[4, 3])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(len(SECRET))}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


@pytest.mark.parametrize("location", ["../secret.bin", "{outside}/secret.bin", "link.bin", "/proc/self/environ"])
def test_weights_outside_the_model_s_folder_are_not_read(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(SECRET)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "link.bin").symlink_to(tmp_path / "secret.bin")
    nodes = [helper.make_node("MatMul", ["input", "weights"], ["x"]), helper.make_node("Softmax", ["x"], ["scores"])]
    path = saved(tmp_path / "models" / "m.onnx", nodes, [weights_in(location.format(outside=tmp_path))])
    with pytest.raises(BandmasterError, match="External data path"):
        OnnxMember("m", path)


def test_operators_that_are_not_onnx_s_own_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Boom", ["input"], ["scores"], domain="hostile")]
    with pytest.raises(BandmasterError, match="cannot load member 'm'"):
        OnnxMember("m", saved(tmp_path / "m.onnx", nodes, [], "hostile"))


def test_a_model_that_wants_more_memory_than_there_is_is_refused(tmp_path: Path) -> None:
    size = helper.make_tensor("size", TensorProto.INT64, (1,), [1 << 40])
    bounds = [helper.make_tensor(name, TensorProto.INT64, (1,), [v]) for name, v in (("from", 0), ("to", 3), ("by", 1))]
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["input", "nothing"], ["same"]),
        helper.make_node("Slice", ["same", "from", "to", "by"], ["three"]),
        helper.make_node("Softmax", ["three"], ["scores"]),
    ]
    with pytest.raises(BandmasterError, match="m"):
        OnnxMember("m", saved(tmp_path / "m.onnx", nodes, [size, *bounds]))
