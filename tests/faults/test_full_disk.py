"""A full disk takes the log, not the service; what was acknowledged before and after is there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.full_disk import MANY

HERE = 'mount -t tmpfs -o size=16m none "$1" && exec "$2" -m tests.faults.full_disk "$1"'
ROOT = Path(__file__).parents[2]


def test_while_the_disk_is_full_requests_are_answered_by_the_baseline_and_counted_and_then_all_is_well(
    tmp_path: Path,
) -> None:
    command = ["unshare", "-Urm", "sh", "-c", HERE, "sh", str(tmp_path), sys.executable]
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system of his own (unshare -Urm)")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["settled before"] == ["joined"]
    assert seen["answered while full"] == MANY
    assert seen["unrecorded"] > 0
    assert seen["exposed after the first"] == 0
    assert "disk" in seen["feedback while full"]
    assert seen["settled after"] == ["joined"]
    assert seen["decisions"] == 4 * MANY - seen["unrecorded at last"]
    assert seen["joined"] == 2 * MANY
