"""``bandmaster simulate`` and ``fit``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
from click.testing import CliRunner, Result

from bandmaster.cli import main
from bandmaster.config.simulation import load_simulation
from bandmaster.simulator import ModelRL

EXAMPLE = Path(__file__).parents[2] / "configs" / "simulated.yaml"
SOME = ("--policies", "constant,random,bandit", "--seeds", 2, "--requests", 1500)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_policies_are_compared_on_what_is_described(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    said = run("simulate", EXAMPLE, *SOME, "--out", out)
    assert said.exit_code == 0, said.output
    found = json.loads(out.read_text())
    rewards = {name: policy["reward"] for name, policy in found["policies"].items()}
    assert rewards["bandit"] > rewards["random"]
    assert found["log"]["rows"] == 3000
    assert json.loads(run("simulate", EXAMPLE, *SOME, "--json").stdout)["policies"] == found["policies"]


def test_a_member_that_nobody_described_is_named(tmp_path: Path) -> None:
    config = tmp_path / "block.yaml"
    config.write_text("orchestration: {contract: {accuracy: {weight: 1}}, members: {tiny: {}, huge: {}}}")
    said = run("simulate", EXAMPLE, "--config", config)
    assert said.exit_code == 2
    assert "members.huge: is not simulated; describe it under simulation.members, which has tiny" in said.output


def test_what_is_fitted_to_a_log_simulates_members_like_those_in_it(tmp_path: Path) -> None:
    log = ModelRL(load_simulation(EXAMPLE)).log(0, 6000)
    classes = log.ensemble.classes
    columns: dict[str, object] = {"label": [classes[i] for i in log.truth], "ts": log.at}
    for m, name in enumerate(log.ensemble.names):
        columns[f"{name}__proba"] = log.scores[:, m].astype(np.float64).tolist()
        columns[f"{name}__pred"] = [classes[i] for i in log.scores[:, m].argmax(axis=1)]
        columns[f"{name}__latency_s"], columns[f"{name}__energy_j"] = log.latency_s[:, m], log.energy_j[:, m]
    path, out = tmp_path / "log.parquet", tmp_path / "fitted.yaml"
    pl.DataFrame(columns).write_parquet(path, metadata={"classes": json.dumps(classes)})
    said = run("fit", path, "--config", EXAMPLE, "--out", out)
    assert said.exit_code == 0, said.output
    again = ModelRL(load_simulation(out)).log(1, 6000)
    was, now = ((x.scores.argmax(axis=2) == x.truth[:, None]).mean(axis=0) for x in (log, again))
    np.testing.assert_allclose(now, was, atol=0.03)
    np.testing.assert_allclose(again.latency_s.mean(axis=0), log.latency_s.mean(axis=0), rtol=0.1)
    np.testing.assert_allclose(again.energy_j.mean(axis=0), log.energy_j.mean(axis=0), rtol=0.1)
    np.testing.assert_allclose(again.scores.max(axis=2).mean(axis=0), log.scores.max(axis=2).mean(axis=0), atol=0.02)
    played = run("simulate", out, "--config", EXAMPLE, "--policies", "constant", "--seeds", 1)
    assert played.exit_code == 0, played.output
