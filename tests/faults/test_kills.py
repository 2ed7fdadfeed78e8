"""A few of the kills that ``tests/faults/kills.py`` does at length."""

from dataclasses import asdict
from pathlib import Path

from tests.faults.kills import killed


def test_what_was_acknowledged_survives_kill_9_of_worker_and_learner_and_counts_once(tmp_path: Path) -> None:
    found = killed(3, tmp_path, seed=3)
    assert found.decisions > 20
    assert found.outcomes > 20
    assert list(asdict(found).values())[4:] == [0] * 5, found
