"""The server that most of these tests share: it starts once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.servers import Server, environment, served
from tests.serving.tiny import project


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The quickstart's classifier, orchestrated by its block alone, served with ``bentoml serve .``."""
    folder = project(tmp_path_factory.mktemp("iris"))
    with served(".", folder=folder, env=environment(folder / "home")) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return project(tmp_path / "iris")
