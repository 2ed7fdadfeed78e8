"""What is released: a wheel that brings all it needs, and an sdist from which all can be built and tested."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest
import yaml

from bandmaster import __version__

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github/workflows"
JUNK = (".onnx", ".db", ".pyc", ".lease", ".key", ".egg-info")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(next(dist.glob("*.whl")))


@pytest.fixture(scope="module")
def sdist(dist: Path) -> set[str]:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        return {PurePosixPath(*PurePosixPath(name).parts[1:]).as_posix() for name in archive.getnames()}


def listed(*folders: str) -> set[str]:
    found = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        pytest.skip("not a clone")
    return {name for name in found.stdout.splitlines() if (ROOT / name).exists()}


@pytest.mark.extras
def test_the_wheel_brings_the_package_the_demo_and_the_licence(wheel):
    names = set(wheel.namelist())
    assert {name.removeprefix("plugin/") for name in listed("plugin/bandmaster")} <= names
    assert {f"bandmaster/_clone/{name}" for name in listed("bento", "models")} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.endswith(JUNK) or name.split("/")[0] in ("tests", "docs", "benchmarks")]


@pytest.mark.extras
def test_the_sdist_holds_all_that_is_in_the_clone_and_nothing_else(sdist):
    wanted = {name for name in listed() if not name.startswith((".ci/", ".github/"))}
    assert wanted <= sdist
    assert sdist - wanted <= {"PKG-INFO"}
    assert not [name for name in sdist if name.endswith(JUNK)]


@pytest.mark.extras
def test_the_metadata_say_what_it_is(wheel):
    (place,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    found: Message = Parser().parsestr(wheel.read(place).decode())
    assert (found["Name"], found["Version"], found["License-Expression"]) == ("bandmaster", __version__, "Apache-2.0")
    assert {"models", "plot", "rl", "ray", "docs"} <= set(found.get_all("Provides-Extra", []))
    assert "Typing :: Typed" in found.get_all("Classifier", [])
    assert found["Description-Content-Type"] == "text/markdown"


def test_a_change_is_checked_by_what_anybody_can_run_and_a_tag_is_published_without_a_token():
    ci, release = (yaml.safe_load((WORKFLOWS / name).read_text())["jobs"] for name in ("ci.yml", "release.yml"))
    assert [step["run"] for step in ci["run"]["steps"] if "run" in step] == [".ci/run"]
    commands = [step.get("run") for step in release["build"]["steps"]]
    assert commands.index("make dist") < commands.index("make wheel-demo")
    assert release["publish"]["needs"] == "build"
    assert release["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in (WORKFLOWS / "release.yml").read_text()


def test_what_the_workflows_and_ci_call_is_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    called = (ROOT / ".ci/run").read_text() + (WORKFLOWS / "release.yml").read_text()
    for word in ("demo", "test", "test-extras", "docs", "dist", "wheel-demo"):
        assert f"make {word}" in called
        assert f"\n{word}:" in makefile
