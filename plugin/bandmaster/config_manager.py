"""ConfigManager: every change of what serves is a validated, versioned edit, over a file that stays the user's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from bandmaster import config
from bandmaster.config import Config, ConfigError, Source
from bandmaster.core import BandmasterError
from bandmaster.edits import NOTHING, Change, Edit, Edits, as_mapping, as_text, leaves, overlaid, value_at, with_value
from bandmaster.yaml_writer import write_values

POLICY = "policy:"
"""What the author of an edit begins with where it was a policy, as in ``policy:ppo@1a2b3c4d``."""

POLICIES_MAY = ("members.*.active", "members.*.weight")
"""The paths that a policy may change."""

FIXED = ("service", "method", "task", "returns", "classes", "feedback", "journal", "durability")
"""Keys that nobody can change while a service runs: its endpoints and its journal are made of them."""

ReadBlock = Callable[[], tuple[Mapping[str, Any], Source]]
"""Reads the user's own block, anew each time, and says where it stands. Raises ``ConfigError``."""


class ConfigManager:
    """The one way in which a configuration is changed. Each method is one step: it is done, or nothing is."""

    def __init__(self, read: ReadBlock, edits: Edits) -> None:
        """``edits`` are those over the block that is ``read``."""
        self._read, self.edits = read, edits

    def effective(self) -> Config:
        """What is in force: the user's block with the overlay over it. Raises ``ConfigError`` where that is wrong."""
        return with_edits(*self._read(), self.edits.overlay())

    def apply(
        self, changes: Mapping[str, Any], author: str, reason: str, predicted: float | None = None
    ) -> Edit | None:
        """Change values by their dotted paths, as in ``members.forest.active``; ``None`` takes an edit back, to what
        the user's own file says. Returns what was done; ``None`` where all that was so already.

        ``author`` says who: ``cli:ann``, or ``policy:ppo@1a2b3c4d``, who may change but ``POLICIES_MAY``. Raises
        ``BandmasterError`` for what may not be changed, and where the outcome would be no configuration.
        """
        for path in changes:
            require_allowed(path, author)
        with self.edits.editing() as last:
            overlay = as_mapping(last.overlay)
            for path, value in changes.items():
                overlay = with_value(overlay, path.split("."), value)
            self._require_members(changes, overlay)
            return self._committed(last, as_text(overlay), changes, author, reason, predicted)

    def promote(self, shadow: Path, author: str, reason: str, predicted: float | None = None) -> Edit | None:
        """Have one of ``policy.shadows``, named by its file, conduct, and the agent that did be a shadow in its place.

        It is the one way in which a policy may change who conducts. Raises ``BandmasterError`` where it is no shadow.
        """
        with self.edits.editing() as last:
            block, source = self._read()
            before = _over(block, as_mapping(last.overlay))
            shadows = _parse(before, source).policy.shadows
            if shadow not in shadows:
                raise BandmasterError(f"{shadow}: is no shadow of the configuration in force, and cannot be promoted")
            files, k = list(before["policy"]["shadows"]), shadows.index(shadow)
            chosen, files[k] = files[k], before["policy"]["agent"]
            overlay = with_value(as_mapping(last.overlay), ("policy", "agent"), chosen)
            overlay = with_value(overlay, ("policy", "shadows"), files)
            changed = ("policy.agent", "policy.shadows")
            return self._committed(last, as_text(overlay), changed, author, reason, predicted)

    def revert(self, version: int, author: str, reason: str = "") -> Edit | None:
        """Have the overlay be what it was at a version, to the byte; 0 is before the first edit. It is one edit more.

        Raises ``BandmasterError`` for a version that never was, or that is no configuration any more.
        """
        with self.edits.editing() as last:
            then = self.version(version)
            paths = {".".join(path) for text in (last.overlay, then.overlay) for path, _ in leaves(as_mapping(text))}
            return self._committed(last, then.overlay, paths, author, reason or f"as at version {version}", None)

    def version(self, version: int) -> Edit:
        """The edit that made a version. Raises ``BandmasterError`` for one that never was."""
        history = [NOTHING, *self.edits.history()]
        if not 0 <= version < len(history):
            raise BandmasterError(f"there is no version {version}; the last is {len(history) - 1}")
        return history[version]

    def adopt(self, file: Path, author: str) -> Edit | None:
        """Write the overlay into the user's own ``file``, whose comments and order stay, and leave it empty.

        What is in force stays as it is. Raises ``BandmasterError`` where the file cannot be edited so.
        """
        with self.edits.editing() as last:
            block, source = self._read()
            overlay = _without_strangers(block, as_mapping(last.overlay))
            _parse(overlaid(block, overlay), source)
            prefix = tuple(filter(None, source.path.split(".")))
            if values := {(*prefix, *path): as_flow(value) for path, value in leaves(overlay)}:
                write_values(file, values)
            paths = [".".join(path) for path, _ in leaves(as_mapping(last.overlay))]
            return self._committed(last, "", paths, author, f"adopted into {file.name}", None)

    def _require_members(self, paths: Iterable[str], overlay: Mapping[str, Any]) -> None:
        """Raise ``BandmasterError`` where a path is about a member that there is not, nor would be."""
        block, _ = self._read()
        strangers = _strangers(block, overlay)
        for path in paths:
            if path.startswith("members.") and (name := path.split(".")[1]) in strangers:
                known = ", ".join(block.get("members") or {})
                raise BandmasterError(f"{path}: there is no member {name!r}; there are {known}")

    def _committed(
        self, last: Edit, overlay: str, paths: Iterable[str], author: str, reason: str, predicted: float | None
    ) -> Edit | None:
        if overlay == last.overlay:
            return None
        block, source = self._read()
        before, after = (_over(block, as_mapping(text)) for text in (last.overlay, overlay))
        _parse(after, source)
        changes = tuple(
            Change(path, value_at(before, path.split(".")), value_at(after, path.split("."))) for path in sorted(paths)
        )
        edit = Edit(last.version + 1, time.time(), author, reason, changes, predicted, overlay)
        self.edits.commit(edit)
        return edit


