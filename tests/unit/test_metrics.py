"""Metrics of the user's own: imported with care, judged as it happened and as it would have, or not trained on."""

import logging
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bandmaster.contract import Contract, Metric
from bandmaster.core import BandmasterError, Outcome, Request
from bandmaster.counterfactual import evaluate, revealed
from bandmaster.journal.memory import MemoryJournal
from bandmaster.learner import Learner
from bandmaster.metrics import ImportedFunction, NoFigureError, own_figures, would_be
from bandmaster.orchestrator import settle
from bandmaster.plans import Catalogue, generate
from bandmaster.policies.traditional import ConstantPolicy
from bandmaster.probes import Probing
from bandmaster.rl_manager import RLManager
from bandmaster.state import StateManager
from bandmaster.testing import sample_log, sample_orchestrator

LOG = sample_log(60, seed=3, abstain=0.2)
PLANS = Catalogue.of(LOG.ensemble, generate(LOG.ensemble, subsets=3, cascades=3, stop_at=(0.5, 0.9), limit=40))


def members_used(decision, answer, outcome):
    """The share of the ensemble that was asked, and a touch of everything else that a plan decides."""
    right = np.mean(answer.labels == np.asarray(outcome.labels))
    assert decision.plans[decision.chosen].count("+") <= 3
    return (
        len({a.name for a in answer.ran}) / 4 + 0.01 * right + 0.01 * answer.confidence.mean() + 0.1 * answer.stages_run
    )


def contract_of(use, **more):
    return Contract.of(Metric("accuracy", 0.5), Metric("own", 0.5, goal="min", high=2.0, use=use, **more))


def parts(contract, plan, probe_share=0.0):
    policy = ConstantPolicy(PLANS, plan)
    policy.probes = probe_share > 0.0
    state = StateManager(LOG.ensemble, probing=Probing(probe_share, adapt=False))
    learner = Learner(LOG.ensemble, contract, state, RLManager(policy, np.random.default_rng(0)))
    journal = MemoryJournal()
    return sample_orchestrator(learner, LOG, journal), learner, journal


def play(contract, plan, rows=(5,), probe_share=0.0):
    orchestrator, learner, journal = parts(contract, plan, probe_share)
    request = Request(np.array(rows)[:, None], np.zeros(3), at=0.0)
    decision, answer = orchestrator.answer(request)
    if decision.probed:
        orchestrator.probe(decision, answer, request)
    outcome = Outcome(0.0, tuple(int(LOG.truth[i]) for i in rows))
    return settle(journal, learner, decision.id, outcome).experience, learner


# ---- What it is worth ------------------------------------------------------------------------------------------


def test_a_figure_takes_part_in_the_reward_through_its_range_goal_and_weight():
    experience, _ = play(contract_of(lambda decision, answer, outcome: 0.5), "m0")
    accuracy = experience.reward.raw["accuracy"]
    assert experience.reward.raw["own"] == 0.5
    assert experience.reward.terms["own"] == 0.75
    assert experience.reward.value == 0.5 * accuracy + 0.5 * 0.75


@pytest.mark.parametrize("rows", [(0,), (3, 4, 5, 6, 7, 8, 9)])
@pytest.mark.parametrize("plan", PLANS.names[::3])
def test_a_plan_that_did_not_run_is_judged_as_if_it_had(plan, rows):
    contract = contract_of(members_used)
    seen, _ = play(contract, PLANS.names[0], rows, probe_share=1.0)
    earned, _ = play(contract, plan, rows)
    assert revealed(PLANS, contract, seen).rewards[PLANS.index(plan)] == pytest.approx(earned.reward.value, abs=1e-12)


@pytest.mark.parametrize("plan", PLANS.names[::5])
def test_the_answer_there_would_have_been_is_the_one_that_the_plan_gives(plan):
    rows = (3, 4, 5, 6, 7)
    seen, _ = play(contract_of(members_used), PLANS.names[0], rows, probe_share=1.0)
    really, _ = play(contract_of(members_used), plan, rows)
    walked = evaluate(PLANS, seen.scores, seen.known, seen.joined.answer.weights)
    decision, answer = would_be(PLANS, PLANS.index(plan), seen.joined, walked, seen.scores)
    its = really.joined.answer
    assert decision.plan == plan
    assert not decision.probed
    assert answer.labels.tolist() == its.labels.tolist()
    assert answer.scores == pytest.approx(its.scores)
    assert answer.confidence == pytest.approx(its.confidence)
    assert answer.stages_run == its.stages_run
    assert answer.probes == ()
    for mine, real in zip(answer.ran, its.ran, strict=True):
        assert (mine.name, mine.rows.tolist()) == (real.name, real.rows.tolist())
        assert mine.scores == pytest.approx(real.scores)


def test_a_plan_whose_answer_nobody_knows_has_no_figure():
    contract = contract_of(members_used)
    experience, _ = play(contract, "m0")
    rewards = revealed(PLANS, contract, experience).rewards
    assert rewards[PLANS.index("m0")] == experience.reward.value
    assert np.isnan(rewards[PLANS.index("m1")])


