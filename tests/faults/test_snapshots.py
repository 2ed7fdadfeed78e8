"""No snapshot is loaded but an honest one, and no other stops a worker or a learner."""

import asyncio
from pathlib import Path

from tests.faults.forged_snapshots import KINDS, attack


def test_of_altered_and_forged_snapshots_none_is_loaded_and_the_worker_goes_on_answering(tmp_path: Path) -> None:
    found = asyncio.run(attack(600, tmp_path, seed=2))
    assert {kind: found[kind] for kind in KINDS} == dict.fromkeys(KINDS, 60)
    assert (found["loaded"], found["changed"], found["unanswered"]) == (0, 0, 0)
