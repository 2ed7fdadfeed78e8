"""What a fleet costs, in small: a real PostgreSQL, real replicas, a second of load."""

from __future__ import annotations

import math

import pytest

from benchmarks.scenario import FleetSaturation
from benchmarks.serving import fleet

pytestmark = pytest.mark.extras


def test_every_price_is_measured_and_the_arithmetic_follows_from_them() -> None:
    scenario = FleetSaturation(
        id="f", why="x", replicas=(1, 2), decisions=120, load_per_s=60, turn_s=2.0, fleet=10, per_s=1000
    )
    found = {name: value or 0.0 for name, value in fleet.measure(scenario, lambda line: None).items()}
    assert found["table_bytes"] > 500.0
    for many in scenario.replicas:
        assert found[f"written_per_s_{many}"] > 0.0
        assert found[f"write_wal_bytes_{many}"] > 500.0
        assert found[f"connections_{many}"] >= 2.0
        assert 0.0 < found[f"age_p50_s_{many}"] <= found[f"age_p99_s_{many}"]
        assert found[f"load_failed_{many}"] == 0.0
    assert found["learn_snapshots_per_s"] > 0.0
    assert math.isclose(found["fleet_learner_cores"], (found["notice_us"] + found["learn_us"]) * 10_000 / 1e6)
    assert math.isclose(found["fleet_learned_per_s"] * found["fleet_learner_cores"], 10_000)
