"""Where the block is looked for, and how it holds in a built bento."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from bentoml._internal.configuration.containers import BentoMLContainer

from bandmaster.config import ConfigError, load
from bandmaster.core import BandmasterError
from bandmaster.journal.places import JOURNAL_VARIABLE
from bandmaster.serving.discovery import find_block, load_service, placed, staying
from bandmaster.serving.learner_service import check_journal
from tests.serving.tiny import block, project


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a project whose bentofile holds a block with seed 1."""
    monkeypatch.delenv("BENTOML_CONFIG", raising=False)
    monkeypatch.delenv(JOURNAL_VARIABLE, raising=False)
    project(tmp_path / "src", seed=1)
    monkeypatch.chdir(tmp_path / "src")
    return tmp_path / "src"


@pytest.fixture
def arguments(folder: Path) -> Iterator[None]:
    """A bento's arguments that hold a block with seed 4."""
    BentoMLContainer.bento_arguments.set({"orchestration": block(seed=4)})
    yield
    BentoMLContainer.bento_arguments.reset()


@pytest.mark.usefixtures("arguments")
def test_bentoml_config_comes_before_bentofile_before_pyproject_before_arguments(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = "\n".join(f"{key} = {json.dumps(value)}" for key, value in {"service": "service:Iris", "seed": 3}.items())
    toml += '\ncontract.accuracy.weight = 1\nmembers.linear.onnx = "linear.onnx"\n'
    (folder / "pyproject.toml").write_text(f"[tool.bentoml.build.args.orchestration]\n{toml}")
    (folder / "config.yaml").write_text(yaml.safe_dump({"services": {"Iris": {"orchestration": block(seed=0)}}}))

    monkeypatch.setenv("BENTOML_CONFIG", str(folder / "config.yaml"))
    assert find_block()[0]["seed"] == 0
    monkeypatch.delenv("BENTOML_CONFIG")
    assert find_block()[0]["seed"] == 1
    (folder / "bentofile.yaml").unlink()
    assert find_block()[0]["seed"] == 3
    (folder / "pyproject.toml").unlink()
    assert find_block()[0]["seed"] == 4


@pytest.mark.usefixtures("arguments")
def test_a_block_that_has_gone_is_not_found_elsewhere_while_the_service_runs(folder: Path) -> None:
    file = folder / "bentofile.yaml"
    text, read = file.read_text(), staying(find_block, find_block()[1])
    file.write_text("")
    with pytest.raises(ConfigError, match=r"bentofile\.yaml:1: null is not a mapping"):
        find_block()  # nor when it starts
    file.unlink()
    with pytest.raises(ConfigError, match=r"bentofile\.yaml: .*holds no block any more, though the bento's arguments"):
        read()
    file.write_text(text.replace("seed: 1", "seed: 2"))
    assert read()[0]["seed"] == 2


def test_where_there_is_no_block_both_places_are_named(folder: Path) -> None:
    (folder / "bentofile.yaml").write_text("service: service:Iris\n")
    with pytest.raises(ConfigError, match=r"no orchestration block: neither .*bentofile\.yaml"):
        find_block()


def test_a_block_without_a_service_is_told_what_to_write(folder: Path) -> None:
    project(folder, service=None)
    with pytest.raises(ConfigError, match="service: is missing"):
        find_block()


@pytest.mark.parametrize(
    ("service", "why"),
    [("nowhere:Iris", "cannot be imported"), ("os:Iris", "has no 'Iris'"), ("os:path", "put @bentoml.service over")],
)
def test_a_service_that_is_none_is_refused_with_its_place(folder: Path, service: str, why: str) -> None:
    project(folder, service=service)
    with pytest.raises(ConfigError, match=why) as refused:
        load_service(*find_block())
    assert "args.orchestration.service" in str(refused.value)


def test_the_journal_stands_beside_the_block_or_where_the_environment_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(folder / "bentofile.yaml")
    assert placed(config).journal == f"sqlite:///{folder}/orchestration.db"
    monkeypatch.setenv(JOURNAL_VARIABLE, "sqlite:////var/lib/journal.db")
    assert placed(config).journal == "sqlite:////var/lib/journal.db"
    monkeypatch.setenv(JOURNAL_VARIABLE, "mysql://journal")
    with pytest.raises(BandmasterError, match="names no journal"):
        placed(config)


def test_in_a_built_bento_the_journal_is_outside_and_the_models_are_those_built_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    BentoMLContainer.bentoml_home.set("/home/of/bentoml")
    try:
        described = {"name": "iris", "services": [{"models": [{"tag": "iris-tree:abc"}]}], "models": []}
        (folder.parent / "bento.yaml").write_text(yaml.safe_dump(described))
        members = {"tree": {"bento_model": "iris-tree:latest"}, "other": {"bento_model": "other:latest"}}
        found = placed(load(project(folder, members=members) / "bentofile.yaml"))
    finally:
        BentoMLContainer.bentoml_home.reset()
    assert found.journal == "sqlite:////home/of/bentoml/bandmaster/iris/orchestration.db"
    assert [m.bento_model for m in found.members] == ["iris-tree:abc", "other:latest"]


def test_a_journal_that_would_be_packed_into_the_bento_is_told_of(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "bentofile.yaml"
    text, config = file.read_text(), placed(load(file))

    def told() -> list[str]:
        check_journal(config)
        return [line.partition(": `bentoml build` would pack it")[0] for line in capsys.readouterr().err.splitlines()]

    try:
        assert told() == []
        file.write_text(text.replace("include:\n- '*.py'\n- '*.onnx'\n", ""))
        assert told() == [f"bandmaster: {folder / name}" for name in ("orchestration.db", "bandmaster.key")]
        (folder / ".bentoignore").write_text("orchestration.db*\n")
        assert told() == [f"bandmaster: {folder / 'bandmaster.key'}"]
        file.write_text("include: 5\n")  # BentoML refuses that itself
        assert told() == []
    finally:
        BentoMLContainer.bento_arguments.reset()  # reading the file has set them
