"""Ids and keys: nobody without the key makes an id, and two processes never end up with two keys."""

import base64
import os
import random
import stat
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bandmaster
from bandmaster.core import BandmasterError
from bandmaster.journal import keys as keys_module
from bandmaster.journal.ids import DecisionIds
from bandmaster.journal.keys import Keys, rotate
from bandmaster.journal.seal import mac, seal, unseal

KEY = Keys(b"k" * 32)
AT = 1_700_000_000.123
ALPHABET = string.ascii_letters + string.digits + "-_"


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch):
    monkeypatch.delenv("BANDMASTER_KEY", raising=False)


def test_an_id_gives_its_time_back_to_the_millisecond():
    ids = DecisionIds(KEY)
    assert [ids.verify(ids.new(at)) for at in (0.0, AT, 1e9 + 0.0004)] == [0.0, AT, 1e9]


def test_an_id_is_32_characters_that_a_url_can_carry():
    ids = DecisionIds(KEY)
    assert all(len(id_) == 32 and set(id_) <= set(ALPHABET) for id_ in (ids.new(AT) for _ in range(200)))


def test_ids_of_the_same_moment_differ():
    ids = DecisionIds(KEY)
    assert len({ids.new(AT) for _ in range(1000)}) == 1000


def test_a_generator_makes_ids_repeatable():
    ids = DecisionIds(KEY)
    first, again = (ids.new(AT, np.random.default_rng(7)) for _ in range(2))
    assert first == again != ids.new(AT, np.random.default_rng(8))


def test_none_of_10000_mutations_is_accepted():
    ids, rng = DecisionIds(KEY), random.Random(0)
    accepted = 0
    for _ in range(10_000):
        good = ids.new(AT)
        id_ = list(good)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(id_))
            id_[place : place + rng.randint(0, 2)] = rng.choices(ALPHABET + "=+/ \n%é\0", k=rng.randint(0, 2))
        accepted += "".join(id_) != good and ids.verify("".join(id_)) is not None
    assert accepted == 0


@pytest.mark.parametrize("bad", ["", "x", "A" * 32, "A" * 31, "é" * 32, "\ud800" * 32, "=" * 32, "A" * 10**6])
def test_malformed_ids_are_refused(bad):
    assert DecisionIds(KEY).verify(bad) is None


def test_truncated_and_padded_ids_are_refused():
    ids = DecisionIds(KEY)
    id_ = ids.new(AT)
    assert not any(ids.verify(bad) for bad in (id_[:-1], id_[1:], id_ + "A", id_ + "=", " " + id_, id_ + "\n"))


def test_only_the_canonical_text_of_an_id_is_accepted():
    ids = DecisionIds(KEY)
    id_ = next(i for i in (ids.new(AT) for _ in range(1000)) if "-" in i or "_" in i)
    assert ids.verify(id_.translate(str.maketrans("-_", "+/"))) is None


def test_an_id_of_another_key_is_refused():
    assert DecisionIds(KEY).verify(DecisionIds(Keys(b"o" * 32)).new(AT)) is None


def test_a_seal_is_no_signature_of_an_id():
    body = bytes(15)
    for purpose in (b"", b"bandmaster seal 1"):
        forged = base64.urlsafe_b64encode(body + mac(KEY.first, purpose, body)[:9]).decode()
        assert DecisionIds(KEY).verify(forged) is None


@pytest.mark.parametrize("at", [-1.0, 1e15])
def test_a_time_outside_the_range_is_refused(at):
    with pytest.raises(ValueError, match="seconds since 1970"):
        DecisionIds(KEY).new(at)


def test_a_short_key_is_refused():
    with pytest.raises(BandmasterError, match="32 bytes"):
        Keys(b"short")


def test_a_sealed_payload_comes_back():
    assert all(unseal(KEY, seal(KEY, payload)) == payload for payload in (b"", b"x", bytes(range(256)) * 10))


def test_no_mutation_of_sealed_bytes_is_accepted():
    rng, blob = random.Random(0), seal(KEY, b"the learner's state")
    bad = [blob[:n] for n in range(len(blob))] + [blob + b"\0", blob * 2]
    for place in range(len(blob)):
        changed = bytearray(blob)
        changed[place] ^= rng.randint(1, 255)
        bad.append(bytes(changed))
    for altered in bad:
        with pytest.raises(BandmasterError, match="seal"):
            unseal(KEY, altered)


def test_a_seal_of_another_key_is_refused():
    with pytest.raises(BandmasterError, match="another key"):
        unseal(KEY, seal(Keys(b"o" * 32), b"x"))


def test_a_key_is_made_once_for_its_owner_only(tmp_path):
    folder = tmp_path / "new"
    key = Keys.of(folder).first
    assert len(key) == 32
    assert Keys.of(folder).first == key
    assert stat.S_IMODE((folder / "bandmaster.key").stat().st_mode) == 0o600
    assert [p.name for p in folder.iterdir()] == ["bandmaster.key"]


