"""The soak's reckoning, and a short one."""

import numpy as np

from tests.faults.soak import Course, slopes, soaked


def course(growth: float) -> Course:
    rng, found = np.random.default_rng(0), Course()
    for k in range(120):
        at = k / 120
        found.look(at, {"worker (MB)": 300.0 * (1.0 + growth * at) + rng.normal(0.0, 3.0)})
    return found


def test_what_grows_by_a_tenth_an_hour_is_told_from_what_only_wavers():
    assert [slopes(course(growth))[0].flat for growth in (0.0, 0.03, 0.1)] == [True, True, False]


def test_a_short_one_runs_to_its_end(tmp_path, monkeypatch):
    """At a fifth of what it can take: beside other tests, it can soon take less than when it was tried."""
    monkeypatch.setattr("tests.faults.soak.SHARE", 0.2)
    monkeypatch.setattr("tests.faults.soak.TIMEOUT_S", 60)
    monkeypatch.setattr("tests.faults.soak.PROBING_S", 2.0)
    monkeypatch.setattr("tests.faults.soak.LOOKS_PER_MINUTE", 30)
    found, rate = soaked(0.2, tmp_path)
    assert not found.failures
    assert found.requests > 0.5 * rate * 12
    assert len(found.figures["worker (MB)"]) >= 4
    assert set(found.figures) == {"p99 (ms)", "worker (MB)", "worker (files)", "learner (MB)", "learner (files)"}
