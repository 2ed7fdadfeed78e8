"""Fast tests first: what is slow says so by its folder. Last where several processes share the files: then none is left
alone with a slow one in the end (``--dist loadfile --no-loadscope-reorder``)."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# No test asserts a time, and so no example has a deadline.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

ORDER = (
    "config",
    "journal",
    "unit",
    "offpolicy",
    "visualizer",
    "members",
    "contracts",
    "serving",
    "replay",
    "cli",
    "models",
    "benchmarks",
    "statistics",
    "end_to_end",
    "site",
    "faults",
)


METRICS = pytest.StashKey[tempfile.TemporaryDirectory]()


def pytest_configure(config):
    """A folder for metrics, as `bentoml serve` makes one: who is first to import Prometheus's client settles for the
    whole process whether it needs one, and so no single test may have it and take it away."""
    if config.getoption("numprocesses", None):  # of those: each one's threads would wait for one another, busily
        os.environ["OMP_NUM_THREADS"] = "1"
    config.stash[METRICS] = tempfile.TemporaryDirectory(prefix="bandmaster-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = config.stash[METRICS].name


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """For ``-n auto``, where the environment says nothing: one more than there are cores, as tests of servers wait for
    much of their time; more than eight would wait for the slowest file."""
    told = "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ
    return None if told else min((os.cpu_count() or 1) + 1, 8)


def pytest_unconfigure(config):
    config.stash[METRICS].cleanup()


def pytest_collection_modifyitems(config, items):
    def place(item):
        folder = Path(item.path).parent.name
        return ORDER.index(folder) if folder in ORDER else len(ORDER)

    items.sort(key=place, reverse=_shared(config))


def _shared(config):
    """Whether this is one of several processes that run the tests (pytest-xdist)."""
    return hasattr(config, "workerinput")
