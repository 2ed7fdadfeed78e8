"""A thin, typed hold on one Vowpal Wabbit workspace: text in, plain figures out, bytes to keep.

The only file that touches VW. Its public list API wraps each line in a Python object and takes three to four times as
long, so this one calls the extension's own methods; a test holds them equal to the public path.
"""

from __future__ import annotations

import re
import string
import struct
import tempfile
from pathlib import Path

import pylibvw
from vowpalwabbit import Workspace

from bandmaster.core import BandmasterError

_SAFE = f"{string.ascii_letters}{string.digits}_.|: #\n-".encode()
"""All that an example may hold: neither text that somebody else chose, nor anything that VW might read as more."""

_OPTION = re.compile(rb"(?:^|\s)(--?[A-Za-z_]+)")
_IMPLIED = {b"--cb_adf", b"--cb_type", b"--csoaa_ldf", b"--csoaa_rank", b"--learning_rate", b"--quadratic"}
"""Long forms, and what the ADF reductions switch on by themselves."""


class VowpalWabbit:
    """One multi-line (ADF) workspace. Not to be shared between threads; holds no example between calls."""

    def __init__(self, options: str) -> None:
        self._options = f"{options} --quiet"
        self._workspace = Workspace(self._options)
        # What it is saved as, or was loaded from, as long as nothing was learned since.
        self._model: bytes | None = None

    def predict(self, lines: list[str]) -> list[float]:
        """VW's figure for each action line, in their order. Leaves the weights as they are."""
        examples = self._workspace._parse(_joined(lines))
        try:
            pylibvw.vw.predict_multi(self._workspace, examples)
            return list(examples[0].get_action_scores())
        finally:
            # An example that is not handed back leaks 30 KB a line.
            self._workspace._finish_example_multi_ex(examples)

    def learn(self, lines: list[str]) -> None:
        """Learn from lines of which one is labelled ``action:cost:probability``."""
        self._model = None
        examples = self._workspace._parse(_joined(lines))
        try:
            pylibvw.vw.learn_multi(self._workspace, examples)
        finally:
            self._workspace._finish_example_multi_ex(examples)

    def predict_and_learn(self, lines: list[str]) -> list[float]:
        """What ``predict`` says of these labelled lines before they are learned from, and ``learn``: read once."""
        self._model = None
        examples = self._workspace._parse(_joined(lines))
        try:
            pylibvw.vw.learn_multi(self._workspace, examples)
            return list(examples[0].get_action_scores())
        finally:
            self._workspace._finish_example_multi_ex(examples)

    def dump(self) -> bytes:
        if self._model is None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.vw"
                self._workspace.save(str(path))
                self._model = path.read_bytes()
        return self._model

    def load(self, model: bytes) -> None:
        """Restore what ``dump`` gave. The bytes must come from a sealed snapshot: VW obeys options inside them.

        Raises ``BandmasterError`` when the model names an option that this workspace was not made with.
        """
        if model == self._model:  # as in most of a worker's snapshots; by way of a file it would take milliseconds
            return
        allowed = set(_OPTION.findall(self._options.encode())) | _IMPLIED
        if strange := set(_OPTION.findall(_options_of(model))) - allowed:
            raise BandmasterError(f"the model names options that it may not: {b', '.join(sorted(strange)).decode()}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.vw"
            path.write_bytes(model)
            try:
                loaded = Workspace(f"--quiet -i {path}")
            except RuntimeError as problem:
                raise BandmasterError(f"Vowpal Wabbit cannot load the model: {problem}") from None
        self._workspace.finish()
        self._workspace, self._model = loaded, model


def _options_of(model: bytes) -> bytes:
    """The options in a model's header: those that VW will obey. Weights are any bytes, and may look like options.

    VW 9.11, ``parse_regressor.cc``, ``save_load_header``: two texts with their lengths before them (the version, an
    id), a mark, the least and the greatest label, bits, ``lda``, and how many n-grams and skips there are, of which we
    have none; then the options, a text, too. Raises ``BandmasterError`` for anything else.
    """
    try:
        (version,) = struct.unpack_from("<I", model)
        (id_,) = struct.unpack_from("<I", model, 4 + version)
        *_, ngrams, skips, length = struct.unpack_from("<cffIIIII", model, 8 + version + id_)
    except struct.error:
        raise BandmasterError(f"{len(model)} bytes are no model of Vowpal Wabbit's") from None
    start = 8 + version + id_ + struct.calcsize("<cffIIIII")
    options = model[start : start + length]
    if ngrams or skips or len(options) != length or not options.isascii():
        raise BandmasterError("the header is not that of a model that Bandmaster has written")
    return options


def _joined(lines: list[str]) -> str:
    """The lines as one text. Raises ``BandmasterError`` for unsafe text; a newline in a feature adds an action."""
    text = "\n".join(lines)
    strange = text.encode(errors="replace").translate(None, _SAFE)
    if strange or text.count("\n") != len(lines) - 1:
        raise BandmasterError(f"unsafe text for Vowpal Wabbit: {strange[:1] or chr(10)!r} in {text[:200]!r}")
    return text
