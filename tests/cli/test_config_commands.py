"""Edits from the command line: made, shown, taken back, adopted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import bandmaster
from bandmaster.cli import main
from tests.faults.killed_edits import FILE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bentofile.yaml"
    path.write_text(FILE)
    return path


def ran(*arguments: str, exit_code: int = 0) -> str:
    result: Result = CliRunner().invoke(main, ["config", *arguments])
    assert result.exit_code == exit_code, result.output
    return result.output


def test_an_edit_is_made_shown_taken_back_and_adopted(file: Path) -> None:
    assert "nothing has been edited" in ran("log", str(file))
    applied = ran("apply", str(file), "members.forest.active=false", "seed=4", "--why", "slow since Monday")
    assert applied == "version 1: slow since Monday\n  members.forest.active: – → false\n  seed: 1 → 4\n"
    assert ran("apply", str(file), "seed=4") == f"{file}: nothing changes\n"
    assert ran("diff", str(file)).splitlines() == [
        "members.forest.active: as in bentofile.yaml → false",
        "seed: as in bentofile.yaml → 4",
    ]
    ran("apply", str(file), "seed=")
    assert ran("diff", str(file), "1") == "seed: 4 → as in bentofile.yaml\n"
    shown = ran("log", str(file))
    assert shown.index("seed: 4 → 1") < shown.index("slow since Monday")  # the newest first
    assert ran("revert", str(file), "1").startswith("version 3: as at version 1\n")
    assert ran("adopt", str(file)).startswith("version 4: adopted into bentofile.yaml\n")
    assert "forest: {weight: 2, active: false}" in file.read_text()
    assert ran("adopt", str(file)) == f"{file}: nothing changes\n"
    log = json.loads(ran("log", str(file), "--json"))
    assert [edit["version"] for edit in log] == [1, 2, 3, 4]
    assert log[0]["changes"][1] == {"path": "seed", "before": 1, "after": 4}
    assert all(edit["author"].startswith("cli:") for edit in log)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("seed", "seed: is no change; write a path and a value, as in members.forest.active=false"),
        ("seed=[", "seed=[: '[' is no YAML; put text in quotes"),
        ("seed=none", "with the overlay, "),
        ("journal=sqlite:///x.db", "journal: cannot be changed while the service runs"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(file: Path, change: str, why: str) -> None:
    assert f"Error: {why}" in ran("apply", str(file), change, exit_code=2)
    assert not list(file.parent.glob("*overlay*"))


def test_another_journal_has_edits_of_its_own(file: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    ran("apply", str(file), "seed=4", "--journal", str(tmp_path / "there" / "other.db"))
    assert (tmp_path / "there" / "other.db.overlay.yaml").exists()
    assert ran("diff", str(file)) == ""


def test_without_its_extra_train_says_what_to_install(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for missing in ("gymnasium", "stable_baselines3", "torch"):
        monkeypatch.setitem(sys.modules, missing, None)
    for loaded in ("training", "environment"):  # by other tests, where the extra is installed
        monkeypatch.delitem(sys.modules, f"bandmaster.{loaded}", raising=False)
        monkeypatch.delattr(bandmaster, loaded, raising=False)
    result = CliRunner().invoke(main, ["train", str(file)])
    assert result.exit_code == 2
    assert "pip install 'bandmaster[rl]'" in result.output


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--set", "gamma"], "--set gamma: is no setting; write a name and a value, as in learning_rate=0.001"),
        (["--order", "mixed"], "--order: goes with --log; what is simulated has phases of its own"),
        (["--log", "x.csv", "--mix-every", "5"], "--mix-every: goes with --order mixed; leave it out, or add that"),
        (
            ["--log", "x.csv", "--order", "mixed"],
            "--order mixed: needs --mix-classes and --mix-every, as in 5",
        ),
    ],
)
def test_options_of_train_that_do_not_go_together_are_refused(file: Path, options: list[str], why: str) -> None:
    result = CliRunner().invoke(main, ["train", str(file), *options])
    assert result.exit_code == 2
    assert why in result.output
