"""``gate``: an exit code that says whether to switch a policy on."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

import click

from bandmaster.cli.played import read_bench
from bandmaster.cli.shown import JSON, print_json, replay_progress
from bandmaster.core import BandmasterError
from bandmaster.files import require_writable
from bandmaster.gate import judge
from bandmaster.replay import Order, Traffic, processes, replay
from bandmaster.results import BEST_PLAN


@click.command(name="gate")
@click.argument("logs", metavar="LOG...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--config", "file", required=True, type=click.Path(path_type=Path), help="The configuration to judge.")
@click.option("--policy", metavar="POLICY", help="The policy to judge.  [default: the config's]")
@click.option("--against", default="constant", show_default=True, metavar="POLICY",
              help=f"What it must beat: a policy, or {BEST_PLAN}, in hindsight.")  # fmt: skip
@click.option("--margin", default=0.0, show_default=True, type=float, help="By how much reward a request.")
@click.option("--seeds", default=10, show_default=True, type=click.IntRange(1, 10_000), help="Runs of each policy.")
@click.option("--order", type=click.Choice(["kept", "shuffled"]), default="kept", show_default=True,
              help="The log's own order, or another one for every seed.")  # fmt: skip
@click.option("--delay", type=click.IntRange(min=0), help="Requests until a label arrives.  [default: the log's]")
@click.option("--label-share", default=1.0, show_default=True, type=click.FloatRange(0.0, 1.0),
              help="Share of the labels that ever arrive.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(min=1), help="Runs at once.  [default: as many as there are cores]")
@click.option("--out", type=click.Path(path_type=Path), help="Write the verdict here, as JSON.")
@JSON
def gate_command(
    logs: tuple[Path, ...],
    file: Path,
    policy: str | None,
    against: str,
    margin: float,
    seeds: int,
    order: Order,
    delay: int | None,
    label_share: float,
    jobs: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Exit 0 only if a policy beats another for sure, on recorded traffic.

    Replays both on the LOG as `bandmaster replay` does. Exits 0 if the lower end of the 95 % interval of what the
    policy earns more is above --margin, else 1; made for anyone's CI.

    \b
    Examples:
      bandmaster gate traffic.parquet --config new.yaml
      bandmaster gate traffic.parquet --config new.yaml --against constant:forest --margin 0.01
      bandmaster gate traffic.parquet --config new.yaml --against scoring --out verdict.json
    """
    read, bench = read_bench(file, logs)
    judged = policy or read.policy.use
    if judged == against:
        raise BandmasterError(f"--against {against}: is the policy that is judged; name another")
    if out is not None:
        require_writable(out)
    traffic = Traffic(order, delay, label_share)
    played = [judged] if against == BEST_PLAN else [judged, against]
    with replay_progress() as progress:
        (results,) = replay(replace(bench, traffic=traffic), played, seeds, spread=processes(jobs), progress=progress)
    verdict = judge(results, judged, against, margin)
    if out is not None:
        verdict.write(out)
    if as_json:
        print_json(asdict(verdict))
    else:
        click.echo(f"{'Passed' if verdict.passed else 'Failed'}: {verdict.sentence()}")
    sys.exit(0 if verdict.passed else 1)
