"""``pin`` and ``unpin``: one switch that has the baseline answer alone."""

from __future__ import annotations

from pathlib import Path

import click

from bandmaster import config
from bandmaster.cli.shown import CONFIG, JOURNAL
from bandmaster.core import BandmasterError
from bandmaster.journal.opening import pin_of
from bandmaster.journal.places import journal_url
from bandmaster.pin import Pin


@click.command()
@CONFIG
@JOURNAL
@click.option("--why", default="by hand", show_default=True, help="Kept with the alarm that tells of it.")
def pin(file: Path, journal: str | None, why: str) -> None:
    """Have the baseline answer every request, from the next one on, in every worker.

    Lasts, over restarts too, until `bandmaster unpin`. The baseline is that of `guard:` in CONFIG.

    \b
    Examples:
      bandmaster pin bentofile.yaml --why "complaints about latency, #4711"
      bandmaster pin bentofile.yaml --journal /var/lib/bandmaster/orchestration.db
    """
    found, baseline = _pin(file, journal)
    found.set(why)
    click.echo(f"{found.path}: {baseline} answers alone; `bandmaster unpin {file}` ends that")


@click.command()
@CONFIG
@JOURNAL
def unpin(file: Path, journal: str | None) -> None:
    """Have the guard decide again who answers.

    \b
    Examples:
      bandmaster unpin bentofile.yaml
    """
    found, _ = _pin(file, journal)
    click.echo(f"{found.path}: {'the guard decides again' if found.clear() else 'was not there'}")


def _pin(file: Path, journal: str | None) -> tuple[Pin, str]:
    """The switch, and the baseline's plan."""
    read = config.load(file)
    if read.guarding is None:
        raise BandmasterError(
            f"{file}: {read.source.path}.guard is none, so that nothing says who answers instead of the policy; "
            "write guard: {mode: live, baseline: constant}"
        )
    found = pin_of(journal_url(read.journal, journal), file.parent)
    return found, read.guarding.baseline
