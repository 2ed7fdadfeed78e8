"""``config``: the edits over a service's own configuration: who made which, and when; more of them; back again."""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
import yaml

from bandmaster import config
from bandmaster.cli.shown import CONFIG, JOURNAL, JSON, console, new_table, print_json
from bandmaster.config_manager import ConfigManager, as_flow
from bandmaster.core import BandmasterError
from bandmaster.edits import Edit, as_mapping, leaves
from bandmaster.journal.opening import edits_of
from bandmaster.journal.places import journal_url

WHY = click.option("--why", default="by hand", show_default=True, help="Kept in the log.")


@click.group(name="config")
def config_group() -> None:
    """Edits over a service's own configuration: see them, make some, take them back, adopt them.

    What is in force is the block in CONFIG with an overlay over it, a YAML file beside the journal. Policies edit it,
    and so may you; CONFIG itself stays as you wrote it, until you adopt what lies over it.

    \b
    Examples:
      bandmaster config log bentofile.yaml
      bandmaster config diff bentofile.yaml
      bandmaster config apply bentofile.yaml members.forest.active=false --why "slow since Monday"
      bandmaster config revert bentofile.yaml 3
      bandmaster config adopt bentofile.yaml
    """


@config_group.command()
@CONFIG
@JOURNAL
@JSON
def log(file: Path, journal: str | None, as_json: bool) -> None:
    """Say who changed what, when, why, and to what effect as was predicted; the newest first."""
    history = _manager(file, journal).edits.history()
    if as_json:
        print_json([_plain(edit) for edit in history])
        return
    table = new_table("version", "when", "who", "what", "why", "predicted")
    for edit in reversed(history):
        when = datetime.fromtimestamp(edit.at).astimezone().isoformat(sep=" ", timespec="seconds")
        predicted = "" if edit.predicted is None else f"{edit.predicted:+.4f}"
        table.add_row(str(edit.version), when, edit.author, "\n".join(_changes(edit)), edit.reason, predicted)
    console().print(table if history else f"{file}: nothing has been edited")


@config_group.command()
@CONFIG
@click.argument("version", type=click.IntRange(min=0), required=False)
@JOURNAL
def diff(file: Path, version: int | None, journal: str | None) -> None:
    """Say what the overlay changes: in CONFIG, or since VERSION.

    \b
    Examples:
      bandmaster config diff bentofile.yaml
      bandmaster config diff bentofile.yaml 3
    """
    manager = _manager(file, journal)
    now = dict(leaves(manager.edits.overlay()))
    then = {} if version is None else dict(leaves(as_mapping(manager.version(version).overlay)))
    for path in sorted({*now, *then}):
        if now.get(path) != then.get(path):
            before = as_flow(then[path]) if path in then else f"as in {file.name}"
            after = as_flow(now[path]) if path in now else f"as in {file.name}"
            click.echo(f"{'.'.join(path)}: {before} → {after}")


@config_group.command()
@CONFIG
@click.argument("changes", metavar="PATH=VALUE...", nargs=-1, required=True)
@JOURNAL
@WHY
def apply(file: Path, changes: Sequence[str], journal: str | None, why: str) -> None:
    """Change values, all or none; PATH= alone goes back to what CONFIG says.

    \b
    Examples:
      bandmaster config apply bentofile.yaml members.forest.active=false members.linear.weight=2
      bandmaster config apply bentofile.yaml members.forest.active=
    """
    _tell(_manager(file, journal).apply(dict(map(_change, changes)), _author(), why), file)


@config_group.command()
@CONFIG
@click.argument("version", type=click.IntRange(min=0))
@JOURNAL
@WHY
def revert(file: Path, version: int, journal: str | None, why: str) -> None:
    """Have the overlay be what it was at VERSION; 0 is before the first edit. That is one edit more.

    \b
    Examples:
      bandmaster config revert bentofile.yaml 3
    """
    _tell(_manager(file, journal).revert(version, _author(), "" if why == "by hand" else why), file)


@config_group.command()
@CONFIG
@JOURNAL
def adopt(file: Path, journal: str | None) -> None:
    """Write the overlay into CONFIG, whose comments and order stay, and leave it empty. What is in force stays.

    \b
    Examples:
      bandmaster config adopt bentofile.yaml
    """
    _tell(_manager(file, journal).adopt(file, _author()), file)


def _manager(file: Path, journal: str | None) -> ConfigManager:
    own = config.load(file)
    edits = edits_of(journal_url(own.journal, journal), file.parent)
    return ConfigManager(partial(config.read_block, file), edits)


def _author() -> str:
    return f"cli:{getpass.getuser()}"


def _change(text: str) -> tuple[str, Any]:
    path, mark, value = text.partition("=")
    if not mark:
        raise BandmasterError(f"{text}: is no change; write a path and a value, as in members.forest.active=false")
    try:
        return path, yaml.safe_load(value)
    except yaml.YAMLError:
        raise BandmasterError(f"{text}: {value!r} is no YAML; put text in quotes") from None


def _tell(edit: Edit | None, file: Path) -> None:
    if edit is None:
        click.echo(f"{file}: nothing changes")
        return
    click.echo(f"version {edit.version}: {edit.reason}")
    for line in _changes(edit):
        click.echo(f"  {line}")


def _changes(edit: Edit) -> list[str]:
    return [f"{change.path}: {_shown(change.before)} → {_shown(change.after)}" for change in edit.changes]


def _shown(value: Any) -> str:
    return "–" if value is None else as_flow(value)


def _plain(edit: Edit) -> Mapping[str, Any]:
    return {
        "version": edit.version,
        "at": edit.at,
        "author": edit.author,
        "reason": edit.reason,
        "changes": [{"path": c.path, "before": c.before, "after": c.after} for c in edit.changes],
        "predicted": edit.predicted,
    }
