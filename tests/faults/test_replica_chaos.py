"""Two replicas outlive one of them, the learner, the database and the network between, and lose nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.replica_chaos import chaos


@pytest.mark.extras
def test_whatever_dies_nothing_acknowledged_is_lost_and_learning_goes_on(tmp_path: Path) -> None:
    found = chaos(tmp_path, requests=40, after=60)
    assert found.amiss == []
    assert len(found.acknowledged) > 200
    assert set(found.resumed_s) == {"a replica", "the learner", "the database", "the network"}
    assert sum(map(len, found.asked)) == len(found.acknowledged)
    assert len(found.rewards) == len(found.alone) == 60
