"""RL agents that decide on the ensemble, trained on one part of a log and compared on the other. Needs torch."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import msgspec
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

import bandmaster
from bandmaster import build
from bandmaster.config import Config
from bandmaster.recorded import RecordedLog
from benchmarks.scenario import AgentSpec, Trained
from benchmarks.sources import Place, UnavailableError

TAUGHT, HINDSIGHT = "constant-taught", "constant-hindsight"
"""The ensembles, all of whose members count alike, that would have earned most, had they never been changed: on what
agents are taught on, which is what is known beforehand of the best constant one; and on what all are compared on.
"""


def split(scenario: Trained, log: RecordedLog, config: Config) -> tuple[RecordedLog, RecordedLog]:
    """The requests that agents are taught on, and those that all are compared on."""
    environment = _extra("environment")
    whole = environment.Recorded(log, config.contract, scenario.traffic.traffic())
    taught, judged = whole.split(scenario.held_out)
    return taught.whole, judged.whole


def policies(
    scenario: Trained,
    taught: RecordedLog,
    judged: RecordedLog,
    config: Config,
    place: Place,
    seeds: int,
    jobs: int | None,
    told: Callable[[str], None],
) -> dict[str, str]:
    """What plays each agent, one of its own for each seed, those above the bandit, ``TAUGHT`` and ``HINDSIGHT``; by
    their names.
    """
    folders = {
        name: place.cache / "agents" / _key(scenario, spec, taught, config) for name, spec in scenario.agents.items()
    }
    tasks = [
        joblib.delayed(_train)(scenario, scenario.agents[name], taught, config, seed, folder / f"{seed}.onnx")
        for seed in range(seeds)
        for name, folder in folders.items()
        if not (folder / f"{seed}.onnx").is_file()
    ]
    for done, line in enumerate(joblib.Parallel(n_jobs=jobs or -1, return_as="generator")(tasks), start=1):
        told(f"{done}/{len(tasks)} {line}")
    found = {name: f"agent:{folder}/{{seed}}.onnx" for name, folder in folders.items()}
    above = {f"{name}+bandit": f"{found[name]}+bandit" for name in scenario.above}
    constant = {TAUGHT: taught, HINDSIGHT: judged}
    return found | above | {name: _best_constant(name, scenario, log, config, told) for name, log in constant.items()}


def _best_constant(name: str, scenario: Trained, log: RecordedLog, config: Config, told: Callable[[str], None]) -> str:
    """What plays the ensemble that earns most on a log, as the catalogue names its plan."""
    source, how = _source(scenario, log, config), _extra("training").Training(window=scenario.window)
    best, earned = _extra("training").best_constant(source, how)
    told(f"{name}: {best}, {earned:.4f} a request")
    members = {frozenset(plan.members): plan for plan in build.catalogue(config, log.ensemble).plans
               if len(plan.stages) == 1 and plan.weights == "uniform"}  # fmt: skip
    return f"constant:{members[frozenset(best.split('+'))].name}"


def _source(scenario: Trained, taught: RecordedLog, config: Config) -> Any:
    return _extra("environment").Recorded(taught, config.contract, scenario.traffic.traffic())


def _train(scenario: Trained, spec: AgentSpec, taught: RecordedLog, config: Config, seed: int, agent: Path) -> str:
    training, source = _extra("training"), _source(scenario, taught, config)
    how = training.Training(
        algorithm=spec.algorithm, steps=spec.steps, window=scenario.window, changes=spec.changes, seed=seed,
        settings=spec.settings, every=spec.every,
    )  # fmt: skip
    folder = agent.with_suffix("")
    looks: list[Any] = []
    began = time.perf_counter()
    with threadpool_limits(1):
        _extra_threads()
        # What it is chosen by is what it is taught on: ensembles are nearer to each other than a fifth of the requests
        # could tell, and a network that sees some dozen figures a window learns none of them by heart.
        training.train(source, source, how, folder, looks.append, False).replace(agent)
    last, took_s = looks[-1], time.perf_counter() - began
    named = f"{spec.algorithm} by {spec.changes}, seed {seed}"
    return f"{named}: {last.steps} windows in {took_s:.0f} s, {last.best:.4f} a request"


def _extra_threads() -> None:
    """One thread of torch: other agents are trained on the other cores."""
    import torch

    torch.set_num_threads(1)


def _key(scenario: Trained, spec: AgentSpec, taught: RecordedLog, config: Config) -> str:
    """Of everything that an agent depends on."""
    root = Path(bandmaster.__file__).parent
    code = "".join(
        hashlib.sha256((root / f"{name}.py").read_bytes()).hexdigest()
        for name in ("training", "environment", "windows", "seen", "changes", "counterfactual", "combine", "plans")
    )
    code += hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    of = (taught.sha256, scenario.held_out, scenario.window, config.contract.describe(), scenario.traffic, spec, code)
    return hashlib.sha256(msgspec.json.encode(of, enc_hook=repr)).hexdigest()[:16]


def _extra(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"bandmaster.{name}")
    except ModuleNotFoundError as problem:
        raise UnavailableError(f"{problem.name} is not installed: pip install 'bandmaster[rl]'") from None
