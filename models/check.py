"""Check on recorded traffic that the ensemble is worth orchestrating: nobody is best in every phase.

Examples:
  python -m models.check build/models/traffic-0.parquet
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

VOTE = "vote"


def accuracies(log: pl.DataFrame) -> pl.DataFrame:
    """Accuracy in [0, 1] per phase: column `phase` in order of first appearance, one per member, and `vote`.

    `vote` is the uniform mean of all members' probabilities. `log` is as models.record returns it.
    """
    members = [column.removesuffix("__pred") for column in log.columns if column.endswith("__pred")]
    stacked = np.stack([np.array(log[f"{name}__proba"].to_list()) for name in members])  # (members, n, classes)
    vote = pl.Series(VOTE, stacked.mean(axis=0).argmax(axis=1))
    right = [(log[f"{name}__pred"] == log["label"]).alias(name) for name in members]
    right.append((vote == log["label"]).alias(VOTE))
    return pl.DataFrame([log["phase"], *right]).group_by("phase", maintain_order=True).mean()


def check(table: pl.DataFrame) -> None:
    """ValueError if one candidate, a member or the vote, is best (ties count) in every phase of `accuracies`."""
    candidates = table.drop("phase")
    best = candidates.max_horizontal()
    for name in candidates.columns:
        if (candidates[name] >= best).all():
            raise ValueError(f"{name} is best in every phase: this ensemble needs no orchestration")


def _as_rich(table: pl.DataFrame) -> Table:
    phases = table["phase"].to_list()
    shown = Table("", *phases, title="Accuracy per phase")
    candidates = table.drop("phase")
    best = candidates.max_horizontal()
    for name in candidates.columns:
        cells = [
            f"[bold]{accuracy:.3f}[/bold]" if accuracy >= top else f"{accuracy:.3f}"
            for accuracy, top in zip(candidates[name], best, strict=True)
        ]
        shown.add_row(name, *cells)
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m models.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", type=Path, help="parquet file written by python -m models.record")
    chosen = parser.parse_args(arguments)
    if not chosen.log.is_file():
        parser.error(f"{chosen.log} does not exist; write it with `python -m models.record --out {chosen.log}`")
    table = accuracies(pl.read_parquet(chosen.log))
    Console().print(_as_rich(table))
    check(table)
    print("Nobody is best in every phase.")


if __name__ == "__main__":
    main()
