"""``evaluate``: what a policy would have earned, by a log that another left."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from bandmaster.cli.shown import ACTION, JSON, PROPENSITY, REWARD, console, listed, new_table, print_json
from bandmaster.core import BandmasterError
from bandmaster.files import require_writable, write_text
from bandmaster.intervals import Interval
from bandmaster.offpolicy.evaluate import Evaluation, evaluate
from bandmaster.offpolicy.log import Columns, read
from bandmaster.offpolicy.target import parse_target


@click.command(name="evaluate")
@click.argument("log", type=click.Path(path_type=Path))
@click.option("--target", required=True, metavar="SPEC",
              help="The policy to judge: uniform, column:NAME, table:FILE or vw:OPTIONS.")  # fmt: skip
@ACTION
@PROPENSITY
@REWARD
@click.option("--reward-range", nargs=2, type=float, default=(0.0, 1.0), show_default=True, metavar="LOW HIGH",
              help="Rewards worth nothing and all; estimates are on this scale, from 0 to 1.")  # fmt: skip
@click.option("--where", multiple=True, metavar="COLUMN=VALUE", help="Judge by these rows alone; may be repeated.")
@click.option("--model", "modelled", is_flag=True,
              help="Also by dm, dr and switch, which want a model of rewards.")  # fmt: skip
@click.option("--features", metavar="A,B,…", help="What the model looks at.  [default: x0 … xn, ctx_*]")
@click.option("--out", type=click.Path(path_type=Path), help="Write every figure here, as JSON.")
@JSON
def evaluate_command(
    log: Path,
    target: str,
    action: str,
    propensity: str,
    reward: str,
    reward_range: tuple[float, float],
    where: tuple[str, ...],
    modelled: bool,
    features: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Say what a policy would have earned, by decisions that another one took.

    LOG has one row a decision (parquet, CSV or Arrow): the action that was taken, the probability with which it was,
    and the reward. It may be larger than memory, unless --model.

    A table:FILE has `action`, `probability` and whichever columns of the log these depend on; a column:NAME of the log
    has the target's probability of the action that was taken. vw:OPTIONS is Vowpal Wabbit, learning from the log as it
    goes.

    \b
    Examples:
      bandmaster evaluate decisions.parquet --target uniform
      bandmaster evaluate clicks.csv --target table:new.csv --action item --propensity p --reward click --model
      bandmaster evaluate decisions.parquet --target 'vw:--cb_explore_adf --epsilon 0.05 -q sa'
      bandmaster evaluate decisions.parquet --target column:new_p --where site=north --json | jq .estimates.snips
    """
    if features is not None and not modelled:
        raise BandmasterError("--features: goes with --model; add that, or leave it out")
    if out is not None:
        require_writable(out)
    found = evaluate(
        read(log, Columns(action, propensity, reward, *reward_range), _parted(where)),
        parse_target(target),
        modelled=modelled,
        features=None if features is None else listed(features),
    )
    if out is not None:
        write_text(out, json.dumps(found.as_json(), indent=1, ensure_ascii=False) + "\n")
    if as_json:
        print_json(found.as_json())
    else:
        _print(found)


def _parted(where: Sequence[str]) -> Mapping[str, str]:
    parts = [condition.partition("=") for condition in where]
    for condition, (column, sign, _) in zip(where, parts, strict=True):
        if not column or not sign:
            raise BandmasterError(f"--where {condition}: is no condition; write COLUMN=VALUE")
    return {column: value for column, _, value in parts}


def _print(found: Evaluation) -> None:
    table = new_table("estimator", "reward", "95 %, normal", "95 %, bootstrap", "95 %, at any time")
    for e in found.estimates:
        anytime = "" if e.anytime is None else _span(e.anytime)
        table.add_row(e.estimator, f"{e.value:.5f}", _span(e.interval), _span(e.bootstrap), anytime)
    console().print(table)
    late = f" ({found.unrewarded} more have no reward)" if found.unrewarded else ""
    click.echo(
        f"{found.decisions} decisions{late} earned {found.logged:.5f} each. For this target they count as"
        f" {found.effective:.0f}; their weights are {found.mean_weight:.3f} on average, {found.heaviest:.4g} at most."
    )
    for sentence in found.doubts:
        click.echo(f"Doubtful: {sentence}.")
    if not found.doubts:
        click.echo("Nothing in the log speaks against these figures.")


def _span(interval: Interval) -> str:
    return f"{interval[0]:.5f} – {interval[1]:.5f}"
