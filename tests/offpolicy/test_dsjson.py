"""DSJSON: what is written is read back, and Vowpal Wabbit's own driver learns from it as our evaluator does."""

import re
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from bandmaster.cli import main
from bandmaster.core import BandmasterError
from bandmaster.offpolicy.dsjson import read_dsjson, write_dsjson
from bandmaster.offpolicy.evaluate import evaluate
from bandmaster.offpolicy.examples import as_text, examples, safe
from bandmaster.offpolicy.log import read
from bandmaster.offpolicy.target import parse_target
from bandmaster.policies.vw import VowpalWabbit
from tests.offpolicy.conftest import simulate


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("dsjson") / "log.parquet"
    frame, _ = simulate(np.random.default_rng(0), 2000)
    sites = pl.Series("ctx_site", np.random.default_rng(1).choice(["north | 1", "süd"], size=2000))
    frame.select("action", "propensity", "reward", "x0", "x1", "x2").with_columns(sites).write_parquet(path)
    return path


@pytest.mark.parametrize(
    "options", ["--cb_explore_adf --epsilon 0.1 -q sa", "--cb_explore_adf --softmax --lambda 5 -q sa"]
)
def test_vowpal_wabbits_own_driver_finds_the_loss_that_we_do(log, tmp_path, options):
    assert write_dsjson(read(log), tmp_path / "log.dsjson") == 2000
    driver = subprocess.run(
        [sys.executable, "-m", "vowpalwabbit", "--dsjson", "-d", tmp_path / "log.dsjson", *options.split()],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (loss,) = re.findall(r"average loss = (\S+)", driver.stdout + driver.stderr)
    found = evaluate(read(log), parse_target(f"vw:{options}"))
    assert -found.of("ips").value == pytest.approx(float(loss), abs=1e-3)
    assert found.of("snips").value > found.logged  # it has learned something


def test_what_is_written_is_read_back(log, tmp_path):
    write_dsjson(read(log), tmp_path / "log.dsjson")
    found, was = read_dsjson(tmp_path / "log.dsjson"), pl.read_parquet(log)
    assert found["action"].to_list() == (was["action"] + 1).to_list()
    for name in ("propensity", "reward"):
        assert found[name].to_list() == was[name].to_list()
    assert found["ctx_s.x0"].to_list() == was["x0"].to_list()
    assert found.columns[:3] == ["action", "propensity", "reward"]


def test_names_mean_nothing_to_vw_and_stay_different():
    names = ["a b", "a_20_b", "a|b", "a:1", "a\nb", "ä", "a_b", "a__b"]
    assert len({safe(name) for name in names}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", safe(name)) for name in names)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 is no decision in DSJSON"),
        ('{"\x8c": 1}', "line 2 is no decision in DSJSON"),
        ("{}", "line 2 is no decision in DSJSON .*_label_cost"),
        ('{"_label_cost": 0, "_label_probability": 1, "a": [], "c": {}}', "line 2: 'a' names no action"),
        ('{"_label_cost": "x", "_label_probability": 1, "a": [1], "c": {}}', "line 2 is no decision"),
        (
            '{"_label_cost": 0, "_label_probability": 0, "a": [1], "c": {}}',
            "line 2: '_label_probability' is 0; it must",
        ),
        ('{"_label_cost": 0, "_label_probability": 1.5, "a": [1], "c": {}}', "line 2: '_label_probability' is 1.5"),
    ],
)
def test_a_line_that_is_no_decision_is_named(tmp_path, line, said):
    good = '{"_label_cost": 0, "_label_probability": 1, "a": [1], "c": {}}'
    (tmp_path / "log.dsjson").write_bytes(f"{good}\n{line}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(BandmasterError, match=said):
        read_dsjson(tmp_path / "log.dsjson")


def test_rewards_that_come_late_are_learned_late(tmp_path):
    """With every reward after the end nothing is learned, and what is done stays the same."""
    frame, _ = simulate(np.random.default_rng(2), 300)
    frame = frame.select("action", "propensity", "reward", "x0")
    options = "vw:--cb_explore_adf --epsilon 0.2"
    for delay, learns in ((0, True), (1000, False)):
        frame.with_columns(reward_delay=pl.lit(delay)).write_parquet(tmp_path / "log.parquet")
        log = read(tmp_path / "log.parquet")
        spread = parse_target(options).spread(log.frame.collect(), log.actions)
        assert bool(np.ptp(spread, axis=0).max() > 0.5) is learns


def test_what_is_foretold_has_learned_just_what_was_known_by_then(tmp_path):
    """Delays count rows of the file, those without a reward too; whatever is known is learned in the order in which it
    became so.
    """
    rng = np.random.default_rng(3)
    frame, _ = simulate(rng, 200)
    delays = rng.choice([0, 0, 1, 5, 40], size=200)
    unknown = rng.random(200) < 0.3
    reward = pl.when(pl.Series(unknown)).then(None).otherwise(pl.col("reward")).alias("reward")
    frame = frame.select("action", "propensity", "reward", "x0").with_columns(reward, reward_delay=pl.Series(delays))
    frame.write_parquet(tmp_path / "log.parquet")
    log = read(tmp_path / "log.parquet")
    options = "--cb_explore_adf --epsilon 0.2 -q sa"
    spread = parse_target(f"vw:{options}").spread(log.loaded(), log.actions)
    names, vw = [safe(name) for name in log.actions], VowpalWabbit(options)
    given = list(examples(log.loaded(), ["x0"], log.actions))
    at = np.flatnonzero(~unknown)
    learned: set[int] = set()
    for k, example in enumerate(given):
        ready = [(at[j] + delays[at[j]], j) for j in range(k) if j not in learned and at[j] + delays[at[j]] < at[k]]
        for _, j in sorted(ready):
            vw.learn(as_text(given[j], names, labelled=True))
            learned.add(j)
        assert spread[k].tolist() == vw.predict(as_text(example, names, labelled=False))
    assert 100 < len(learned) < len(given)


def test_vw_must_explore(log):
    with pytest.raises(BandmasterError, match="explores nothing; add --cb_explore_adf"):
        evaluate(read(log), parse_target("vw:--cb_adf"))


def test_the_command_converts_there_and_back(log, tmp_path):
    def convert(*arguments):
        return CliRunner().invoke(main, ["convert", *map(str, arguments)])

    assert convert(log, tmp_path / "a.dsjson").stdout.endswith("a.dsjson: 2000 decisions\n")
    assert convert(tmp_path / "a.dsjson", tmp_path / "b.parquet").exit_code == 0
    found = evaluate(read(tmp_path / "b.parquet"), parse_target("uniform"))
    assert found.of("ips") == evaluate(read(log), parse_target("uniform")).of("ips")
    assert (
        convert(tmp_path / "a.dsjson", tmp_path / "b.txt").output
        == f"Error: {tmp_path}/b.txt: a table ends in .parquet or .csv\n"
    )
    (tmp_path / "half.dsjson").write_text((tmp_path / "a.dsjson").read_text()[:-40])
    before = (tmp_path / "b.parquet").read_bytes()
    assert convert(tmp_path / "half.dsjson", tmp_path / "b.parquet").exit_code == 2
    assert (tmp_path / "b.parquet").read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    refused = convert(log, tmp_path / "b.parquet")
    assert refused.exit_code == 2
    assert "one of them must end in .dsjson" in refused.output
