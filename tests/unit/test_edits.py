"""Edits are versioned, logged, and whole at every moment, whoever is killed while he makes one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bandmaster import config
from bandmaster.config_manager import ConfigManager, as_flow
from bandmaster.core import BandmasterError
from bandmaster.edits import Edits, as_mapping, as_text, leaves, overlaid, value_at, with_value
from tests.faults.killed_edits import EDITOR, FILE, killed_at_random


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bentofile.yaml"
    path.write_text(FILE)
    return path


def manager(file: Path) -> ConfigManager:
    return ConfigManager(lambda: config.read_block(file), Edits(file.parent / "orchestration.db"))


@pytest.fixture
def edited(file: Path) -> ConfigManager:
    return manager(file)


def test_an_edit_is_in_force_logged_and_leaves_the_users_file_alone(edited: ConfigManager, file: Path) -> None:
    edit = edited.apply({"members.forest.active": False}, "cli:ann", "slow", predicted=0.01)
    assert edit is not None
    assert edited.effective().benched == (False, True)
    assert file.read_text() == FILE
    (logged,) = edited.edits.history()
    assert logged == edit == edited.edits.in_force()
    assert (logged.version, logged.author, logged.reason, logged.predicted) == (1, "cli:ann", "slow", 0.01)
    assert [(c.path, c.before, c.after) for c in logged.changes] == [("members.forest.active", None, False)]
    assert abs(logged.at - time.time()) < 60


def test_what_is_so_already_is_no_edit(edited: ConfigManager) -> None:
    edited.apply({"seed": 3}, "cli:ann", "")
    assert edited.apply({"seed": 3}, "cli:ann", "") is None
    assert edited.apply({"members.tree.active": None}, "cli:ann", "") is None
    assert len(edited.edits.history()) == 1


def test_taking_an_edit_back_gives_what_the_file_says(edited: ConfigManager) -> None:
    edited.apply({"members.forest.weight": 5, "seed": 3}, "cli:ann", "")
    edit = edited.apply({"members.forest.weight": None}, "cli:ann", "")
    assert edit is not None
    assert [(c.before, c.after) for c in edit.changes] == [(5, 2)]
    assert edited.effective().members[1].weight == 2
    assert edited.edits.overlay() == {"seed": 3}


def test_revert_restores_the_exact_bytes_of_any_version(edited: ConfigManager) -> None:
    texts = [b""]
    for k in range(1, 6):
        edited.apply({"seed": k, f"members.{('tree', 'forest')[k % 2]}.weight": k}, "cli:ann", "")
        texts.append(edited.edits.path.read_bytes())
    for version, text in enumerate(texts):
        edited.revert(version, "cli:ann")
        there = edited.edits.path.read_bytes() if edited.edits.path.exists() else b""
        assert there == text
    assert edited.effective().seed == 5
    assert [edit.version for edit in edited.edits.history()] == list(range(1, 6 + len(texts)))


@pytest.mark.parametrize(
    ("path", "value", "author", "why"),
    [
        ("service", "x:Y", "cli:ann", "service: cannot be changed while the service runs; edit the file, and start it"),
        ("journal", "sqlite:///x.db", "cli:ann", "journal: cannot be changed while the service runs"),
        ("sead", 3, "cli:ann", "sead: is no path of the block; write one as in members.forest.active"),
        ("members..active", 3, "cli:ann", "members..active: is no path of the block"),
        ("seed", 3, "policy:ppo@1", "seed: is not for policies to change, but members.*.active, members.*.weight are"),
        ("members.tree.onnx", "x", "policy:ppo@1", "members.tree.onnx: is not for policies to change"),
        ("seed", -1, "cli:ann", "with the overlay, .*bentofile.yaml: args.orchestration.seed: -1 "),
        ("members.tree.weight", "heavy", "policy:ppo@1", "with the overlay, .*members.tree.weight: heavy "),
        (
            "members.pine.active",
            True,
            "cli:ann",
            "members.pine.active: there is no member 'pine'; there are tree, forest",
        ),
    ],
)
def test_what_may_not_be_or_is_no_configuration_is_refused_and_nothing_changes(
    edited: ConfigManager, path: str, value: Any, author: str, why: str
) -> None:
    edited.apply({"members.tree.weight": 3}, "cli:ann", "")
    before = edited.edits.path.read_bytes(), edited.edits.log.read_bytes()
    with pytest.raises(BandmasterError, match=why.replace("*", r"\*").replace(".\\*", ".*")):
        edited.apply({"members.forest.active": False, path: value}, author, "")
    assert (edited.edits.path.read_bytes(), edited.edits.log.read_bytes()) == before


def test_the_last_active_member_cannot_be_taken_out(edited: ConfigManager) -> None:
    edited.apply({"members.forest.active": False}, "policy:ppo@1", "")
    with pytest.raises(BandmasterError, match="has no member that is active; take active: false from one of them"):
        edited.apply({"members.tree.active": False}, "policy:ppo@1", "")


def test_what_lies_over_a_member_that_the_file_does_not_have_any_more_is_left_aside(
    edited: ConfigManager, file: Path
) -> None:
    edited.apply({"members.forest.active": False, "seed": 5}, "cli:ann", "")
    file.write_text(FILE.replace("      forest: {weight: 2}\n", ""))
    effective = edited.effective()
    assert [m.name for m in effective.members] == ["tree"]
    assert effective.seed == 5
    assert edited.apply({"seed": 6}, "cli:ann", "") is not None


def test_a_version_that_never_was_is_refused(edited: ConfigManager) -> None:
    with pytest.raises(BandmasterError, match="there is no version 4; the last is 0"):
        edited.revert(4, "cli:ann")


def test_adopting_writes_into_the_users_file_keeping_comments_and_order(edited: ConfigManager, file: Path) -> None:
    edited.apply({"members.forest.active": False, "members.tree.weight": 3, "seed": 7}, "cli:ann", "")
    before = edited.effective()
    edit = edited.adopt(file, "cli:ann")
    assert edit is not None
    assert edit.reason == "adopted into bentofile.yaml"
    assert edited.effective() == before
    assert not edited.edits.path.exists()
    assert file.read_text() == FILE.replace("{}   # fast", "{weight: 3}   # fast").replace(
        "{weight: 2}", "{weight: 2, active: false}"
    ).replace("seed: 1", "seed: 7")
    assert edited.adopt(file, "cli:ann") is None


def test_an_edit_over_a_file_that_is_wrong_by_now_is_refused_with_its_line(edited: ConfigManager, file: Path) -> None:
    file.write_text(FILE.replace("seed: 1", "seed: none"))
    with pytest.raises(BandmasterError, match=r"bentofile\.yaml:8: args\.orchestration\.seed: none "):
        edited.apply({"members.tree.weight": 3}, "cli:ann", "")
    assert edited.edits.history() == []


def test_a_line_that_was_half_written_is_taken_out_by_the_next_edit(edited: ConfigManager) -> None:
    edited.apply({"seed": 2}, "cli:ann", "")
    whole = edited.edits.log.read_bytes()
    with edited.edits.log.open("ab") as log:
        log.write(whole[: len(whole) // 2])
    assert [edit.version for edit in edited.edits.history()] == [1]
    edited.apply({"seed": 3}, "cli:ann", "")
    assert [edit.version for edit in edited.edits.history()] == [1, 2]


def test_an_edit_that_was_logged_and_not_put_in_force_is_finished_by_the_next(edited: ConfigManager) -> None:
    edited.apply({"seed": 2}, "cli:ann", "")
    edited.apply({"members.tree.weight": 3}, "cli:ann", "")
    edited.edits.path.write_text(edited.version(1).overlay)
    edited.apply({"members.tree.weight": 3, "members.forest.weight": 4}, "cli:ann", "")
    assert edited.edits.overlay() == {"seed": 2, "members": {"tree": {"weight": 3}, "forest": {"weight": 4}}}


def test_an_overlay_that_was_damaged_is_told_how_to_be_mended(edited: ConfigManager) -> None:
    edited.apply({"seed": 2}, "cli:ann", "")
    edited.edits.path.write_text("seed: [")
    with pytest.raises(BandmasterError, match=r"overlay\.yaml: is damaged .*`bandmaster config revert`"):
        edited.effective()
    edited.revert(1, "cli:ann")
    assert edited.effective().seed == 2


@pytest.mark.parametrize("kills", [6])
def test_kill_9_at_any_point_leaves_the_old_or_the_new_overlay_and_a_whole_log(file: Path, kills: int) -> None:
    killed_at_random(file, kills)


def test_two_who_edit_at_once_lose_no_edit(file: Path) -> None:
    code = (
        EDITOR.replace("manager.edits.in_force().version", "0")
        .replace("while True:", "for _ in range(20):")
        .replace(
            'manager.apply({"seed": k, "members.tree.weight": k, "members.forest.weight": k}, "cli:ann", f"the {k}th")',
            'manager.apply({sys.argv[2]: k}, "cli:ann", "")',
        )
    )
    editors = [
        subprocess.Popen([sys.executable, "-c", code, str(file), path], stdout=subprocess.DEVNULL)
        for path in ("seed", "members.tree.weight")
    ]
    assert [editor.wait() for editor in editors] == [0, 0]
    history = Edits(file.parent / "orchestration.db").history()
    assert [edit.version for edit in history] == list(range(1, 41))
    by = [[c.path for c in edit.changes] for edit in history]
    assert sorted(map(tuple, by)) == [("members.tree.weight",)] * 20 + [("seed",)] * 20
    assert as_mapping(history[-1].overlay) == {"seed": 20, "members": {"tree": {"weight": 20}}}


values = st.one_of(st.booleans(), st.integers(-5, 5), st.text("ab: #", max_size=4), st.lists(st.integers(), max_size=2))
trees = st.recursive(values, lambda t: st.dictionaries(st.sampled_from("abc"), t, min_size=1, max_size=3), max_leaves=8)
mappings = st.dictionaries(st.sampled_from("abc"), trees, max_size=3)


@given(mappings)
def test_an_overlay_is_read_back_as_it_was_written(overlay: dict[str, Any]) -> None:
    assert as_mapping(as_text(overlay)) == overlay


@given(mappings, mappings)
def test_over_a_block_lies_every_leaf_of_the_overlay(block: dict[str, Any], overlay: dict[str, Any]) -> None:
    merged = overlaid(block, overlay)
    for path, value in leaves(overlay):
        assert value_at(merged, path) == value
    assert overlaid(block, {}) == block
    assert overlaid(merged, overlay) == merged


@given(mappings, st.lists(st.sampled_from("abc"), min_size=1, max_size=3), values)
def test_a_value_that_is_set_is_there_and_taken_out_it_is_not(
    overlay: dict[str, Any], path: list[str], value: Any
) -> None:
    there = with_value(overlay, path, value)
    assert value_at(there, path) == value
    assert value_at(with_value(there, path, None), path) is None


@given(trees)
def test_a_value_on_one_line_is_that_value(value: Any) -> None:
    assert "\n" not in as_flow(value)
    assert yaml.safe_load(as_flow(value)) == value


def test_the_log_is_json_that_other_tools_read(edited: ConfigManager) -> None:
    edited.apply({"seed": 2}, "cli:ann", "why not")
    (line,) = edited.edits.log.read_text().splitlines()
    read = json.loads(line)
    assert (read["version"], read["author"], read["reason"]) == (1, "cli:ann", "why not")
    assert read["changes"] == [{"path": "seed", "before": 1, "after": 2}]
