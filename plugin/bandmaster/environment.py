"""The ensemble as a Gymnasium environment: per window of requests an agent adds, removes or replaces members.

    import bandmaster.environment, gymnasium
    env = gymnasium.make("bandmaster/Ensemble-v0", config="configs/simulated.yaml")

Needs the extra ``bandmaster[rl]``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from bandmaster import build, config
from bandmaster.config.simulation import load_simulation
from bandmaster.contract import Contract
from bandmaster.core import BandmasterError, BoolArray, FloatArray
from bandmaster.recorded import RecordedLog
from bandmaster.replay import Traffic, draw
from bandmaster.windows import Seen, Windows

WINDOW = 100
"""Requests a step."""


class EnsembleEnv(gymnasium.Env[FloatArray, np.int64]):
    """One step plays a window of requests with the ensemble; its reward is the contract's mean over them.

    Actions of M members: 0 keeps the ensemble; 1 … M add a member; M + 1 … 2 M remove one, but never the last; then,
    for each pair, one takes another's place. What cannot be done keeps the ensemble. Observations are ``windows.Seen``
    as a vector in [0, 1]. An episode is one log: with ``config`` alone simulated anew by every reset's seed, with
    ``log`` a recorded one, its order drawn by the seed.
    """

    def __init__(self, config: str | Path, log: str | Path | None = None, window: int = WINDOW) -> None:
        self._make, self._contract = _source(Path(config), None if log is None else Path(log))
        self._window = window
        first = self._make(0)
        if len(first) < window:
            raise BandmasterError(f"{log or config}: has {len(first)} requests, fewer than one window of {window}")
        members, classes = len(first.ensemble.names), len(first.ensemble.classes)
        self.names = first.ensemble.names
        self._pairs = [(out, in_) for out in range(members) for in_ in range(members) if out != in_]
        self.action_space = gymnasium.spaces.Discrete(1 + 2 * members + len(self._pairs))
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (Seen.size(members, classes),), np.float32)
        self._windows = Windows(first, self._contract, window)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode with all members."""
        super().reset(seed=seed)
        log = self._make(int(self.np_random.integers(2**31)))
        self._windows = Windows(log, self._contract, self._window)
        return self._windows.seen().vector(), {}

    def step(self, action: np.int64) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        active = self.changed(self._windows.seen().active, int(action))
        reward = self._windows.play(active)
        members = [name for name, on in zip(self.names, active, strict=True) if on]
        return self._windows.seen().vector(), reward, False, self._windows.over, {"members": members}

    def changed(self, active: BoolArray, action: int) -> BoolArray:
        """The ensemble after an action."""
        size, after = len(self.names), active.copy()
        if 1 <= action <= size:
            after[action - 1] = True
        elif size < action <= 2 * size:
            after[action - 1 - size] = False
        elif action > 2 * size:
            out, in_ = self._pairs[action - 1 - 2 * size]
            if active[out] and not active[in_]:
                after[out], after[in_] = False, True
        return after if after.any() else active


def _source(file: Path, log: Path | None) -> tuple[Callable[[int], RecordedLog], Contract]:
    """What gives a log for a seed, and by which contract it is judged."""
    read = config.load(file)
    if log is None:
        simulation = load_simulation(file)
        return lambda seed: build.simulated_logs(read, simulation, [seed])[0], read.contract
    recorded = build.recorded_log(read, log)
    build.require_known_terms(read.contract, recorded)
    return lambda seed: draw(recorded, Traffic("shuffled"), seed).log, read.contract


gymnasium.register(id="bandmaster/Ensemble-v0", entry_point="bandmaster.environment:EnsembleEnv")
