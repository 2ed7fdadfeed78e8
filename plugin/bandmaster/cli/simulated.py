"""``simulate`` and ``fit``: policies on simulated traffic, and a description of it made from a log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from bandmaster import build, config, hosting
from bandmaster.cli.played import require_outputs
from bandmaster.cli.replayed import play_and_tell
from bandmaster.cli.shown import JSON, listed
from bandmaster.config.simulation import load_simulation, simulation_text
from bandmaster.files import require_writable, write_text
from bandmaster.replay import Step, processes, replay
from bandmaster.results import Results
from bandmaster.simulator import fitted


@click.command(name="simulate")
@click.argument("file", metavar="SIMULATION", type=click.Path(path_type=Path))
@click.option("--config", "configured", type=click.Path(path_type=Path),
              help="The configuration to play.  [default: orchestration: in SIMULATION]")  # fmt: skip
@click.option("--policies", default=",".join(build.POLICIES), show_default=True,
              help="Comma-separated; docs/replay.md lists all. constant:PLAN plays that plan.")  # fmt: skip
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(1, 1000), help="Simulations, each new.")
@click.option("--requests", type=click.IntRange(min=1), help="In each.  [default: as SIMULATION says]")
@click.option("--jobs", type=click.IntRange(min=1), help="Runs at once.  [default: as many as there are cores]")
@click.option("--out", type=click.Path(path_type=Path), help="Write results here, and timing.json beside them.")
@click.option("--report", type=click.Path(path_type=Path), help="Write a report with pictures here, one HTML file.")
@click.option("--trace", type=click.Path(path_type=Path), help="Write a parquet file, one row a request and policy.")
@JSON
def simulate_command(
    file: Path,
    configured: Path | None,
    policies: str,
    seeds: int,
    requests: int | None,
    jobs: int | None,
    out: Path | None,
    report: Path | None,
    trace: Path | None,
    as_json: bool,
) -> None:
    """Say what each policy would earn on traffic and members as SIMULATION describes them.

    SIMULATION is a YAML file with `simulation:`: members with their accuracy by class or region, confidence, time and
    energy, how they err together, and what arrives. `bandmaster fit` makes one from a log. Every seed simulates anew.

    \b
    Examples:
      bandmaster simulate configs/simulated.yaml
      bandmaster simulate configs/simulated.yaml --policies constant,scoring,bandit --seeds 10 --report report.html
      bandmaster simulate fitted.yaml --config bentofile.yaml --requests 20000
    """
    require_outputs(out, report)
    read = config.load(configured or file)
    hosting.require_functions(read)
    bench = build.bench(read, build.simulated_logs(read, load_simulation(file), range(seeds), requests))

    def play(progress: Callable[[Step], None], traced: Path | None) -> Results:
        return replay(bench, listed(policies), seeds, spread=processes(jobs), progress=progress, trace=traced)[0]

    play_and_tell(play, out, report, trace, as_json)


@click.command(name="fit")
@click.argument("log", type=click.Path(path_type=Path))
@click.option("--config", "file", required=True, type=click.Path(path_type=Path), help="Whose members are fitted.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Write the description here, as YAML.")
def fit_command(log: Path, file: Path, out: Path) -> None:
    """Describe the members and the traffic of LOG, for `bandmaster simulate`.

    LOG is as for `bandmaster replay`, with labels. Members are described by class, and err together as they did.

    \b
    Examples:
      bandmaster fit traffic.parquet --config bentofile.yaml --out fitted.yaml
      bandmaster simulate fitted.yaml --config bentofile.yaml
    """
    require_writable(out)
    read = config.load(file)
    write_text(out, simulation_text(fitted(build.recorded_log(read, log))))
    click.echo(f"{out}: {len(read.members)} members; `bandmaster simulate {out} --config {file}` plays them")
