"""Fixed plans, evaluated all at once, earn what the constant policy earns when it is driven request by request."""

from dataclasses import astuple, replace

import numpy as np
import pytest

from bandmaster import build
from bandmaster.contract import Contract, Metric
from bandmaster.core import Joined, Outcome
from bandmaster.replay import Traffic, draw, fixed_plans, run
from bandmaster.replay.engine import measures_of
from bandmaster.state import Tracking
from bandmaster.table import NO_LABEL

WORLDS = {
    "labels as late as logged": Traffic(),
    "labels at once": Traffic(delay=0),
    "labels late and few": Traffic(delay=40, label_share=0.4),
    "another order": Traffic(order="shuffled"),
}


@pytest.mark.parametrize(("world", "reaction"), [*((w, "forget") for w in WORLDS), ("labels at once", "none")])
def test_every_plan_earns_what_the_constant_policy_earns_with_it(lab, world, reaction):
    settings = replace(lab.config, drift=replace(lab.config.drift, reaction=reaction, delta=0.5))
    drawn = draw(lab.logs[0], WORLDS[world], seed=3)
    fixed = fixed_plans(drawn, lab.catalogue, settings.contract, build.tracking(settings))
    for k, plan in enumerate(lab.catalogue.names):
        trace = run(drawn, build.ReplayFactory(settings), f"constant:{plan}", seed=3)
        np.testing.assert_allclose(trace.reward, fixed.rewards[:, k], rtol=0, atol=1e-12, err_msg=plan)
        every = np.arange(len(drawn.log))
        assert astuple(fixed.measures[k]) == pytest.approx(astuple(measures_of(trace, every)), nan_ok=True), plan
    other = replace(build.tracking(settings), forget=reaction != "forget")
    heedless = fixed_plans(drawn, lab.catalogue, settings.contract, other).rewards
    assert WORLDS[world].order == "shuffled" or not np.array_equal(fixed.rewards, heedless, equal_nan=True)


def test_the_catalogue_of_that_test_has_every_kind_of_plan(lab):
    kinds = {(len(p.stages) > 1, len(p.members) > 1, p.weights) for p in lab.catalogue.plans}
    assert kinds == {
        (False, False, "uniform"), (False, True, "uniform"), (False, True, "recent"), (True, True, "uniform"),
        (True, True, "recent"),
    }  # fmt: skip


def test_a_request_without_a_label_has_no_reward(lab):
    drawn = draw(lab.logs[0], Traffic(), seed=0)
    fixed = fixed_plans(drawn, lab.catalogue, lab.config.contract, Tracking())
    assert (np.isnan(fixed.rewards).all(axis=1) == (drawn.log.truth == NO_LABEL)).all()
    assert not np.isnan(fixed.rewards[drawn.log.truth != NO_LABEL]).any()


@pytest.mark.parametrize("policy", ["random", "scoring"])
def test_a_run_is_accounted_as_the_learner_accounts_each_request_probes_charged(lab, policy):
    drawn = draw(lab.logs[0], Traffic(delay=5), seed=1)
    parts = build.ReplayFactory(lab.config)(policy, drawn.log, 1)
    kept = []

    class Spy:
        def answer(self, request):
            return parts.orchestrator.answer(request)

        def probe(self, decision, answer, request):
            return parts.orchestrator.probe(decision, answer, request)

    class SpyJournal:
        def settle(self, decision_id, outcome):
            settlement = parts.journal.settle(decision_id, outcome)
            kept.append(settlement.joined)
            return settlement

        def __getattr__(self, name):
            return getattr(parts.journal, name)

    spied = replace(parts, orchestrator=Spy(), journal=SpyJournal())
    trace = run(drawn, lambda *_: spied, policy, seed=1)
    assert policy == "random" or trace.probed.any()
    for joined in kept:
        i = int(joined.decision.id)
        truth = Outcome(at=0.0, labels=(int(drawn.log.truth[i]),))
        reward = parts.learner.reward(Joined(0, joined.decision, joined.answer, truth))
        assert trace.reward[i] == pytest.approx(reward.value, abs=1e-12)
        assert {n: trace.raw[n][i] for n in reward.raw} == pytest.approx(dict(reward.raw))
        assert {n: trace.terms[n][i] for n in reward.terms} == pytest.approx(dict(reward.terms))
    assert len(kept) > 200


def uses_few(decision, answer, outcome):
    """A metric of the user's own that looks at all it is given; it has no figure for the surest answers."""
    right = float(np.mean(answer.labels == np.asarray(outcome.labels)))
    weekend = 0.1 * (decision.state.tags == ("country=IT",))
    return float("nan") if answer.confidence[0] > 0.9 else 0.2 * len(answer.ran) + 0.3 * right + weekend


def test_every_plan_earns_by_a_metric_of_the_users_own_what_the_constant_policy_earns(lab):
    own = Contract.of(Metric("accuracy", 0.5), Metric("few", 0.5, goal="min", use=uses_few))
    settings = replace(lab.config, contract=own)
    drawn = draw(lab.logs[0], Traffic(delay=3), seed=0)
    fixed = fixed_plans(drawn, lab.catalogue, own, build.tracking(settings))
    assert 0.0 < np.isnan(fixed.rewards[drawn.log.truth != NO_LABEL]).mean() < 0.5
    for k in range(0, len(lab.catalogue), 5):
        trace = run(drawn, build.ReplayFactory(settings), f"constant:{lab.catalogue.names[k]}", seed=0)
        if "recent" not in lab.catalogue.names[k]:  # whose weights wait for rewards that some requests never have
            np.testing.assert_allclose(trace.reward, fixed.rewards[:, k], rtol=0, atol=1e-12)


@pytest.mark.parametrize("policy", ["bandit", "scoring"])
def test_by_consensus_a_replay_learns_from_its_probes_alone_and_is_judged_by_the_labels(lab, policy):
    contract = Contract.of(Metric("accuracy", 1.0, source="consensus"))
    settings = replace(lab.config, contract=contract)
    drawn = draw(lab.logs[0], Traffic(delay=0), seed=0)
    made = []

    def make(*arguments):
        made.append(build.ReplayFactory(settings)(*arguments))
        return made[-1]

    trace = run(drawn, make, policy, seed=0)
    assert made[0].learner.state.version == trace.probed.sum() > 0
    known = drawn.log.truth != NO_LABEL
    assert trace.reward[known].tolist() == (trace.label == drawn.log.truth)[known].tolist()
    fixed = fixed_plans(drawn, lab.catalogue, contract, build.tracking(settings))
    last = len(lab.catalogue) - 1
    alone = run(drawn, build.ReplayFactory(settings), f"constant:{lab.catalogue.names[last]}", seed=0)
    np.testing.assert_allclose(alone.reward, fixed.rewards[:, last], rtol=0, atol=1e-12)
