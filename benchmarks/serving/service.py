"""Three members by hand: what somebody writes who has an ensemble and BentoML's documentation, and nothing else."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime

from bandmaster.core import Array

ONE_THREAD = os.environ.get("MEMBERS_IN_ONE_THREAD")
"""Set where members are to run as in Bandmaster: with ONNX Runtime's own threads they disturb each other."""


class Members:
    """The models of the working directory, in the order of their names."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        if ONE_THREAD:
            options.intra_op_num_threads = 1
        self.sessions = [onnxruntime.InferenceSession(path, options) for path in sorted(Path().glob("*.onnx"))]

    def ask(self, session: onnxruntime.InferenceSession, rows: Array) -> Array:
        return np.asarray(session.run(["probabilities"], {"input": rows})[0])


@bentoml.service
class Inline(Members):
    """Members that take microseconds: no thread is worth its switch."""

    async def ask_soon(self, session: onnxruntime.InferenceSession, rows: Array) -> Array:
        return self.ask(session, rows)

    @bentoml.api
    async def predict(self, images: np.ndarray) -> np.ndarray:
        rows = np.atleast_2d(images).astype(np.float32)
        scores = await asyncio.gather(*(self.ask_soon(session, rows) for session in self.sessions))
        return np.asarray(np.mean(scores, axis=0).argmax(axis=1))


@bentoml.service
class Threaded(Members):
    """Members that take milliseconds: each in a thread, so that they run side by side and others are answered."""

    @bentoml.api
    async def predict(self, images: np.ndarray) -> np.ndarray:
        rows = np.atleast_2d(images).astype(np.float32)
        scores = await asyncio.gather(*(asyncio.to_thread(self.ask, session, rows) for session in self.sessions))
        return np.asarray(np.mean(scores, axis=0).argmax(axis=1))


@bentoml.service
class Batching(Members):
    """The same, its method given several requests' rows at once by BentoML's adaptive batching."""

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=10_000)
    async def predict(self, images: np.ndarray) -> np.ndarray:
        rows = images.astype(np.float32)
        scores = await asyncio.gather(*(asyncio.to_thread(self.ask, session, rows) for session in self.sessions))
        return np.asarray(np.mean(scores, axis=0).argmax(axis=1))
