"""What was promised to survive a power cut does; and the cuts are real: what was not synced is lost."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bandmaster.files import sync
from tests.faults.power_cuts import cuts, mounted


@pytest.fixture(autouse=True)
def _may_mount(tmp_path: Path) -> None:
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    tried = f"truncate -s 8M {image} && mkfs.ext4 -q {image} && mount -o loop {image} {disk} && umount {disk}"
    if os.geteuid() or subprocess.run(["sh", "-c", tried], capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system in a file needs root, e2fsprogs and loop devices")


def test_a_cut_loses_what_was_not_synced(tmp_path: Path) -> None:
    with mounted(tmp_path / "image", tmp_path / "disk") as disk:
        (disk / "synced").write_text("here")
        sync(disk / "synced")
        sync(disk)
        (disk / "not synced").write_text("here")
        shutil.copyfile(tmp_path / "image", tmp_path / "copy")
    with mounted(tmp_path / "copy", tmp_path / "left") as left:
        assert (left / "synced").read_text() == "here"
        assert not (left / "not synced").exists()


@pytest.mark.parametrize("durability", ["group", "full"])
def test_after_a_power_cut_the_disk_holds_what_was_promised(durability: str) -> None:
    held = cuts(2, durability, seed=4)
    assert held.due > 0
    assert (held.feedback_lost, held.due_lost) == (0, 0)
