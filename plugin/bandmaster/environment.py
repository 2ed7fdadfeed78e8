"""The ensemble as a Gymnasium environment: per window of requests an agent adds, removes, replaces or weighs members.

    import bandmaster.environment, gymnasium
    env = gymnasium.make("bandmaster/Ensemble-v0", config="configs/simulated.yaml")

Needs the extra ``bandmaster[rl]``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np

from bandmaster import build, config, hosting
from bandmaster.changes import changes as changes_of
from bandmaster.config.simulation import load_simulation
from bandmaster.contract import Contract
from bandmaster.core import FloatArray, IntArray
from bandmaster.plans import side_by_side
from bandmaster.recorded import RecordedLog
from bandmaster.replay import Traffic, redraw
from bandmaster.seen import Seen
from bandmaster.simulator import Simulation
from bandmaster.windows import Windows

try:
    import gymnasium
except ModuleNotFoundError as problem:
    raise ModuleNotFoundError(
        "the environment needs Gymnasium: pip install 'bandmaster[rl]'", name="gymnasium"
    ) from problem

WINDOW = 100
"""Requests a step."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """Traffic as it is described, new for each seed."""

    read: config.Config
    simulation: Simulation

    @property
    def contract(self) -> Contract:
        return self.read.contract

    def log(self, seed: int) -> RecordedLog:
        return build.simulated_logs(self.read, self.simulation, [seed])[0]

    def split(self, held_out: float) -> tuple[Simulated, Simulated]:
        """Itself twice: no two seeds have a request in common."""
        return self, self


@dataclass(frozen=True, slots=True)
class Recorded:
    """The ``whole`` log, drawn for each seed as ``traffic`` says."""

    whole: RecordedLog
    contract: Contract
    traffic: Traffic

    def log(self, seed: int) -> RecordedLog:
        return redraw(self.whole, self.traffic, seed)

    def split(self, held_out: float) -> tuple[Recorded, Recorded]:
        """The requests parted by lot, a share of them ``held_out`` in (0, 1), which comes second."""
        order = np.random.default_rng(len(self.whole)).permutation(len(self.whole))
        first, second = np.split(order, [int(len(order) * (1.0 - held_out))])
        return (
            replace(self, whole=self.whole.redrawn(np.sort(first))),
            replace(self, whole=self.whole.redrawn(np.sort(second))),
        )


Source = Simulated | Recorded
"""What gives the log of an episode for its seed, and the contract by which it is judged."""


def source_of(file: Path, log: Path | None = None, traffic: Traffic | None = None) -> Source:
    """Traffic as ``file`` simulates it, or a recorded ``log``, drawn as ``traffic`` says (default: shuffled).

    Raises ``BandmasterError`` where one of them cannot be read.
    """
    read = config.load(file)
    hosting.require_functions(read)
    if log is None:
        return Simulated(read, load_simulation(file))
    recorded = build.recorded_log(read, log)
    build.require_known_terms(read.contract, recorded)
    return Recorded(recorded, read.contract, traffic or Traffic("shuffled"))


class EnsembleEnv(gymnasium.Env[FloatArray, IntArray | np.int64]):
    """One step plays a window of requests with the ensemble; its reward is the contract's mean over them.

    Actions are ``changes.Steps`` (Discrete) or, with ``changes="picks"`` or ``"weights"``, ``changes.Picks`` or
    ``changes.Weights`` (MultiDiscrete).
    Observations are ``seen.Seen`` as a vector in [0, 1]. An episode is one log: with ``config`` alone simulated anew by
    every reset's seed, with ``log`` a recorded one, drawn by the seed as ``traffic`` says (default: shuffled).
    """

    def __init__(
        self,
        config: str | Path | Source,
        log: str | Path | None = None,
        window: int = WINDOW,
        changes: str = "steps",
        traffic: Traffic | None = None,
    ) -> None:
        """Raises ``BandmasterError`` for what cannot be read or played."""
        path = None if log is None else Path(log)
        self.source = config if isinstance(config, Source) else source_of(Path(config), path, traffic)
        self._window, first = window, self.source.log(0)
        self._windows = Windows(first, self.source.contract, window)
        self.ensemble = first.ensemble
        members, classes = len(self.ensemble.names), len(self.ensemble.classes)
        self.changes = changes_of(changes, members)
        sizes = self.changes.sizes
        self.action_space = (
            gymnasium.spaces.Discrete(sizes[0]) if len(sizes) == 1 else gymnasium.spaces.MultiDiscrete(sizes)
        )
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (Seen.size(members, classes),), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode with all members."""
        super().reset(seed=seed)
        log = self.source.log(int(self.np_random.integers(2**31)))
        self._windows = Windows(log, self.source.contract, self._window)
        return self._windows.seen().vector(), {}

    def step(self, action: IntArray | np.int64) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        weights = self.changes.after(self._windows.seen().weights, np.atleast_1d(np.asarray(action)))
        reward = self._windows.play(weights)
        plan = side_by_side(self.ensemble, weights)
        return self._windows.seen().vector(), reward, False, self._windows.over, {"plan": plan}

    @property
    def usual(self) -> float:
        """What all members together, pooled alike, would have earned a request in the window that was played last."""
        return self._windows.usual


gymnasium.register(id="bandmaster/Ensemble-v0", entry_point="bandmaster.environment:EnsembleEnv")
