"""``dashboard`` and ``report``: a journal, looked at in a browser, or told on a page."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from pathlib import Path

import click
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from bandmaster import build, config
from bandmaster.cli.shown import counting
from bandmaster.config.values import quantity
from bandmaster.core import BandmasterError
from bandmaster.edits import Edits
from bandmaster.files import require_writable
from bandmaster.journal.checkup import is_owned
from bandmaster.journal.opening import open_reader
from bandmaster.journal.places import locate, url_of
from bandmaster.journal.reading import Reading
from bandmaster.learner import Learner
from bandmaster.serving.desk import guarded
from bandmaster.serving.door import Door, Scope
from bandmaster.visualizer.chronicle import Window, chronicle_file, read_courses, read_extent
from bandmaster.visualizer.dashboard import Views
from bandmaster.visualizer.keeper import PAGE, Keeper, about
from bandmaster.visualizer.served import Served, write_served
from bandmaster.visualizer.summary import summary


@click.command(name="dashboard")
@click.argument("journal")
@click.option("--config", "file", type=click.Path(path_type=Path),
              help="The configuration it was recorded under: needed where nothing has been added up yet.")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; elsewhere a token is needed.")
@click.option("--port", default=3080, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
def dashboard_command(journal: str, file: Path | None, host: str, port: int) -> None:
    """Look at a JOURNAL in a browser, a file or a postgresql:// URL, as a running service shows its own under
    /orchestration/.

    What a service has recorded it has added up, too; of a journal whose chronicle is gone, or that nobody kept, that is
    done first, with --config. Of one in PostgreSQL that lies beside replica.db here, or the file after # of the URL.
    Whoever is not on this machine needs BANDMASTER_DASHBOARD_TOKEN.

    \b
    Examples:
      bandmaster dashboard orchestration.db
      bandmaster dashboard copy.db --config bentofile.yaml --port 8080
      bandmaster dashboard postgresql://db.internal/bandmaster#/tmp/look.db --config bentofile.yaml
    """
    url, path = _named(journal)
    with open_reader(url, Path()) as reader:
        _require_chronicle(path, reader, file)
    door = Door(math.inf)
    views = Views(path, read=partial(open_reader, url, Path()))
    routes = views.routes(lambda answer: guarded(door, Scope.DASHBOARD, answer))
    app = Starlette(routes=[Mount("/orchestration", routes=routes)])
    server = uvicorn.Config(app, host=host, port=port, log_level="warning")
    bound = server.bind_socket()
    click.echo(f"http://{host}:{bound.getsockname()[1]}/orchestration/ shows {reader.name}; Ctrl-C ends it.")
    with suppress(KeyboardInterrupt):  # it is how one ends it
        uvicorn.Server(server).run(sockets=[bound])


@click.command(name="report")
@click.argument("journal")
@click.option("--config", "file", type=click.Path(path_type=Path),
              help="The configuration it was recorded under: needed where nothing has been added up yet.")  # fmt: skip
@click.option("--out", default=Path("report.html"), show_default=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--plots", type=click.Path(path_type=Path, file_okay=False),
              help="A folder for each plot by itself, as PNG and SVG.")  # fmt: skip
@click.option("--last", metavar="DURATION", help="Only so much before the newest request, as in `6 h`.")
def report_command(journal: str, file: Path | None, out: Path, plots: Path | None, last: str | None) -> None:
    """Tell what a JOURNAL holds, a file or a postgresql:// URL, on one HTML page that needs nothing else: the verdict,
    a table, plots.

    Of a replay, `bandmaster replay --report` writes such a page.

    \b
    Examples:
      bandmaster report orchestration.db
      bandmaster report orchestration.db --last "7 d" --out week.html --plots plots
    """
    require_writable(out)
    url, path = _named(journal)
    with open_reader(url, Path()) as reader:
        _require_chronicle(path, reader, file)
        extent = read_extent(path)
        if extent.start is None or extent.end is None:
            raise BandmasterError(f"{reader.name}: holds no request yet, so that there is nothing to report")
        start = extent.start if last is None else max(extent.start, extent.end - _seconds(last))
        events = reader.events(start)
    courses = read_courses(path, Window(start, extent.end))
    write_served(out, Served(courses, extent, events, Edits(path).history()), plots)
    for sentence in summary(courses):
        click.echo(sentence)
    click.echo(f"{out} has the rest.")


def _seconds(text: str) -> float:
    try:
        return quantity(text, "time")
    except BandmasterError as problem:
        raise BandmasterError(f"--last: {text!r} {problem}") from None


def _named(journal: str) -> tuple[str, Path]:
    """The URL of a journal that was named, and the file beside which all else of it lies here."""
    url = url_of(journal)
    return url, locate(url, Path())


def _require_chronicle(journal: Path, reader: Reading, file: Path | None) -> None:
    """Have everything added up that the journal holds, by a configuration; its service does that itself."""
    if file is not None and not is_owned(journal):
        _add_up(journal, reader, build.unlearned(config.load(file)))
    elif not chronicle_file(journal).is_file():
        raise BandmasterError(
            f"{chronicle_file(journal)}: is not there: nothing is added up yet; give --config bentofile.yaml"
        )


def _add_up(journal: Path, reader: Reading, learner: Learner) -> None:
    ((total,),) = reader.all("SELECT count(*) FROM decisions")
    keeper = Keeper(journal)
    keeper.chronicle.describe(about(learner))
    with counting("adding up", -(-total // PAGE) + 1) as told:
        while not keeper.catch_up(learner, reader):
            told(None)
    keeper.chronicle.flush()
    keeper.close()
