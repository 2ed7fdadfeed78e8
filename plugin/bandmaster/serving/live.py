"""The configuration in force, followed while a service runs: edits of the overlay, of the user's file by hand, and new
models in the place of those that are served.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from bandmaster import build, hosting
from bandmaster.config import Config, Source
from bandmaster.config_manager import FIXED, ConfigManager, ReadBlock
from bandmaster.core import BandmasterError
from bandmaster.files import Stamp, stamp
from bandmaster.serving.discovery import in_force
from bandmaster.serving.pages import ConfigPage

_log = logging.getLogger("bandmaster.config")

AGAIN_S, SELDOM_S = 1.0, 60.0
"""What could not be used is read again after so long, then twice as long, and so on: it may have been half written, or
lack a model that comes later.
"""


@dataclass(frozen=True, slots=True)
class Made:
    """What a service was made of: the configuration that was in force, its members, who edits it, how it is read; and
    how many rows of several requests a member takes at once, 0 where the service does not say that it may.
    """

    config: Config
    hosted: hosting.Hosted
    manager: ConfigManager
    read: ReadBlock
    batch: int = 0


class Live:
    """What one process serves by, and whether there is something newer. Belongs to one thread, but for ``newer``."""

    def __init__(self, made: Made) -> None:
        self.config, self.hosted, self._manager, self._read = made.config, made.hosted, made.manager, made.read
        self._called = {member.bento for member in self.config.members if member.bento}
        self._stamps: tuple[Stamp | None, ...] | None = None  # what was in force then may have changed by now
        self._looked, self._again_s = 0.0, AGAIN_S
        self._page = self._served_by(0)
        self._note()

    def changed(self) -> bool:
        """Whether a file of the configuration's or a member's has changed since this was asked last, or what one held
        could not be used.
        """
        watched = (Path(self.config.source.name), self._manager.edits.path, *self.hosted.watched)
        stamps, now = tuple(map(stamp, watched)), time.monotonic()
        if stamps != self._stamps:
            self._again_s = AGAIN_S
        elif self._page.error is None or now - self._looked < self._again_s:
            return False
        else:
            self._again_s = min(2.0 * self._again_s, SELDOM_S)
        self._stamps, self._looked = stamps, now
        return True

    def newer(self) -> tuple[Config, hosting.Hosted] | None:
        """What is in force now, with its members, new ones loaded and tried on a row; ``None`` where that is what is
        served by already, or cannot be: the page says why. Takes its time, and may be left to a thread.
        """
        try:
            found, _ = in_force(self._read)
            require_live(self.config, found)
            self._require_connected(found)
            hosted = hosting.host(found, self.hosted)
            if (found, hosted.origins) == (self.config, self.hosted.origins):
                self._note()
                return None
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

    def _require_connected(self, then: Config) -> None:
        """Raise ``BandmasterError`` where a member is a service that this one did not depend on when it was started."""
        for member in then.members:
            if member.bento and member.bento not in self._called:
                raise BandmasterError(
                    f"{then.source.name}: {then.source.path}.members.{member.name}.bento: a service is connected with "
                    "others when it starts; start it anew"
                )

    def accept(self, config: Config, hosted: hosting.Hosted) -> list[tuple[str, str, str]]:
        """It is served by from now on. Returns the members that are another model than they were, what they were, and
        what they are.
        """
        before, after = self.hosted.origins, hosted.origins
        self.config, self.hosted = config, hosted
        self._note()
        _log.info("the configuration in force has changed; version %d of the overlay", self._page.version)
        told = [
            (name, str(before[name]), str(origin))
            for name, origin in after.items()
            if name in before and before[name].model != origin.model
        ]
        for name, _, origin in told:
            _log.info("member %s is %s now", name, origin)
        return told

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
            self._page = self._served_by(version)

    def _served_by(self, version: int) -> ConfigPage:
        models = {name: str(origin) for name, origin in self.hosted.origins.items()}
        return ConfigPage(version=version, digest=digest(self.config), models=models, error=None)


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
