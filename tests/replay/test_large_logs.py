"""Logs whose scores memory does not hold are read part by part into a file, and are the same logs."""

import gc
import subprocess
import sys
import tempfile

import numpy as np
import polars as pl
import pytest

from bandmaster import build, config, recorded
from bandmaster.core import BandmasterError
from bandmaster.recorded import read_log
from bandmaster.replay import Traffic, processes, replay
from tests.replay.conftest import CONFIG, make_frame

ARRAYS = ("truth", "delay", "at", "features", "scores", "latency_s", "energy_j", "cost", "explainability")


@pytest.fixture
def path(tmp_path):
    make_frame().write_parquet(tmp_path / "log.parquet")
    return tmp_path / "log.parquet"


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder of temporary files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


@pytest.fixture
def crowded(monkeypatch, temporary):
    """Memory holds no scores, and 40 rows are read at once."""
    monkeypatch.setattr(recorded, "IN_MEMORY", 0)
    monkeypatch.setattr(recorded, "AT_ONCE", 3 * 3 * 40)
    return temporary


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "csv"])
def test_a_log_that_is_read_part_by_part_is_the_same_log(suffix, tmp_path, request):
    frame, file = make_frame(), tmp_path / f"log.{suffix}"
    if suffix == "csv":
        frame.drop("cheap__proba", "mid__proba", "dear__proba").write_csv(file)
    else:
        frame.write_parquet(file) if suffix == "parquet" else frame.write_ipc(file)
    whole = read_log(file, None, {}, None)
    request.getfixturevalue("crowded")
    parts = read_log(file, None, {}, None)
    assert isinstance(parts.scores, np.memmap)
    assert not isinstance(whole.scores, np.memmap)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    assert (parts.tags, parts.phases, parts.sha256) == (whole.tags, whole.phases, whole.sha256)


def test_the_file_goes_with_the_log(path, crowded):
    log = read_log(path, None, {}, None)
    part = log.scores[5:7]
    assert [file.stat().st_size for file in crowded.rglob("scores")] == [4 * log.scores.size]
    del log
    gc.collect()
    assert np.isfinite(part).all()  # for as long as anybody looks at a part of it
    del part
    gc.collect()
    assert list(crowded.iterdir()) == []


def test_it_plays_to_the_same_bytes_in_one_process_and_in_two(path, tmp_path, request):
    (tmp_path / "config.yaml").write_text(CONFIG)
    found = config.load(tmp_path / "config.yaml")

    def played(jobs: int) -> bytes:
        bench = build.bench(found, build.recorded_logs(found, [path]), Traffic("shuffled"))
        (results,) = replay(bench, ["random", "bandit"], 2, spread=processes(jobs))
        return repr(results.as_json()).encode()

    whole = played(1)
    request.getfixturevalue("crowded")
    assert played(1) == whole
    assert played(2) == whole


def test_a_bad_row_is_named_as_it_is_counted_in_the_file(path, crowded):
    frame = pl.read_parquet(path)
    frame.with_columns(
        pl.when(pl.int_range(pl.len()) == 217)
        .then(pl.lit([0.9, 0.9, 0.9]))
        .otherwise("mid__proba")
        .alias("mid__proba"),
        pl.lit(1).alias("mid__pred"),
    ).write_parquet(path)
    with pytest.raises(BandmasterError, match=r"row 217, column 'mid__proba': \[0\.9, 0\.9, 0\.9\] is no distribution"):
        read_log(path, None, {}, None)


def test_a_few_answers_beside_ones_own_figures_are_no_other_order_of_classes_wherever_they_stand(path, crowded):
    last = pl.int_range(pl.len()) >= 280  # a whole part of the file
    swapped = pl.read_parquet(path).with_columns(
        mid__pred=pl.when(last).then((pl.col("mid__pred") + 1) % 3).otherwise("mid__pred")
    )
    swapped.write_parquet(path)
    read_log(path, None, {}, None)
    pl.read_parquet(path).with_columns(mid__pred=(pl.col("mid__pred") + 1) % 3).write_parquet(path)
    with pytest.raises(BandmasterError, match="list the classes in the order of the figures"):
        read_log(path, None, {}, None)


def test_a_file_that_another_takes_the_place_of_while_it_is_read_is_refused(path, crowded, monkeypatch):
    read_scores, other = recorded._read_scores, path.with_name("other.parquet")
    make_frame(seed=1).write_parquet(other)

    def replaced(*given):
        read_scores(*given)
        if other.exists():
            other.replace(path)

    monkeypatch.setattr(recorded, "_read_scores", replaced)
    with pytest.raises(BandmasterError, match=r"log\.parquet: has changed while it was read"):
        read_log(path, None, {}, None)


NO_ROOM = """
import resource, sys
from pathlib import Path
from bandmaster import recorded
recorded.IN_MEMORY = 0
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
recorded.read_log(Path(sys.argv[1]), None, {}, None)
"""


def test_where_there_is_no_room_for_the_file_it_says_so_before_it_begins(path, temporary):
    found = subprocess.run(
        [sys.executable, "-c", NO_ROOM, path], capture_output=True, text=True, env={"TMPDIR": str(temporary)}
    )
    assert "cannot take 1.08e-05 GB of members' scores (File too large); name a folder" in found.stderr
    assert list(temporary.iterdir()) == []
