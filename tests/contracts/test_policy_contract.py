"""Every policy passes the contract suite that ships with the package, and no policy escapes it."""

import importlib
import inspect
import pkgutil

import numpy as np
import pytest

import bandmaster.policies
from bandmaster.config import POLICIES
from bandmaster.core import Policy
from bandmaster.learner import profile_figures
from bandmaster.policies.bandit import BanditPolicy
from bandmaster.policies.context_free import Exp3Policy, ThompsonPolicy, UcbPolicy
from bandmaster.policies.exp4 import Exp4Policy
from bandmaster.policies.exploration import STRENGTH, Exploration
from bandmaster.policies.peers import BlastPolicy, KnoraPolicy
from bandmaster.policies.traditional import ConstantPolicy, RandomPolicy, ScoringPolicy
from bandmaster.policies.vw_alone import VowpalWabbitPolicy
from bandmaster.testing import POLICY_RULES, check_policy, sample_log
from bandmaster.testing.policies import CONTRACT, sample_catalogue

FIGURES = profile_figures(sample_log(1).ensemble)


def experts(plans, contract):
    return [
        ConstantPolicy(plans, plans.names[0]),
        ScoringPolicy(plans, contract, FIGURES),
        BlastPolicy(plans, contract),
        BanditPolicy(plans, contract, FIGURES),
    ]


SUITE = {
    "constant": lambda plans, contract: ConstantPolicy(plans, plans.names[-1]),
    "random": lambda plans, contract: RandomPolicy(plans),
    "scoring": lambda plans, contract: ScoringPolicy(plans, contract, FIGURES),
    "thompson": lambda plans, contract: ThompsonPolicy(plans),
    "ucb": lambda plans, contract: UcbPolicy(plans),
    "exp3": lambda plans, contract: Exp3Policy(plans),
    "exp4": lambda plans, contract: Exp4Policy(experts(plans, contract), plans),
    "blast": lambda plans, contract: BlastPolicy(plans, contract),
    "knora-e": lambda plans, contract: KnoraPolicy(plans),
    **{
        f"bandit:{way}": lambda plans, contract, way=way: BanditPolicy(
            plans, contract, FIGURES, explore=Exploration(way, STRENGTH[way])
        )
        for way in ("epsilon", "squarecb", "softmax")
    },
    **{
        f"vw:{way}": lambda plans, contract, way=way: VowpalWabbitPolicy(
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
    classes = {c for m in modules for _, c in inspect.getmembers(m, inspect.isclass) if hasattr(c, "probabilities")}
    log = sample_log(1)
    tested = {type(make(sample_catalogue(log), CONTRACT)) for make in SUITE.values()}
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


@pytest.mark.parametrize(
    "make",
    [
        lambda plans, contract: LearnsByChoosing(plans),
        lambda plans, contract: Improper(plans),
        lambda plans, contract: Amnesiac(plans, contract, FIGURES),
        lambda plans, contract: Credulous(plans),
        lambda plans, contract: Secretive(plans, contract, FIGURES),
    ],
)
def test_the_suite_notices_a_broken_policy(make):
    with pytest.raises(Exception, match=r"\w+ \w+") as caught:
        check_policy(make)
    assert caught.typename in ("AssertionError", "BandmasterError")
