"""The documents say what is there: every key, command, status and file that they name."""

import re
from pathlib import Path

import pytest
import yaml

from bandmaster import cli
from bandmaster.config import KEYS, POLICIES, Source, load, parse
from bandmaster.core import Status

ROOT = Path(__file__).parents[2]
DOCS = {p.relative_to(ROOT).as_posix(): p.read_text() for p in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]}


def test_every_configuration_key_has_a_heading_and_every_heading_is_a_key():
    headings = set(re.findall(r"^### (\w+)$", DOCS["docs/configuration.md"], re.M))
    assert headings == set(KEYS)


def test_every_command_that_is_named_exists_and_every_command_is_named():
    named = set(re.findall(r"`bandmaster ([\w-]+)", "".join(DOCS.values())))
    assert named == set(cli.main.commands)


def test_every_status_of_feedback_is_explained():
    assert all(f"`{s}`" in DOCS["docs/http.md"] for s in set(Status) - {Status.UNKNOWN})


@pytest.mark.parametrize(("name", "text"), DOCS.items(), ids=DOCS)
def test_every_link_to_a_file_leads_somewhere(name, text):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert ((ROOT / name).parent / target).exists(), target


def test_the_readmes_block_is_accepted_as_it_stands(tmp_path):
    block = re.search(r"```yaml\n(.*?)```", DOCS["README.md"], re.S).group(1)
    (tmp_path / "forest.onnx").touch()
    (tmp_path / "bentofile.yaml").write_text(block)
    config = load(tmp_path / "bentofile.yaml")
    assert [m.name for m in config.members] == ["linear", "forest"]
    assert parse(yaml.safe_load(block)["args"]["orchestration"], Source("x", root=tmp_path)).contract == config.contract


def test_every_policy_that_can_be_used_is_named_where_it_is_chosen():
    section = DOCS["docs/configuration.md"].split("### policy")[1].split("###")[0]
    assert all(f"`{policy}`" in section for policy in POLICIES)
