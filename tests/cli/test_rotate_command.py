"""``bandmaster rotate-key``."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from bandmaster.cli import main
from bandmaster.journal.keys import Keys

BLOCK = "orchestration:\n  contract: {accuracy: {weight: 1}}\n  members: {a: {}}\n"


def test_it_makes_the_key_that_signs_another_one_and_says_where_there_is_none(tmp_path: Path) -> None:
    file = tmp_path / "block.yaml"
    file.write_text(BLOCK)
    run = CliRunner().invoke(main, ["rotate-key", str(file)])
    assert (run.exit_code, "is not there yet; the service makes it" in run.output) == (2, True)
    first = Keys.of(tmp_path).first
    run = CliRunner().invoke(main, ["rotate-key", str(file)])
    assert run.output == f"{tmp_path / 'bandmaster.key'}: a new key signs; up to 2 before it are kept\n"
    keys = Keys.of(tmp_path)
    assert keys.first != first
    assert keys.any(lambda key: key == first)
    assert "those before it are dropped" in CliRunner().invoke(main, ["rotate-key", str(file), "--drop"]).output
    assert not Keys.of(tmp_path).any(lambda key: key == first)
