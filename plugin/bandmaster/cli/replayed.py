"""``replay``: what each policy would have earned on recorded traffic."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bandmaster import build, config
from bandmaster.cli.shown import JSON, console, listed, new_table, print_json, replay_progress
from bandmaster.config import Config
from bandmaster.core import BandmasterError
from bandmaster.files import require_writable
from bandmaster.replay import Bench, Mix, Order, Spread, Traffic, processes, ray_cluster, replay
from bandmaster.results import Measures, Results
from bandmaster.visualizer.report import require_drawing, write_report
from bandmaster.visualizer.units import joules, seconds
from bandmaster.visualizer.verdict import verdict


@click.command(name="replay")
@click.argument("logs", metavar="LOG...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--config", "file", required=True, type=click.Path(path_type=Path), help="The configuration to play.")
@click.option("--policies", default=",".join(build.POLICIES), show_default=True,
              help="Comma-separated; docs/replay.md lists all. constant:PLAN plays that plan.")  # fmt: skip
@click.option("--seeds", default=10, show_default=True, type=click.IntRange(1, 10_000), help="Runs of each policy.")
@click.option("--order", type=click.Choice(["kept", "shuffled", "mixed"]), default="kept", show_default=True,
              help="The log's own order, another one for every seed, or some classes at a time.")  # fmt: skip
@click.option("--mix-classes", type=click.IntRange(min=1), help="With --order mixed: classes at a time.")
@click.option("--mix-every", type=click.IntRange(min=1), help="With --order mixed: requests until others are drawn.")
@click.option("--requests", type=click.IntRange(min=1),
              help="With --order mixed: requests in all.  [default: as many as the log has]")  # fmt: skip
@click.option("--delay", type=click.IntRange(min=0), help="Requests until a label arrives.  [default: the log's]")
@click.option("--label-share", default=1.0, show_default=True, type=click.FloatRange(0.0, 1.0),
              help="Share of the labels that ever arrive.")  # fmt: skip
@click.option("--last", default=1.0, show_default=True, type=click.FloatRange(0.0, 1.0, min_open=True),
              help="Take figures over this last share of each run alone; the rest is learned from.")  # fmt: skip
@click.option("--cache", type=click.Path(path_type=Path, file_okay=False),
              help="Keeps answers to streams and raw inputs.  [default: in ~/.cache/bandmaster]")  # fmt: skip
@click.option("--jobs", type=click.IntRange(min=1), help="Runs at once.  [default: as many as there are cores]")
@click.option("--backend", type=click.Choice(["processes", "ray"]), default="processes", show_default=True,
              help="Play here, or on a Ray cluster.")  # fmt: skip
@click.option("--address", help="With --backend ray: of a cluster that runs.  [default: one for this replay alone]")
@click.option("--resume", type=click.Path(path_type=Path, file_okay=False),
              help="Keep every finished run in this folder, and go on from those that are there.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Write results here, and timing.json beside them.")
@click.option("--report", type=click.Path(path_type=Path), help="Write a report with pictures here, one HTML file.")
@click.option("--trace", type=click.Path(path_type=Path),
              help="Write a parquet file with one row per request, policy and seed.")  # fmt: skip
@JSON
def replay_command(
    logs: tuple[Path, ...],
    file: Path,
    policies: str,
    seeds: int,
    order: Order,
    mix_classes: int | None,
    mix_every: int | None,
    requests: int | None,
    delay: int | None,
    label_share: float,
    last: float,
    cache: Path | None,
    jobs: int | None,
    backend: str,
    address: str | None,
    resume: Path | None,
    out: Path | None,
    report: Path | None,
    trace: Path | None,
    as_json: bool,
) -> None:
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
    _, bench = read_bench(file, logs, cache)
    mix = _mix(order, mix_classes, mix_every, requests, len(bench.logs[0]))
    bench = replace(bench, traffic=Traffic(order, delay, label_share, mix))
    spread = _spread(backend, address, jobs)
    if report is not None:
        require_drawing("a report")
    for wanted in (out, report):
        if wanted is not None:
            require_writable(wanted)
    with _trace_for(report, trace) as traced:
        with replay_progress() as progress:
            (results,) = replay(
                bench, listed(policies), seeds,
                lasts=(last,), spread=spread, progress=progress, trace=traced, resume=resume,
            )  # fmt: skip
        if report is not None and traced is not None:
            write_report(report, results, traced)
    if out is not None:
        results.write(out)
    if as_json:
        print_json(results.as_json())
    else:
        print_results(results)


def read_bench(file: Path, logs: Sequence[Path], cache: Path | None = None) -> tuple[Config, Bench]:
    """The configuration, and what its policies are compared on, as logged; says on stderr what is not used of that."""
    read = config.load(file)
    build.require_functions(read)
    recorded = build.recorded_logs(read, logs, cache, lambda line: click.echo(line, err=True))
    for path, log in zip(logs, recorded, strict=True):
        build.require_known_terms(read.contract, log)
        if log.unused:
            click.echo(f"{path}: columns not used: {', '.join(log.unused)}", err=True)
    return read, build.bench(read, recorded)


@contextmanager
def _trace_for(report: Path | None, trace: Path | None) -> Iterator[Path | None]:
    """Where the trace goes: for a report alone, where it is gone afterwards."""
    if report is None or trace is not None:
        yield trace
        return
    with tempfile.TemporaryDirectory(dir=report.parent, prefix=".report-") as folder:
        yield Path(folder) / "trace.parquet"


def _spread(backend: str, address: str | None, jobs: int | None) -> Spread[Any]:
    if backend == "ray":
        if jobs is not None:
            raise BandmasterError("--jobs: a Ray cluster has as many runs at once as it has cores; leave it out")
        return ray_cluster(address)
    if address is not None:
        raise BandmasterError("--address: goes with --backend ray; leave it out, or add that")
    return processes(jobs)


def _mix(order: Order, classes: int | None, every: int | None, requests: int | None, rows: int) -> Mix | None:
    given = {"--mix-classes": classes, "--mix-every": every, "--requests": requests}
    if order != "mixed":
        if (flag := next((name for name, value in given.items() if value is not None), None)) is not None:
            raise BandmasterError(f"{flag}: goes with --order mixed; leave it out, or add that")
        return None
    if classes is None or every is None:
        raise BandmasterError("--order mixed: needs --mix-classes and --mix-every, as in 5 and 2500")
    return Mix(classes, every, requests or rows)


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
