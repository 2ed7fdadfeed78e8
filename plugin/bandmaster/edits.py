"""Edits over the user's own configuration: an overlay beside the journal, and the log of how it came to be.

Whoever edits appends to the log first, then puts the overlay in place; who was killed between the two is finished by
the next. What is read is always one version of the overlay, whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import yaml

from bandmaster.core import BandmasterError
from bandmaster.files import alone_in, naming, replacing, sync

HEADER = (
    "# Over the service's own configuration. Written by `bandmaster config` and by policies; their log is beside it.\n"
)


class Change(msgspec.Struct, frozen=True):
    """What stood at a dotted path of the block, in the file or the overlay, and what does now; ``None``: nothing."""

    path: str
    before: Any
    after: Any


class Edit(msgspec.Struct, frozen=True):
    """One version of the overlay: who made it, when (Unix s) and why, what it changed, by how much it was to raise the
    reward of a request, if that was ``predicted``, and the whole text of the overlay since.
    """

    version: int
    at: float
    author: str
    reason: str
    changes: tuple[Change, ...]
    predicted: float | None
    overlay: str


NOTHING = Edit(0, 0.0, "", "", (), None, "")
"""Before the first edit."""


class Edits:
    """The overlay of one journal, and its log. Several processes may use them."""

    def __init__(self, journal: Path) -> None:
        self.path = journal.with_name(f"{journal.name}.overlay.yaml")
        self.log = journal.with_name(f"{journal.name}.edits.jsonl")

    def overlay(self) -> Mapping[str, Any]:
        """What is over the user's block now; empty where nothing is. Raises ``BandmasterError`` where it is damaged."""
        try:
            return as_mapping(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, yaml.YAMLError) as problem:
            why = " ".join(str(problem).split())
            raise BandmasterError(
                f"{self.path}: is damaged ({why}); `bandmaster config revert` to a version of the log mends it"
            ) from None

    def in_force(self) -> Edit:
        """The edit that made the overlay what it is. Raises ``BandmasterError`` as ``history`` does."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, ValueError):
            text = ""
        return next((edit for edit in reversed(self.history()) if edit.overlay == text), NOTHING)

    def history(self) -> list[Edit]:
        """Every edit, the oldest first. Raises ``BandmasterError`` where a line of the log cannot be read."""
        return self._read()[0]

    @contextmanager
    def editing(self) -> Iterator[Edit]:
        """Have the files alone; gives the edit in force, once what another left half done is finished."""
        with naming(self.path), alone_in(self.path.parent):
            edits, whole = self._read()
            if self.log.exists() and self.log.stat().st_size > whole:  # killed while it wrote its line
                os.truncate(self.log, whole)
            last = edits[-1] if edits else NOTHING
            self._put(last.overlay)
            yield last

    def commit(self, edit: Edit) -> None:
        """Have an edit come into force; once this returns it survives a power cut. To be called while ``editing``."""
        new = not self.log.exists()
        with self.log.open("ab") as log:
            log.write(msgspec.json.encode(edit) + b"\n")
            log.flush()
            os.fsync(log.fileno())
        if new:
            sync(self.log.parent)
        self._put(edit.overlay)

    def _put(self, overlay: str) -> None:
        """Have the overlay's file hold this, in one step; none where it is empty."""
        try:
            there = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            there = ""
        except ValueError:  # damaged
            there = None
        if there == overlay:
            return
        if overlay:
            with replacing(self.path) as temporary:
                temporary.write_text(overlay, encoding="utf-8")
                sync(temporary)
        else:
            self.path.unlink()
        sync(self.path.parent)

    def _read(self) -> tuple[list[Edit], int]:
        """The log's edits, and the length in bytes of its whole lines."""
        try:
            text = self.log.read_bytes()
        except FileNotFoundError:
            return [], 0
        whole = text.rfind(b"\n") + 1
        edits = []
        for number, line in enumerate(text[:whole].splitlines(), start=1):
            try:
                edits.append(msgspec.json.decode(line, type=Edit))
            except msgspec.DecodeError as problem:
                raise BandmasterError(
                    f"{self.log}:{number}: is no edit ({problem}); take the line out of the log"
                ) from None
        return edits, whole


# ---- Overlays as values --------------------------------------------------------------------------------------


def as_mapping(text: str) -> Mapping[str, Any]:
    """An overlay's text as a mapping. Raises ``ValueError`` or ``yaml.YAMLError`` where it is none."""
    found = yaml.safe_load(text) or {}
    if not isinstance(found, dict):
        raise ValueError("it is no mapping")
    return found


def as_text(overlay: Mapping[str, Any]) -> str:
    """A mapping as an overlay's text; the same for the same mapping, empty for an empty one."""
    if not overlay:
        return ""
    return HEADER + yaml.safe_dump(overlay, sort_keys=True, allow_unicode=True, width=120)


def overlaid(block: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """A block with an overlay over it: mappings are merged, everything else of the overlay takes the block's place.

    >>> overlaid({"seed": 1, "members": {"a": {"onnx": "a.onnx"}}}, {"members": {"a": {"active": False}}})
    {'seed': 1, 'members': {'a': {'onnx': 'a.onnx', 'active': False}}}
    """
    merged = dict(block)
    for key, over in overlay.items():
        under = merged.get(key)
        nested = isinstance(over, Mapping) and isinstance(under, Mapping)
        merged[key] = overlaid(under, over) if nested else over  # type: ignore[arg-type]
    return merged


def value_at(block: Mapping[str, Any], path: Sequence[str]) -> Any:
    """What stands at a path; ``None`` where nothing does."""
    found: Any = block
    for step in path:
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def with_value(overlay: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """An overlay with another value at a path; ``None`` takes it out, and mappings that are left empty with it."""
    (step, *rest), after = path, dict(overlay)
    below = after.get(step)
    if rest:
        value = with_value(below if isinstance(below, Mapping) else {}, rest, value) or None
    if value is None:
        after.pop(step, None)
    else:
        after[step] = value
    return after


def leaves(overlay: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value of an overlay that is no mapping, with its path."""
    for key, value in overlay.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value
