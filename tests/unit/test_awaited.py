"""Probes whose labels have not come tell the planner what they can, and nobody else anything."""

from dataclasses import replace

import numpy as np
import pytest

from bandmaster.awaited import Awaited
from bandmaster.belief import Belief
from bandmaster.combine import posterior
from bandmaster.core import DriftEvent, Evidence, Figures, Outcome, Said
from bandmaster.journal.memory import MemoryJournal
from bandmaster.learner import profile_figures
from bandmaster.orchestrator import settle
from bandmaster.policies.bandit import BanditPolicy
from bandmaster.policies.traditional import RandomPolicy
from bandmaster.testing import sample_experiences, sample_learner, sample_log
from bandmaster.testing.policies import CONTRACT, sample_decisions, sample_orchestrator

LOG = sample_log(300, seed=4)
FIGURES = profile_figures(LOG.ensemble)
TOOK = Figures(*(np.array([0.1, 0.2, 0.3]) for _ in range(4)))
MIX = np.array([0.5, 0.3, 0.2])
DECISION = next(sample_experiences(sample_learner(lambda plans, *_: RandomPolicy(plans), LOG), LOG)).joined.decision


def said_by(*labels, sure=5):
    label = np.array(labels)
    return Said(label, np.full(label.shape, sure))


def decided(name, at=0.0, mix=MIX, stands=1.0):
    """A decision that was probed, and stands for so many."""
    state = replace(DECISION.state, label_mix=mix, probe_share=0.1)
    return replace(DECISION, id=name, at=at, state=state, probe_p=0.1 / stands, lot=0.0)


def add(awaited, name, said, odds=None, **more):
    awaited.add(decided(name, **more), said, TOOK, np.zeros((2, 3)) if odds is None else odds)


def learned_belief(n=200, seed=0):
    """Three members, right in .9, .7 and .5 of the cases."""
    rng, belief = np.random.default_rng(seed), Belief(3, 3)
    for true in rng.integers(3, size=n):
        right = rng.random(3) < (0.9, 0.7, 0.5)
        label = np.where(right, true, (true + rng.integers(1, 3, 3)) % 3)
        belief.learn(said_by(label), np.ones((1, 3), dtype=bool), np.array([true]))
    return belief


def bandit(plans, contract, belief):
    return BanditPolicy(plans, contract, FIGURES, belief)


def answered(learner, log, labels=0):
    """The learner notices every request and learns the first ``labels`` outcomes once all is answered."""
    journal = MemoryJournal()
    ids = [d.id for d, _ in sample_decisions(learner, sample_orchestrator(learner, log, journal), log)]
    return [settle(journal, learner, ids[i], Outcome(0.0, (int(log.truth[i]),))).experience for i in range(labels)]


# ---- What a row is taken for -------------------------------------------------------------------------------------


def test_a_row_counts_once_shared_out_among_the_classes_that_it_may_be_of():
    belief, awaited = learned_belief(), Awaited()
    said = said_by((0, 0, 1), (2, 1, 1), (1, 1, 1))
    add(awaited, "a", said, stands=3.0)
    rows = awaited.rows(belief)
    evidence = Evidence(belief.log_likelihood(said), np.log(MIX), belief.overlap)
    likely = posterior(evidence, np.ones((1, 3), dtype=bool))[:, 0]
    for i in range(3):
        shares = {row.truth: row.share for row in rows if np.array_equal(row.label, said.label[i])}
        assert sum(shares.values()) == pytest.approx(1.0)
        assert set(shares) == set(np.flatnonzero(likely[i] >= Awaited.LIKELY).tolist())
        for c, share in shares.items():
            assert share == pytest.approx(likely[i, c] / likely[i, list(shares)].sum(), abs=1e-6)
    assert [row.stands for row in rows] == pytest.approx([3.0] * len(rows))
    assert sum(row.share for row in rows) == pytest.approx(3.0)


def test_what_labels_teach_later_changes_what_a_row_is_taken_for():
    awaited = Awaited()
    add(awaited, "a", said_by((0, 1, 1)))
    ignorant, taught = (
        {row.truth: row.share for row in awaited.rows(belief)} for belief in (Belief(3, 3), learned_belief(500))
    )
    assert ignorant[1] > ignorant[0], "two say so"
    assert taught[0] > ignorant[0], "the one is worth more than was thought"


def share_of_class_0(belief, **more):
    awaited = Awaited()
    add(awaited, "a", said_by((0, 1, 1)), **more)
    return sum(row.share for row in awaited.rows(belief) if row.truth == 0)


def test_features_and_the_mix_of_then_count():
    belief = learned_belief()
    better = np.array([[0.3, 0.0, 0.0], [-2.0, 0.0, 0.0]])  # the first is right oftener on such requests
    plain = share_of_class_0(belief)
    assert share_of_class_0(belief, mix=np.array([0.05, 0.9, 0.05])) < plain < share_of_class_0(belief, odds=better)


# ---- Keeping -----------------------------------------------------------------------------------------------------


def test_the_oldest_make_room_and_whose_outcome_has_come_goes():
    belief, awaited = learned_belief(), Awaited()
    for i in range(Awaited.KEEP + 3):
        add(awaited, str(i), said_by((0, 1, 2)))
    assert len(awaited) == Awaited.KEEP
    for name, left in (("2", 0), ("3", 1), ("3", 1), ("not probed", 1)):
        awaited.settle(decided(name))
        assert len(awaited) == Awaited.KEEP - left
    assert sum(row.share for row in awaited.rows(belief)) == pytest.approx(Awaited.KEEP - 1)


