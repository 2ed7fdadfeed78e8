"""The event loop on which members that are elsewhere are talked to."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from bandmaster.members.loop import Loop
from tests.end_to_end.servers import eventually


class Connection:
    """What a coroutine holds while it runs."""


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_what_a_coroutine_held_that_failed_is_let_go_of_at_once(uncollected: None) -> None:
    async def failing(connection: Connection) -> None:
        raise ValueError("it fails")

    held = Connection()
    there = weakref.ref(held)
    with pytest.raises(ValueError, match="it fails"):
        Loop().run(failing(held), 60.0)
    del held
    eventually(lambda: there() is None, "nothing holds it any more")
