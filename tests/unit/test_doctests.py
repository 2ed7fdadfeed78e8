"""The examples in docstrings do what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import bandmaster

ROOT = Path(bandmaster.__file__).parent
WITH_EXAMPLES = sorted(path for path in ROOT.rglob("*.py") if ">>> " in path.read_text())


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_examples_of_a_module_do_what_they_say(path):
    name = ".".join(("bandmaster", *path.relative_to(ROOT).with_suffix("").parts))
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted
    assert not done.failed


def test_there_are_examples():
    assert WITH_EXAMPLES
