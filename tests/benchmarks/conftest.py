"""A place without recordings, and scenarios small enough to run in a test."""

from pathlib import Path

import pytest

from benchmarks import suite
from benchmarks.sources import Place

CONFIG = """
orchestration:
  contract:
    accuracy: {weight: 0.8}
    latency:  {weight: 0.1, range: [1 ms, 100 ms], scale: log, from: profile}
    cost:     {weight: 0.1, range: [0, 1]}
  members:
    cheap: {profile: {latency: 2 ms, energy: 2 mJ, cost: 0.1}}
    mid:   {profile: {latency: 10 ms, energy: 10 mJ, cost: 0.2}}
    dear:  {profile: {latency: 60 ms, energy: 70 mJ, cost: 0.5}}
"""


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(None, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def silent() -> suite.Listener:
    return suite.Listener(lambda step: None, lambda line: None)
