"""The command line. The only place that prints.

Exit codes: 0 all is well, 1 a check or comparison failed, 2 bad input.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from bandmaster import __version__, build, config, demo, profile, yaml_writer
from bandmaster.config import MemberConfig
from bandmaster.core import BandmasterError, FloatArray
from bandmaster.counterfactual import spend
from bandmaster.learner import profile_figures
from bandmaster.meter import WATTS_PER_CORE, CpuTimeMeter
from bandmaster.plans import Catalogue
from bandmaster.replay import Mix, Order, Step, Traffic, replay
from bandmaster.results import BEST_PLAN, Constant, Measures, PolicyResult, Results, require_writable

PIPE_WIDTH = 200
"""Columns of a table that goes to a file or a pipe, where no terminal says how wide it is."""


class _Commands(click.Group):
    """Turns what a user can cause into a message and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BandmasterError as problem:
            click.echo(f"Error: {problem}", err=True)
            sys.exit(2)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="bandmaster")
def main() -> None:
    """Bandmaster: a band of ONNX models, led by a bandit.

    Exit codes: 0 all is well, 1 a check or comparison failed, 2 bad input.

    \b
    Examples:
      bandmaster check bentofile.yaml
      bandmaster plans bentofile.yaml
      bandmaster replay traffic.parquet --config bentofile.yaml
    """


