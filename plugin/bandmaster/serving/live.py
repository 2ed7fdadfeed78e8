"""The configuration in force, followed while a service runs: edits of the overlay, and of the user's file by hand."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from bandmaster import build
from bandmaster.config import Config, Source
from bandmaster.config_manager import FIXED, ConfigManager, ReadBlock
from bandmaster.core import BandmasterError
from bandmaster.serving.discovery import in_force
from bandmaster.serving.pages import ConfigPage

_log = logging.getLogger("bandmaster.config")

AGAIN_S = 1.0
"""What could not be used is read again so often: it may have been half written, or lack a model that comes later."""

Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Made:
    """What a service was made of: the configuration that was in force, its members, who edits it, how it is read; and
    how many rows of several requests a member takes at once, 0 where the service does not say that it may.
    """

    config: Config
    hosted: build.Hosted
    manager: ConfigManager
    read: ReadBlock
    batch: int = 0


class Live:
    """What one process serves by, and whether there is something newer. Belongs to one thread, but for ``newer``."""

    def __init__(self, made: Made) -> None:
        self.config, self.hosted, self._manager, self._read = made.config, made.hosted, made.manager, made.read
        self._watched = (Path(self.config.source.name), self._manager.edits.path)
        self._stamp: Stamp | None = None  # what was in force then may have changed by now
        self._looked = 0.0
        self._page = ConfigPage(version=0, digest=digest(self.config), error=None)
        self._note()

    def changed(self) -> bool:
        """Whether a file has changed since this was asked last, or what it held could not be used."""
        stamp, now = tuple(map(_stamp, self._watched)), time.monotonic()
        if stamp == self._stamp and (self._page.error is None or now - self._looked < AGAIN_S):
            return False
        self._stamp, self._looked = stamp, now
        return True

    def newer(self) -> tuple[Config, build.Hosted] | None:
        """What is in force now, with its members, new ones loaded and tried on a row; ``None`` where that is what is
        served by already, or cannot be: the page says why. Takes its time, and may be left to a thread.
        """
        try:
            found, _ = in_force(self._read)
            require_live(self.config, found)
            if found == self.config:
                self._note()
                return None
            hosted = build.host(found, self.hosted)
            if (hosted.ensemble.classes, hosted.input_shape) != (self.hosted.ensemble.classes, self.hosted.input_shape):
                raise BandmasterError(
                    f"{found.source.name}: {found.source.path}.members: have other classes or rows than those that the "
                    "service was started with; start it anew"
                )
            plans = build.catalogue(found, hosted.ensemble)
            build.learner(found, plans, np.random.default_rng(0), guarding=found.guarding)  # to see that it can be
        except BandmasterError as problem:
            self._refuse(problem)
            return None
        return found, hosted

    def accept(self, config: Config, hosted: build.Hosted) -> None:
        """It is served by from now on."""
        self.config, self.hosted = config, hosted
        self._note()
        _log.info("the configuration in force has changed; version %d of the overlay", self._page.version)

    def _refuse(self, problem: BandmasterError) -> None:
        """What is in force cannot be used: it stays as it was."""
        if self._page.error != str(problem):
            _log.error("the configuration stays as it was: %s", problem)
        self._page = self._page.model_copy(update={"error": str(problem)})

    def page(self) -> ConfigPage:
        """The version of the overlay that is served by, and why nothing newer is."""
        return self._page

    def _note(self) -> None:
        try:
            version = self._manager.edits.in_force().version
        except BandmasterError as problem:
            self._refuse(problem)
        else:
            self._page = ConfigPage(version=version, digest=digest(self.config), error=None)


def digest(config: Config) -> str:
    """Tells one configuration from another, wherever it was read from."""
    return hashlib.sha256(repr(replace(config, source=Source(""), root=Path())).encode()).hexdigest()[:12]


def require_live(now: Config, then: Config) -> None:
    """Raise ``BandmasterError`` where a change can only come into force with a new start."""
    for field in fields(Config):
        if field.name in FIXED and getattr(now, field.name) != getattr(then, field.name):
            raise BandmasterError(
                f"{then.source.name}: {then.source.path}.{field.name}: cannot be changed while the service runs; start "
                "it anew"
            )


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
