"""A policy of the user's own, named in the block as ``module:Class``."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bandmaster import build, config
from bandmaster.cli import main
from bandmaster.core import BandmasterError
from bandmaster.replay import replay
from bandmaster.testing import check_policy, sample_learner, sample_log

ROOT = Path(__file__).parents[2]
BLOCK = (
    "orchestration:\n  contract: {accuracy: {weight: 1}}\n  members: {m0: {}, m1: {}, m2: {}}\n  policy: {use: USE}\n"
)

BROKEN = """
from bandmaster.policies.traditional import RandomPolicy

class Improper(RandomPolicy):
    def __init__(self, plans, contract, belief):
        super().__init__(plans)

    def probabilities(self, state):
        return self._p * 1.5

class Half:
    def __init__(self, plans, contract, belief):
        self.name = "half"

class Greedy:
    def __init__(self, plans):
        self.plans = plans
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the policy that the documentation shows, and with broken ones."""
    shown = (ROOT / "docs/how-to/add-a-policy.md").read_text()
    found = re.search(r'```python title="my_policy.py"\n(.*?)```', shown, re.S)
    assert found
    (tmp_path / "shown_policy.py").write_text(found[1])
    (tmp_path / "broken_policies.py").write_text(BROKEN)
    return tmp_path


def named(folder: Path, use: str) -> Path:
    path = folder / "block.yaml"
    path.write_text(BLOCK.replace("USE", f'"{use}"'))
    return path


def test_it_is_made_and_replayed_like_any_other(folder):
    read = config.load(named(folder, "shown_policy:Cautious"))
    log = sample_log(300, members=3, abstain=0.0)
    (results,) = replay(build.bench(read, [log]), ["shown_policy:Cautious", "random"], 2)
    own, random = (results.as_json()["policies"][name]["reward"] for name in ("shown_policy:Cautious", "random"))
    assert own > random


def test_it_keeps_the_rules_that_all_policies_keep(folder):
    read = config.load(named(folder, "shown_policy:Cautious"))
    check_policy(lambda plans, contract, belief: build.own_policy(read.policy.use, read.root, plans, contract, belief))


def test_it_decides_as_its_class_says(folder):
    read = config.load(named(folder, "shown_policy:Cautious"))
    log = sample_log(20)
    learner = sample_learner(
        lambda plans, contract, belief: build.own_policy(read.policy.use, read.root, plans, contract, belief), log
    )
    p = learner.manager.policy.probabilities(learner.state.get_state(log.request(0)))
    assert np.isclose(p.max(), 0.95 + 0.05 / len(p))


@pytest.mark.parametrize(
    ("use", "says"),
    [
        ("nowhere_policy:A", r"block.yaml: orchestration.policy.use: nowhere_policy:A cannot be imported"),
        ("broken_policies:Absent", r"broken_policies has no 'Absent'; name something that it defines"),
        (
            "broken_policies:Improper",
            r"broken_policies:Improper breaks a rule of policies: policy random gave no distribution",
        ),
        ("broken_policies:Half", r"has no probes, aims, version, catalogue, probabilities, learn, dump, load"),
        ("broken_policies:Greedy", r"called with plans, contract and belief it raised TypeError"),
    ],
)
def test_check_says_what_is_wrong_with_one(folder, use, says):
    checked = CliRunner().invoke(main, ["check", "--no-models", str(named(folder, use))])
    assert checked.exit_code == 2
    assert re.search(says, checked.stderr), checked.stderr


@pytest.mark.parametrize("use", ["my policy:A", "a:b:c", ":A", "constant:all"])
def test_what_is_no_name_of_one_is_refused_as_it_is_read(folder, use):
    with pytest.raises(BandmasterError, match=r"policy\.use: "):
        config.load(named(folder, use))
