"""``doctor``: is all well with a service, its models and its journal?"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from bandmaster import config, hosting
from bandmaster.cli.shown import CONFIG, JOURNAL, JSON, print_json
from bandmaster.core import BandmasterError
from bandmaster.journal.checkup import Finding, look_over
from bandmaster.journal.opening import open_reader
from bandmaster.journal.places import elsewhere, journal_url, locate
from bandmaster.pin import Pin

_MARKS = {"ok": "ok     ", "warning": "warning", "problem": "PROBLEM"}


@click.command()
@CONFIG
@JOURNAL
@click.option("--no-models", is_flag=True, help="Do not load the models.")
@JSON
def doctor(file: Path, journal: str | None, no_models: bool, as_json: bool) -> None:
    """Look a service over: configuration, models, key, disk, journal, snapshots, spools.

    Changes nothing, and may run beside the service. Every decision in the journal is read. Exits with 1 where there is
    a problem; warnings alone are no reason to.

    \b
    Examples:
      bandmaster doctor bentofile.yaml
      bandmaster doctor bentofile.yaml --journal /var/lib/bandmaster/orchestration.db
      bandmaster doctor bentofile.yaml --json | jq '.[] | select(.health != "ok")'
    """
    found = []
    for finding in _look(file, journal, no_models):
        found.append(finding)
        if not as_json:
            click.echo(f"{_MARKS[finding.health]}  {finding.what}: {finding.text}")
    if as_json:
        print_json([asdict(finding) for finding in found])
    if any(finding.health == "problem" for finding in found):
        sys.exit(1)


def _look(file: Path, journal: str | None, no_models: bool) -> Iterator[Finding]:
    try:
        read = config.load(file)
    except BandmasterError as problem:
        yield Finding("configuration", "problem", str(problem))
        return
    yield Finding("configuration", "ok", f"{file}: {len(read.members)} members, policy {read.policy.use}")
    if not no_models:
        try:
            hosting.host(read)
        except BandmasterError as problem:
            yield Finding("models", "problem", str(problem))
        else:
            yield Finding("models", "ok", "load and fit each other")
    url = journal_url(read.journal, journal)
    path = locate(url, read.root)
    yield from look_over(path, partial(open_reader, url, read.root) if elsewhere(url) else None)
    if (why := Pin(path).why) is not None:
        yield Finding("pin", "warning", f"the baseline answers alone ({why}); `bandmaster unpin {file}` ends that")
    yield Finding("sqlite", "ok", sqlite3.sqlite_version)
