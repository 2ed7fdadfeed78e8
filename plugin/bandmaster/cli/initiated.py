"""``init``: the block for models that are there, in the shadow."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import yaml

from bandmaster import build, config, files, hosting
from bandmaster.config import Config, Source
from bandmaster.core import BandmasterError, Ensemble
from bandmaster.meter import WATTS_PER_CORE
from bandmaster.plans import parse_plan
from bandmaster.yaml_writer import with_values

READY = "bandmaster.auto:svc"
ROOM = 4.0
"""How many times beyond what members took at start the ranges of latency and energy reach."""


@click.command(name="init")
@click.argument("file", metavar="CONFIG", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("models", nargs=-1, required=True)
@click.option("--service", help="module:Class of your service.  [default: CONFIG's service:]")
@click.option("--method", default="predict", show_default=True, help="The API method to orchestrate.")
@click.option("--baseline", default="all", show_default=True, metavar="PLAN", help="What answers meanwhile.")
def init_command(file: Path, models: tuple[str, ...], service: str | None, method: str, baseline: str) -> None:
    """Write a block that orchestrates MODELS, in the shadow.

    The baseline answers every request, as before; the policy learns, and what it would have gained is shown. CONFIG is
    a bentofile, which is kept as it is but for the block and `service:`, or is made. MODELS are .onnx files in its
    folder, or name:version of BentoML's model store. They are loaded, and the ranges of latency and energy are set
    around what a row takes.

    \b
    Examples:
      bandmaster init bentofile.yaml linear.onnx forest.onnx
      bandmaster init bentofile.yaml digits-linear:latest digits-forest:latest --service service:Digits
      bandmaster init bentofile.yaml old.onnx new.onnx --baseline old
    """
    before = _read(file)
    named = yaml.safe_load(before) or {}
    service = service or (named.get("service") if named.get("service") != READY else None)
    if service is None:
        raise BandmasterError(f"{file}: names no service; give yours, as in --service service:Digits")
    members = _members(models, file)
    try:
        parse_plan(baseline, Ensemble(tuple(members), (0, 1)))
    except BandmasterError as problem:
        raise BandmasterError(f"--baseline: {problem}") from None
    slowest = _measured(file, service, method, members)
    text = _joined(file, before, _block(service, method, members, baseline, *slowest))
    files.write_text(file, text)
    read = config.load(file)
    plans = build.catalogue(read, hosting.ensemble_of(read, read.classes or ()))
    click.echo(
        f"{file}: {len(members)} members, {len(plans)} plans; {baseline} answers, and the policy is in the shadow."
    )
    click.echo(
        "Next: `bentoml serve . --host 127.0.0.1`, send labels to /feedback, and look at `guard` in "
        "/orchestration/state;\nonce it says `enough`, write guard: {mode: canary, …}, then live."
    )


def _read(file: Path) -> str:
    """The bentofile's text; empty where there is none yet. Raises ``BandmasterError`` where the block has no place."""
    if not file.exists():
        return ""
    try:
        text = file.read_text(encoding="utf-8")
        found = yaml.safe_load(text) or {}
    except (OSError, ValueError, yaml.YAMLError) as problem:
        raise BandmasterError(f"{file}: cannot be read as YAML ({problem})") from None
    if not isinstance(found, dict):
        raise BandmasterError(f"{file}: is no mapping, and so no bentofile")
    if "args" in found:
        raise BandmasterError(
            f"{file}: has args: already, which init does not touch; move the file away, let init make one, and copy "
            "its args: orchestration: over"
        )
    return text


def _members(models: Sequence[str], file: Path) -> dict[str, str]:
    """What is written of each member, by name."""
    found: dict[str, str] = {}
    for model in models:
        onnx = model.endswith(".onnx")
        name = re.sub(r"[^A-Za-z0-9_-]", "-", Path(model).stem if onnx else model.partition(":")[0])
        name = name if name[:1].isalpha() and name != "all" else f"m-{name}"
        if name in found:
            raise BandmasterError(f"{model}: there is a member {name!r} already; give models different names")
        if onnx:
            inside = Path(model).resolve()
            if not inside.is_relative_to(file.resolve().parent):
                raise BandmasterError(
                    f"{model}: lies outside {file.resolve().parent}, where {file.name} is; put it there"
                )
            found[name] = f'{{onnx: "{inside.relative_to(file.resolve().parent)}"}}'
        else:
            found[name] = f'{{bento_model: "{model}"}}'
    return found


def _measured(file: Path, service: str, method: str, members: Mapping[str, str]) -> tuple[float, float]:
    """What one row took the fastest member at start, and all together (s). Raises ``ConfigError``."""
    block = yaml.safe_load(_block(service, method, members, "all", 1e-6, 1.0))["args"]["orchestration"]
    read: Config = config.parse(block, Source(str(file), root=file.resolve().parent))
    taken = [member.latency_s for member in hosting.host(read).members.values()]
    return min(taken), math.fsum(taken)


def _block(
    service: str, method: str, members: Mapping[str, str], baseline: str, fastest_s: float, together_s: float
) -> str:
    low, high = fastest_s / ROOM, together_s * ROOM
    latency = f"[{_figure(low, 's')}, {_figure(high, 's')}]"
    energy = f"[{_figure(low * WATTS_PER_CORE, 'J')}, {_figure(high * WATTS_PER_CORE, 'J')}]"
    width = max(map(len, members))
    lines = [
        "args:",
        "  orchestration:",
        f'    service: "{service}"',
        *([f"    method: {method}"] if method != "predict" else []),
        "    contract:  # Reward = Σ αᵢ·f(metricᵢ): what a right answer is worth, against time and energy",
        "      accuracy: {weight: 0.7}",
        f"      latency:  {{weight: 0.15, goal: min, range: {latency}, scale: log}}",
        f"      energy:   {{weight: 0.15, goal: min, range: {energy}, scale: log}}",
        "    members:",
        *(f"      {name}:{' ' * (width - len(name))} {what}" for name, what in members.items()),
        "    guard: {mode: shadow, baseline: " + baseline + "}  # it answers; then mode: canary, and live",
    ]
    return "\n".join(lines) + "\n"


def _figure(value: float, unit: str) -> str:
    """With one digit, as the configuration reads it: ``4 ms``."""
    size, prefix = next(((s, p) for s, p in ((1.0, ""), (1e-3, "m"), (1e-6, "u")) if value >= s), (1e-9, "n"))
    return f"{float(f'{value / size:.1g}'):g} {prefix}{unit}"


def _joined(file: Path, before: str, block: str) -> str:
    """The bentofile with the block at its end, and our service in the place of the one that is orchestrated."""
    if not before.strip():
        return f'service: "{READY}"\n{block}'
    try:
        text = with_values(before, {("service",): f'"{READY}"'})
    except BandmasterError as problem:
        raise BandmasterError(f"{file}: {problem}") from None
    return f"{text.rstrip()}\n{block}"