_CONFIG = click.argument("file", metavar="CONFIG", type=click.Path(path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


# ---- check ---------------------------------------------------------------------------------------------------


@main.command()
@_CONFIG
@click.option("--no-models", is_flag=True, help="Do not load the models; for members that exist only in logs.")
@_JSON
def check(file: Path, no_models: bool, as_json: bool) -> None:
    """Validate a configuration, and load its models.

    CONFIG is a bentofile with `args: orchestration:`, or a file with `orchestration:` at the top.

    \b
    Examples:
      bandmaster check bentofile.yaml
      bandmaster check configs/imagenet16.yaml --no-models
      bandmaster check bentofile.yaml --json | jq .members
    """
    read = config.load(file)
    build.require_functions(read)
    hosted = None if no_models else build.host(read)
    ensemble = hosted.ensemble if hosted else build.ensemble_of(read, read.classes or ())
    catalogue = build.catalogue(read, ensemble)
    measured = {m.name: hosted.members[m.name].latency_s if hosted else None for m in read.members}
    if as_json:
        members = [
            {"name": m.name, "model": _model(m), "profile": asdict(m.profile), "measured_latency_s": measured[m.name]}
            for m in read.members
        ]
        found = {
            "config": str(file),
            "models_loaded": hosted is not None,
            "contract": read.contract.describe(),
            "policy": read.policy.use,
            "plans": len(catalogue),
            "classes": list(ensemble.classes) or None,
            "members": members,
        }
        _print_json(found)
        return
    table = _table("member", "model", "latency", "energy", "cost", "explainability", "measured")
    for m in read.members:
        declared = m.profile
        figures = (_seconds(declared.latency_s), _joules(declared.energy_j), _plain(declared.cost))
        model = _model(m) or "only in logs"
        table.add_row(m.name, model, *figures, _plain(declared.explainability), _seconds(measured[m.name]))
    _console().print(table)
    loaded = "models load and fit each other" if hosted else "members, models not loaded"
    click.echo(f"{file}: {len(measured)} {loaded}; {len(catalogue)} plans; policy {read.policy.use}.")
    for name, contract in {"reward": read.contract, **read.contract.profiles}.items():
        click.echo(f"{name} = {' + '.join(f'{m.weight:.3g} {m.name}' for m in contract.metrics)}")
    for warning in _blunt(read, [s for s in measured.values() if s is not None]):
        click.echo(f"warning: {warning}", err=True)


def _blunt(read: config.Config, measured: list[float]) -> Iterator[str]:
    """Terms that cannot tell the members apart, because all lie beyond the same end of the range."""
    for name, live in (("latency", measured), ("energy", [])):
        metric = read.contract.metric(name)
        if metric is None:
            continue
        declared = [getattr(m.profile, f"{name}_{'s' if name == 'latency' else 'j'}") for m in read.members]
        figures = live if metric.source == "live" else [v for v in declared if v is not None]
        if figures and (max(figures) <= metric.low or min(figures) >= metric.high):
            shown = _seconds if name == "latency" else _joules
            yield (
                f"contract.{name}.range: all members lie outside it ({shown(min(figures))} to {shown(max(figures))}), "
                "so that the term is the same for all; choose a range around them"
            )


def _model(member: MemberConfig) -> str | None:
    return member.bento_model or (str(member.onnx) if member.onnx else None)


# ---- plans ---------------------------------------------------------------------------------------------------


@main.command()
@_CONFIG
@_JSON
def plans(file: Path, as_json: bool) -> None:
    """List the plans that a configuration offers to its policy.

    Latency, energy and cost are the worst case by the members' profiles: every stage runs.

    \b
    Examples:
      bandmaster plans bentofile.yaml
      bandmaster plans bentofile.yaml --json | jq '.[].name'
    """
    read = config.load(file)
    catalogue = build.catalogue(read, build.ensemble_of(read, read.classes or ()))
    worst = _worst_case(catalogue)
    if as_json:
        _print_json(
            [
                {
                    "name": plan.name,
                    "stages": [list(stage) for stage in plan.stages],
                    "weights": plan.weights,
                    "stop_at": list(plan.stop_at),
                    "latency_s": _known(worst["latency"][k]),
                    "energy_j": _known(worst["energy"][k]),
                    "cost": _known(worst["cost"][k]),
                }
                for k, plan in enumerate(catalogue.plans)
            ]
        )
        return
    table = _table("plan", "stages", "weights", "stops at", "latency at most", "energy at most", "cost at most")
    for k, plan in enumerate(catalogue.plans):
        table.add_row(
            plan.name,
            str(len(plan.stages)),
            plan.weights,
            ", ".join(f"{t:g}" for t in plan.stop_at),
            _seconds(_known(worst["latency"][k])),
            _joules(_known(worst["energy"][k])),
            _plain(_known(worst["cost"][k])),
        )
    _console().print(table)
    click.echo(f"{len(catalogue)} plans; the most there may be is plans.limit: {read.plans.limit}.")


def _worst_case(catalogue: Catalogue) -> Mapping[str, FloatArray]:
    everyone = np.ones(len(catalogue.ensemble.names))
    spent = spend(catalogue, catalogue.stages[None], profile_figures(catalogue.ensemble), everyone)
    return {name: values[0] for name, values in spent.items()}


# ---- profile -------------------------------------------------------------------------------------------------


@main.command(name="profile")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--config", "file", required=True, type=click.Path(path_type=Path), help="The configuration to measure.")
@click.option("--rows", default=2000, show_default=True, type=click.IntRange(min=20),
              help="Requests to send to each member, drawn evenly from the data.")  # fmt: skip
@click.option("--write", is_flag=True, help="Write the figures into the configuration, and change nothing else there.")
@_JSON
def profile_command(data: Path, file: Path, rows: int, write: bool, as_json: bool) -> None:
    """Measure each member on your data, a row a request, one after the other.

    DATA is parquet, CSV or Arrow with columns x0 … xn, or with one column of lists, and `label` where known; or .npz
    with X and y. Found are accuracy, calibration error, latency, energy, and explainability: how well a small decision
    tree fitted on half of the requests says what the member does on the other half. Members' prices are yours to
    declare.

    \b
    Examples:
      bandmaster profile held_out.parquet --config bentofile.yaml
      bandmaster profile held_out.csv --config bentofile.yaml --rows 10000 --write
      bandmaster profile digits.npz --config orchestration.yaml --json | jq '.members[].accuracy'
    """
    read = config.load(file)
    if read.task == "regression":
        raise BandmasterError(f"{file}: task: regression: profile measures members that answer classes; declare theirs")
    hosted = build.host(read)
    sample = profile.read_sample(data, hosted.input_shape, hosted.ensemble.classes, rows)
    meter = CpuTimeMeter(len(hosted.ensemble.classes))
    measured: list[profile.Measured] = []
    with _counting("measuring", len(hosted.members) * -(-len(sample.rows) // profile.CHUNK)) as told:
        for name, member in hosted.members.items():
            measured.append(profile.measure(member, sample, meter, functools.partial(told, name)))
    block = tuple(read.source.path.split("."))
    values = {(*block, "members", m.name, "profile", k): v for m in measured for k, v in m.values().items()}
    if write:
        yaml_writer.write_values(file, values)
    if as_json:
        requests = {"requests": len(sample.rows), "of": sample.of}
        _print_json({"data": str(data), **requests, "written": write, "members": [asdict(m) for m in measured]})
        return
    _print_profiles(measured)
    drawn = f"{len(sample.rows)} of {sample.of} requests of one row from {data}"
    click.echo(f"{drawn}, {measured[0].labelled} labelled; latency is the median.")
    watts = f" as the thread's CPU time × {WATTS_PER_CORE:g} W" if measured[0].energy_from == "estimated" else ""
    click.echo(f"Energy is {measured[0].energy_from}{watts}.")
    if write:
        click.echo(f"Written to {file}: {read.source.path}.members.*.profile.")
        return
    click.echo(f"With --write, or by hand, into {file} under {read.source.path}:\n\nmembers:")
    for m in measured:
        figures = ", ".join(f"{name}: {value}" for name, value in m.values().items())
        click.echo(f"  {m.name}:\n    profile: {{{figures}}}")


def _print_profiles(measured: Sequence[profile.Measured]) -> None:
    columns = ("accuracy", "95 %", "calibration error", "latency", "95th percentile", "energy", "explainability")
    table = _table("member", *columns, "tree fitted/judged on", "failed")
    for m in measured:
        low, high = m.accuracy_interval or (math.nan, math.nan)
        table.add_row(
            m.name,
            _share(m.accuracy),
            "–" if m.accuracy is None else f"{low:.4f}–{high:.4f}",
            _share(m.calibration),
            _seconds(m.latency_s),
            _seconds(m.latency_p95_s),
            _joules(m.energy_j),
            _share(m.explainability),
            f"{m.fitted}/{m.judged}",
            str(m.failed),
        )
    _console().print(table)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


# ---- replay --------------------------------------------------------------------------------------------------


@main.command(name="replay")
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
              help="Where to keep answers to streams.  [default: ~/.cache/bandmaster/streams]")  # fmt: skip
@click.option("--jobs", type=click.IntRange(min=1), help="Runs at once.  [default: as many as there are cores]")
@click.option("--out", type=click.Path(path_type=Path), help="Write results here, and timing.json beside them.")
@click.option("--trace", type=click.Path(path_type=Path),
              help="Write a parquet file with one row per request, policy and seed.")  # fmt: skip
@click.option("--must-win", metavar="POLICY",
              help="Exit 1 unless POLICY beats all others and the best constant plan, intervals above 0.")  # fmt: skip
@_JSON
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
    out: Path | None,
    trace: Path | None,
    must_win: str | None,
    as_json: bool,
) -> None:
    """Say what each policy would have earned on recorded traffic.

    LOG is a recorded ensemble (parquet, CSV or Arrow): one row a request, with `label` and every member's
    `<member>__pred`, and where known __conf, __proba, __latency_s, __energy_j, __cost. Or it is a stream, x0 … xn and
    `y`: the twelve members of configs/streams.yaml learn its first 20 % and answer the rest. Several logs are taken
    as redraws of one traffic: seed i plays log i modulo their number.

    \b
    Examples:
      bandmaster replay traffic.parquet --config bentofile.yaml
      bandmaster replay traffic.parquet --config bentofile.yaml --order shuffled --seeds 20 --out results.json
      bandmaster replay monday.csv tuesday.csv --config b.yaml --policies constant:linear,scoring,bandit --delay 100
      bandmaster replay traffic.parquet --config bentofile.yaml --must-win bandit --json | jq .policies.bandit
      bandmaster replay traffic.parquet --config b.yaml --order mixed --mix-classes 5 --mix-every 2500 --last 0.2
      bandmaster replay stream.parquet --config configs/streams.yaml
    """
    names = [name.strip() for name in policies.split(",") if name.strip()]
    if must_win is not None and must_win not in names:
        raise BandmasterError(f"--must-win {must_win}: is none of the policies played: {', '.join(names)}")
    read = config.load(file)
    build.require_functions(read)
    recorded = build.recorded_logs(read, logs, cache, lambda line: click.echo(line, err=True))
    for path, log in zip(logs, recorded, strict=True):
        build.require_known_terms(read.contract, log)
        if log.unused:
            click.echo(f"{path}: columns not used: {', '.join(log.unused)}", err=True)
    if out is not None:
        require_writable(out)
    mix = _mix(order, mix_classes, mix_every, requests, len(recorded[0]))
    with _progress() as progress:
        (results,) = replay(
            build.bench(read, recorded, Traffic(order, delay, label_share, mix)),
            names,
            seeds,
            lasts=(last,),
            jobs=jobs,
            progress=progress,
            trace=trace,
        )
    if out is not None:
        results.write(out)
    if as_json:
        _print_json(results.as_json())
    else:
        _print_results(results)
    if must_win is not None and not _wins(results.policies[must_win]):
        click.echo(f"--must-win: {must_win} does not beat every other, intervals above 0.", err=True)
        sys.exit(1)


def _mix(order: Order, classes: int | None, every: int | None, requests: int | None, rows: int) -> Mix | None:
    given = {"--mix-classes": classes, "--mix-every": every, "--requests": requests}
    if order != "mixed":
        if (flag := next((name for name, value in given.items() if value is not None), None)) is not None:
            raise BandmasterError(f"{flag}: goes with --order mixed; leave it out, or add that")
        return None
    if classes is None or every is None:
        raise BandmasterError("--order mixed: needs --mix-classes and --mix-every, as in 5 and 2500")
    return Mix(classes, every, requests or rows)


def _wins(result: PolicyResult) -> bool:
    return all(difference.interval[0] > 0.0 for difference in result.advantage.values())


@contextmanager
def _progress() -> Iterator[Callable[[Step], None]]:
    """A bar on a terminal; elsewhere a line for every finished run. Both go to stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step: click.echo(_line(step), err=True)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("replay", total=None)
        yield lambda step: bar.update(task, total=step.of, completed=step.done, description=step.name)


def _line(step: Step) -> str:
    reward = "" if step.reward is None else f", reward {step.reward:.4f}"
    return f"{step.done}/{step.of} {step.name}, seed {step.seed}{reward}, {step.seconds:.1f} s"


# ---- The table -----------------------------------------------------------------------------------------------


def _print_results(results: Results) -> None:
    table = _table("policy", "reward", "±", "gap closed", "accuracy", "latency", "energy", "members", "probed")
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
    _console().print(table)
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
        _seconds(measures.latency_s),
        _joules(measures.energy_j),
        f"{measures.members_per_request:.2f}",
    )


def verdict(results: Results) -> list[str]:
    """What the table says, in plain sentences."""
    fair = {n: r for n, r in results.policies.items() if not r.hindsight} or results.policies
    name, best = max(fair.items(), key=lambda item: item[1].measures.reward)
    sentences = [f"{name} earned the most: {best.measures.reward:.4f} a request."]
    against = best.advantage[BEST_PLAN]
    low, high = against.interval
    plan = f"the best constant plan in hindsight ({results.best_constant_plan.plan})"
    if low > 0.0:
        sentences.append(f"It beat {plan} by {against.mean:.4f} [{low:.4f}, {high:.4f}].")
    elif high < 0.0:
        sentences.append(f"It fell short of {plan} by {-against.mean:.4f} [{-high:.4f}, {-low:.4f}].")
    else:
        sentences.append(f"It cannot be told from {plan}: {against.mean:+.4f} [{low:.4f}, {high:.4f}].")
    return [*sentences, *_against_all(best.measures, results.all_members)]


def _against_all(measures: Measures, whole: Constant) -> list[str]:
    more = measures.accuracy - whole.measures.accuracy
    accuracy = f"{abs(more):.4f} {'more' if more >= 0.0 else 'less'} accuracy"
    if math.isnan(measures.energy_j) or not whole.measures.energy_j > 0.0:
        return [f"Against all members at once: {accuracy}."]
    return [
        f"Against all members at once: {measures.energy_j / whole.measures.energy_j:.0%} of the energy, {accuracy}."
    ]


def _console() -> Console:
    width = None if Console().is_terminal else PIPE_WIDTH
    return Console(width=width, markup=False, highlight=False, emoji=False)


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    for name in columns:
        text = name in ("model", "weights")
        table.add_column(name, justify="left" if text else "right", overflow="fold")
    return table


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _seconds(value: float | None) -> str:
    return _scaled(value, (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)))


def _joules(value: float | None) -> str:
    return _scaled(value, (("J", 1.0), ("mJ", 1e-3), ("µJ", 1e-6)))


def _scaled(value: float | None, units: Sequence[tuple[str, float]]) -> str:
    if value is None or math.isnan(value):
        return "–"
    unit, size = next(((u, s) for u, s in units if value >= s), units[-1])
    return f"{value / size:.3g} {unit}"


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


# ---- demo ----------------------------------------------------------------------------------------------------


@main.command(name="demo")
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
    with _counting("     recording what each says to drifting traffic", seeds) as said:
        logs = [build.recorded_log(read, path) for path in demo.record(plan, lambda: said(None))]
    click.echo("2/4  Serving bento/ with `bentoml serve`")
    with demo.serving(plan) as address:
        click.echo(f"     serving at {address}  (its state: {address}/orchestration/state)")
        click.echo(f"3/4  Sending {requests} images, each one's label {demo.LABEL_DELAY} requests later")
        with _counting("     live", requests) as told:
            took = demo.send_live(address, plan.traffic(seed), lambda n, r: told(f"reward of the last 200 {r:.3f}"))
        live = demo.review(plan, read, logs[0].ensemble, took)
        click.echo(f"4/4  Comparing {len(build.POLICIES)} policies on {seeds} redraws of this traffic")
        with _progress() as progress:
            results = demo.compare(plan, read, logs, progress)
        demo.write(plan, results, live)
        _print_results(results)
        agree = _print_live(plan, live)
        click.echo(f"Served at {address}, state at {address}/orchestration/state. The block: bento/bentofile.yaml")
        if keep_serving:
            click.echo("Still serving; Ctrl-C ends it.")
            demo.wait_for_interrupt()
    sys.exit(0 if agree else 1)


def _print_live(plan: demo.Demo, live: demo.Live) -> bool:
    click.echo(
        f"Live, over HTTP: {live.joined} of {live.requests} labels joined, reward {live.reward:.4f}, accuracy "
        f"{live.accuracy:.4f}, {_joules(live.energy_j)} a request, {len(live.events)} drift alarms."
    )
    agree = live.joined == live.requests and live.disagreement <= demo.TOLERANCE
    same = "agree" if agree else "DO NOT AGREE"
    click.echo(
        f"The rewards it recorded and a replay of its journal {same}: {live.reward:.6f} and {live.replayed:.6f}."
    )
    click.echo(f"{plan.out / 'results.json'} holds every figure, {plan.out / 'demo.png'} the picture.")
    return agree


@contextmanager
def _counting(label: str, total: int) -> Iterator[Callable[[str | None], None]]:
    """A bar on a terminal; elsewhere a line a tenth of the way. The function given counts one, with a remark."""
    console = Console(stderr=True)
    if not console.is_terminal:
        count = itertools.count(1)

        def line(remark: str | None) -> None:
            n = next(count)
            if n % max(total // 10, 1) == 0 or n == total:
                click.echo(f"{label}: {n}/{total}{f', {remark}' if remark else ''}", err=True)

        yield line
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[remark]}", markup=False), console=console) as bar:
        task = bar.add_task(label, total=total, remark="")
        yield lambda remark: bar.update(task, advance=1, remark=remark or "")
