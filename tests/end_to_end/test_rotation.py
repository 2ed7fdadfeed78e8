"""Another key, while the service runs: nobody notices."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bandmaster.journal.ids import DecisionIds
from bandmaster.journal.keys import Keys
from tests.end_to_end.servers import Server, environment, eventually, served
from tests.serving.tiny import ROWS, project

HEADER = "x-orchestration-decision"


def answered(server: Server) -> str:
    name: str = server.client.post("/classify", json={"input_series": [ROWS[0].tolist()]}).headers[HEADER]
    return name


def reported(server: Server, decision: str) -> int:
    return server.client.post("/feedback", json={"decision_id": decision, "label": "setosa"}).status_code


def test_feedback_under_way_is_taken_after_the_key_was_changed_under_a_running_service(tmp_path: Path) -> None:
    folder = project(tmp_path)
    with served(".", folder=folder, env=environment(folder / "home")) as server:
        old = Keys(Keys.of(folder).first)
        before = [answered(server) for _ in range(2)]
        command = [sys.executable, "-m", "bandmaster", "rotate-key", str(folder / "bentofile.yaml")]
        subprocess.run(command, check=True, capture_output=True)
        assert reported(server, before[0]) in (200, 202)

        def another_key_signs() -> str | None:
            name = answered(server)
            return None if DecisionIds(old).verify(name) else name

        assert reported(server, eventually(another_key_signs, "the new key signs")) in (200, 202)
        version = server.state()["snapshot_version"]
        assert isinstance(version, int)
        assert reported(server, before[1]) in (200, 202)  # so that another one is sealed
        eventually(lambda: server.state()["worker"]["snapshot_version"] > version, "the worker follows")  # type: ignore[index]
    (folder / "bandmaster.key").write_text(Keys.of(folder).first.hex())  # the new one alone
    with served(".", folder=folder, env=environment(folder / "home")) as server:
        assert server.state()["snapshot_version"] >= version  # type: ignore[operator]
        assert reported(server, answered(server)) in (200, 202)
