"""Fast tests first: what is slow says so by its folder."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# No test asserts a time, and so no example has a deadline.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

ORDER = (
    "unit",
    "config",
    "contracts",
    "members",
    "serving",
    "journal",
    "replay",
    "cli",
    "statistics",
    "models",
    "end_to_end",
)


METRICS = pytest.StashKey[tempfile.TemporaryDirectory]()


def pytest_configure(config):
    """A folder for metrics, as `bentoml serve` makes one: who is first to import Prometheus's client settles for the
    whole process whether it needs one, and so no single test may have it and take it away."""
    config.stash[METRICS] = tempfile.TemporaryDirectory(prefix="bandmaster-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = config.stash[METRICS].name


def pytest_unconfigure(config):
    config.stash[METRICS].cleanup()


def pytest_collection_modifyitems(items):
    def place(item):
        folder = Path(item.path).parent.name
        return ORDER.index(folder) if folder in ORDER else len(ORDER)

    items.sort(key=place)
