"""``convert``: logs of decisions to and from DSJSON."""

from __future__ import annotations

from pathlib import Path

import click

from bandmaster.cli.shown import ACTION, PROPENSITY, REWARD, listed
from bandmaster.core import BandmasterError
from bandmaster.files import require_writable, write
from bandmaster.offpolicy.dsjson import read_dsjson, write_dsjson
from bandmaster.offpolicy.log import Columns, read

_DSJSON = ".dsjson"


@click.command(name="convert")
@click.argument("log", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@ACTION
@PROPENSITY
@REWARD
@click.option("--features", metavar="A,B,…", help="What goes along.  [default: x0 … xn, ctx_*]")
def convert_command(log: Path, out: Path, action: str, propensity: str, reward: str, features: str | None) -> None:
    """Turn a log of decisions into DSJSON, which Vowpal Wabbit's own driver reads, or back into a table.

    One of LOG and OUT ends in .dsjson. Costs are −reward there; what all actions share is in namespace s, an action's
    own name in namespace a.

    \b
    Examples:
      bandmaster convert decisions.parquet decisions.dsjson
      vw --dsjson -d decisions.dsjson --cb_explore_adf --epsilon 0.05 -q sa
      bandmaster convert logged.dsjson decisions.parquet
    """
    if (log.suffix == _DSJSON) == (out.suffix == _DSJSON):
        raise BandmasterError(f"{log} to {out}: one of them must end in {_DSJSON}, and only one")
    require_writable(out)
    if log.suffix == _DSJSON:
        written = _tabled(log, out)
    else:
        named = None if features is None else listed(features)
        written = write_dsjson(read(log, Columns(action, propensity, reward)), out, named)
    click.echo(f"{out}: {written} decisions")


def _tabled(log: Path, out: Path) -> int:
    if out.suffix not in (".parquet", ".csv"):
        raise BandmasterError(f"{out}: a table ends in .parquet or .csv")
    frame = read_dsjson(log)
    write(out, frame.write_parquet if out.suffix == ".parquet" else frame.write_csv)
    return len(frame)
