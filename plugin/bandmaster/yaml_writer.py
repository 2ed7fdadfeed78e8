"""Sets values in a YAML text and leaves every other byte as it is: comments, order, quotes and alignment."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bandmaster.core import BandmasterError


def write_values(file: Path, values: Mapping[tuple[str, ...], str]) -> None:
    """Set ``values``, YAML scalars by their paths, in a file, in one step: it is the old one or the new one.

    Raises ``BandmasterError`` when the file cannot be read, written or edited so.
    """
    try:
        with file.open(encoding="utf-8", newline="") as opened:  # its line ends stay what they are
            text = opened.read()
        edited = with_values(text, values)
        mode = file.stat().st_mode
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", dir=file.parent, delete=False) as new:
            new.write(edited)
        os.chmod(new.name, mode & 0o777)
        os.replace(new.name, file.resolve())
    except OSError as problem:
        raise BandmasterError(f"{file}: cannot be written ({problem.strerror}); write the values by hand") from None
    except BandmasterError as problem:
        raise BandmasterError(f"{file}: {problem}") from None


def with_values(text: str, values: Mapping[tuple[str, ...], str]) -> str:
    """``text`` with the scalars ``values`` set at their paths. Mappings that a path needs are made, in flow style.

    Raises ``BandmasterError`` when the outcome would not be the document with exactly these values changed.
    """
    edited = text
    try:
        wanted = yaml.safe_load(text)
        for path, value in values.items():
            edited, wanted = _set(edited, path, value), _changed(wanted, path, yaml.safe_load(value))
        faithful = yaml.safe_load(edited) == wanted
    except (yaml.YAMLError, AttributeError, TypeError):
        faithful = False
    if not faithful:
        raise BandmasterError("cannot be edited without changing more than is meant; write the values by hand")
    return edited


def _changed(document: Any, path: Sequence[str], value: object) -> object:
    """A copy of the document with the value at ``path``; aliases of what it stands in are not changed with it."""
    return {**document, path[0]: _changed(document.get(path[0], {}), path[1:], value)} if path else value


def _set(text: str, path: Sequence[str], value: str) -> str:
    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    while True:
        (step, *path) = path
        below = next((v for k, v in node.value if k.value == step), None)
        if below is None:
            return _insert(text, node, f"{step}: {_flow(path, value)}")
        if not path or not isinstance(below, yaml.MappingNode):
            return text[: below.start_mark.index] + _flow(path, value) + text[below.end_mark.index :]
        node = below


def _flow(path: Sequence[str], value: str) -> str:
    """The value under the keys of ``path``: ``{profile: {latency: 1 ms}}``."""
    for step in reversed(path):
        value = f"{{{step}: {value}}}"
    return value


def _insert(text: str, mapping: Any, entry: str) -> str:
    """``text`` with ``entry`` as the last of ``mapping``, a PyYAML node."""
    if not mapping.value:  # {} is always in flow style
        start = mapping.start_mark.index + 1
        return text[:start] + entry + text[start:]
    last = mapping.value[-1][1]
    if mapping.flow_style:
        return f"{text[: last.end_mark.index]}, {entry}{text[last.end_mark.index :]}"
    # The end of a block is only known where the next one begins, behind comments; its last leaf ends where it ends.
    while isinstance(last, yaml.CollectionNode) and not last.flow_style and last.value:
        last = last.value[-1][1] if isinstance(last, yaml.MappingNode) else last.value[-1]
    end = text.find("\n", max(last.end_mark.index - 1, 0))
    end = len(text) if end < 0 else end
    newline = "\r\n" if text[end - 1 : end + 1] == "\r\n" else "\n"
    at = end - len(newline) + 1 if newline == "\r\n" else end
    return f"{text[:at]}{newline}{' ' * mapping.value[0][0].start_mark.column}{entry}{text[at:]}"
