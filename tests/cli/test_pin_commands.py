"""``bandmaster pin`` and ``unpin``."""

from pathlib import Path

from click.testing import CliRunner

from bandmaster.cli import main

BLOCK = "orchestration:\n  contract: {accuracy: {weight: 1}}\n  members: {a: {}, b: {}}\n"


def run(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


def config(folder: Path, guard: str = "  guard: {mode: live, baseline: a}\n") -> str:
    path = folder / "c.yaml"
    path.write_text(BLOCK + guard)
    return str(path)


def test_pin_and_unpin_say_where_and_who_answers(tmp_path):
    file = config(tmp_path)
    pinned = run("pin", file, "--why", "#4711")
    assert (pinned.exit_code, (tmp_path / "orchestration.db.pin").read_text()) == (0, "#4711")
    assert pinned.output == f"{tmp_path}/orchestration.db.pin: a answers alone; `bandmaster unpin {file}` ends that\n"
    assert run("unpin", file).output == f"{tmp_path}/orchestration.db.pin: the guard decides again\n"
    assert run("unpin", file).output == f"{tmp_path}/orchestration.db.pin: was not there\n"


def test_the_journal_may_be_elsewhere(tmp_path):
    (tmp_path / "var").mkdir()
    assert run("pin", config(tmp_path), "--journal", str(tmp_path / "var" / "j.db")).exit_code == 0
    assert (tmp_path / "var" / "j.db.pin").read_text() == "by hand"


def test_where_there_is_no_guard_or_no_folder_it_says_what_to_do(tmp_path):
    unguarded = run("pin", config(tmp_path, "  guard: none\n"))
    assert unguarded.exit_code == 2
    assert "orchestration.guard is none" in unguarded.output
    assert "write guard: {mode: live, baseline: constant}" in unguarded.output
    nowhere = run("pin", config(tmp_path), "--journal", str(tmp_path / "nowhere" / "j.db"))
    assert nowhere.exit_code == 2
    assert "nowhere: is no folder" in nowhere.output


def test_the_journal_that_the_environment_names_goes_before_the_config_s(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("BANDMASTER_JOURNAL", f"sqlite:///{elsewhere}/j.db")
    assert run("pin", config(tmp_path)).exit_code == 0
    assert (elsewhere / "j.db.pin").is_file()
