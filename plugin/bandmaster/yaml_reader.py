"""YAML read with its places: every value knows its path and line, and every problem is collected before any is raised.

Anchors, aliases, merge keys, duplicated keys, tags that are not plain YAML, huge and deep documents are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bandmaster.core import BandmasterError

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_PROBLEMS = 100

Step = str | int


class ConfigError(BandmasterError):
    """A configuration that cannot be used. ``problems`` has one text each, in the order of the file."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


# ---- Problems and their places ---------------------------------------------------------------------------


class Book:
    """Collects the problems of one source, and knows on which line each path stands, if that is known."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[tuple[Step, ...], int] = {}
        self.problems: list[tuple[int, str]] = []

    def refuse(self, path: tuple[Step, ...], why: str, line: int | None = None) -> None:
        """Note a problem. A path without a line has its parent's. Raises when there are far too many."""
        known = (self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines)
        line = line or next(known, 0)
        place = f"{self.name}:{line}" if line else self.name
        self.problems.append((line, f"{place}: {dotted(path)}: {why}" if path else f"{place}: {why}"))
        if len(self.problems) >= MAX_PROBLEMS:
            self.problems.append((1 << 30, f"{self.name}: further problems are not shown; mend these first"))
            self.settle()

    def settle(self) -> None:
        """Raise ``ConfigError`` if there was any problem."""
        if self.problems:
            raise ConfigError(*(text for _, text in sorted(self.problems, key=lambda p: p[0])))


@dataclass(frozen=True, slots=True)
class At:
    """A value and its place. A value that is wrong is noted and stands for the default from there on."""

    book: Book
    path: tuple[Step, ...]
    value: object

    def refuse(self, why: str) -> None:
        # What the YAML reader has refused is not judged twice.
        if self.value is not REFUSED:
            self.book.refuse(self.path, f"{show(self.value)} {why}")

    def child(self, step: Step, value: object) -> At:
        return At(self.book, (*self.path, step), value)


REFUSED = object()
"""Stands where the YAML reader met something it refused."""


def dotted(path: Sequence[Step]) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{show(step)}" for step in path)
    return "".join(steps).removeprefix(".")


def show(value: object) -> str:
    """A value as in YAML, on one line and short, whatever it holds."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        text = value if value and value.isprintable() else ascii(value[:60])
    elif isinstance(value, int):
        # Python refuses to print an integer of thousands of digits.
        text = str(value) if abs(value) < 10**60 else "a huge integer"
    elif isinstance(value, Mapping):
        text = "{…}" if value else "{}"
    elif isinstance(value, list):
        items = ["[…]" if isinstance(v, list) else show(v) for v in value[:4]]
        text = f"[{', '.join(items)}{', …' if len(value) > 4 else ''}]"
    else:
        text = str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


# ---- Text to values ----------------------------------------------------------------------------------------


def read_text(path: Path, book: Book) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{book.name}: the file is over 1 MiB; a config holds figures and names, no data")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{book.name}:{line}: the file is not UTF-8; save it as UTF-8") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{book.name}: cannot be read ({why}); name a file that can") from None


def read_yaml(text: str, book: Book) -> object:
    """The document's plain values. Raises ``ConfigError`` for what is no YAML at all."""
    line, why = 1, ""
    try:
        return Reader(text, book).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, why = mark.line + 1 if mark else 1, error.problem or ""
    except yaml.reader.ReaderError as error:
        line, why = text[: error.position].count("\n") + 1, f"character #x{error.character:04x} is not allowed"
    except (ValueError, OverflowError) as error:  # PyYAML's own, for instance from the escape "\Uffffffff"
        why = str(error)
    raise ConfigError(f"{book.name}:{line}: this is not YAML ({why}); look at the indentation and quotes here")


_TAG = "tag:yaml.org,2002:"
_SCALARS = {_TAG + kind for kind in ("str", "int", "float", "bool", "null")}


