"""`bandmaster profile`: what it prints, and what it leaves of a configuration."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result

from bandmaster.cli import main
from bandmaster.config import load
from tests.members.servers import serving
from tests.serving.tiny import CLASSES, LABELS, ROWS, project

MEMBERS = ("linear", "tree", "bayes", "fragile")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["profile", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    project(tmp_path / "p")
    columns = {f"x{i}": ROWS[:, i] for i in range(4)} | {"label": [CLASSES[k] for k in LABELS]}
    pl.DataFrame(columns).write_csv(tmp_path / "p" / "held.csv")
    return tmp_path / "p"


def test_profile_prints_a_table_its_provenance_and_the_block_to_paste(folder):
    before = (folder / "bentofile.yaml").read_bytes()
    shown = call(folder / "held.csv", "--config", folder / "bentofile.yaml")
    assert shown.exit_code == 0, shown.output
    for name in MEMBERS:
        assert re.search(rf"^{name} +0\.\d{{4}} +0\.\d{{4}}–0\.\d{{4}} .* 75/75 +0$", shown.stdout, re.M)
        assert re.search(rf"^  {name}:\n    profile: {{accuracy: 0\.\d+, .*energy: [\d.]+ uJ}}$", shown.stdout, re.M)
    assert "150 of 150 requests of one row" in shown.stdout
    assert "Energy is estimated as the thread's CPU time × 10 W." in shown.stdout
    assert shown.stderr.splitlines()[-1] == "measuring: 12/12, fragile"
    assert (folder / "bentofile.yaml").read_bytes() == before


def test_profile_writes_what_the_configuration_then_reads(folder):
    text = (folder / "bentofile.yaml").read_text().replace("  members:", "  # ours\n    members:")
    (folder / "bentofile.yaml").write_text(text)
    shown = call(folder / "held.csv", "--config", folder / "bentofile.yaml", "--write", "--json", "--rows", 60)
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert (found["requests"], found["of"], found["written"]) == (60, 150, True)
    assert "# ours" in (folder / "bentofile.yaml").read_text()
    profiles = {m.name: m.profile for m in load(folder / "bentofile.yaml").members}
    for measured in found["members"]:
        profile = profiles[measured["name"]]
        assert profile.accuracy == pytest.approx(measured["accuracy"], abs=1e-4)
        assert profile.calibration == pytest.approx(measured["calibration"], abs=1e-4)
        assert profile.latency_s == pytest.approx(measured["latency_s"], rel=1e-2)
        assert profile.energy_j == pytest.approx(measured["energy_j"], rel=1e-2)
        assert profile.explainability == pytest.approx(measured["explainability"], abs=1e-4)


def test_data_that_do_not_fit_the_members_are_bad_input(folder):
    pl.DataFrame({"x0": [1.0, 2.0]}).write_csv(folder / "narrow.csv")
    refused = call(folder / "narrow.csv", "--config", folder / "bentofile.yaml")
    assert refused.exit_code == 2
    assert "members take rows of shape (4,)" in refused.stderr


def test_members_that_exist_only_in_logs_cannot_be_measured(tmp_path):
    (tmp_path / "c.yaml").write_text("orchestration:\n  contract: {accuracy: {weight: 1}}\n  members: {a: {}}\n")
    refused = call(tmp_path / "x.csv", "--config", tmp_path / "c.yaml")
    assert refused.exit_code == 2
    assert "members.a: has no model, so it can be replayed but not served" in refused.stderr


def test_energy_that_cannot_be_measured_here_is_left_to_be_declared(tmp_path):
    with serving() as served:
        far = {"open_inference": served.url, "model": "m"}
        members = {"linear": {"onnx": "linear.onnx"}, "far": far, "told": far | {"profile": {"energy": "2 J"}}}
        folder = project(tmp_path / "p", members=members)
        data = pl.DataFrame({f"x{i}": ROWS[:, i] for i in range(4)})
        data.write_csv(folder / "held.csv")
        shown = call(folder / "held.csv", "--config", folder / "bentofile.yaml", "--write", "--rows", 20)
    assert shown.exit_code == 0, shown.output
    assert re.search(r"^far .* – ", shown.stdout, re.M)
    linear, far, told = load(folder / "bentofile.yaml").members
    assert linear.profile.energy_j > 0.0
    assert (far.profile.energy_j, told.profile.energy_j) == (None, 2.0)
    assert far.profile.latency_s > 0.0
