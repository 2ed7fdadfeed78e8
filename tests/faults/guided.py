"""The parsers, fed by Atheris, which looks for inputs that reach lines that no other has reached. See ``fuzzing``.

Each must take its bytes or refuse them with ``BandmasterError``; anything else ends the process with a report.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["bandmaster"]):
    from bandmaster.config import load
    from bandmaster.core import (
        Answer,
        BandmasterError,
        Decision,
        DriftEvent,
        Ensemble,
        Outcome,
        Reward,
    )
    from bandmaster.journal.codec import decode
    from bandmaster.journal.ids import DecisionIds
    from bandmaster.journal.keys import Keys
    from bandmaster.journal.seal import unseal
    from bandmaster.offpolicy.dsjson import read_dsjson
    from bandmaster.plans import parse_plan

KEYS = Keys(b"k" * 32)
ENSEMBLE = Ensemble(("a", "b", "c"), (0, 1))
KINDS = (Decision, Answer, Outcome, DriftEvent, Reward)
_FOLDER = tempfile.TemporaryDirectory()
FOLDER = Path(_FOLDER.name)
START = b"orchestration:\n  contract: {accuracy: {weight: 1}}\n  members: {a: {}, b: {}}\n  "


def one(data: bytes) -> None:
    kind, data = (data[0] % 9, data[1:]) if data else (0, data)
    try:
        if kind < len(KINDS):
            decode(data, KINDS[kind])
        elif kind == 5:
            DecisionIds(KEYS).verify(data.decode("latin-1"))
            parse_plan(data.decode("latin-1"), ENSEMBLE)
        elif kind == 6:
            unseal(KEYS, data)
        elif kind == 7:
            path = FOLDER / "any.yaml"
            path.write_bytes(START + data)
            load(path)
        else:
            path = FOLDER / "any.dsjson"
            path.write_bytes(data)
            read_dsjson(path)
    except BandmasterError as refused:
        str(refused).encode()


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
