"""`python -m benchmarks`: run every scenario that can be run here, and write RESULTS.md.

Exit codes: 0 all that ran show what they must, 1 some do not, 2 bad input.
"""

from __future__ import annotations

import fnmatch
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bandmaster.core import BandmasterError
from bandmaster.replay import Step
from benchmarks import record, report, suite
from benchmarks.checks import judged
from benchmarks.effort import Clock, effort
from benchmarks.record import Record, Timing
from benchmarks.scenario import ROOT, Scenario, Summary, load_all
from benchmarks.sources import Place, UnavailableError
from models.profiling import cpu_name

QUICK_SEEDS = 2
PACKAGES = ("bandmaster", "numpy", "river", "scikit-learn", "vowpalwabbit")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--only", multiple=True, metavar="ID", help="Run these scenarios alone; * stands for anything.")
@click.option("--seeds", type=click.IntRange(1, 1000), help="Runs of each policy.  [default: the scenario's, 10]")
@click.option("--jobs", type=click.IntRange(min=1), help="Runs at once.  [default: as many as there are cores]")
@click.option("--data", envvar="BANDMASTER_BENCHMARK_DATA", type=click.Path(path_type=Path, file_okay=False),
              help="Folder of recordings.  [default: ../shared/data where it is]", show_envvar=True)  # fmt: skip
@click.option("--cache", default=ROOT / "build" / "benchmarks", type=click.Path(path_type=Path, file_okay=False),
              help="Where made logs and streams' answers are kept.  [default: build/benchmarks]")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, file_okay=False),
              help="Where RESULTS.md and results/ go.  [default: benchmarks; with --quick CACHE/quick]")  # fmt: skip
@click.option("--quick", is_flag=True, help=f"A look: {QUICK_SEEDS} seeds, written elsewhere.")
@click.option("--list", "listing", is_flag=True, help="List the scenarios and run none.")
@click.option("--report", "report_only", is_flag=True, help="Write RESULTS.md anew from results/, and run none.")
def main(
    only: tuple[str, ...],
    seeds: int | None,
    jobs: int | None,
    data: Path | None,
    cache: Path,
    out: Path | None,
    quick: bool,
    listing: bool,
    report_only: bool,
) -> None:
    """Play every scenario that can be played here, judge it, and write RESULTS.md with tables and pictures.

    \b
    Examples:
      python -m benchmarks
      python -m benchmarks --quick --only 'river-*' --only digits
      python -m benchmarks --data ~/recordings --only imagenet16-mixed --seeds 20
    """
    try:
        scenarios = load_all()
        chosen = _chosen(scenarios, only)
        if listing:
            for scenario in chosen:
                click.echo(f"{scenario.id}: {scenario.why}")
            return
        folder = out or (cache / "quick" if quick else ROOT / "benchmarks")
        place = Place(_data(data), cache)
        missing = {} if report_only else _run(chosen, place, folder, seeds or (QUICK_SEEDS if quick else None), jobs)
        records = report.write(folder, scenarios, missing)
    except BandmasterError as problem:
        click.echo(f"Error: {problem}", err=True)
        sys.exit(2)
    failed = _conclude(records, [s.id for s in chosen], missing, folder)
    sys.exit(1 if failed else 0)


def _chosen(scenarios: Mapping[str, Scenario], only: Sequence[str]) -> list[Scenario]:
    """Raises ``BandmasterError`` for a pattern that fits none."""
    for pattern in only:
        if not fnmatch.filter(scenarios, pattern):
            raise BandmasterError(f"--only {pattern}: fits none of {', '.join(scenarios)}")
    return [s for key, s in scenarios.items() if not only or any(fnmatch.fnmatchcase(key, p) for p in only)]


def _data(given: Path | None) -> Path | None:
    """Raises ``BandmasterError`` for a folder that was named and is not there."""
    if given is not None and not given.is_dir():
        raise BandmasterError(f"--data {given}: no such folder")
    default = ROOT.parent / "shared" / "data"
    return given or (default if default.is_dir() else None)


def _run(chosen: Sequence[Scenario], place: Place, folder: Path, seeds: int | None, jobs: int | None) -> dict[str, str]:
    """Run scenario by scenario, keeping each one's record as soon as it is there; says which could not run, and why."""
    missing: dict[str, str] = {}
    efforts = {scenario.id: effort(scenario, place, seeds) for scenario in chosen}
    clock = Clock(list(efforts.values()), jobs or os.cpu_count() or 1)
    for number, scenario in enumerate(chosen, start=1):
        if isinstance(scenario, Summary):
            continue
        began = time.perf_counter()
        click.echo(f"{number}/{len(chosen)} {scenario.id}, {clock.left}", err=True)
        try:
            with _progress(scenario.id) as listener:
                ran = suite.run(scenario, place, listener, seeds=seeds, jobs=jobs)
        except UnavailableError as problem:
            missing[scenario.id] = str(problem)
            clock.skipped(efforts[scenario.id])
            click.echo(f"    left out: {problem}", err=True)
            continue
        found = judged(ran.record, scenario.must_show, {})
        took = time.perf_counter() - began
        clock.ran(efforts[scenario.id], took)
        record.write(folder / "results", found, _timing(took, ran.us_per_request))
        _say(found)
    return missing


def _timing(seconds: float, us_per_request: dict[str, float]) -> Timing:
    return Timing(
        date=datetime.now(UTC).date().isoformat(),
        machine=f"{cpu_name()}, {platform.system()} {platform.machine()}, Python {platform.python_version()}",
        versions={package: importlib.metadata.version(package) for package in PACKAGES},
        seconds=seconds,
        us_per_request=us_per_request,
    )


def _say(found: Record) -> None:
    for verdict in found.verdicts:
        click.echo(f"    {report.sentence(verdict)}", err=True)


def _conclude(records: Mapping[str, Record], ids: Sequence[str], missing: Mapping[str, str], folder: Path) -> int:
    """Say how it went; returns how many checks of the scenarios named failed."""
    verdicts = [(key, v) for key, found in records.items() if key in ids for v in found.verdicts]
    failed = [f"{key}: {report.sentence(v)}" for key, v in verdicts if v.passed is False]
    passed = sum(v.passed is True for _, v in verdicts)
    for line in failed:
        click.echo(line)
    for key, why in missing.items():
        click.echo(f"{key}: left out: {why}")
    click.echo(
        f"{passed} checks passed, {len(failed)} failed, {len(missing)} scenarios left out: {folder / 'RESULTS.md'}"
    )
    return len(failed)


@contextmanager
def _progress(name: str) -> Iterator[suite.Listener]:
    """A bar on a terminal, elsewhere a line for every tenth of a play; on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield suite.Listener(_tenth, lambda line: click.echo(f"    {line}", err=True))
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield suite.Listener(
            lambda step: bar.update(task, total=step.of, completed=step.done, description=f"{name}: {step.name}"),
            lambda line: bar.console.print(f"    {line}", markup=False, highlight=False),
        )


def _tenth(step: Step) -> None:
    if step.done % max(step.of // 10, 1) == 0 or step.done == step.of:
        click.echo(f"    {step.done}/{step.of} {step.name}, seed {step.seed}, {step.seconds:.1f} s", err=True)


if __name__ == "__main__":
    main()
