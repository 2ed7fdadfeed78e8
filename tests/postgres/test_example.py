"""The example of two replicas, run as its reader would; and its manifests for Kubernetes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

EXAMPLE = Path(__file__).parents[2] / "examples" / "04_two_replicas"


@pytest.mark.extras
def test_two_replicas_behind_a_load_balancer_lose_nothing_when_one_dies(tmp_path: Path) -> None:
    folder = tmp_path / "example"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("*.onnx"))
    command = [sys.executable, "run.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the other learns. 200 reported, 200 joined" in done.stdout


def manifests() -> list[dict[str, Any]]:
    kustomization = yaml.safe_load((EXAMPLE / "kubernetes" / "kustomization.yaml").read_text())
    return [
        manifest
        for name in kustomization["resources"]
        for manifest in yaml.safe_load_all((EXAMPLE / "kubernetes" / name).read_text())
    ]


@pytest.mark.extras
@pytest.mark.parametrize("manifest", manifests(), ids=lambda manifest: manifest["kind"])
def test_every_manifest_is_what_kubernetes_takes(manifest: dict[str, Any]) -> None:
    import kubernetes_validate

    kubernetes_validate.validate(manifest, "1.31", strict=True)


def test_no_manifest_of_the_example_is_left_out() -> None:
    kustomization = yaml.safe_load((EXAMPLE / "kubernetes" / "kustomization.yaml").read_text())
    there = {path.name for path in (EXAMPLE / "kubernetes").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == there
