"""A service is edited while it runs, rightly, wrongly and by hand, and nobody who asks notices."""

from __future__ import annotations

from pathlib import Path

from tests.faults.live_edits import edited


def test_edits_come_into_force_or_change_nothing_and_no_request_fails(tmp_path: Path) -> None:
    found = edited(tmp_path, edits=30)
    assert found.failed == []
    assert found.amiss == []
    assert found.asked > 100
    assert found.live_s
    assert found.refused > 5
