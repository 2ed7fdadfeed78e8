"""A thin, typed hold on one Vowpal Wabbit workspace: text in, plain figures out, bytes to keep."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from vowpalwabbit import Workspace

from bandmaster.core import BandmasterError

SAFE = re.compile(r"[A-Za-z0-9_.|: #-]+")
"""What a line may hold. A newline inside a feature would add an action, so nothing else ever gets in."""

_OPTION = re.compile(rb"--[a-z_]+")
_IMPLIED = {b"--cb_adf", b"--cb_type", b"--csoaa_ldf", b"--csoaa_rank", b"--learning_rate", b"--quadratic"}
"""Long forms, and what ``--cb_explore_adf`` switches on by itself."""


class VowpalWabbit:
    """One multi-line (ADF) workspace. Not shared between threads; holds no parsed example between calls."""

    def __init__(self, options: str) -> None:
        self._options = f"{options} --quiet"
        self._workspace = Workspace(self._options)

    def predict(self, lines: list[str]) -> list[float]:
        """VW's figure for each action line, in their order; weights stay as they are."""
        return list(self._workspace.predict(_checked(lines)))

    def learn(self, lines: list[str]) -> None:
        self._workspace.learn(_checked(lines))

    def dump(self) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.vw"
            self._workspace.save(str(path))
            return path.read_bytes()

    def load(self, model: bytes) -> None:
        """Restore what ``dump`` gave. The bytes must come from a sealed snapshot: VW obeys options inside them.

        Raises ``BandmasterError`` when the model names an option that this workspace was not made with.
        """
        allowed = set(_OPTION.findall(self._options.encode())) | _IMPLIED
        if strange := set(_OPTION.findall(model[:4096])) - allowed:
            raise BandmasterError(f"the model names options that it may not: {b', '.join(sorted(strange)).decode()}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.vw"
            path.write_bytes(model)
            try:
                loaded = Workspace(f"--quiet -i {path}")
            except RuntimeError as problem:
                raise BandmasterError(f"Vowpal Wabbit cannot load the model: {problem}") from None
        self._workspace.finish()
        self._workspace = loaded


def _checked(lines: list[str]) -> list[str]:
    for line in lines:
        if not SAFE.fullmatch(line):
            raise BandmasterError(f"unsafe text for Vowpal Wabbit: {line!r}")
    return lines
