"""Tables, units, JSON and progress bars that commands share."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from bandmaster.replay import Step

PIPE_WIDTH = 200
"""Columns of a table that goes to a file or a pipe, where no terminal says how wide it is."""


CONFIG = click.argument("file", metavar="CONFIG", type=click.Path(path_type=Path))
ACTION = click.option("--action", default="action", show_default=True, metavar="COLUMN", help="What was done.")
PROPENSITY = click.option(
    "--propensity", default="propensity", show_default=True, metavar="COLUMN",
    help="The probability with which it was done.",
)  # fmt: skip
REWARD = click.option(
    "--reward", default="reward", show_default=True, metavar="COLUMN",
    help="What that earned; empty where nobody knows.",
)  # fmt: skip
JOURNAL = click.option(
    "--journal", metavar="FILE",
    help="The journal's file, or its postgresql:// URL, where it is another than the config's (BANDMASTER_JOURNAL).",
)  # fmt: skip
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def console() -> Console:
    width = None if Console().is_terminal else PIPE_WIDTH
    return Console(width=width, markup=False, highlight=False, emoji=False)


def new_table(first: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    for name in columns:
        text = name in ("model", "weights")
        table.add_column(name, justify="left" if text else "right", overflow="fold")
    return table


def listed(text: str) -> list[str]:
    """The names in a text that commas part."""
    return [name.strip() for name in text.split(",") if name.strip()]


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def plain(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


@contextmanager
def replay_progress() -> Iterator[Callable[[Step], None]]:
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


@contextmanager
def counting(label: str, total: int) -> Iterator[Callable[[str | None], None]]:
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
