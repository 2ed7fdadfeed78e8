"""The site is made of the pages, the docstrings, the command line and the schema, and needs nothing from elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bandmaster.cli import main
from bandmaster.config.schema import schema

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.extras


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": f"{ROOT / 'plugin'}"}
    built = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr + built.stdout
    return folder


def test_every_page_is_built_and_is_in_the_navigation(site):
    pages = [*(ROOT / "docs").rglob("*.md")]
    assert len(pages) > 20
    for page in pages:
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file()
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert all(page.relative_to(ROOT / "docs").as_posix() in navigation for page in pages)


def test_a_page_loads_nothing_from_elsewhere(site):
    loaded = re.compile(
        r"<(?:script|img|iframe)[^>]*\ssrc=\"?(https?://[^\s\">]+)|<link[^>]*rel=\"?stylesheet[^>]*href=\"?(https?://[^\s\">]+)"
    )
    for page in site.rglob("*.html"):
        assert loaded.findall(page.read_text()) == [], page.name


def test_every_command_is_in_the_reference(site):
    text = (site / "cli.html").read_text()
    for name in main.commands:
        assert f"bandmaster {name}" in text


@pytest.mark.parametrize(
    "name", ["orchestrate", "check_policy", "Plan", "Decision", "Policy", "ConfigManager", "replay"]
)
def test_the_python_reference_is_made_of_docstrings(site, name):
    assert re.search(rf'id="bandmaster\.[\w.]*{name}"', (site / "python.html").read_text())


def test_the_schema_lies_where_editors_may_fetch_it(site):
    assert json.loads((site / "orchestration.schema.json").read_text()) == schema()
