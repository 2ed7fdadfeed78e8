"""``sweep``: what accuracy costs, by playing policies under one weight of a metric after the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

from bandmaster import build
from bandmaster.cli.played import Asked, plays, require_outputs
from bandmaster.cli.shown import JSON, console, listed, new_table, print_json, replay_progress
from bandmaster.config import Config
from bandmaster.core import DEFAULT_PROFILE, BandmasterError
from bandmaster.files import write_text
from bandmaster.replay import Bench, Step
from bandmaster.results import Point, swept_json
from bandmaster.visualizer.frontier import write_frontier
from bandmaster.visualizer.units import MEASURED, measured


@click.command(name="sweep")
@plays
@click.option("--metric", default="accuracy", show_default=True, help="The metric that is weighed anew.")
@click.option("--weights", default="0.1,0.3,0.5,0.7,0.9", show_default=True,
              help="Comma-separated, each in [0, 1]; other metrics share the rest as they do now.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Write every weight's results here, as JSON.")
@click.option("--report", type=click.Path(path_type=Path), help="Write the frontier here, one HTML file.")
@JSON
def sweep_command(
    asked: Asked, metric: str, weights: str, out: Path | None, report: Path | None, as_json: bool
) -> None:
    """Say what accuracy costs: play each policy under one weight of a metric after the other.

    LOG and all about traffic are as in `bandmaster replay`, which plays the contract as it is. Between two weights lies
    what their policies earn on requests that are given the one or the other by lot. Kept with --resume, a sweep to
    which weights are added plays those alone.

    \b
    Examples:
      bandmaster sweep traffic.parquet --config bentofile.yaml --policies constant,bandit
      bandmaster sweep traffic.parquet --config bentofile.yaml --weights 0.6,0.8,0.9 --seeds 3 --report frontier.html
      bandmaster sweep traffic.parquet --config bentofile.yaml --metric energy --weights 0,0.2,0.4 --out sweep.json
    """
    each = _weights(weights)
    require_outputs(out, report)
    read, bench = asked.bench()
    _require_one_contract(bench)
    benches = [_weighed(read, bench, metric, weight) for weight in each]
    points = []
    with replay_progress() as progress:
        for k, weight in enumerate(each):
            points.append(Point(weight, asked.play(benches[k], _part(progress, metric, weight, k, len(each)))))
    if report is not None:
        write_frontier(report, metric, points)
    if out is not None:
        write_text(out, json.dumps(swept_json(metric, points), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    if as_json:
        print_json(swept_json(metric, points))
    else:
        _print(metric, points)


def _weights(given: str) -> list[float]:
    found = []
    for text in listed(given):
        try:
            found.append(float(text))
        except ValueError:
            raise BandmasterError(f"--weights: {text} is no number; give some from 0 to 1, as in 0.5,0.8") from None
    if not found or len(set(found)) != len(found):
        raise BandmasterError(f"--weights {given}: give at least one, and each once, as in 0.5,0.8")
    return sorted(found)


def _require_one_contract(bench: Bench) -> None:
    if any(set(log.profiles or ()) - {DEFAULT_PROFILE} for log in bench.logs):
        raise BandmasterError(
            "column 'profile' has requests judged by weights of their own, which a sweep leaves as they are; "
            "sweep a log without it"
        )


def _weighed(read: Config, bench: Bench, metric: str, weight: float) -> Bench:
    """The bench under the contract with that weight: policies are built for it, and judged by it."""
    config = replace(read, contract=read.contract.weighing(metric, weight))
    for log in bench.logs:
        build.require_known_terms(config.contract, log)
    return build.bench(config, bench.logs, bench.traffic)


def _part(progress: Callable[[Step], None], metric: str, weight: float, k: int, of: int) -> Callable[[Step], None]:
    """Hears of the steps of the k-th of so many replays, and tells of them as steps of all."""

    def told(step: Step) -> None:
        name = f"{step.name} at {metric} {weight:g}"
        progress(replace(step, name=name, done=k * step.of + step.done, of=of * step.of))

    return told


def _print(metric: str, points: list[Point]) -> None:
    table = new_table(metric, "policy", *MEASURED, "probed")
    for point in points:
        for name, policy in point.results.policies.items():
            table.add_row(f"{point.weight:g}", name, *measured(policy.measures), f"{policy.probe_share:.1%}")
        table.add_section()
    console().print(table)
