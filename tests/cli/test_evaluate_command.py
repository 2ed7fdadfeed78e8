"""``bandmaster evaluate``: a table for people, JSON for programs, exit code 2 for bad input."""

import json

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from bandmaster.cli import main


def evaluate(*arguments):
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


@pytest.fixture
def log(tmp_path):
    """1,000 decisions of a coin that favours ``a``; ``a`` wins more often."""
    rng = np.random.default_rng(0)
    a = rng.random(1000) < 0.7
    frame = pl.DataFrame(
        {
            "action": np.where(a, "a", "b"),
            "propensity": np.where(a, 0.7, 0.3),
            "reward": (rng.random(1000) < np.where(a, 0.6, 0.2)).astype(float),
            "x0": rng.normal(size=1000),
            "site": np.where(rng.random(1000) < 0.5, "n", "s"),
        }
    )
    frame.write_parquet(tmp_path / "log.parquet")
    return tmp_path / "log.parquet"


def test_every_estimate_of_a_uniform_choice_is_near_what_it_earns(log):
    shown = evaluate(log, "--target", "uniform", "--model", "--json")
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert list(found["estimates"]) == ["ips", "snips", "dm", "dr", "switch"]
    for estimate in found["estimates"].values():
        assert estimate["value"] == pytest.approx(0.4, abs=0.06)
    assert found["doubts"] == []


def test_the_table_says_what_the_log_is_worth(log):
    shown = evaluate(log, "--target", "uniform").stdout
    assert "1000 decisions earned" in shown
    assert "Nothing in the log speaks against these figures." in shown
    assert "dr" not in shown.split()


def test_what_the_log_cannot_tell_is_said(log):
    shown = evaluate(log, "--target", "uniform", "--where", "action=a").stdout
    assert "Doubtful: weights should be 1 on average and are 1.429" in shown
    assert "Nothing in the log speaks against" not in shown


def test_results_are_written_and_are_the_same_every_time(log, tmp_path):
    for name in ("one", "two"):
        evaluate(log, "--target", "uniform", "--model", "--out", tmp_path / name / "found.json")
    one, two = ((tmp_path / name / "found.json").read_bytes() for name in ("one", "two"))
    assert one == two
    assert json.loads(one)["decisions"] == 1000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "best"), "best: names no target; uniform, column:NAME, table:FILE and vw:OPTIONS do"),
        (("--target", "uniform", "--where", "site"), "--where site: is no condition; write COLUMN=VALUE"),
        (("--target", "uniform", "--features", "x0"), "--features: goes with --model"),
        (("--target", "uniform", "--model", "--features", "x9"), "has no column 'x9'"),
        (("--target", "uniform", "--reward", "x0"), "column 'x0': "),
        (("--target", "column:x0"), "says no probability, from 0 to 1"),
        (("--target", "uniform", "--reward-range", "1", "0"), "rewards from 1 to 0: no range"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_with_the_fix(log, arguments, said):
    shown = evaluate(log, *arguments)
    assert shown.exit_code == 2
    assert said in shown.output
