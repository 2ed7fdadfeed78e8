"""The learner as a BentoML service of its own, which the user's service depends on: its process, clock and calls."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import sys
from typing import Any

import bentoml
from _bentoml_sdk import Service
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from bandmaster.config import Config
from bandmaster.core import BandmasterError
from bandmaster.journal.keys import KEY_FILE, Keys
from bandmaster.journal.opening import open_journal
from bandmaster.journal.places import locate
from bandmaster.seldom import Seldom
from bandmaster.serving.discovery import packed
from bandmaster.serving.learning import LearningLoop, take_lease
from bandmaster.serving.live import Made
from bandmaster.serving.others import KEPT
from bandmaster.serving.pages import Receipt, Report, StatePage

_log = logging.getLogger("bandmaster.learning")

TICK_S = 0.05
"""How often it looks what there is to learn."""

LEARNER_TIMEOUT_S = 10.0
"""How long a call may take."""


def check_journal(config: Config) -> None:
    """Find out, before any process is started, whether a learner could work; if not, say so and exit with status 2."""
    try:
        path = locate(config.journal, config.root)
        open_journal(config.journal, config.root, Keys.of(path.parent)).close()
        take_lease(path).close()
        for file in filter(packed, (path, path.with_name(KEY_FILE))):
            print(
                f"bandmaster: {file}: `bentoml build` would pack it into the bento, and with --reload the service "
                f"starts anew whenever it is written; name {path.name}* and {KEY_FILE} in .bentoignore",
                file=sys.stderr,
            )
    except (BandmasterError, OSError) as problem:
        print(f"bandmaster: journal: {problem}", file=sys.stderr)
        raise SystemExit(2) from None


def learner_service(name: str, made: Made) -> Service[Any]:
    """The one learner of what ``made`` says."""

    class Learner:
        @bentoml.on_startup
        async def start(self) -> None:
            importlib.import_module("river.drift")  # takes a second, which no outcome is to wait for
            # Matrices of a few dozen rows: handing them to several threads costs more than multiplying them.
            threadpool_limits(1)
            self._loop = LearningLoop(made)
            self._ticking = asyncio.create_task(self._tick())
            gc.collect()  # as the worker does: what lives now need not be walked again, a tenth of a second each time
            gc.freeze()

        async def _tick(self) -> None:
            seldom = Seldom(_log)
            while True:
                try:
                    self._loop.tick()
                    if self._loop.live.changed() and (found := await asyncio.to_thread(self._loop.live.newer)):
                        self._loop.keep_up(found)
                except Exception:  # a learner that stopped would be noticed by nobody
                    seldom.error("the learner goes on after", exc_info=True)
                await asyncio.sleep(TICK_S)

        @bentoml.on_shutdown
        async def stop(self) -> None:
            self._ticking.cancel()
            self._loop.close()

        @bentoml.api
        async def settle(self, reports: list[Report]) -> list[Receipt]:
            return self._loop.settle(reports)

        @bentoml.api
        async def reject(self) -> None:
            self._loop.reject()

        @bentoml.api
        async def forget(self, decision_id: str, decided_at: float | None) -> bool:
            return self._loop.forget(decision_id, decided_at)

        @bentoml.api
        async def state(self) -> StatePage:
            return self._loop.state()

    Learner.__name__ = Learner.__qualname__ = name
    service: Service[Any] = bentoml.service(
        name=name,
        workers=1,
        traffic={"timeout": int(LEARNER_TIMEOUT_S) + 5},
        runner_connection=KEPT,
    )(Learner)
    return service
