"""Measure what one prediction of each kind of stream member costs, and print the configuration that freezes it.

A synthetic stream of middling size trains them: 20 features, 4 classes or a value, 5,000 rows. Latency is the
median time of predicting one row, in one thread; energy is the mean CPU time of it × 10 W. A late member costs what its
kind does.

Examples:
  python -m models.stream_profiles > configs/streams.yaml
  python -m models.stream_profiles --task regression > configs/streams-regression.yaml
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sklearn.datasets import make_classification, make_regression
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from bandmaster.core import Task
from bandmaster.streams import KINDS, REGRESSION_KINDS, models, regressors
from models.digits import FloatArray
from models.profiling import WATTS, Profile, cpu_name

ROWS, FEATURES, CLASSES = 5000, 20, 4

_HEAD = """\
# The twelve members that `bandmaster replay` trains on a stream (x0 … xn and y): six kinds of scikit-learn models
# learn its first 20 %, and once more (…_late) that part's last quarter alone. Latency is the median time of predicting
# one row, energy its mean CPU time × {watts:g} W. Measured once, by `python -m models.stream_profiles{flag}`,
# on {date} ({cpu}), and frozen.{error}
orchestration:
  task: {task}
  contract:
    accuracy: {accuracy}
    latency:  {{weight: 0.1, goal: min, range: [{fastest}, {slowest}], scale: log, from: profile}}
    energy:   {{weight: 0.1, goal: min, range: [{leanest}, {hungriest}], scale: log, from: profile}}
  members:
"""


def measure(predict: Callable[[FloatArray], Any], rows: FloatArray, predictions: int = 1000) -> Profile:
    """What a model takes to predict one row: median seconds, and joules, over so many, cycling through ``rows``."""
    singles = [rows[i : i + 1] for i in range(len(rows))]
    for row in singles[:20]:
        predict(row)
    wall = []
    busy = time.process_time()
    for step in range(predictions):
        start = time.perf_counter()
        predict(singles[step % len(singles)])
        wall.append(time.perf_counter() - start)
    return Profile(statistics.median(wall), (time.process_time() - busy) / predictions * WATTS)


def profiles(task: Task = "classification") -> dict[str, Profile]:
    """The profile of each kind, trained on the synthetic stream."""
    if task == "regression":
        return _regression_profiles()
    x, y = make_classification(
        ROWS + 500, FEATURES, n_informative=10, n_classes=CLASSES, n_clusters_per_class=2, random_state=0
    )
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return {kind: measure(models()[kind].fit(x[:ROWS], y[:ROWS]).predict_proba, x[ROWS:]) for kind in KINDS}


def _regression_profiles() -> dict[str, Profile]:
    x, y = make_regression(ROWS + 500, FEATURES, n_informative=10, random_state=0)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = {kind: regressors()[kind].fit(x[:ROWS], y[:ROWS]) for kind in REGRESSION_KINDS}
        return {kind: measure(model.predict, x[ROWS:]) for kind, model in fitted.items()}


def configuration(found: Mapping[str, Profile], task: Task = "classification") -> str:
    """The text of configs/streams.yaml or its sister's. The contract's scales span the profiles."""
    regression = task == "regression"
    latencies, energies = ([getattr(p, f) for p in found.values()] for f in ("latency_s", "energy_j"))
    text = _HEAD.format(
        watts=WATTS,
        date=datetime.now(UTC).date().isoformat(),
        cpu=cpu_name(),
        task=task,
        flag=" --task regression" if regression else "",
        error="\n# The errors that are worth all and nothing are the stream's own: copy this file and change them."
        if regression
        else "",
        accuracy="{weight: 0.8, error: [0, 1]}" if regression else "{weight: 0.8}",
        fastest=_figure(_down(min(latencies)) * 1e6, "us"),
        slowest=_figure(_up(max(latencies)) * 1e6, "us"),
        leanest=_figure(_down(min(energies)) * 1e6, "uJ"),
        hungriest=_figure(_up(max(energies)) * 1e6, "uJ"),
    )
    kinds = REGRESSION_KINDS if regression else KINDS
    for name in (*kinds, *(f"{kind}_late" for kind in kinds)):
        cost = found[name.removesuffix("_late")]
        profile = f"{{latency: {_figure(cost.latency_s * 1e6, 'us')}, energy: {_figure(cost.energy_j * 1e6, 'uJ')}}}"
        text += f"    {f'{name}:':<17} {{profile: {profile}}}\n"
    return text


def _figure(value: float, unit: str) -> str:
    """Three significant digits, never in powers of ten."""
    return f"{round(value, 2 - math.floor(math.log10(value))):.12g} {unit}"


def _down(value: float) -> float:
    """The next figure below with one significant digit."""
    step = 10.0 ** math.floor(math.log10(value))
    return math.floor(value / step) * step


def _up(value: float) -> float:
    """The next figure above with one significant digit."""
    step = 10.0 ** math.floor(math.log10(value))
    return math.ceil(value / step) * step


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m models.stream_profiles",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", choices=["classification", "regression"], default="classification")
    task: Task = parser.parse_args(arguments).task
    print(configuration(profiles(task), task), end="")


if __name__ == "__main__":
    main()
