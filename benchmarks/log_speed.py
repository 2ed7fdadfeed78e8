"""How fast logs of decisions are judged, as ratios to what does the least: a bare scan, Vowpal Wabbit's own driver."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from bandmaster.offpolicy import log
from bandmaster.offpolicy.evaluate import evaluate
from bandmaster.offpolicy.examples import as_text, examples
from bandmaster.offpolicy.target import parse_target
from bandmaster.policies.vw import VowpalWabbit
from benchmarks.scenario import LogSpeed

OPTIONS = "--cb_explore_adf --epsilon 0.1 -q sa"
FEATURES = ("x0", "x1", "x2", "x3")
ACTIONS = 10
ROUNDS = 5
"""Every one in its turn, so many times; the median counts."""

MB = 1e6


def measure(scenario: LogSpeed, told: Callable[[str], None]) -> dict[str, float | None]:
    """The figures of ``scenario``; what is compared takes turns, and the medians' ratio counts.

    ``evaluate_to_scan`` is how much longer judging a fixed target takes than reading the same columns and adding them
    up. ``adapter_to_driver`` is how many decisions our hold on VW foretells and learns in the time in which VW's own
    driver does one, ``apart_to_driver`` where it reads each twice, as when the reward comes later; ``replay_per_s``,
    decisions a second of the whole learning replay. ``peak_mb`` is the most memory that a process took which judged a
    log of ``log_gb``.
    """
    with tempfile.TemporaryDirectory(prefix="bandmaster-") as name:
        folder = Path(name)
        told(f"{scenario.id}: a log of {scenario.rows:,} decisions")
        path = folder / "log.parquet"
        made(scenario.rows).write_parquet(path)
        figures = _against_scan(path)
        told(f"{scenario.id}: Vowpal Wabbit on {scenario.decisions:,} decisions")
        figures |= _against_driver(folder, scenario.decisions)
        told(f"{scenario.id}: a log of {scenario.rows * scenario.times:,} decisions")
        return figures | _memory(path, scenario.times)


def made(rows: int) -> pl.DataFrame:
    """A log of decisions, drawn at random; ``new`` is the target's probability of what was done."""
    rng = np.random.default_rng(0)
    taken = rng.integers(ACTIONS, size=rows)
    return pl.DataFrame(
        {
            "action": pl.Series(taken).cast(pl.String),
            "propensity": rng.choice([0.05, 0.1, 0.2], size=rows),
            "reward": (rng.random(rows) < 0.05 + 0.01 * taken).astype(np.float64),
            "new": rng.random(rows) * 0.2,
            **{feature: rng.normal(size=rows) for feature in FEATURES},
        }
    )


def _seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def _medians(*each: Callable[[], object]) -> list[float]:
    took = [[_seconds(do) for do in each] for _ in range(ROUNDS)]
    return [float(median) for median in np.median(took, axis=0)]


def _against_scan(path: Path) -> dict[str, float | None]:
    needed = pl.scan_parquet(path).select("action", "propensity", "reward", "new")
    plain = needed.select(pl.col(pl.String).null_count(), pl.col(pl.Float64).sum())
    scan, judge = _medians(lambda: plain.collect(engine="streaming"), lambda: _judge(path))
    return {"scan_s": scan, "evaluate_s": judge, "evaluate_to_scan": judge / scan}


def _judge(path: Path) -> None:
    evaluate(log.read(path), parse_target("column:new"))


def _against_driver(folder: Path, decisions: int) -> dict[str, float | None]:
    path = folder / "few.parquet"
    made(decisions).write_parquet(path)
    held = log.read(path)
    rows, actions = held.loaded(), held.actions
    given = list(examples(rows, FEATURES, actions))
    asked = [as_text(example, actions, labelled=False) for example in given]
    labelled = [as_text(example, actions, labelled=True) for example in given]
    text, one = folder / "examples.txt", folder / "one.txt"
    text.write_text("\n\n".join("\n".join(lines) for lines in labelled) + "\n\n")
    one.write_text("\n".join(labelled[0]) + "\n\n")

    def adapter() -> None:
        vw = VowpalWabbit(OPTIONS)
        for lines in labelled:
            vw.predict_and_learn(lines)

    def apart() -> None:
        vw = VowpalWabbit(OPTIONS)
        for before, after in zip(asked, labelled, strict=True):
            vw.predict(before)
            vw.learn(after)

    start, driver, own, twice, replay = _medians(
        lambda: _driven(one),  # starting the driver is not its work
        lambda: _driven(text),
        adapter,
        apart,
        lambda: evaluate(held, parse_target(f"vw:{OPTIONS}")),
    )
    return {
        "driver_per_s": decisions / (driver - start),
        "adapter_per_s": decisions / own,
        "adapter_to_driver": (driver - start) / own,
        "apart_to_driver": (driver - start) / twice,
        "replay_per_s": decisions / replay,
    }


def _driven(path: Path) -> None:
    subprocess.run([sys.executable, "-m", "vowpalwabbit", "-d", path, *OPTIONS.split(), "--quiet"], check=True)


def _memory(path: Path, times: int) -> dict[str, float | None]:
    large = path.with_name("large.parquet")
    pl.concat([pl.scan_parquet(path)] * times).sink_parquet(large)
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.log_speed", large], check=True, capture_output=True, text=True
    )
    return {"log_gb": large.stat().st_size / 1e9, "peak_mb": float(found.stdout)}


def peak_mb(process: int | str = "self") -> float:
    """The most memory that a process has held. Not by ``getrusage``: that counts what started it, too."""
    status = Path(f"/proc/{process}/status").read_text("utf-8")
    (kib,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(kib) * 1024 / MB


if __name__ == "__main__":
    _judge(Path(sys.argv[1]))
    print(peak_mb())
