"""A model that another execution provider runs than the CPU's: OpenVINO, which needs no other hardware."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bandmaster.core import PROVIDERS, BandmasterError
from bandmaster.members.onnx import OnnxMember
from tests.serving.tiny import ROWS, models

ROOT = Path(__file__).parents[2]
OPENVINO = ROOT / ".venv" / "openvino" / "bin" / "python"
"""Its own environment, which `make test-extras` makes: its ONNX Runtime takes the other one's place."""

ASK = """
import json, pathlib, sys, numpy as np
from bandmaster.core import BandmasterError
from bandmaster.members.onnx import OnnxMember
path, rows, *providers = sys.argv[1:]
try:
    member = OnnxMember("linear", pathlib.Path(path), providers=providers)
except BandmasterError as problem:
    sys.exit(str(problem))
print(json.dumps([member._session.get_providers(), member.predict(np.array(json.loads(rows))).tolist()]))
"""


def asked(path: Path, *providers: str) -> subprocess.CompletedProcess[str]:
    command = [OPENVINO, "-c", ASK, str(path), json.dumps(ROWS[:20].tolist()), *(PROVIDERS[p] for p in providers)]
    env = {"PYTHONPATH": str(ROOT / "plugin")}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "linear.onnx").write_bytes(models()["linear"])
    return tmp_path / "linear.onnx"


@pytest.mark.extras
def test_openvino_runs_a_model_that_is_to_run_there_and_says_what_the_cpu_does(model: Path) -> None:
    done = asked(model, "openvino")
    assert done.returncode == 0, done.stderr
    at_work, scores = json.loads(done.stdout)
    assert at_work[0] == PROVIDERS["openvino"]
    np.testing.assert_allclose(scores, OnnxMember("linear", model).predict(ROWS[:20]), atol=1e-5)


@pytest.mark.extras
def test_what_it_does_not_have_is_refused_with_what_it_has(model: Path) -> None:
    done = asked(model, "tensorrt", "openvino")
    assert "is to run on TensorrtExecutionProvider, for which this ONNX Runtime is not made; it has " in done.stderr
    assert "it has OpenVINOExecutionProvider, CPUExecutionProvider: write one of them" in done.stderr


def test_a_provider_that_nobody_knows_is_refused_with_what_there_is(model: Path) -> None:
    with pytest.raises(BandmasterError, match=r"is to run on AbacusExecutionProvider.*it has .*CPUExecutionProvider"):
        OnnxMember("linear", model, providers=["AbacusExecutionProvider"])
