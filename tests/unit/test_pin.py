"""One file has the baseline answer alone."""

import os

import pytest

from bandmaster.core import BandmasterError
from bandmaster.pin import Pin


def test_it_is_set_and_cleared_and_says_why(tmp_path):
    pin = Pin(tmp_path / "orchestration.db")
    assert (bool(pin), pin.why, pin.clear()) == (False, None, False)
    pin.set("complaints, #4711")
    assert bool(pin)
    assert (pin.why, Pin(tmp_path / "orchestration.db").why) == ("complaints, #4711", "complaints, #4711")
    pin.set("and again")
    assert pin.why == "and again"
    assert pin.clear()
    assert not pin


def test_a_file_that_anybody_made_counts_whatever_it_holds(tmp_path):
    pin = Pin(tmp_path / "j.db")
    (tmp_path / "j.db.pin").write_bytes(b"\xff\xfe")
    assert pin
    assert pin.why is not None


def test_what_cannot_be_looked_for_counts_as_there(tmp_path):
    (tmp_path / "file").write_text("")
    pin = Pin(tmp_path / "file" / "j.db")  # a file where a folder should be
    assert pin
    assert "Not a directory" in pin.why


def test_where_there_is_no_folder_it_says_so(tmp_path):
    with pytest.raises(BandmasterError, match="elsewhere: is no folder, so that no service can have its journal there"):
        Pin(tmp_path / "elsewhere" / "j.db").set("x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_what_cannot_be_removed_is_named(tmp_path):
    pin = Pin(tmp_path / "j.db")
    pin.set("x")
    tmp_path.chmod(0o500)
    with pytest.raises(BandmasterError, match=r"j\.db\.pin: cannot be"):
        pin.clear()
    tmp_path.chmod(0o700)
