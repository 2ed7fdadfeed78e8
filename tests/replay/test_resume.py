"""A replay that was cut off goes on from what it had finished, and comes to the same bytes."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from bandmaster.cli import main
from bandmaster.core import BandmasterError
from bandmaster.replay import processes, replay
from bandmaster.replay.kept import Kept

from .conftest import CONFIG, make_frame

PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    (folder / "config.yaml").write_text(CONFIG)
    make_frame(rows=500).write_parquet(folder / "log.parquet")
    return folder


@pytest.fixture(scope="module")
def whole(project):
    """What a run comes to that nobody cuts off."""
    main(command(project, project / "whole", "--jobs", "1"), standalone_mode=False)
    return project / "whole"


def command(project, out, *more):
    return [
        "replay", str(project / "log.parquet"), "--config", str(project / "config.yaml"), "--order", "shuffled",
        "--policies", "random,scoring,bandit", "--seeds", "3", "--out", str(out / "results.json"),
        "--trace", str(out / "trace.parquet"), *more,
    ]  # fmt: skip


def kept_in(folder):
    """What lies there, and when it was written; what a run that was cut off had only begun is not kept."""
    return {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if not p.suffix} if folder.exists() else {}


def wait_for(count, folder, process):
    deadline = time.monotonic() + PATIENCE_S
    while len(kept_in(folder)) < count:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_killed_half_way_and_resumed_it_comes_to_the_same_bytes(project, whole, tmp_path, jobs):
    cut, kept = tmp_path / "cut", tmp_path / "kept"
    victim = subprocess.Popen(
        [sys.executable, "-m", "bandmaster", *command(project, cut, "--jobs", jobs, "--resume", str(kept))],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(5, kept, victim)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    assert not (cut / "results.json").exists()
    assert not (cut / "trace.parquet").exists()
    before = kept_in(kept)
    main(command(project, cut, "--jobs", "1", "--resume", str(kept)), standalone_mode=False)
    for name in ("results.json", "trace.parquet"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    after = kept_in(kept)
    assert {name: after[name] for name in before} == before, "what was finished was not played again"
    assert len(after) == 3 + 3 * 3 > len(before)


def test_what_a_power_cut_left_of_a_finding_is_found_anew(lab, tmp_path):
    bench = lab.bench(order="shuffled")
    (first,) = replay(bench, ["random"], 3, spread=processes(1), resume=tmp_path / "kept")
    files = sorted((tmp_path / "kept").iterdir())
    for path, left in zip(files, (0, 20, 200), strict=False):
        path.write_bytes(path.read_bytes()[:left])
    (again,) = replay(bench, ["random"], 3, spread=processes(1), resume=tmp_path / "kept")
    assert again.as_json() == first.as_json()


def test_more_seeds_and_policies_go_on_from_fewer(lab, tmp_path):
    bench = lab.bench(order="shuffled")
    steps = []
    replay(bench, ["random"], 2, spread=processes(1), resume=tmp_path)
    before = kept_in(tmp_path)
    (more,) = replay(bench, ["random", "scoring"], 3, spread=processes(1), resume=tmp_path, progress=steps.append)
    assert before.items() <= kept_in(tmp_path).items()
    assert len(steps) == 3 + 3 * 2
    (alone,) = replay(bench, ["random", "scoring"], 3, spread=processes(1))
    assert more.as_json() == alone.as_json()


def test_nothing_is_taken_for_the_finding_about_anything_else(lab, tmp_path):
    bench = lab.bench(order="shuffled")
    asked = [
        (bench, (1.0,)),
        (bench, (0.5,)),
        (lab.bench(order="kept"), (1.0,)),
        (lab.bench(order="shuffled", delay=3), (1.0,)),
        (replace(bench, logs=(lab.logs[1],)), (1.0,)),
        (replace(bench, contract=replace(bench.contract, metrics=bench.contract.metrics[:-1])), (1.0,)),
        (replace(bench, make=replace(bench.make, config=replace(lab.config, seed=5))), (1.0,)),
    ]
    paths = [Kept(tmp_path, *of).path("random", [0]) for of in asked]
    paths += [Kept(tmp_path, *asked[0]).path(*what) for what in (("random", [1]), ("scoring", [0]), ("random", [0, 1]))]
    assert len(set(paths)) == len(paths)
    assert Kept(tmp_path, *asked[0]).path("random", [0]) == paths[0]


def test_a_folder_that_cannot_be_is_refused_by_name(lab, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BandmasterError, match="file: cannot be made"):
        replay(lab.bench(), ["random"], 1, resume=tmp_path / "file")
