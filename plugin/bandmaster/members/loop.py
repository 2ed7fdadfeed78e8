"""An event loop in a thread of its own, on which members that are elsewhere are talked to."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Loop:
    """Runs coroutines for callers in other threads. Whatever they wait for, a name's address included, ends in time."""

    def __init__(self) -> None:
        """Nothing runs until the first coroutine is there."""
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, what: Coroutine[Any, Any, T], seconds: float) -> T:
        """What a coroutine returns, or raises. Raises ``TimeoutError`` after so many ``seconds``; it is cancelled
        then.
        """
        future = asyncio.run_coroutine_threadsafe(what, self._running())
        try:
            return future.result(None if seconds == math.inf else max(seconds, 0.0))
        except TimeoutError:
            future.cancel()
            raise
        finally:
            del future  # its exception holds this frame: each would keep the other, and what failed is not let go of

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="bandmaster-loop", daemon=True).start()
            return self._loop


LOOP = Loop()
"""This process's."""
