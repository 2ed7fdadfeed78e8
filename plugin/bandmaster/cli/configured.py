"""``check``, ``plans`` and ``profile``: what a configuration amounts to."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click
import numpy as np

from bandmaster import build, config, hosting, profile, yaml_writer
from bandmaster.belief import Belief
from bandmaster.cli.shown import CONFIG, JSON, console, counting, known, new_table, plain, print_json
from bandmaster.config import MemberConfig
from bandmaster.config.schema import schema
from bandmaster.contract import Contract
from bandmaster.core import BandmasterError, FloatArray, Policy
from bandmaster.counterfactual import spend
from bandmaster.learner import profile_figures
from bandmaster.meter import WATTS_PER_CORE, CpuTimeMeter
from bandmaster.plans import Catalogue
from bandmaster.testing import check_policy
from bandmaster.visualizer.units import joules, seconds


@click.command()
@CONFIG
@click.option("--no-models", is_flag=True, help="Do not load the models; for members that exist only in logs.")
@JSON
def check(file: Path, no_models: bool, as_json: bool) -> None:
    """Validate a configuration, and load its models.

    CONFIG is a bentofile with `args: orchestration:`, or a file with `orchestration:` at the top. A policy of your own
    is put through the contract suite of policies.

    \b
    Examples:
      bandmaster check bentofile.yaml
      bandmaster check configs/imagenet16.yaml --no-models
      bandmaster check bentofile.yaml --json | jq .members
    """
    read = config.load(file)
    hosting.require_functions(read)
    if hosting.is_own(read.policy.use):
        _require_rules(read)
    hosted = None if no_models else hosting.host(read)
    ensemble = hosted.ensemble if hosted else hosting.ensemble_of(read, read.classes or ())
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
        print_json(found)
        return
    table = new_table("member", "model", "latency", "energy", "cost", "explainability", "measured")
    for m in read.members:
        declared = m.profile
        figures = (seconds(declared.latency_s), joules(declared.energy_j), plain(declared.cost))
        model = _model(m) or "only in logs"
        table.add_row(m.name, model, *figures, plain(declared.explainability), seconds(measured[m.name]))
    console().print(table)
    loaded = "models load and fit each other" if hosted else "members, models not loaded"
    click.echo(f"{file}: {len(measured)} {loaded}; {len(catalogue)} plans; policy {read.policy.use}.")
    for name, contract in {"reward": read.contract, **read.contract.profiles}.items():
        click.echo(f"{name} = {' + '.join(f'{m.weight:.3g} {m.name}' for m in contract.metrics)}")
    for warning in _blunt(read, [s for s in measured.values() if s is not None]):
        click.echo(f"warning: {warning}", err=True)


def _require_rules(read: config.Config) -> None:
    """Raise ``BandmasterError`` where the user's own policy breaks a rule of policies."""

    def make(plans: Catalogue, contract: Contract, belief: Belief) -> Policy:
        return build.own_policy(read.policy.use, read.root, plans, contract, belief)

    try:
        check_policy(make)
    except (AssertionError, BandmasterError) as broken:
        place = f"{read.source.name}: {read.source.path}.policy.use"
        raise BandmasterError(f"{place}: {read.policy.use} breaks a rule of policies: {broken}") from broken


def _blunt(read: config.Config, measured: list[float]) -> Iterator[str]:
    """Terms that cannot tell the members apart, because all lie beyond the same end of the range."""
    for name, live in (("latency", measured), ("energy", [])):
        metric = read.contract.metric(name)
        if metric is None:
            continue
        declared = [getattr(m.profile, f"{name}_{'s' if name == 'latency' else 'j'}") for m in read.members]
        figures = live if metric.source == "live" else [v for v in declared if v is not None]
        if figures and (max(figures) <= metric.low or min(figures) >= metric.high):
            shown = seconds if name == "latency" else joules
            yield (
                f"contract.{name}.range: all members lie outside it ({shown(min(figures))} to {shown(max(figures))}), "
                "so that the term is the same for all; choose a range around them"
            )


def _model(member: MemberConfig) -> str | None:
    return member.bento_model or (str(member.onnx) if member.onnx else None)


