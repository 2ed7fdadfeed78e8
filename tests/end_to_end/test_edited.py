"""A service is edited where BentoML itself has its hands in: built into a bento, and with ``--reload``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.end_to_end.servers import Server, bentoml, environment, eventually, served
from tests.serving.tiny import IRIS, ROWS, block, project


def ask(server: Server) -> None:
    server.client.post("/classify", json={"input_series": [ROWS[0].tolist()]}).raise_for_status()


def pages(server: Server) -> list[dict[str, Any]]:
    """What the learner and the worker serve by."""
    state: Any = server.state()
    return [state["config"], state["worker"]["config"]]


def test_a_built_bento_takes_up_edits_while_it_runs(tmp_path: Path) -> None:
    file = project(tmp_path / "project", seed=1) / "bentofile.yaml"
    file.write_text(file.read_text() + "python: {lock_packages: false}\n")
    env = environment(tmp_path / "home")
    built = bentoml("build", folder=file.parent, env=env)
    assert built.returncode == 0, built.stdout + built.stderr
    journal = tmp_path / "home" / "bandmaster" / "iris" / "orchestration.db"
    with served("iris:latest", folder=tmp_path, env=env) as server:
        ask(server)
        before = pages(server)
        command = ["config", "apply", str(file), "members.tree.active=false", "--journal", str(journal)]
        subprocess.run([sys.executable, "-m", "bandmaster", *command], check=True, env=env, timeout=60)

        def live() -> bool:
            ask(server)
            return all(page["version"] == 1 for page in pages(server))

        eventually(live, "the edit is in force")
        assert [page["error"] for page in pages(server)] == [None, None]
        assert {page["digest"] for page in pages(server)} != {page["digest"] for page in before}


@pytest.mark.extras
def test_with_reload_an_edit_by_hand_starts_nothing_anew_and_what_does_finds_it(tmp_path: Path) -> None:
    folder = project(tmp_path / "project", seed=1)
    file, env = folder / "bentofile.yaml", environment(tmp_path / "home")
    document = yaml.safe_load(file.read_text())
    with served(".", "--reload", folder=folder, env=env) as server:
        ask(server)
        before, processes = pages(server), server.worker_and_learner()
        document["args"]["orchestration"] = block(seed=1, probes={"share": 0.2})
        file.write_text(yaml.safe_dump(document, sort_keys=False))

        def live() -> bool:
            ask(server)
            return all(page["digest"] != before[0]["digest"] for page in pages(server))

        eventually(live, "the edit by hand is in force")
        now = pages(server)
        assert server.worker_and_learner() == processes
        (folder / "service.py").write_text(IRIS.replace('"version": 7', '"version": 8'))

        def anew() -> bool:
            try:
                version = server.client.post("/version", json={}).raise_for_status().json()
                return version == {"version": 8} and pages(server) == now  # not by what BentoML was started with
            except httpx.HTTPError:
                return False

        eventually(anew, "BentoML has started the service anew")
