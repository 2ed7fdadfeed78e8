"""``demo``: everything at once."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bandmaster import build, demo
from bandmaster.cli.replayed import print_results
from bandmaster.cli.shown import counting, replay_progress
from bandmaster.visualizer.units import joules


@click.command(name="demo")
@click.option("--requests", default=3000, show_default=True, type=click.IntRange(200, 100_000),
              help="Length of the traffic, live and replayed.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 10_000), help="Draws the traffic.")
@click.option("--seeds", default=10, show_default=True, type=click.IntRange(1, 100),
              help="Redraws of the traffic that the policies are compared on.")  # fmt: skip
@click.option("--keep-serving", is_flag=True, help="Leave the service up until Ctrl-C.")
@click.option("--out", default=Path("build/demo"), show_default=True, type=click.Path(path_type=Path),
              help="Where everything goes.")  # fmt: skip
def demo_command(requests: int, seed: int, seeds: int, keep_serving: bool, out: Path) -> None:
    """Train, serve, send drifting traffic with late labels, and compare. Nothing in it is faked.

    A real `bentoml serve` orchestrates ten ONNX models on real digits whose quality drifts in phases that come
    back, and learns from labels that arrive 50 requests late. Then every policy is replayed on redraws of that
    traffic. Leaves results.json, timing.json, trace.parquet and demo.png in --out. Exits 1 when the rewards that
    the service recorded and a replay of its journal differ.

    \b
    Examples:
      bandmaster demo
      bandmaster demo --requests 1000 --seeds 3
      bandmaster demo --keep-serving
    """
    plan = demo.Demo(demo.find_root(), out.absolute(), requests, seed, seeds)
    plan.out.mkdir(parents=True, exist_ok=True)
    read = demo.read_config(plan)
    click.echo("1/4  Training ten members on real handwritten digits, exporting them to ONNX")
    demo.train(plan)
    with counting("     recording what each says to drifting traffic", seeds) as said:
        logs = [build.recorded_log(read, path) for path in demo.record(plan, lambda: said(None))]
    click.echo("2/4  Serving bento/ with `bentoml serve`")
    with demo.serving(plan) as address:
        click.echo(f"     serving at {address}  (look: {address}/orchestration/)")
        click.echo(f"3/4  Sending {requests} images, each one's label {demo.LABEL_DELAY} requests later")
        with counting("     live", requests) as told:
            took = demo.send_live(address, plan.traffic(seed), lambda n, r: told(f"reward of the last 200 {r:.3f}"))
        live = demo.review(plan, read, logs[0].ensemble, took)
        click.echo(f"4/4  Comparing {len(build.POLICIES)} policies on {seeds} redraws of this traffic")
        with replay_progress() as progress:
            results = demo.compare(plan, read, logs, progress)
        demo.write(plan, results, live)
        print_results(results)
        agree = _print_live(plan, live)
        click.echo(f"Served at {address}, the block: bento/bentofile.yaml.")
        if keep_serving:
            click.echo(f"Still serving: its dashboard is {address}/orchestration/. Ctrl-C ends it.")
            demo.wait_for_interrupt()
    click.echo(f"The dashboard of what was served: bandmaster dashboard {plan.journal}")
    sys.exit(0 if agree else 1)


def _print_live(plan: demo.Demo, live: demo.Live) -> bool:
    click.echo(
        f"Live, over HTTP: {live.joined} of {live.requests} labels joined, reward {live.reward:.4f}, accuracy "
        f"{live.accuracy:.4f}, {joules(live.energy_j)} a request, {len(live.events)} drift alarms."
    )
    agree = live.joined == live.requests and live.disagreement <= demo.TOLERANCE
    same = "agree" if agree else "DO NOT AGREE"
    click.echo(
        f"The rewards it recorded and a replay of its journal {same}: {live.reward:.6f} and {live.replayed:.6f}."
    )
    click.echo(f"{plan.out / 'results.json'} holds every figure, {plan.out / 'demo.png'} the picture.")
    return agree
