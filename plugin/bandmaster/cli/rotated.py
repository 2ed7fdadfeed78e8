"""``rotate-key``: another key signs from now on."""

from __future__ import annotations

from pathlib import Path

import click

from bandmaster import config
from bandmaster.cli.shown import CONFIG, JOURNAL
from bandmaster.journal.keys import KEYS_KEPT, rotate
from bandmaster.journal.places import journal_url, locate


@click.command(name="rotate-key")
@CONFIG
@JOURNAL
@click.option("--drop", is_flag=True, help="Forget the keys before it at once: feedback that is under way is refused.")
def rotate_key(file: Path, journal: str | None, drop: bool) -> None:
    """Have another key sign decision ids and seal snapshots, within a second, without a restart.

    What the two keys before it have signed is taken still, so that no feedback is lost as long as three rotations take
    longer than the feedback window. Where BANDMASTER_KEY gives the key, change it there.

    \b
    Examples:
      bandmaster rotate-key bentofile.yaml
      bandmaster rotate-key bentofile.yaml --drop     # somebody else has seen the key
    """
    read = config.load(file)
    path = rotate(locate(journal_url(read.journal, journal), read.root).parent, drop=drop)
    before = "those before it are dropped" if drop else f"up to {KEYS_KEPT - 1} before it are kept"
    click.echo(f"{path}: a new key signs; {before}")