def test_overdue_is_whose_label_has_not_come_when_a_later_requests_has():
    belief, awaited = learned_belief(), Awaited()

    def overdue():
        return round(sum(row.share for row in awaited.rows(belief, overdue=True)))

    for i in range(10):
        add(awaited, str(i), said_by((0, 1, 2)), at=float(i))
    assert overdue() == 0, "nobody's has come"
    awaited.settle(decided("4", at=4.0))
    assert overdue() == 4
    awaited.settle(decided("not probed", at=7.5))
    assert overdue() == 7
    awaited.settle(decided("0", at=0.0))
    assert overdue() == 6
    assert Awaited.of(awaited.dump(), 3, 3).dump() == awaited.dump()


def test_what_they_keep_makes_others_their_equal_and_nothing_else_is_taken():
    belief, awaited = learned_belief(), Awaited()
    add(awaited, "a", said_by((0, 0, 3), (2, 1, 1)), stands=2.5)
    add(awaited, "b", said_by((1, 1, 1)), odds=np.array([[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]]))
    kept = awaited.dump()
    twin = Awaited.of(kept, 3, 3)
    assert twin.dump() == kept
    for one, other in zip(awaited.rows(belief), twin.rows(belief), strict=True):
        assert (one.truth, one.share, one.stands) == (other.truth, other.share, other.stands)
        np.testing.assert_array_equal(one.figures.latency_s, other.figures.latency_s)
    for garbage, members, classes in ((kept[:-2], 3, 3), (b"", 3, 3), (kept, 4, 3), (kept, 3, 2), (kept, 3, 4)):
        with pytest.raises(ValueError, match="no awaited probes"):
            Awaited.of(garbage, members, classes)


# ---- What the bandit makes of them -------------------------------------------------------------------------------


def test_where_labels_come_in_order_however_late_enough_known_rows_leave_nothing_to_guess(monkeypatch):
    guessed, rows = [], Awaited.rows
    monkeypatch.setattr(Awaited, "rows", lambda *given, **more: guessed.append(rows(*given, **more)) or guessed[-1])
    learner = sample_learner(bandit, LOG, probe_share=0.5)
    journal, ids, policy = MemoryJournal(), [], learner.manager.policy
    orchestrator = sample_orchestrator(learner, LOG, journal)
    for i, (decision, _) in enumerate(sample_decisions(learner, orchestrator, LOG)):
        ids.append(decision.id)
        if i >= 40:
            before = len(guessed)
            settle(journal, learner, ids[i - 40], Outcome(decision.at, (int(LOG.truth[i - 40]),)))
            if len(policy._planner.rows) >= policy._planner.ENOUGH:
                assert not any(guessed[before:])
    assert any(guessed), "before that there were some"
    assert not guessed[-1]
    assert len(policy._awaited) > 10


def test_where_labels_come_at_once_nothing_is_awaited():
    learner = sample_learner(bandit, LOG, probe_share=0.5)
    for _ in sample_experiences(learner, LOG):
        assert not len(learner.manager.policy._awaited)
    assert learner.manager.policy.version == "300"


def test_before_any_label_has_come_plans_are_searched_for_by_what_members_say():
    learner = sample_learner(bandit, LOG, probe_share=0.5)
    policy, first = learner.manager.policy, learner.manager.policy.catalogue.names
    answered(learner, LOG)
    assert policy.catalogue.names != first
    assert any(plan.weights == "learned" for plan in policy.catalogue.plans)
    assert learner.state.belief.learned == 0


def test_a_label_takes_its_probe_from_those_awaited_to_those_known():
    learner = sample_learner(bandit, LOG, probe_share=0.5)
    policy = learner.manager.policy
    answered(learner, LOG)
    waiting = len(policy._awaited)
    learner = sample_learner(bandit, LOG, probe_share=0.5)
    policy = learner.manager.policy
    experiences = answered(learner, LOG, labels=100)
    probed = sum(e.joined.decision.probed for e in experiences)
    assert len(policy._planner.rows) == probed > 10
    assert len(policy._awaited) == waiting - probed


def test_rewards_in_the_place_of_labels_leave_nothing_to_await():
    learner = sample_learner(bandit, LOG, probe_share=0.5)
    policy = learner.manager.policy
    (experience,) = answered(learner, LOG, labels=1)
    assert len(policy._awaited) > 100
    policy.learn(replace(experience, truth=None, correct=np.full_like(experience.correct, np.nan)))
    assert not len(policy._awaited)


def test_what_was_said_before_a_member_changed_is_not_awaited_any_more():
    learner = sample_learner(bandit, LOG, probe_share=0.5)
    policy = learner.manager.policy
    (experience,) = answered(learner, LOG, labels=1)
    policy.learn(replace(experience, alarms=(DriftEvent("reward", 0.0, ""),)))
    assert len(policy._awaited) > 100
    policy.learn(replace(experience, alarms=(DriftEvent("accuracy:m1", 0.0, ""),)))
    assert not len(policy._awaited)


def test_where_consensus_judges_nothing_is_awaited():
    judged = replace(CONTRACT, metrics=tuple(
        replace(m, source="consensus") if m.name == "accuracy" else m for m in CONTRACT.metrics
    ))  # fmt: skip
    assert judged.by_consensus
    learner = sample_learner(lambda plans, _, belief: bandit(plans, judged, belief), LOG, probe_share=0.5)
    answered(learner, LOG)
    assert not len(learner.manager.policy._awaited)
