"""``replay``: what each policy would have earned on recorded traffic."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from bandmaster.cli.played import Asked, plays, require_outputs
from bandmaster.cli.shown import JSON, console, new_table, print_json, replay_progress
from bandmaster.replay import Step
from bandmaster.results import Measures, Results
from bandmaster.visualizer.report import write_report
from bandmaster.visualizer.units import joules, seconds
from bandmaster.visualizer.verdict import verdict


@click.command(name="replay")
@plays
@click.option("--out", type=click.Path(path_type=Path), help="Write results here, and timing.json beside them.")
@click.option("--report", type=click.Path(path_type=Path), help="Write a report with pictures here, one HTML file.")
@click.option("--trace", type=click.Path(path_type=Path),
              help="Write a parquet file with one row per request, policy and seed.")  # fmt: skip
@JSON
def replay_command(asked: Asked, out: Path | None, report: Path | None, trace: Path | None, as_json: bool) -> None:
    """Say what each policy would have earned on recorded traffic.

    LOG is a recorded ensemble (parquet, CSV or Arrow): one row a request, with `label` and every member's
    `<member>__pred`, and where known __conf, __proba, __latency_s, __energy_j, __cost. Or it is a stream, x0 … xn and
    `y`: the twelve members of configs/streams.yaml learn its first 20 % and answer the rest. Or it holds raw inputs, x0
    … xn or one column of lists, with `label` but nobody's answers: the config's models answer every row once. Several
    logs are taken as redraws of one traffic: seed i plays log i modulo their number.

    \b
    Examples:
      bandmaster replay traffic.parquet --config bentofile.yaml
      bandmaster replay traffic.parquet --config bentofile.yaml --order shuffled --seeds 20 --out results.json
      bandmaster replay monday.csv tuesday.csv --config b.yaml --policies constant:linear,scoring,bandit --delay 100
      bandmaster replay traffic.parquet --config bentofile.yaml --json | jq .policies.bandit
      bandmaster replay traffic.parquet --config b.yaml --order mixed --mix-classes 5 --mix-every 2500 --last 0.2
      bandmaster replay stream.parquet --config configs/streams.yaml
      bandmaster replay traffic.parquet --config bentofile.yaml --report report.html
      bandmaster replay year.parquet --config bentofile.yaml --resume build/year --trace trace.parquet
    """
    require_outputs(out, report)
    _, bench = asked.bench()
    play_and_tell(lambda progress, traced: asked.play(bench, progress, traced), out, report, trace, as_json)


def play_and_tell(
    play: Callable[[Callable[[Step], None], Path | None], Results],
    out: Path | None,
    report: Path | None,
    trace: Path | None,
    as_json: bool,
) -> None:
    """Play, with a progress bar, and write and print what came of it."""
    with _trace_for(report, trace) as traced:
        with replay_progress() as progress:
            results = play(progress, traced)
        if report is not None and traced is not None:
            write_report(report, results, traced)
    if out is not None:
        results.write(out)
    if as_json:
        print_json(results.as_json())
    else:
        print_results(results)


@contextmanager
def _trace_for(report: Path | None, trace: Path | None) -> Iterator[Path | None]:
    """Where the trace goes: for a report alone, where it is gone afterwards."""
    if report is None or trace is not None:
        yield trace
        return
    with tempfile.TemporaryDirectory(dir=report.parent, prefix=".report-") as folder:
        yield Path(folder) / "trace.parquet"


# ---- The table -----------------------------------------------------------------------------------------------


def print_results(results: Results) -> None:
    table = new_table("policy", "reward", "±", "gap closed", "accuracy", "latency", "energy", "members", "probed")
    for name, result in results.policies.items():
        half = (result.interval[1] - result.interval[0]) / 2.0
        gap = "" if result.gap_closed is None else f"{result.gap_closed:.0%}"
        shown = f"{name} (in hindsight)" if result.hindsight else name
        table.add_row(shown, *_figures(result.measures, f"{half:.4f}", gap), f"{result.probe_share:.1%}")
    table.add_section()
    for name, constant in (
        (f"best constant: {results.best_constant.plan}", results.best_constant),
        (f"best constant plan: {results.best_constant_plan.plan}", results.best_constant_plan),
        ("all members at once", results.all_members),
    ):
        table.add_row(name, *_figures(constant.measures, "", ""), "")
    table.add_row("oracle (best single member, request by request)", f"{results.oracle:.4f}", *[""] * 7)
    table.add_row("previous label (costs nothing)", "", "", "", f"{results.previous_label:.4f}", *[""] * 4)
    console().print(table)
    if results.setting.last < 1.0:
        click.echo(f"Figures are of the last {results.setting.last:.0%} of each run.")
    for sentence in verdict(results):
        click.echo(sentence)


def _figures(measures: Measures, half: str, gap: str) -> tuple[str, ...]:
    return (
        f"{measures.reward:.4f}",
        half,
        gap,
        f"{measures.accuracy:.4f}",
        seconds(measures.latency_s),
        joules(measures.energy_j),
        f"{measures.members_per_request:.2f}",
    )
