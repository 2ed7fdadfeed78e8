"""Members that tests have made are let go of."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.members.asking import MADE


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    while MADE:
        MADE.pop().stop()