@click.command()
@CONFIG
@JSON
def plans(file: Path, as_json: bool) -> None:
    """List the plans that a configuration offers to its policy.

    Latency, energy and cost are the worst case by the members' profiles: every stage runs.

    \b
    Examples:
      bandmaster plans bentofile.yaml
      bandmaster plans bentofile.yaml --json | jq '.[].name'
    """
    read = config.load(file)
    catalogue = build.catalogue(read, hosting.ensemble_of(read, read.classes or ()))
    worst = _worst_case(catalogue)
    if as_json:
        print_json(
            [
                {
                    "name": plan.name,
                    "stages": [list(stage) for stage in plan.stages],
                    "weights": plan.weights,
                    "stop_at": list(plan.stop_at),
                    "latency_s": known(worst["latency"][k]),
                    "energy_j": known(worst["energy"][k]),
                    "cost": known(worst["cost"][k]),
                }
                for k, plan in enumerate(catalogue.plans)
            ]
        )
        return
    table = new_table("plan", "stages", "weights", "stops at", "latency at most", "energy at most", "cost at most")
    for k, plan in enumerate(catalogue.plans):
        table.add_row(
            plan.name,
            str(len(plan.stages)),
            plan.weights if isinstance(plan.weights, str) else ", ".join(f"{w:g}" for w in plan.weights),
            ", ".join(f"{t:g}" for t in plan.stop_at),
            seconds(known(worst["latency"][k])),
            joules(known(worst["energy"][k])),
            plain(known(worst["cost"][k])),
        )
    console().print(table)
    click.echo(f"{len(catalogue)} plans; the most there may be is plans.limit: {read.plans.limit}.")


def _worst_case(catalogue: Catalogue) -> Mapping[str, FloatArray]:
    everyone = np.ones(len(catalogue.ensemble.names))
    spent = spend(catalogue, catalogue.stages[None], profile_figures(catalogue.ensemble), everyone)
    return {name: values[0] for name, values in spent.items()}


@click.command(name="schema")
def schema_command() -> None:
    """Print a JSON schema of the configuration, for editors.

    It holds for a bentofile with `args: orchestration:`, and for a file with `orchestration:` at the top.

    \b
    Examples:
      bandmaster schema > orchestration.schema.json
    """
    print_json(schema())


@click.command(name="profile")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--config", "file", required=True, type=click.Path(path_type=Path), help="The configuration to measure.")
@click.option("--rows", default=2000, show_default=True, type=click.IntRange(min=20),
              help="Requests to send to each member, drawn evenly from the data.")  # fmt: skip
@click.option("--write", is_flag=True, help="Write the figures into the configuration, and change nothing else there.")
@JSON
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
    hosted = hosting.host(read)
    sample = profile.read_sample(data, hosted.input_shape, hosted.ensemble.classes, rows)
    meter = CpuTimeMeter(len(hosted.ensemble.classes))
    measured: list[profile.Measured] = []
    with counting("measuring", len(hosted.members) * -(-len(sample.rows) // profile.CHUNK)) as told:
        for name, member in hosted.members.items():
            measured.append(profile.measure(member, sample, meter, functools.partial(told, name)))
    hosted.stop()
    unknown = {m.name for m in read.members if not m.is_metered and m.profile.energy_j is None}
    measured = [replace(m, energy_j=None) if m.name in unknown else m for m in measured]
    block = tuple(read.source.path.split("."))
    values = {(*block, "members", m.name, "profile", k): v for m in measured for k, v in m.values().items()}
    if write:
        yaml_writer.write_values(file, values)
    if as_json:
        requests = {"requests": len(sample.rows), "of": sample.of}
        print_json({"data": str(data), **requests, "written": write, "members": [asdict(m) for m in measured]})
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
    table = new_table("member", *columns, "tree fitted/judged on", "failed")
    for m in measured:
        low, high = m.accuracy_interval or (math.nan, math.nan)
        table.add_row(
            m.name,
            _share(m.accuracy),
            "–" if m.accuracy is None else f"{low:.4f}–{high:.4f}",
            _share(m.calibration),
            seconds(m.latency_s),
            seconds(m.latency_p95_s),
            "–" if m.energy_j is None else joules(m.energy_j),
            _share(m.explainability),
            f"{m.fitted}/{m.judged}",
            str(m.failed),
        )
    console().print(table)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
