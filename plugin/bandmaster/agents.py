"""An RL agent that was trained before and exported to ONNX: what it sees goes in, its action comes out. No torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime

from bandmaster.changes import Changes, changes
from bandmaster.core import Array, BandmasterError, Ensemble, FloatArray, IntArray
from bandmaster.seen import Seen

METADATA = "bandmaster"
"""The key of an ONNX file's metadata under which an agent is described."""


class About(msgspec.Struct, frozen=True):
    """What an agent was trained for: whose ensemble, by which of ``changes.CHANGES``, how many requests a window; and
    how, with which algorithm, for so many steps.
    """

    algorithm: str
    members: tuple[str, ...]
    classes: tuple[str, ...]
    changes: str
    window: int
    steps: int = 0


class Agent:
    """An agent as exported. ``act`` is a pure function; sessions may be called from several threads at once.

    Raises ``BandmasterError`` naming the file when it is no such agent.
    """

    def __init__(self, path: Path) -> None:
        try:
            written = path.read_bytes()
        except OSError as problem:
            raise BandmasterError(f"{path}: cannot be read ({problem.strerror}); name an agent's file") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])
            described = self._session.get_modelmeta().custom_metadata_map[METADATA]
            self.about = msgspec.json.decode(described, type=About)
        except KeyError:
            raise BandmasterError(f"{path}: is no agent; train one: bandmaster train") from None
        except Exception as problem:  # onnxruntime raises its own classes, none of them public
            raise BandmasterError(f"{path}: cannot be loaded as an agent: {problem}") from None
        self.changes: Changes = changes(self.about.changes, len(self.about.members))
        self.version = f"{self.about.algorithm}@{hashlib.sha256(written).hexdigest()[:8]}"
        self._require_answers(path)

    def act(self, observation: FloatArray) -> IntArray:
        """The action, one number for each of ``changes.sizes``, for what is seen (6 M + C + 1,)."""
        action: IntArray = self.prefer(observation[None])[0][0]
        return action

    def prefer(self, observations: Array) -> tuple[IntArray, FloatArray]:
        """The actions (B, parts) for B observations, and by which figures they were chosen (B, …)."""
        action, preferences = self._session.run(["action", "preferences"], {"observation": observations})
        return np.asarray(action), np.asarray(preferences)

    def require(self, ensemble: Ensemble) -> None:
        """Raise ``BandmasterError`` unless it was trained for these members, in this order, and these classes."""
        for what, own, others in (
            ("members", self.about.members, ensemble.names),
            ("classes", self.about.classes, tuple(map(str, ensemble.classes))),
        ):
            if own != others:
                raise BandmasterError(
                    f"agent {self.version}: was trained for the {what} {_few(own)}, not {_few(others)}; train one for "
                    "these: bandmaster train"
                )

    def _require_answers(self, path: Path) -> None:
        size = Seen.size(len(self.about.members), len(self.about.classes))
        try:
            action = self.act(np.zeros(size, dtype=np.float32))
        except Exception as problem:
            raise BandmasterError(f"{path}: does not act on what is seen of its ensemble: {problem}") from None
        sizes = self.changes.sizes
        if action.shape != (len(sizes),) or not (action.min() >= 0 and (action < sizes).all()):
            raise BandmasterError(f"{path}: acts by {action.tolist()}, which is no action of {self.about.changes}")


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
