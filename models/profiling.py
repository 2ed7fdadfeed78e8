"""What one prediction costs: measured on this machine, and as frozen in `profiles.json`.

A profile taken on a busy machine is noisy, and published tables must be reproducible. So cards carry both the
fresh measurement and the frozen reference, which `python -m models.train --reprofile` renews.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models.digits import FloatArray
from models.store import session

WATTS = 10.0
PROVENANCE = "profiled: median single-row CPU time on 1 core × 10 W"
REFERENCE = Path(__file__).with_name("profiles.json")

# A block long enough that reading the CPU clock, a system call, does not show in the result.
_BLOCK = 10


@dataclass(frozen=True)
class Profile:
    """Cost of predicting one row: seconds of wall time, joules of CPU energy at an assumed 10 W per core."""

    latency_s: float
    energy_j: float
    provenance: str = PROVENANCE


def measure(onnx: bytes, rows: FloatArray, blocks: int = 100) -> Profile:
    """Median over `blocks` × 10 single-row predictions, cycling through `rows` (n, 64), on one thread."""
    predict = session(onnx).run
    singles = [{"input": rows[i : i + 1]} for i in range(len(rows))]
    for feed in singles[: 2 * _BLOCK]:
        predict(["probabilities"], feed)
    wall, cpu = [], []
    for block in range(blocks):
        cpu_start = time.thread_time()
        for step in range(_BLOCK):
            feed = singles[(block * _BLOCK + step) % len(singles)]
            start = time.perf_counter()
            predict(["probabilities"], feed)
            wall.append(time.perf_counter() - start)
        cpu.append((time.thread_time() - cpu_start) / _BLOCK)
    return Profile(_three_digits(statistics.median(wall)), _three_digits(statistics.median(cpu) * WATTS))


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")


def cpu_name() -> str:
    """The processor's name, as the operating system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write_reference(profiles: Mapping[str, Profile], path: Path = REFERENCE) -> None:
    """Freeze `profiles`, with today's date and this machine's processor."""
    reference = {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_name(),
        "provenance": PROVENANCE,
        "members": {
            name: {"latency_s": profile.latency_s, "energy_j": profile.energy_j} for name, profile in profiles.items()
        },
    }
    path.write_text(json.dumps(reference, indent=2, ensure_ascii=False) + "\n")


def read_reference(path: Path = REFERENCE) -> dict[str, dict[str, Any]]:
    """The frozen profile of every member, each with its date and processor."""
    reference = json.loads(path.read_text())
    return {
        name: asdict(Profile(**costs, provenance=reference["provenance"]))
        | {"date": reference["date"], "cpu": reference["cpu"]}
        for name, costs in reference["members"].items()
    }
