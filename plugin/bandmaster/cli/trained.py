"""``train``: an RL agent that decides, window by window, who is in the ensemble."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bandmaster.changes import CHANGES
from bandmaster.cli.played import mix_flag, mix_of
from bandmaster.core import BandmasterError
from bandmaster.replay import Order, Traffic

if TYPE_CHECKING:
    from bandmaster.training import Progress as Step

EXTRA = ("gymnasium", "stable_baselines3", "torch", "tensorboard", "onnx", "onnxscript")
ALGORITHMS = ("ppo", "a2c", "dqn")


@click.command(name="train")
@click.argument("file", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--algo", type=click.Choice(ALGORITHMS), default="ppo", show_default=True, help="Who learns.")
@click.option("--log", type=click.Path(path_type=Path),
              help="Train on this recorded log.  [default: on what CONFIG simulates]")  # fmt: skip
@click.option("--order", type=click.Choice(["shuffled", "mixed"]), default="shuffled", show_default=True,
              help="With --log: all of it in another order each time, or some classes at a time.")  # fmt: skip
@click.option("--mix-classes", type=click.IntRange(min=1), help="With --order mixed: classes at a time.")
@click.option("--mix-every", type=click.IntRange(min=1), help="With --order mixed: requests until others are drawn.")
@click.option("--requests", type=click.IntRange(min=1), help="With --order mixed: requests an episode.")
@click.option("--held-out", default=0.2, show_default=True,
              type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
              help="With --log: share of its requests that the agent is judged by, and never trained on.")  # fmt: skip
@click.option("--changes", type=click.Choice(list(CHANGES)), default="steps", show_default=True,
              help="What it may do in a window: one step, or pick or weigh all members anew.")  # fmt: skip
@click.option("--window", default=100, show_default=True, type=click.IntRange(min=1), help="Requests a window.")
@click.option(
    "--steps", default=500_000, show_default=True, type=click.IntRange(min=1), help="Windows in all, at most."
)
@click.option("--envs", default=8, show_default=True, type=click.IntRange(min=1), help="Environments side by side.")
@click.option("--every", default=20_000, show_default=True, type=click.IntRange(min=1),
              help="Windows from one look at how it does to the next.")  # fmt: skip
@click.option("--patience", default=8, show_default=True, type=click.IntRange(min=1),
              help="Stop after so many looks at which it was worse than its best.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of all that is random.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE",
              help="A setting of the algorithm, as Stable-Baselines3 names it; may be given again.")  # fmt: skip
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False),
              help="Of the run: checkpoints, TensorBoard's logs, agent.onnx.  [default: build/train/ALGO]")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on from the folder's last checkpoint.")
def train_command(
    file: Path, algo: str, log: Path | None, order: Order, mix_classes: int | None, mix_every: int | None,
    requests: int | None, held_out: float, folder: Path | None, resume: bool, settings: Sequence[str], **how: Any,
) -> None:  # fmt: skip
    """Train an agent that decides, for each window of requests, who is in the ensemble, or what each member counts for.

    CONFIG has `orchestration:`, and `simulation:` or a recorded --log beside it. The agent that earned most on what was
    held out is exported to agent.onnx, which needs no torch: replay it, or name it under policy: agent:.

    \b
    Examples:
      bandmaster train configs/simulated.yaml --algo ppo
      bandmaster train configs/simulated.yaml --changes picks --steps 200000 --set learning_rate=0.001
      bandmaster train bentofile.yaml --log traffic.parquet --order mixed --mix-classes 2 --mix-every 1000
      bandmaster train configs/simulated.yaml --resume; tensorboard --logdir build/train
      bandmaster simulate configs/simulated.yaml --policies constant,bandit,agent:build/train/ppo/agent.onnx
    """
    chosen, traffic = dict(map(_setting, settings)), _traffic(log, order, mix_classes, mix_every, requests)
    environment, training = _extra()
    wanted = training.Training(
        algorithm=algo, window=how["window"], changes=how["changes"], steps=how["steps"], environments=how["envs"],
        every=how["every"], patience=how["patience"], seed=how["seed"], settings=chosen,
    )  # fmt: skip
    taught, judged = environment.source_of(file, log, traffic).split(held_out)
    folder = folder or Path("build/train") / algo
    with _progress(algo, wanted.steps) as told:
        agent = training.train(taught, judged, wanted, folder, told, resume)
    name, reward = training.best_constant(judged, wanted)
    click.echo(f"the best constant ensemble, {name}, earns {reward:.4f} a request on what was held out")
    click.echo(f"{agent}: replay it as agent:{agent}, or name it under policy: agent:")


def _extra() -> tuple[ModuleType, ModuleType]:
    try:
        from bandmaster import environment, training  # here: it imports torch
    except ModuleNotFoundError as problem:
        if (problem.name or "").partition(".")[0] not in EXTRA:
            raise
        raise BandmasterError(f"train needs {problem.name}: pip install 'bandmaster[rl]'") from None
    return environment, training


def _setting(text: str) -> tuple[str, Any]:
    name, mark, value = text.partition("=")
    if not mark or not name.isidentifier():
        raise BandmasterError(f"--set {text}: is no setting; write a name and a value, as in learning_rate=0.001")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        raise BandmasterError(f"--set {text}: {value!r} is no value; write a number or a text") from None


def _traffic(
    log: Path | None, order: Order, classes: int | None, every: int | None, requests: int | None
) -> Traffic | None:
    flag = mix_flag(classes, every, requests)
    if log is None and (flag or order == "mixed"):
        raise BandmasterError(f"{flag or '--order'}: goes with --log; what is simulated has phases of its own")
    return Traffic(order, mix=mix_of(order, classes, every, requests, 10 * (every or 0)))


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[Step], None]]:
    """A bar on a terminal; elsewhere a line for every look at the agent. Both go to stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:

        def line(step: Step) -> None:
            if step.looked:
                click.echo(f"{name}: {step.steps}/{step.of} windows, {_earned(step)}", err=True)

        yield line
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn(), TextColumn("{task.fields[earned]}", markup=False))  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=total, earned="")
        yield lambda step: bar.update(task, completed=step.steps, earned=_earned(step))


def _earned(step: Step) -> str:
    if math.isnan(step.reward):
        return ""
    return f"earns {step.reward:.4f} a request on what was held out, {step.best:.4f} at best"
