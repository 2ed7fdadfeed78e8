"""The command line. The only room that prints.

Exit codes: 0 all is well, 1 a check or comparison failed, 2 bad input.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from bandmaster import __version__
from bandmaster.cli.configured import check, plans, profile_command, schema_command
from bandmaster.cli.converted import convert_command
from bandmaster.cli.demonstrated import demo_command
from bandmaster.cli.doctored import doctor
from bandmaster.cli.edited import config_group
from bandmaster.cli.evaluated import evaluate_command
from bandmaster.cli.exported import export_command
from bandmaster.cli.gated import gate_command
from bandmaster.cli.initiated import init_command
from bandmaster.cli.pinned import pin, unpin
from bandmaster.cli.replayed import replay_command
from bandmaster.cli.rotated import rotate_key
from bandmaster.cli.simulated import fit_command, simulate_command
from bandmaster.cli.swept import sweep_command
from bandmaster.cli.trained import train_command
from bandmaster.cli.watched import dashboard_command, report_command
from bandmaster.core import BandmasterError


class _Commands(click.Group):
    """Turns what a user can cause into a message and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BandmasterError as problem:
            click.echo(f"Error: {problem}", err=True)
            sys.exit(2)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="bandmaster")
def main() -> None:
    """Bandmaster: a band of ONNX models, led by a bandit.

    Exit codes: 0 all is well, 1 a check or comparison failed, 2 bad input.

    \b
    Examples:
      bandmaster init bentofile.yaml linear.onnx forest.onnx
      bandmaster check bentofile.yaml
      bandmaster doctor bentofile.yaml
      bandmaster dashboard orchestration.db
      bandmaster report orchestration.db --out report.html
      bandmaster rotate-key bentofile.yaml
      bandmaster config log bentofile.yaml
      bandmaster plans bentofile.yaml
      bandmaster schema > orchestration.schema.json
      bandmaster replay traffic.parquet --config bentofile.yaml
      bandmaster simulate configs/simulated.yaml
      bandmaster train configs/simulated.yaml --algo ppo
      bandmaster sweep traffic.parquet --config bentofile.yaml --report frontier.html
      bandmaster gate traffic.parquet --config new.yaml --against constant
      bandmaster evaluate decisions.parquet --target uniform
    """


for _command in (
    init_command,
    check,
    plans,
    schema_command,
    profile_command,
    replay_command,
    simulate_command,
    fit_command,
    train_command,
    sweep_command,
    gate_command,
    evaluate_command,
    convert_command,
    export_command,
    doctor,
    dashboard_command,
    report_command,
    pin,
    unpin,
    rotate_key,
    config_group,
    demo_command,
):
    main.add_command(_command)
