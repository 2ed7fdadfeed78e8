"""What accuracy costs: a sweep is a replay for every weight, and its report shows them together."""

import json
import re
from dataclasses import replace

import polars as pl
import pytest
from click.testing import CliRunner

from bandmaster import build, config
from bandmaster.cli import main
from bandmaster.replay import Traffic, processes, replay
from tests.replay.conftest import CONFIG, make_frame


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "config.yaml").write_text(CONFIG)
    make_frame().write_parquet(folder / "log.parquet")
    return folder


def asked(folder, *more):
    given = ["sweep", str(folder / "log.parquet"), "--config", str(folder / "config.yaml"), "--policies"]
    return CliRunner().invoke(
        main, [*given, "constant,bandit", "--order", "shuffled", "--seeds", "2", "--jobs", "1", *more]
    )


def test_each_weight_is_the_replay_of_the_contract_with_that_weight(folder):
    found = asked(folder, "--weights", "0.8,0.2", "--out", str(folder / "sweep.json"))
    assert found.exit_code == 0, found.output
    swept = json.loads((folder / "sweep.json").read_text())
    assert swept["metric"] == "accuracy"
    assert [point["weight"] for point in swept["points"]] == [0.2, 0.8]
    read = config.load(folder / "config.yaml")
    log = build.recorded_log(read, folder / "log.parquet")
    for point in swept["points"]:
        other = replace(read, contract=read.contract.weighing("accuracy", point["weight"]))
        (results,) = replay(
            build.bench(other, [log], Traffic("shuffled")), ["constant", "bandit"], 2, spread=processes(1)
        )
        assert point["results"] == json.loads(json.dumps(results.as_json()))
        assert re.search(
            rf"^{point['weight']:g} +bandit +{results.policies['bandit'].measures.reward:.4f}", found.stdout, re.M
        )
    assert len(re.findall(r"^\d+/12 \w+ at accuracy 0\.[28], seed", found.stderr, re.M)) == 12


def test_weights_that_are_added_are_played_alone(folder, tmp_path):
    kept = tmp_path / "kept"
    assert asked(folder, "--weights", "0.2,0.8", "--resume", str(kept), "--json").exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert asked(folder, "--weights", "0.2,0.5,0.8", "--resume", str(kept), "--json").exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(kept.iterdir())) == len(before) * 3 // 2


def test_the_report_draws_every_policy_over_each_price_and_needs_nothing_else(folder):
    found = asked(folder, "--weights", "0.2,0.5,0.8", "--report", str(folder / "frontier.html"), "--json")
    assert found.exit_code == 0, found.output
    page = (folder / "frontier.html").read_text()
    pictures = re.findall(r"<h2>Accuracy over ([\w ]+)</h2>", page)
    assert pictures == ["energy a request", "cost a request", "latency"]
    assert page.count("<svg") == len(pictures)
    for name in ("constant", "bandit", "cheap", "mid", "dear"):
        assert len(re.findall(rf">{name}</text>", page)) >= len(pictures)
    assert not re.findall(r"(?:src|href)=\"(?!#)(?!data:)[^\"]*\"", page.replace("http://www.w3.org", ""))
    for point in json.loads(found.stdout)["points"]:
        assert (
            f"<td>{point['weight']:g}</td><td>bandit</td><td>{point['results']['policies']['bandit']['reward']:.4f}"
            in page
        )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--weights", "0.5,x"], "--weights: x is no number"),
        (["--weights", ""], "give at least one"),
        (["--weights", "0.5,0.5"], "each once"),
        (["--weights", "1.5"], r"accuracy: weight 1.5 must lie in [0, 1]"),
        (["--metric", "speed"], "speed: the contract weighs no such metric, but accuracy, confidence"),
        (["--report", "/proc/none/report.html"], "/proc/none/report.html"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_played(folder, more, said):
    found = asked(folder, *more)
    assert found.exit_code == 2
    assert said in found.stderr
    assert "1/" not in found.stderr


def test_where_requests_have_weights_of_their_own_a_sweep_would_leave_them_as_they_are(tmp_path):
    profiled = CONFIG.replace("  members:", "  profiles: {fast: {latency: 1}}\n  members:", 1)
    (tmp_path / "config.yaml").write_text(profiled)
    make_frame().with_columns(profile=pl.lit("fast")).write_parquet(tmp_path / "log.parquet")
    found = asked(tmp_path, "--weights", "0.5")
    assert found.exit_code == 2
    assert "column 'profile' has requests judged by weights of their own" in found.stderr
    make_frame().with_columns(profile=pl.lit("default")).write_parquet(tmp_path / "log.parquet")
    assert asked(tmp_path, "--weights", "0.5", "--json").exit_code == 0
