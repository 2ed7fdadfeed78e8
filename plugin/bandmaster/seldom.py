"""Messages that would fill the log, and the disk, if all of them were written."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable


class Seldom:
    """Lets one message in ``every_s`` seconds through; the next one says how many were kept back."""

    def __init__(self, log: logging.Logger, every_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._every_s, self._clock = log, every_s, clock
        self._next, self._kept_back = 0.0, 0

    def error(self, message: str, *arguments: object, exc_info: bool = False) -> None:
        now = self._clock()
        if now < self._next:
            self._kept_back += 1
            return
        more = f" ({self._kept_back} such messages since the last)" if self._kept_back else ""
        self._log.error(message + more, *arguments, exc_info=exc_info)
        self._next, self._kept_back = now + self._every_s, 0
