"""The command line that the scripts of this folder share."""

from __future__ import annotations

import argparse


def parser(document: str | None, counted: str, default: int) -> argparse.ArgumentParser:
    """``--counted N`` and ``--seed N``; the help is the script's own document."""
    made = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(f"--{counted}", type=int, default=default)
    made.add_argument("--seed", type=int, default=0)
    return made
