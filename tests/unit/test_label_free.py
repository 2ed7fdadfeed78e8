"""Where consensus judges: what a probe teaches without a label, and that the two sources never mix."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from bandmaster import hosting
from bandmaster.config import Source, parse
from bandmaster.consensus import member_agreement, plan_agreement
from bandmaster.contract import Contract, Metric
from bandmaster.core import Outcome, Request
from bandmaster.counterfactual import revealed
from bandmaster.metrics import ImportedFunction
from bandmaster.orchestrator import settle
from tests.unit.test_metrics import LOG, PLANS, parts

LATENCY = Metric("latency", 0.3, goal="min", low=0.001, high=1.0, scale="log")
ENERGY = Metric("energy", 0.2, goal="min", low=0.001, high=1.0, scale="log")
BY_CONSENSUS = Contract.of(Metric("accuracy", 0.5, source="consensus"), LATENCY, ENERGY)
BY_LABELS = Contract.of(Metric("accuracy", 0.5), LATENCY, ENERGY)
ROWS = (3, 4, 5, 6, 7)
LEFT = Outcome(0.0, consensus=True)
LABELS = Outcome(0.0, tuple(int(LOG.truth[i]) for i in ROWS))


def play(contract, plan, outcome, probe_share=1.0):
    orchestrator, learner, journal = parts(contract, plan, probe_share)
    request = Request(np.array(ROWS)[:, None], np.zeros(3), at=0.0)
    decision, answer = orchestrator.answer(request)
    if decision.probed:
        orchestrator.probe(decision, answer, request)
    return settle(journal, learner, decision.id, outcome).experience, learner


def test_a_probe_left_to_consensus_teaches_every_members_agreement():
    experience, learner = play(BY_CONSENSUS, "m0", LEFT)
    scores = LOG.scores[list(ROWS)].astype(float)
    assert np.allclose(experience.correct, member_agreement(scores), equal_nan=True)
    assert experience.truth is None
    assert experience.reward.raw["accuracy"] == pytest.approx(member_agreement(scores)[0])
    assert learner.state.version == 1


@pytest.mark.parametrize("plan", PLANS.names[::3])
def test_what_a_plan_would_have_earned_by_consensus_is_what_it_earns(plan):
    seen, _ = play(BY_CONSENSUS, PLANS.names[0], LEFT)
    really, _ = play(BY_CONSENSUS, plan, LEFT)
    assert revealed(PLANS, BY_CONSENSUS, seen).rewards[PLANS.index(plan)] == pytest.approx(really.own, abs=1e-12)


def test_a_probe_s_energy_is_charged_to_its_request_by_consensus_too():
    experience, _ = play(BY_CONSENSUS, "m0", LEFT)
    assert experience.own > experience.reward.value


def test_every_reward_by_consensus_is_known_as_likely_as_a_probe():
    orchestrator, learner, journal = parts(BY_CONSENSUS, "m0", probe_share=0.25)
    while True:
        request = Request(np.array(ROWS)[:, None], np.zeros(3), at=0.0)
        decision, answer = orchestrator.answer(request)
        if decision.probed:
            break
    orchestrator.probe(decision, answer, request)
    experience = settle(journal, learner, decision.id, LEFT).experience
    told = revealed(PLANS, BY_CONSENSUS, experience)
    assert not np.isnan(told.rewards).any()
    assert told.observed_p.tolist() == [0.25] * len(PLANS)


@pytest.mark.parametrize(
    ("contract", "outcome", "probe_share"),
    [
        (BY_CONSENSUS, LABELS, 1.0),
        (BY_CONSENSUS, Outcome(0.0, reward=0.5), 1.0),
        (BY_LABELS, LEFT, 1.0),
        (BY_CONSENSUS, LEFT, 0.0),  # not probed, so nobody to agree with
    ],
)
def test_the_other_source_is_recorded_and_not_learned_from(contract, outcome, probe_share):
    experience, learner = play(contract, "m0", outcome, probe_share)
    assert experience is None
    assert learner.state.version == 0


@pytest.mark.parametrize("fields", [{}, {"labels": (1,), "consensus": True}, {"labels": (1,), "reward": 1.0}])
def test_an_outcome_is_exactly_one_thing(fields):
    with pytest.raises(ValueError, match="exactly one"):
        Outcome(0.0, **fields)


def test_where_no_other_member_answered_there_is_no_reward():
    scores = np.zeros((1, 3, 2))
    scores[0, 0] = 0.5
    heard = np.array([[[True, False, False]]])
    assert np.isnan(plan_agreement(scores, np.array([[0]]), heard)).all()


def test_the_examples_of_the_document_are_accepted_as_they_stand(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    (module,) = re.findall(r"```python title=\"my_metrics.py\"\n(.*?)```", text, re.S)
    (tmp_path / "my_metrics.py").write_text(module)
    for block in re.findall(r"```yaml\n(.*?)```", text, re.S):
        whole = yaml.safe_load(block) | {"members": {"a": {}, "b": {}, "c": {}}}
        config = parse(whole, Source("metrics.md", root=tmp_path))
        hosting.require_functions(config)
    experience, _ = play(BY_LABELS, "m0", LABELS)
    joined = experience.joined
    features = np.array([0.0, 0.0, 0.0, 1.0])
    decision = replace(joined.decision, state=replace(joined.decision.state, features=features))
    fairness = ImportedFunction("my_metrics:fairness", tmp_path)
    assert fairness(decision, joined.answer, joined.outcome) == experience.reward.raw["accuracy"]
