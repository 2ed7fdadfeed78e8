"""A small recorded ensemble with everything a log may have: phases, delays, abstentions, missing labels."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bandmaster import build, config
from bandmaster.config import Config
from bandmaster.plans import Catalogue
from bandmaster.recorded import RecordedLog
from bandmaster.replay import Bench, Traffic, processes, replay
from bandmaster.results import Results

CONFIG = """
orchestration:
  contract:
    accuracy:       {weight: 0.5}
    confidence:     {weight: 0.1}
    explainability: {weight: 0.1}
    latency: {weight: 0.2, range: [1 ms, 100 ms], scale: log}
    energy:  {weight: 0.1, range: [1 mJ, 100 mJ], scale: log, from: profile}
    cost:    {weight: 0, range: [0, 1]}
  members:
    cheap: {profile: {latency: 2 ms,  energy: 2 mJ,  cost: 0.1, explainability: 0.9}}
    mid:   {profile: {latency: 10 ms, energy: 10 mJ, cost: 0.2, explainability: 0.5}}
    dear:  {profile: {latency: 60 ms, energy: 70 mJ, cost: 0.5, explainability: 0.1}}
  plans:
    cascades: 3
    stop_at: [0.6, 0.8]
    include: [cheap>mid>dear@0.8~recent, mid>cheap+dear@0.7~recent]
  probes: {share: 0.1}
"""


def make_frame(rows: int = 300, seed: int = 0) -> pl.DataFrame:
    """Right answers swap between members from phase to phase, at a level that ADWIN notices."""
    rng = np.random.default_rng(seed)
    phase = (np.arange(rows) // 75) % 2
    truth = rng.integers(3, size=rows)
    columns: dict[str, object] = {
        "label": [None if rng.random() < 0.05 else int(t) for t in truth],
        "label_delay": rng.integers(0, 12, size=rows),
        "ts": 1000.0 + np.arange(rows),
        "phase": ["day" if p == 0 else "night" for p in phase],
        "x0": rng.normal(size=rows) + phase,
        "ctx_country": rng.choice(["NL", "IT"], size=rows),
    }
    for name, skill in (("cheap", (0.95, 0.1)), ("mid", (0.3, 0.9)), ("dear", (0.8, 0.8))):
        right = rng.random(rows) < np.array(skill)[phase]
        proba = rng.dirichlet(np.ones(3), size=rows)
        top, said = proba.argmax(axis=1), np.where(right, truth, (truth + 1) % 3)
        every = np.arange(rows)
        proba[every, top], proba[every, said] = proba[every, said], proba[every, top]
        columns[f"{name}__pred"] = [None if rng.random() < 0.05 else int(s) for s in said]
        columns[f"{name}__conf"] = proba.max(axis=1)
        columns[f"{name}__proba"] = proba.tolist()
        columns[f"{name}__latency_s"] = rng.uniform(0.001, 0.05, size=rows)
        columns[f"{name}__energy_j"] = rng.uniform(0.001, 0.05, size=rows)
    return pl.DataFrame(columns)


@dataclass(frozen=True)
class Lab:
    """A configuration and two logs, ready to replay."""

    config: Config
    logs: tuple[RecordedLog, RecordedLog]
    catalogue: Catalogue

    def bench(self, logs=1, order="kept", delay=None, label_share=1.0, mix=None) -> Bench:
        made = build.bench(self.config, self.logs[:logs], Traffic(order, delay, label_share, mix))
        return replace(made, catalogue=self.catalogue)

    def replay(self, *policies: str, seeds=10, last=1.0, jobs=1, progress=None, trace=None, **traffic) -> Results:
        bench = self.bench(**traffic)
        (results,) = replay(
            bench, policies, seeds, lasts=(last,), spread=processes(jobs), progress=progress, trace=trace
        )
        return results


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder: Path = tmp_path_factory.mktemp("lab")
    (folder / "config.yaml").write_text(CONFIG)
    read = config.load(folder / "config.yaml")
    logs = []
    for seed in (0, 1):
        path = folder / f"log-{seed}.parquet"
        make_frame(seed=seed).write_parquet(path)
        logs.append(build.recorded_log(read, path))
    return Lab(read, (logs[0], logs[1]), build.catalogue(read, logs[0].ensemble))
