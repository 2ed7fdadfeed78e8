"""A member's model is replaced again and again under load; tests/end_to_end/test_new_models.py has it a few times."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.replaced_models import replaced


@pytest.mark.extras
def test_models_come_into_force_or_change_nothing_and_no_request_fails(tmp_path: Path) -> None:
    found = replaced(tmp_path / "iris", swaps=11)
    assert found.failed == []
    assert found.asked > 1000
    assert (len(found.live_s), found.refused) == (9, 2)
