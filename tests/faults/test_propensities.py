"""What is recorded of a decision and its snapshot give its probabilities again, bit for bit."""

import pytest

from bandmaster.guard import Guarding
from tests.faults.propensity_audit import audit


@pytest.mark.parametrize("guarding", [None, Guarding("live", "m0+m1")], ids=["unguarded", "guarded"])
def test_recorded_probabilities_are_those_that_the_record_and_the_snapshot_give(guarding: Guarding | None) -> None:
    found = audit(4_000, seed=3, guarding=guarding)
    assert found.differing == 0
    assert found.decisions == 4_000
    assert found.masked > 400
    assert found.failed > 100
