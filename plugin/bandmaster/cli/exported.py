"""``export``: the journal as a table."""

from __future__ import annotations

from pathlib import Path

import click

from bandmaster import build, config
from bandmaster.cli.shown import JOURNAL
from bandmaster.export import export
from bandmaster.files import require_writable
from bandmaster.journal.opening import open_reader
from bandmaster.journal.places import journal_url


def _tell(read: int) -> None:
    click.echo(f"{read} decisions read", err=True)


@click.command(name="export")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--config", "file", required=True, type=click.Path(path_type=Path),
              help="The configuration whose contract rewards are by.")  # fmt: skip
@JOURNAL
@click.option("--complete", is_flag=True, help="Only requests that every member answered, as `replay` wants them.")
def export_command(out: Path, file: Path, journal: str | None, complete: bool) -> None:
    """Write the journal's settled decisions to OUT, a parquet file.

    One row a request, with what every member that ran said, the label, and the plan (`action`) with its `propensity`
    and `reward`. Rewards are computed anew from what was recorded, by the config's contract: change a weight or a range
    and export again, and history is scored anew, without running a model. Requests that every member failed at are left
    out. The service may go on meanwhile.

    \b
    Examples:
      bandmaster export decisions.parquet --config bentofile.yaml
      bandmaster evaluate decisions.parquet --target uniform
      bandmaster export traffic.parquet --config bentofile.yaml --complete
      bandmaster export rescored.parquet --config other-weights.yaml --journal orchestration.db
    """
    read = config.load(file)
    require_writable(out)
    learner = build.unlearned(read)
    with open_reader(journal_url(read.journal, journal), file.parent) as reader:
        found = export(reader.joined(), learner, out, complete=complete, told=_tell)
    click.echo(f"{out}: {found} decisions")
