"""What no policy reads is not learned, and no run is the other for that."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from bandmaster import build, lean
from bandmaster.config import POLICIES
from bandmaster.contract import Contract, Metric
from bandmaster.limits import Limits
from bandmaster.plans import compiled
from bandmaster.policies.traditional import RandomPolicy
from bandmaster.replay import Traffic, draw, run

LEAN = ("constant", "constant:cheap+mid+dear~recent", "random", "thompson", "ucb", "exp3", "exp4", "vw")


def policy_of(lab, spec):
    return build.learner(lab.config, lab.catalogue, np.random.default_rng(0), spec).manager.policy


def sufficing(lab, spec):
    return lean.suffices(policy_of(lab, spec), lab.config.contract, lab.config.limits)


def assert_same(a, b):
    for name, value in asdict(a).items():
        if name != "alarms":
            np.testing.assert_equal(value, getattr(b, name), err_msg=name)


@pytest.mark.parametrize("spec", LEAN)
def test_a_policy_that_reads_nothing_of_the_state_plays_the_same_without_it(lab, spec, monkeypatch):
    drawn = draw(lab.logs[0], Traffic(), 0)
    assert sufficing(lab, spec)
    spared = run(drawn, build.ReplayFactory(lab.config), spec, 3)
    monkeypatch.setattr(lean, "suffices", lambda *_: False)
    full = run(drawn, build.ReplayFactory(lab.config), spec, 3)
    assert_same(spared, full)
    assert spared.alarms is None
    assert full.alarms is not None


def test_every_other_policy_is_told_everything(lab):
    others = {spec for spec in POLICIES if not sufficing(lab, spec)}
    assert others == {"bandit", "scoring", "blast", "knora-e"}
    assert lean.reads_state(object())


def test_where_anybody_else_reads_the_state_it_is_learned(lab):
    policy = policy_of(lab, "random")
    own = Contract.of(Metric("accuracy", 1.0), Metric("fairness", 1.0, use=lambda *_: 0.5))
    consensus = Contract.of(Metric("accuracy", 1.0, source="consensus"))
    assert not lean.suffices(policy, own, Limits())
    assert not lean.suffices(policy, consensus, Limits())
    assert not lean.suffices(policy, lab.config.contract, Limits(deadline_s=1.0))
    by_belief = RandomPolicy(compiled(("cheap", "cheap>dear@0.8~learned"), lab.catalogue.ensemble))
    assert not lean.suffices(by_belief, lab.config.contract, Limits())


def test_one_expert_that_reads_the_state_is_enough(lab):
    policies = replace(lab.config.policy, experts=("constant:cheap", "scoring"))
    policy = build.policy("exp4", replace(lab.config, policy=policies), lab.catalogue, None)
    assert lean.reads_state(policy)
