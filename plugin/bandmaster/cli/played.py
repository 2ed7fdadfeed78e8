"""What commands that play policies on recorded traffic are asked: which logs and traffic, how often and where."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import click

from bandmaster import build, config, hosting
from bandmaster.cli.shown import listed
from bandmaster.config import Config
from bandmaster.core import BandmasterError
from bandmaster.files import require_writable
from bandmaster.replay import Bench, Mix, Order, Spread, Step, Traffic, processes, ray_cluster, replay
from bandmaster.results import Results
from bandmaster.visualizer.page import require_drawing


@dataclass(frozen=True, slots=True)
class Asked:
    """The options that ``plays`` adds to a command, as they were given."""

    logs: tuple[Path, ...]
    file: Path
    policies: str
    seeds: int
    order: Order
    mix_classes: int | None
    mix_every: int | None
    requests: int | None
    delay: int | None
    label_share: float
    last: float
    cache: Path | None
    jobs: int | None
    backend: str
    address: str | None
    resume: Path | None

    def bench(self) -> tuple[Config, Bench]:
        """The configuration, and what its policies are compared on."""
        read, bench = read_bench(self.file, self.logs, self.cache)
        mix = mix_of(self.order, self.mix_classes, self.mix_every, self.requests, len(bench.logs[0]))
        traffic = Traffic(self.order, self.delay, self.label_share, mix)
        return read, replace(bench, traffic=traffic)

    def play(self, bench: Bench, progress: Callable[[Step], None], trace: Path | None = None) -> Results:
        (results,) = replay(
            bench, listed(self.policies), self.seeds,
            lasts=(self.last,), spread=self._spread(), progress=progress, trace=trace, resume=self.resume,
        )  # fmt: skip
        return results

    def _spread(self) -> Spread[Any]:
        if self.backend == "ray":
            if self.jobs is not None:
                raise BandmasterError("--jobs: a Ray cluster has as many runs at once as it has cores; leave it out")
            return ray_cluster(self.address)
        if self.address is not None:
            raise BandmasterError("--address: goes with --backend ray; leave it out, or add that")
        return processes(self.jobs)


def mix_flag(classes: int | None, every: int | None, requests: int | None) -> str | None:
    """The first option about a mix that was given."""
    given = {"--mix-classes": classes, "--mix-every": every, "--requests": requests}
    return next((name for name, value in given.items() if value is not None), None)


def mix_of(order: Order, classes: int | None, every: int | None, requests: int | None, otherwise: int) -> Mix | None:
    """The mix that options ask for, of ``otherwise`` requests where none say how many; ``None`` where the order is
    another. Raises ``BandmasterError`` where they do not go together.
    """
    if order != "mixed":
        if (flag := mix_flag(classes, every, requests)) is not None:
            raise BandmasterError(f"{flag}: goes with --order mixed; leave it out, or add that")
        return None
    if classes is None or every is None:
        raise BandmasterError("--order mixed: needs --mix-classes and --mix-every, as in 5 and 2500")
    return Mix(classes, every, requests or otherwise)


def read_bench(file: Path, logs: Sequence[Path], cache: Path | None = None) -> tuple[Config, Bench]:
    """The configuration, and what its policies are compared on, as logged; says on stderr what is not used of that."""
    read = config.load(file)
    hosting.require_functions(read)
    recorded = build.recorded_logs(read, logs, cache, lambda line: click.echo(line, err=True))
    for path, log in zip(logs, recorded, strict=True):
        build.require_known_terms(read.contract, log)
        if log.unused:
            click.echo(f"{path}: columns not used: {', '.join(log.unused)}", err=True)
    return read, build.bench(read, recorded)


_OPTIONS = (
    click.argument("logs", metavar="LOG...", nargs=-1, required=True, type=click.Path(path_type=Path)),
    click.option("--config", "file", required=True, type=click.Path(path_type=Path), help="The configuration to play."),
    click.option("--policies", default=",".join(build.POLICIES), show_default=True,
                 help="Comma-separated; docs/replay.md lists all. constant:PLAN plays that plan."),
    click.option("--seeds", default=10, show_default=True, type=click.IntRange(1, 10_000), help="Runs of each policy."),
    click.option("--order", type=click.Choice(["kept", "shuffled", "mixed"]), default="kept", show_default=True,
                 help="The log's own order, another one for every seed, or some classes at a time."),
    click.option("--mix-classes", type=click.IntRange(min=1), help="With --order mixed: classes at a time."),
    click.option("--mix-every", type=click.IntRange(min=1),
                 help="With --order mixed: requests until others are drawn."),
    click.option("--requests", type=click.IntRange(min=1),
                 help="With --order mixed: requests in all.  [default: as many as the log has]"),
    click.option("--delay", type=click.IntRange(min=0), help="Requests until a label arrives.  [default: the log's]"),
    click.option("--label-share", default=1.0, show_default=True, type=click.FloatRange(0.0, 1.0),
                 help="Share of the labels that ever arrive."),
    click.option("--last", default=1.0, show_default=True, type=click.FloatRange(0.0, 1.0, min_open=True),
                 help="Take figures over this last share of each run alone; the rest is learned from."),
    click.option("--cache", type=click.Path(path_type=Path, file_okay=False),
                 help="Keeps answers to streams and raw inputs.  [default: in ~/.cache/bandmaster]"),
    click.option("--jobs", type=click.IntRange(min=1), help="Runs at once.  [default: as many as there are cores]"),
    click.option("--backend", type=click.Choice(["processes", "ray"]), default="processes", show_default=True,
                 help="Play here, or on a Ray cluster."),
    click.option("--address", help="With --backend ray: of a cluster that runs.  [default: one for this alone]"),
    click.option("--resume", type=click.Path(path_type=Path, file_okay=False),
                 help="Keep every finished run in this folder, and go on from those that are there."),
)  # fmt: skip


def plays(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these arguments and options, gathered in an ``Asked`` that it takes first."""

    @functools.wraps(command)
    def gathered(**given: Any) -> None:
        asked = Asked(**{field.name: given.pop(field.name) for field in fields(Asked)})
        command(asked, **given)

    for option in reversed(_OPTIONS):
        option(gathered)
    return gathered


def require_outputs(out: Path | None, report: Path | None) -> None:
    """Find out before the work whether its results could be written and drawn."""
    if report is not None:
        require_drawing("a report")
    for wanted in (out, report):
        if wanted is not None:
            require_writable(wanted)