def test_processes_that_start_at_once_end_with_one_key(tmp_path):
    code = (
        "import sys, pathlib\nfrom bandmaster.journal.keys import Keys\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(Keys.of(pathlib.Path(sys.argv[1])).first.hex())"
    )
    command = [sys.executable, "-c", code, tmp_path]
    env = os.environ | {"PYTHONPATH": str(Path(bandmaster.__file__).parents[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen(command, env=env, **pipes) for _ in range(3)]
    assert {racer.stdout.readline() for racer in racers} == {"ready\n"}
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    keys = {racer.communicate(timeout=20)[0].strip() for racer in racers}
    assert keys == {Keys.of(tmp_path).first.hex()}


def test_whoever_loses_the_race_takes_the_winners_key(tmp_path, monkeypatch):
    real = os.link

    def beaten(source, target):
        target.write_text("ab" * 32)
        return real(source, target)

    monkeypatch.setattr(os, "link", beaten)
    assert Keys.of(tmp_path).first == b"\xab" * 32
    assert [p.name for p in tmp_path.iterdir()] == ["bandmaster.key"]


def test_the_environment_decides_the_key(tmp_path, monkeypatch):
    monkeypatch.setenv("BANDMASTER_KEY", "0f" * 40)
    assert Keys.of(tmp_path).first == b"\x0f" * 40
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", ["", "0f" * 31, "no hex" * 20])
def test_a_bad_key_in_the_environment_is_named_and_not_shown(tmp_path, monkeypatch, bad):
    monkeypatch.setenv("BANDMASTER_KEY", bad)
    with pytest.raises(BandmasterError, match="BANDMASTER_KEY") as caught:
        Keys.of(tmp_path)
    assert not bad or bad not in str(caught.value)


def test_a_damaged_key_file_is_named(tmp_path):
    (tmp_path / "bandmaster.key").write_bytes(b"\xff\xfe damaged")
    with pytest.raises(BandmasterError, match=r"bandmaster\.key is no key"):
        Keys.of(tmp_path)


def test_a_folder_that_cannot_hold_a_key_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BandmasterError, match="BANDMASTER_KEY"):
        Keys.of(tmp_path / "file")


def test_what_the_key_before_signed_and_sealed_is_taken_after_a_rotation_without_a_restart(tmp_path):
    running = Keys.of(tmp_path)  # a worker that has not looked at the file since
    old, sealed = DecisionIds(running).new(AT), seal(running, b"x")
    rotate(tmp_path)
    assert stat.S_IMODE((tmp_path / "bandmaster.key").stat().st_mode) == 0o600
    started = Keys.of(tmp_path)
    assert (DecisionIds(started).verify(old), unseal(started, sealed)) == (AT, b"x")
    new = DecisionIds(started).new(AT)
    assert DecisionIds(Keys(running.first)).verify(new) is None
    assert DecisionIds(running).verify(new) == AT
    assert running.first == started.first


def test_two_keys_before_the_present_one_are_kept_unless_they_are_dropped(tmp_path):
    ids = [DecisionIds(Keys.of(tmp_path)).new(AT)]
    for _ in range(3):
        rotate(tmp_path)
        ids.append(DecisionIds(Keys.of(tmp_path)).new(AT))
    verify = DecisionIds(Keys.of(tmp_path)).verify
    assert [verify(id_) for id_ in ids] == [None, AT, AT, AT]
    rotate(tmp_path, drop=True)
    assert [DecisionIds(Keys.of(tmp_path)).verify(id_) for id_ in ids] == [None] * 4
    assert [p.name for p in tmp_path.iterdir()] == ["bandmaster.key"]


def test_a_key_file_that_is_damaged_or_gone_while_the_service_runs_changes_nothing(tmp_path):
    running = Keys.of(tmp_path)
    first = running.first
    (tmp_path / "bandmaster.key").write_text("nonsense")
    assert not running.refresh()
    (tmp_path / "bandmaster.key").unlink()
    assert not running.refresh()
    assert running.first == first


def test_the_environment_may_give_several_keys_and_is_not_rotated(tmp_path, monkeypatch):
    monkeypatch.setenv("BANDMASTER_KEY", f"{'0f' * 32}, {'0a' * 32}")
    keys = Keys.of(tmp_path)
    assert keys.first == b"\x0f" * 32
    assert keys.any(lambda key: key == b"\x0a" * 32)
    with pytest.raises(BandmasterError, match="BANDMASTER_KEY gives the key: put a new one behind it"):
        rotate(tmp_path)


def test_a_change_while_the_keys_are_read_is_noticed(tmp_path, monkeypatch):
    Keys.of(tmp_path)
    read = keys_module.read_keys

    def read_and_changed(path):
        found = read(path)
        monkeypatch.setattr(keys_module, "read_keys", read)
        rotate(tmp_path)
        return found

    monkeypatch.setattr(keys_module, "read_keys", read_and_changed)
    started = Keys.of(tmp_path)
    assert started.refresh()
    assert started.first == Keys.of(tmp_path).first


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives files away")
def test_the_file_stays_its_owner_s_whoever_rotates(tmp_path):
    Keys.of(tmp_path)
    os.chown(tmp_path / "bandmaster.key", 1234, 1234)
    rotate(tmp_path)
    found = (tmp_path / "bandmaster.key").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 1234, 0o600)
