"""Record what every member answers to a stream of traffic, as a log that `bandmaster replay` reads.

Examples:
  python -m models.record
  python -m models.record --requests 6000 --seed 0 --out build/models/traffic-0.parquet
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from models import store
from models.digits import FloatArray, traffic
from models.members import MEMBERS

REQUESTS_PER_SECOND = 10


def record(requests: int, seed: int, store_home: Path | None = None) -> pl.DataFrame:
    """One row per request: label, ts (s, from 0), phase, x0 … x63, and <member>__pred, __conf, __proba of all members.

    `store_home` is a BentoML home (None: $BENTOML_HOME or ~/bentoml). Raises ValueError unless `requests` is
    positive, FileNotFoundError if a member has not been trained.
    """
    stream = traffic(requests, seed)
    log = pl.DataFrame(
        {
            "label": stream.labels,
            "ts": np.arange(requests) / REQUESTS_PER_SECOND,
            "phase": [stream.phase_names[phase] for phase in stream.phase],
        }
    )
    pixels = [pl.Series(f"x{i}", column) for i, column in enumerate(stream.rows.astype(np.float64).T)]
    return log.with_columns(pixels + [column for name in MEMBERS for column in _answers(name, stream.rows, store_home)])


def _answers(name: str, rows: FloatArray, store_home: Path | None) -> list[pl.Series]:
    outputs = store.session(store.load(name, store_home)).run(["label", "probabilities"], {"input": rows})
    labels, probabilities = outputs[0], outputs[1].astype(np.float64)
    # Rounding in float32 can lift a probability just above 1, which the log format forbids.
    probabilities = np.clip(probabilities, 0, 1)
    return [
        pl.Series(f"{name}__pred", labels.astype(np.int64)),
        pl.Series(f"{name}__conf", probabilities.max(axis=1)),
        pl.Series(f"{name}__proba", probabilities.tolist(), dtype=pl.List(pl.Float64)),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m models.record", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=6000, help="length of the log (default 6000)")
    parser.add_argument("--seed", type=int, default=0, help="decides which images arrive (default 0)")
    parser.add_argument("--store", type=Path, help="BentoML home (default $BENTOML_HOME or ~/bentoml)")
    parser.add_argument("--out", type=Path, help="parquet file (default build/models/traffic-<seed>.parquet)")
    chosen = parser.parse_args(arguments)
    out = chosen.out or Path(f"build/models/traffic-{chosen.seed}.parquet")
    try:
        log = record(chosen.requests, chosen.seed, chosen.store)
    except (ValueError, FileNotFoundError) as problem:
        parser.error(str(problem))
    out.parent.mkdir(parents=True, exist_ok=True)
    log.write_parquet(out)
    print(f"{len(log)} requests, {len(MEMBERS)} members: {out}")


if __name__ == "__main__":
    main()
