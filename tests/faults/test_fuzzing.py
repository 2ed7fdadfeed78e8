"""What nobody would send does no harm."""

import pytest

pytestmark = pytest.mark.extras


def test_no_input_makes_a_server_error_ends_a_process_or_is_read_wrongly(tmp_path):
    pytest.importorskip("schemathesis")
    pytest.importorskip("atheris")
    from tests.faults.fuzzing import fuzzed

    found = fuzzed(5000, tmp_path, seed_=1)
    assert found.failures == []
    assert (found.deaths, found.holds) == (0, True), found.growth_mb
    assert set(found.inputs) == {"schema", "bytes", "yaml", "log", "guided", "after all of it"}
