"""A few bouts of the member chaos that ``tests/faults/member_chaos.py`` plays at length."""

from pathlib import Path

import pytest

from tests.faults.member_chaos import GUARDED, chaos


def test_while_some_member_lives_every_request_is_answered_whatever_the_others_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.faults.member_chaos.BOUT", 250)
    seen = chaos(1_000, tmp_path, GUARDED, seed=1, patience=20.0)  # on a busy machine nobody is late
    assert set(+seen.statuses) == {200}
    assert seen.statuses[200] == 1_000
    assert seen.killed >= 1
    assert 0.0 < seen.reward <= 1.0
