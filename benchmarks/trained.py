"""RL agents that decide on the ensemble, trained on one part of a log and compared on the other. Needs torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

import bandmaster
from bandmaster.config import Config
from bandmaster.recorded import RecordedLog
from benchmarks.scenario import AgentSpec, Trained
from benchmarks.sources import Place, UnavailableError

TUNED_ON = 0.2
"""Of what agents are taught on, the share by which is judged when to stop."""


def split(scenario: Trained, log: RecordedLog, config: Config) -> tuple[RecordedLog, RecordedLog]:
    """The requests that agents are taught on, and those that all are compared on."""
    environment = _extra("environment")
    whole = environment.Recorded(log, config.contract, scenario.traffic.traffic())
    taught, judged = whole.split(scenario.held_out)
    return taught.whole, judged.whole


def policies(
    scenario: Trained, taught: RecordedLog, config: Config, place: Place, seeds: int, told: Callable[[str], None]
) -> dict[str, str]:
    """What plays each agent, one of its own for each seed, and those above the bandit; by the names of both."""
    found = {}
    for name, spec in scenario.agents.items():
        folder = place.cache / "agents" / _key(scenario, spec, taught, config)
        for seed in range(seeds):
            agent = folder / f"{seed}.onnx"
            if not agent.is_file():
                told(f"{scenario.id}: {name}, seed {seed}")
                _train(scenario, spec, taught, config, seed, agent)
        found[name] = f"agent:{folder}/{{seed}}.onnx"
    return found | {f"{name}+bandit": f"{found[name]}+bandit" for name in scenario.above}


def _train(scenario: Trained, spec: AgentSpec, taught: RecordedLog, config: Config, seed: int, agent: Path) -> None:
    training, environment = _extra("training"), _extra("environment")
    source = environment.Recorded(taught, config.contract, scenario.traffic.traffic())
    how = training.Training(
        algorithm=spec.algorithm, steps=spec.steps, window=scenario.window, changes=spec.changes, seed=seed,
        settings=spec.settings, every=spec.every,
    )  # fmt: skip
    folder = agent.with_suffix("")
    trained = training.train(*source.split(TUNED_ON), how, folder, lambda step: None, False)
    trained.replace(agent)


def _key(scenario: Trained, spec: AgentSpec, taught: RecordedLog, config: Config) -> str:
    """Of everything that an agent depends on."""
    root = Path(bandmaster.__file__).parent
    code = "".join(
        hashlib.sha256((root / f"{name}.py").read_bytes()).hexdigest()
        for name in ("training", "environment", "windows", "seen", "changes", "counterfactual")
    )
    of = (taught.sha256, scenario.held_out, scenario.window, config.contract.describe(), scenario.traffic, spec, code)
    return hashlib.sha256(msgspec.json.encode(of, enc_hook=repr)).hexdigest()[:16]


def _extra(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"bandmaster.{name}")
    except ModuleNotFoundError as problem:
        raise UnavailableError(f"{problem.name} is not installed: pip install 'bandmaster[rl]'") from None
