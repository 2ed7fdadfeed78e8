"""Every policy passes the contract suite that ships with the package, and no policy escapes it."""

import importlib
import inspect
import pkgutil

import numpy as np
import pytest

import bandmaster.policies
from bandmaster.core import Policy
from bandmaster.learner import profile_figures
from bandmaster.policies.bandit import BanditPolicy
from bandmaster.policies.traditional import ConstantPolicy, RandomPolicy, ScoringPolicy
from bandmaster.testing import POLICY_RULES, check_policy

SUITE = {
    ConstantPolicy: lambda plans, contract: ConstantPolicy(plans, plans.names[-1]),
    RandomPolicy: lambda plans, contract: RandomPolicy(plans),
    ScoringPolicy: lambda plans, contract: ScoringPolicy(plans, contract, profile_figures(plans.ensemble)),
    BanditPolicy: lambda plans, contract: BanditPolicy(plans, contract, profile_figures(plans.ensemble)),
}


@pytest.mark.parametrize("kind", SUITE)
@pytest.mark.parametrize("rule", POLICY_RULES, ids=lambda rule: rule.__name__.strip("_"))
def test_every_policy_keeps_every_rule(kind, rule):
    rule(SUITE[kind])


def test_no_policy_escapes_the_suite():
    found = pkgutil.iter_modules(bandmaster.policies.__path__, "bandmaster.policies.")
    modules = [importlib.import_module(module.name) for module in found]
    classes = {c for m in modules for _, c in inspect.getmembers(m, inspect.isclass)}
    assert {c for c in classes if hasattr(c, "probabilities") and c is not Policy} == set(SUITE)


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
        lambda plans, contract: Amnesiac(plans, contract, profile_figures(plans.ensemble)),
        lambda plans, contract: Credulous(plans),
        lambda plans, contract: Secretive(plans, contract, profile_figures(plans.ensemble)),
    ],
)
def test_the_suite_notices_a_broken_policy(make):
    with pytest.raises(Exception, match=r"\w+ \w+") as caught:
        check_policy(make)
    assert caught.typename in ("AssertionError", "BandmasterError")
