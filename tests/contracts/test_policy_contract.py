"""Every policy passes the contract suite that ships with the package, and no policy escapes it."""

import importlib
import inspect
import pkgutil

import numpy as np
import pytest

import bandmaster.policies
from bandmaster.config import POLICIES
from bandmaster.contract import Contract
from bandmaster.core import Policy, Said
from bandmaster.learner import profile_figures
from bandmaster.policies.bandit import BanditPolicy
from bandmaster.policies.context_free import Exp3Policy, ThompsonPolicy, UcbPolicy
from bandmaster.policies.exp4 import Exp4Policy
from bandmaster.policies.exploration import STRENGTH, Exploration
from bandmaster.policies.peers import BlastPolicy, KnoraPolicy
from bandmaster.policies.profiled import ProfiledPolicy
from bandmaster.policies.traditional import ConstantPolicy, RandomPolicy, ScoringPolicy
from bandmaster.policies.vw_alone import VowpalWabbitPolicy
from bandmaster.testing import POLICY_RULES, check_policy, sample_learner, sample_log

FIGURES = profile_figures(sample_log(1).ensemble)


def experts(plans, contract, belief):
    return [
        ConstantPolicy(plans, plans.names[0]),
        ScoringPolicy(plans, contract, FIGURES),
        BlastPolicy(plans, contract),
        BanditPolicy(plans, contract, FIGURES, belief),
    ]


SUITE = {
    "constant": lambda plans, contract, belief: ConstantPolicy(plans, plans.names[-1]),
    "random": lambda plans, contract, belief: RandomPolicy(plans),
    "scoring": lambda plans, contract, belief: ScoringPolicy(plans, contract, FIGURES),
    "thompson": lambda plans, contract, belief: ThompsonPolicy(plans),
    "ucb": lambda plans, contract, belief: UcbPolicy(plans),
    "exp3": lambda plans, contract, belief: Exp3Policy(plans),
    "exp4": lambda plans, contract, belief: Exp4Policy(experts(plans, contract, belief), plans),
    "blast": lambda plans, contract, belief: BlastPolicy(plans, contract),
    "knora-e": lambda plans, contract, belief: KnoraPolicy(plans),
    **{
        f"bandit:{way}": lambda plans, contract, belief, way=way: BanditPolicy(
            plans, contract, FIGURES, belief, explore=Exploration(way, STRENGTH[way])
        )
        for way in ("epsilon", "squarecb", "softmax")
    },
    "bandit:profiled": lambda plans, contract, belief: ProfiledPolicy(
        Contract.of(*contract.metrics, profiles={"fast": {"accuracy": 0.3, "latency": 0.7}}),
        lambda own: BanditPolicy(plans, own, FIGURES, belief),
        plans.ensemble,
    ),
    **{
        f"vw:{way}": lambda plans, contract, belief, way=way: VowpalWabbitPolicy(
            plans, contract, FIGURES, explore=Exploration(way, STRENGTH[way])
        )
        for way in STRENGTH
    },
}
"""Every policy; those that explore in several ways, in each of them."""


@pytest.mark.parametrize("kind", SUITE)
@pytest.mark.parametrize("rule", POLICY_RULES, ids=lambda rule: rule.__name__.strip("_"))
def test_every_policy_keeps_every_rule(kind, rule):
    rule(SUITE[kind])


def test_no_policy_escapes_the_suite():
    found = pkgutil.iter_modules(bandmaster.policies.__path__, "bandmaster.policies.")
    modules = [importlib.import_module(module.name) for module in found]
    classes = {
        c
        for m in modules
        for _, c in inspect.getmembers(m, inspect.isclass)
        if hasattr(c, "learn") and hasattr(c, "probabilities")
    }
    log = sample_log(1)
    tested = {type(sample_learner(make, log).manager.policy) for make in SUITE.values()}
    assert {c for c in classes if c is not Policy and not inspect.isabstract(c)} == tested


def test_every_policy_that_a_configuration_may_name_is_in_the_suite():
    assert {kind.partition(":")[0] for kind in SUITE} == set(POLICIES)


class LearnsByChoosing(RandomPolicy):
    def probabilities(self, state):
        self._p = np.roll(self._p * np.linspace(0.5, 1.5, len(self._p)), 1)
        self._p /= self._p.sum()
        return self._p


class Improper(RandomPolicy):
    def probabilities(self, state):
        return self._p * 1.5


class Amnesiac(BanditPolicy):
    def load(self, snapshot):
        """Forgets what it is given."""


class Credulous(RandomPolicy):
    def load(self, snapshot):
        """Takes anything."""


class Secretive(BanditPolicy):
    version = "always the same"


class Meddler(RandomPolicy):
    """Teaches the belief what the learner has taught it already."""

    def __init__(self, plans, belief):
        super().__init__(plans)
        self._belief = belief

    def learn(self, experience):
        self._belief.learn(Said.of(experience.scores), experience.known, experience.truth)


@pytest.mark.parametrize(
    "make",
    [
        lambda plans, contract, belief: LearnsByChoosing(plans),
        lambda plans, contract, belief: Improper(plans),
        lambda plans, contract, belief: Amnesiac(plans, contract, FIGURES, belief),
        lambda plans, contract, belief: Credulous(plans),
        lambda plans, contract, belief: Meddler(plans, belief),
        lambda plans, contract, belief: Secretive(plans, contract, FIGURES, belief),
    ],
)
def test_the_suite_notices_a_broken_policy(make):
    with pytest.raises(Exception, match=r"\w+ \w+") as caught:
        check_policy(make)
    assert caught.typename in ("AssertionError", "BandmasterError")
