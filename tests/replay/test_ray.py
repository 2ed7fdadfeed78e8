"""On a Ray cluster a replay comes to the same bytes as here."""

import subprocess
import sys
from pathlib import Path

import pytest

from bandmaster.cli import main
from bandmaster.core import BandmasterError
from bandmaster.replay import processes, ray_cluster, replay

from .conftest import CONFIG, make_frame

pytestmark = pytest.mark.extras

POLICIES = ["random", "bandit", "knora-u"]


@pytest.fixture(scope="module")
def cluster():
    """A cluster that runs already, as an operator would have started it."""
    ray = str(Path(sys.executable).with_name("ray"))
    subprocess.run(
        [
            ray,
            "start",
            "--head",
            "--port=0",
            "--num-cpus=2",
            "--include-dashboard=false",
            "--object-store-memory=200000000",
        ],
        check=True,
    )
    yield "auto"
    subprocess.run([ray, "stop", "--force"], check=True)


def written(lab, folder, spread, resume=None):
    bench = lab.bench(order="shuffled")
    (results,) = replay(bench, POLICIES, 3, spread=spread, trace=folder / "trace.parquet", resume=resume)
    results.write(folder / "results.json")
    return (folder / "results.json").read_bytes(), (folder / "trace.parquet").read_bytes()


def test_one_process_two_and_a_cluster_come_to_the_same_bytes(lab, tmp_path, cluster):
    one = written(lab, tmp_path, processes(1))
    assert written(lab, tmp_path, processes(2)) == one
    assert written(lab, tmp_path, ray_cluster(cluster)) == one


def test_what_was_kept_here_is_taken_up_there(lab, tmp_path, cluster):
    kept = tmp_path / "kept"
    replay(lab.bench(order="shuffled"), POLICIES, 2, spread=processes(2), resume=kept, trace=tmp_path / "two.parquet")
    before = {p: p.stat().st_mtime_ns for p in kept.iterdir() if not p.suffix}
    found = written(lab, tmp_path, ray_cluster(cluster), resume=kept)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert found == written(lab, tmp_path, processes(1))


def test_the_command_plays_on_a_cluster(tmp_path, cluster):
    (tmp_path / "config.yaml").write_text(CONFIG)
    make_frame().write_parquet(tmp_path / "log.parquet")
    asked = ["replay", str(tmp_path / "log.parquet"), "--config", str(tmp_path / "config.yaml"), "--seeds", "2"]
    asked += ["--policies", "random,scoring", "--out", str(tmp_path / "results.json")]
    main([*asked, "--backend", "ray", "--address", cluster], standalone_mode=False)
    there = (tmp_path / "results.json").read_bytes()
    main(asked, standalone_mode=False)
    assert (tmp_path / "results.json").read_bytes() == there


def test_a_cluster_that_is_not_there_is_said_to_be_missing(lab):
    with pytest.raises(BandmasterError, match="no Ray cluster answers there"):
        replay(lab.bench(), ["random"], 1, spread=ray_cluster("127.0.0.1:1"))