def test_a_metric_that_weighs_nothing_is_not_even_called():
    def never(decision, answer, outcome):
        raise AssertionError

    contract = Contract.of(Metric("accuracy", 1.0), Metric("own", 0.0, use=never))
    experience, learner = play(contract, "m0")
    assert experience is not None
    assert learner.without_reward == 0


def test_a_reward_that_the_caller_reports_stands_and_asks_no_function():
    contract = contract_of(lambda decision, answer, outcome: 1 / 0)
    orchestrator, learner, journal = parts(contract, "m0")
    decision, _ = orchestrator.answer(Request(np.array([[5]]), np.zeros(3), at=0.0))
    assert settle(journal, learner, decision.id, Outcome(0.0, reward=0.25)).experience.reward.value == 0.25


def test_nobody_foresees_a_metric_of_the_users_own_so_it_favours_no_plan():
    contract = contract_of(members_used)
    foreseen = contract.foreseen({"accuracy": np.array([0.2, 0.8])})
    assert foreseen.tolist() == pytest.approx([0.5 * 0.2 + 0.25, 0.5 * 0.8 + 0.25])


# ---- What goes wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None, "0.5", np.array([0.5, 0.5])])
def test_what_is_no_finite_number_is_no_figure(bad):
    experience, _ = play(contract_of(lambda decision, answer, outcome: 1.0), "m0")
    joined = experience.joined
    with pytest.raises(NoFigureError, match=r"contract\.own: .* gave .*finite number"):
        own_figures(contract_of(lambda *_: bad), joined.decision, joined.answer, joined.outcome)


@pytest.mark.parametrize("good", [True, 1, np.float32(1.0), np.int64(1), np.bool_(True)])
def test_every_kind_of_number_is_a_figure(good):
    experience, _ = play(contract_of(lambda *_: good), "m0")
    assert experience.reward.raw["own"] == 1.0


def test_an_outcome_without_a_figure_is_logged_counted_and_not_learned_from(caplog):
    def fails(decision, answer, outcome):
        raise KeyError("group")

    with caplog.at_level(logging.WARNING, "bandmaster"):
        experience, learner = play(contract_of(fails), "m0", probe_share=1.0)
    assert experience is None
    assert learner.without_reward == 1
    assert learner.state.version == 0
    assert "contract.own" in caplog.text
    assert "KeyError: 'group'" in caplog.text


def test_a_function_that_fails_for_another_plan_leaves_that_plans_reward_unknown():
    def picky(decision, answer, outcome):
        return 1.0 if decision.plan != "m1" else float("nan")

    contract = contract_of(picky)
    experience, learner = play(contract, "m0", probe_share=1.0)
    rewards = revealed(PLANS, contract, experience).rewards
    assert np.isnan(rewards[PLANS.index("m1")])
    assert not np.isnan(np.delete(rewards, PLANS.index("m1"))).any()
    assert learner.without_reward == 0


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        (lambda: Metric("fairness", 1.0), "has a name of its own and a function"),
        (lambda: Metric("accuracy", 1.0, use=members_used), "has a name of its own and a function"),
    ],
)
def test_a_name_of_its_own_and_a_function_go_together(metric, says):
    with pytest.raises(BandmasterError, match=says):
        metric()


# ---- Importing -------------------------------------------------------------------------------------------------

MODULE = """
def fairness(decision, answer, outcome):
    return 0.25

number = 3
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "metrics_of_a_test.py").write_text(MODULE)
    (tmp_path / "broken_of_a_test.py").write_text("import math\nraise RuntimeError('no luck')\n")
    return tmp_path


def test_a_function_is_found_in_the_configurations_folder_and_the_path_stays_clean(root):
    before = list(sys.path)
    function = ImportedFunction("metrics_of_a_test:fairness", root)
    assert function(None, None, None) == 0.25
    assert sys.path == before
    assert str(function) == "metrics_of_a_test:fairness"


def test_a_function_goes_to_other_processes_that_know_nothing_of_its_folder(root):
    dumped = pickle.dumps(Contract.of(Metric("own", 1.0, use=ImportedFunction("metrics_of_a_test:fairness", root))))
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).metrics[0].use(None, None, None))"
    ran = subprocess.run([sys.executable, "-c", code], input=dumped, capture_output=True, check=True)
    assert ran.stdout.strip() == b"0.25"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nowhere_of_a_test:f", r"nowhere_of_a_test:f cannot be imported: No module .*as seen from "),
        ("metrics_of_a_test:fairnes", "has no 'fairnes'; name something that it defines"),
        ("metrics_of_a_test:number", "is a int, which cannot be called"),
        ("broken_of_a_test:f", "importing broken_of_a_test fails: RuntimeError: no luck"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_the_reason(root, spec, says):
    with pytest.raises(BandmasterError, match=says):
        ImportedFunction(spec, root).load()


def test_contracts_with_the_same_functions_are_equal(root):
    one = contract_of(ImportedFunction("a:b", root))
    assert one == contract_of(ImportedFunction("a:b", root))
    assert one != replace(one, metrics=contract_of(ImportedFunction("a:c", root)).metrics)
