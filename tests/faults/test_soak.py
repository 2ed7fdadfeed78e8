"""The soak's reckoning, and a short one."""

import numpy as np
import pytest

from tests.faults.soak import TOOK, Course, grows, ratios, slopes, slower, soaked


def course(growth: float) -> Course:
    rng, found = np.random.default_rng(0), Course()
    for k in range(120):
        at = k / 120
        found.look(at, {"worker (MB)": 300.0 * (1.0 + growth * at) + rng.normal(0.0, 3.0)})
    return found


def turns(level: float, seed: int) -> Course:
    """On a machine whose speed changes by a fifth from turn to turn, for both alike, and by a tenth beside."""
    weather, own, found = np.random.default_rng(7), np.random.default_rng(seed), Course()
    for k in range(12):
        speed = float(np.exp(0.2 * weather.normal()))
        found.look(k, {name: level * speed * float(np.exp(0.1 * own.normal())) for name in TOOK})
    return found


def test_what_grows_by_a_tenth_an_hour_is_told_from_what_only_wavers():
    assert [grows(slopes(course(growth))[0]) for growth in (0.0, 0.03, 0.1)] == [False, False, True]


def test_a_service_that_has_become_slower_is_told_from_one_on_a_machine_that_wavers():
    """Four figures of 50 seeds each: of those as fast as when new at most 1 in 50 may be called slower."""
    found = {
        slowed: [slower(r) for seed in range(50) for r in ratios(turns(slowed, seed), turns(1.0, seed + 50))]
        for slowed in (1.0, 1.3)
    }
    assert np.mean(found[1.0]) <= 0.02
    assert np.mean(found[1.3]) >= 0.9


@pytest.mark.extras
def test_a_short_one_runs_to_its_end(tmp_path, monkeypatch):
    """At a fifth of what it can take: beside other tests, it can soon take less than when it was tried."""
    monkeypatch.setattr("tests.faults.soak.SHARE", 0.2)
    monkeypatch.setattr("tests.faults.soak.TIMEOUT_S", 60)
    monkeypatch.setattr("tests.faults.soak.PROBING_S", 2.0)
    monkeypatch.setattr("tests.faults.soak.LOOKS_PER_MINUTE", 30)
    monkeypatch.setattr("tests.faults.soak.WARM_S", 1.0)
    monkeypatch.setattr("tests.faults.soak.TURN_S", 1.0)
    found = soaked(0.2, tmp_path, turns=2)
    assert not found.failures
    assert found.hour.requests > 0.5 * found.rate * 12
    assert len(found.hour.figures["worker (MB)"]) >= 4
    kept = {"worker (MB)", "worker (files)", "learner (MB)", "learner (files)"}
    assert set(found.hour.figures) == kept | set(TOOK)
    assert [ratio.name for ratio in ratios(found.aged, found.new)] == list(TOOK)