def with_edits(block: Mapping[str, Any], source: Source, overlay: Mapping[str, Any]) -> Config:
    """The configuration of a block with the overlay over it. Raises ``ConfigError`` where that is wrong."""
    return _parse(_over(block, overlay), source) if overlay else config.parse(block, source)


def _over(block: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    return overlaid(block, _without_strangers(block, overlay))


def _without_strangers(block: Mapping[str, Any], overlay: Mapping[str, Any]) -> Mapping[str, Any]:
    """The overlay, but for what it says of members that the file does not have any more."""
    for name in _strangers(block, overlay):
        overlay = with_value(overlay, ("members", name), None)
    return overlay


def _strangers(block: Mapping[str, Any], overlay: Mapping[str, Any]) -> list[str]:
    """The overlay's members that are none: the block does not have them, and they have no model."""
    own, over = block.get("members") or {}, overlay.get("members") or {}
    return [
        name
        for name, said in over.items()
        if name not in own and not (isinstance(said, Mapping) and said.keys() & set(config.SOURCES))
    ]


def _parse(block: Mapping[str, Any], source: Source) -> Config:
    try:
        return config.parse(block, source)
    except ConfigError as problem:
        raise ConfigError(*(f"with the overlay, {text}" for text in problem.problems)) from None


def require_allowed(path: str, author: str) -> None:
    """Raise ``BandmasterError`` where an author may not change what stands at a path."""
    key = path.partition(".")[0]
    if key in FIXED:
        raise BandmasterError(f"{path}: cannot be changed while the service runs; edit the file, and start it anew")
    if key not in config.KEYS or not all(path.split(".")):
        raise BandmasterError(f"{path}: is no path of the block; write one as in members.forest.active")
    if author.startswith(POLICY) and not any(fnmatchcase(path, may) for may in POLICIES_MAY):
        raise BandmasterError(f"{path}: is not for policies to change, but {', '.join(POLICIES_MAY)} are")


def as_flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 20, allow_unicode=True)
    return text.removesuffix("...\n").strip()
