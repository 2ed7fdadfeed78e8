"""What an agent decides becomes edits of the configuration: what members count for, and who conducts."""

from __future__ import annotations

import logging

import numpy as np

from bandmaster.conductor import Conductor
from bandmaster.config import Config
from bandmaster.config_manager import POLICY, ConfigManager
from bandmaster.core import BandmasterError, FloatArray
from bandmaster.learner import Learner, profile_figures
from bandmaster.plans import compiled, side_by_side
from bandmaster.policies.traditional import ScoringPolicy
from bandmaster.rehearsal import NEEDED

_log = logging.getLogger("bandmaster.conducting")


class Conducting:
    """Edits the configuration, once a window, as the agent of a learner decides; where none conducts it does nothing.

    What is in force goes before what the agent had decided: others edit, too.
    """

    def __init__(self, manager: ConfigManager) -> None:
        self._manager, self._windows = manager, 0
        self.refused = 0
        """How many of the agent's decisions the gate has kept out of force."""

    def adopt(self, config: Config, learner: Learner) -> None:
        """Have the agent go on from what is in force."""
        if (conductor := learner.manager.conductor) is not None:
            conductor.adopt(_weights(config))
            self._windows = conductor.windows

    def act(self, config: Config, learner: Learner) -> None:
        """Edit what the agent has members count for, if a window has ended since, or which agent conducts."""
        conductor = learner.manager.conductor
        if conductor is None or conductor.windows == self._windows:
            return
        self._windows = conductor.windows
        if self._promote(config, learner, conductor):
            return
        now = conductor.scaled(_weights(config))
        if np.array_equal(conductor.weights, now):
            return
        predicted, why = _predicted(config, learner, now, conductor.weights)
        if why is not None:
            self.refused += 1
            _log.info("window %d: the agent's choice is not put into force: %s", conductor.windows, why)
            conductor.adopt(now)
            return
        try:
            self._manager.apply(
                _changes(config, conductor),
                author=f"{POLICY}{conductor.agent.version}",
                reason=f"window {conductor.windows} of {conductor.agent.about.window} requests",
                predicted=predicted,
            )
        except BandmasterError as problem:
            _log.warning("the agent's choice is not put into force: %s", problem)
            conductor.adopt(now)

    def _promote(self, config: Config, learner: Learner, conductor: Conductor) -> bool:
        """Have a shadow conduct which surely is better, where that is wanted; whether one does."""
        shadows = learner.manager.shadows
        if shadows is None or not config.policy.promote or (shadow := shadows.better()) is None:
            return False
        version, gain = shadow.conductor.agent.version, shadow.gain
        file = config.policy.shadows[shadows.each.index(shadow)]
        least = f"at least {shadows.least(shadow):.4f} a request, over {gain.requests} requests"
        try:
            self._manager.promote(
                file, f"{POLICY}{version}", f"surely better than {conductor.agent.version}: {least}", gain.mean
            )
        except BandmasterError as problem:
            _log.warning("%s is not promoted: %s", version, problem)
            return False
        return True


def _weights(config: Config) -> FloatArray:
    """What members count for by the configuration, (M,); 0 where they are not in the ensemble."""
    return np.array([member.weight if member.active else 0.0 for member in config.members])


def _changes(config: Config, conductor: Conductor) -> dict[str, bool | float]:
    """Which values of the configuration are others by what the agent has members count for, by their paths."""
    changes: dict[str, bool | float] = {}
    for member, weight in zip(config.members, conductor.weights.tolist(), strict=True):
        if member.active != (weight > 0.0):
            changes[f"members.{member.name}.active"] = weight > 0.0
        if conductor.agent.changes.weighs and weight > 0.0 and member.weight != weight:
            changes[f"members.{member.name}.weight"] = weight
    return changes


def _predicted(
    config: Config, learner: Learner, before: FloatArray, after: FloatArray
) -> tuple[float | None, str | None]:
    """By how much more an ensemble is to earn a request than the one before, by what members count for (M,), where that
    can be said; and why it may not take its place, where it may not. Known from requests of late if there are any that
    tell, else by members' statistics.
    """
    gate, rehearsal = config.policy.gate, learner.manager.rehearsal
    counts = (tuple(weights.tolist()) for weights in (before, after))
    found = rehearsal.compare(*counts) if rehearsal is not None else None
    if found is not None:
        (low, high), why = found.interval, None
        if gate is not None and low < -gate:
            why = f"it gains {found.mean:+.4f} [{low:.4f}, {high:.4f}] on {found.requests} requests; gate: {gate:g}"
        return found.mean, why
    why = None if gate is None else f"fewer than {NEEDED} requests were probed that tell what it would earn"
    return _by_statistics(config, learner, before, after), why


def _by_statistics(config: Config, learner: Learner, before: FloatArray, after: FloatArray) -> float | None:
    """``None`` where the same members are in the ensemble: of weights their statistics say nothing."""
    ensemble = learner.ensemble
    if np.array_equal(before > 0.0, after > 0.0):
        return None
    plans = compiled(tuple(side_by_side(ensemble, weights > 0.0) for weights in (before, after)), ensemble)
    scoring = ScoringPolicy(plans, config.contract, profile_figures(ensemble))
    earned = scoring.scores(learner.state.statistics())
    return float(earned[1] - earned[0])
