"""``bandmaster gate``: 0 only for a policy that is better for sure, and a verdict that says of what."""

import json

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from bandmaster.cli import main
from bandmaster.core import BandmasterError
from bandmaster.gate import read_verdict

CONFIG = """
orchestration:
  contract: {accuracy: {weight: 0.7}, cost: {weight: 0.3, range: [0, 2]}}
  members: {cheap: {profile: {cost: 1}}, dear: {profile: {cost: 1}}}
  plans: {subsets: 1, cascades: 1}
  probes: {share: 0.1}
  policy: {use: scoring}
"""


@pytest.fixture
def gate(tmp_path):
    """Each member knows one half of the log, so that a policy that learns beats every constant plan."""
    truth = np.arange(900) % 5
    first = np.arange(900) < 450
    log = {
        "label": truth,
        "cheap__pred": np.where(first, truth, (truth + 1) % 5),
        "dear__pred": np.where(first, (truth + 1) % 5, truth),
    }
    pl.DataFrame(log).write_parquet(tmp_path / "log.parquet")
    (tmp_path / "new.yaml").write_text(CONFIG)

    def call(*arguments):
        options = ("--config", tmp_path / "new.yaml", "--seeds", 1, "--jobs", 1, *arguments)
        return CliRunner().invoke(main, ["gate", *map(str, (tmp_path / "log.parquet", *options))])

    return call


@pytest.mark.parametrize("against", ["constant:cheap", "best_constant_plan", "random"])
def test_a_policy_that_is_better_for_sure_passes(gate, against):
    shown = gate("--against", against)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith("Passed: scoring earns +0.")


def test_a_policy_that_is_worse_or_not_better_by_the_margin_fails(gate):
    worse = gate("--policy", "constant:cheap", "--against", "scoring")
    assert worse.exit_code == 1
    assert "not more than 0." in worse.stdout
    assert gate("--against", "constant:cheap", "--margin", "0.9").exit_code == 1


def test_where_the_traffic_cannot_tell_the_gate_stays_shut_and_says_so(gate):
    unsure = gate("--policy", "constant:cheap", "--against", "constant:dear")
    assert unsure.exit_code == 1
    assert "is not sure; replay more traffic, or more seeds" in unsure.stdout


def test_the_verdict_says_what_it_is_about(gate, tmp_path):
    shown = gate("--against", "constant:cheap", "--out", tmp_path / "verdict.json", "--json")
    verdict = read_verdict(tmp_path / "verdict.json")
    assert json.loads(shown.stdout) == json.loads((tmp_path / "verdict.json").read_text())
    assert (verdict.passed, verdict.policy, verdict.against, verdict.seeds) == (True, "scoring", "constant:cheap", 1)
    assert verdict.rewards["scoring"] - verdict.rewards["constant:cheap"] == pytest.approx(verdict.difference)
    assert verdict.contract["accuracy"]["weight"] == 0.7
    assert len(verdict.log) == 64
    (tmp_path / "verdict.json").write_text('{"passed": true}')
    with pytest.raises(BandmasterError, match="is no verdict of `bandmaster gate`"):
        read_verdict(tmp_path / "verdict.json")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--against", "scoring"), "--against scoring: is the policy that is judged"),
        (("--against", "nobody"), "nobody"),
        (("--out", "/"), "is a folder"),
    ],
)
def test_what_cannot_be_judged_is_refused(gate, arguments, said):
    refused = gate(*arguments)
    assert refused.exit_code == 2
    assert said in refused.output
