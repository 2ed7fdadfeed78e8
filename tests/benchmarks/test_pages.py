"""What is measured of the dashboard, in small: a real browser, a real service."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import page_cost, page_speed
from benchmarks.scenario import PageCost, PageSpeed
from benchmarks.sources import Place

pytestmark = pytest.mark.extras


def test_a_journal_is_made_once_and_looked_at(tmp_path: Path) -> None:
    place, told = Place(None, tmp_path), list[str]()
    scenario = PageSpeed(id="s", why="x", decisions=1000, days=1.0)
    found = page_speed.measure(scenario, place, told.append)
    assert found["decisions"] == 1000
    assert 0.0 < (found["first_median_s"] or 0.0) <= (found["first_s"] or 0.0)
    assert 0.0 < (found["window_median_s"] or 0.0) <= (found["window_s"] or 0.0)
    made = [line for line in told if "recorded" in line]
    page_speed.measure(scenario, place, told.append)
    assert [line for line in told if "recorded" in line] == made


def test_what_lookers_cost_is_measured_with_people_and_with_tabs(tmp_path: Path) -> None:
    scenario = PageCost(id="s", why="x", tabs=2, callers=2, turns=2, turn_s=1.0)
    found = page_cost.measure(scenario, Place(None, tmp_path), lambda line: None)
    for name in ("lost", "lost_with_browser"):
        assert found[f"{name}_low"] <= found[name] <= min(found[f"{name}_high"], 1.0)  # type: ignore[operator,type-var]
        assert (found[f"{name}_per_s"] or 0.0) > 0.0