class Reader:
    """Reads one document into plain values and notes every value's line.

    ``yaml.safe_load`` would forget the lines, let the last of two equal keys win, and expand aliases and merge
    keys; all of those make a config mean something else than it seems to say. Parsing, the types of scalars
    and their conversion are PyYAML's.
    """

    def __init__(self, text: str, book: Book) -> None:
        self.yaml: Any = yaml.SafeLoader(text)  # Any: its stubs leave the methods used here untyped
        self.book = book

    def next_is(self, event: type[yaml.Event]) -> bool:
        return bool(self.yaml.check_event(event))

    def next_line(self) -> int:
        return int(self.yaml.peek_event().start_mark.line) + 1

    def document(self) -> object:
        self.book.lines[()] = 1
        self.yaml.get_event()  # the stream's start
        if self.next_is(yaml.StreamEndEvent):
            return None
        self.yaml.get_event()  # the document's start
        value = self.value(())
        self.yaml.get_event()  # the document's end
        if not self.next_is(yaml.StreamEndEvent):
            line = self.next_line()
            self.book.refuse((), "a second document begins; keep one document a file", line)
        return value

    def value(self, path: tuple[Step, ...]) -> object:
        event = self.yaml.get_event()
        line = event.start_mark.line + 1
        self.book.lines.setdefault(path, line)  # a mapping's value has its key's line already
        if isinstance(event, yaml.AliasEvent):
            return self.refuse(path, f"*{show(event.anchor)} is an alias; write the value out", line)
        if event.anchor is not None:
            self.refuse(path, f"&{show(event.anchor)} is an anchor; remove it and write values out", line)
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event, path, line)
        is_list = isinstance(event, yaml.SequenceStartEvent)
        if event.tag not in (None, "!", _TAG + ("seq" if is_list else "map")):
            self.refuse(path, f"{show(event.tag)} is a tag that no config needs; remove it", line)
        if len(path) >= MAX_DEPTH:
            raise ConfigError(f"{self.book.name}:{line}: nested deeper than {MAX_DEPTH} levels; make it flatter")
        return self.sequence(path) if is_list else self.mapping(path)

    def sequence(self, path: tuple[Step, ...]) -> list[object]:
        items: list[object] = []
        while not self.next_is(yaml.SequenceEndEvent):
            items.append(self.value((*path, len(items))))
        self.yaml.get_event()
        return items

    def mapping(self, path: tuple[Step, ...]) -> dict[str, object]:
        entries: dict[str, object] = {}
        while not self.next_is(yaml.MappingEndEvent):
            line = self.next_line()
            key = self.value((*path, "?"))
            if not isinstance(key, str):
                if key is not REFUSED:
                    self.refuse((*path, "?"), f"{show(key)} is no text; put the key in quotes", line)
                self.value((*path, "?"))
                continue
            if key in entries:
                first = self.book.lines[*path, key]
                self.refuse((*path, key), f"stands twice, first on line {first}; keep one of them", line)
                self.value((*path, "?"))
                continue
            self.book.lines[*path, key] = line
            entries[key] = self.value((*path, key))
        self.yaml.get_event()
        return entries

    def scalar(self, event: Any, path: tuple[Step, ...], line: int) -> object:
        explicit = event.tag not in (None, "!")
        tag = event.tag if explicit else self.yaml.resolve(yaml.ScalarNode, event.value, event.implicit)
        shown = show(event.value)
        if tag == _TAG + "merge":
            return self.refuse(path, "<< is a merge key; write the keys out", line)
        if tag not in _SCALARS and explicit:
            return self.refuse(path, f"{show(tag)} is a tag that no config needs; remove it", line)
        if tag not in _SCALARS:
            kind = str(tag).removeprefix(_TAG)
            return self.refuse(path, f"{shown} is a {kind} to YAML; put it in quotes if it is text", line)
        try:
            if tag != _TAG + "str" and len(event.value) > 64:  # 1:30:30:… takes PyYAML seconds to add up
                raise ValueError
            return self.yaml.construct_object(yaml.ScalarNode(tag, event.value))
        except (yaml.YAMLError, ValueError, LookupError, OverflowError):
            return self.refuse(path, f"{shown} is no {str(tag).removeprefix(_TAG)}; write one, or quote text", line)

    def refuse(self, path: tuple[Step, ...], why: str, line: int) -> object:
        """Note a problem of our block or of what it stands in. The rest of a bentofile is BentoML's."""
        ours = path[:1] == ("orchestration",) or path[:2] == ("args", "orchestration")
        if ours or path in ((), ("args",), ("?",), ("args", "?")):
            self.book.refuse(path, why, line)
        return REFUSED
