"""Walking all plans at once gives what walking each alone gives, failures, abstentions and several rows included."""

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from bandmaster.combine import recent_weights
from bandmaster.core import NO_ANSWER, BandmasterError, MemberAnswer, Outcome, Request
from bandmaster.counterfactual import earnings, evaluate, revealed
from bandmaster.journal.memory import MemoryJournal
from bandmaster.learner import Learner, profile_figures
from bandmaster.orchestrator import settle
from bandmaster.plans import Catalogue, compiled, generate
from bandmaster.policies.traditional import ConstantPolicy, RandomPolicy
from bandmaster.probes import Probing
from bandmaster.rl_manager import RLManager
from bandmaster.state import StateManager
from bandmaster.testing import sample_log, sample_orchestrator
from bandmaster.testing.policies import CONTRACT

LOG = sample_log(60, seed=3, abstain=0.2)
PLANS = Catalogue.of(LOG.ensemble, generate(LOG.ensemble, subsets=3, cascades=3, stop_at=(0.5, 0.7, 0.9), limit=60))


class ProfileMeter:
    """Gives each member its profile's figures, which are a row's; members in ``broken`` fail."""

    def __init__(self, ensemble, broken=frozenset()):
        self._ensemble, self._broken = ensemble, broken

    def run(self, member, rows, index, within_s=math.inf):
        profile = self._ensemble.profiles[member.name]
        scores = None if member.name in self._broken else member.predict(rows[index])
        error = "it broke" if scores is None else None
        energy = profile.energy_j * len(index)
        return MemberAnswer(member.name, index, scores, profile.latency_s, energy, "declared", error)


def parts(plan, *, broken=frozenset(), probe_share=0.0):
    policy = ConstantPolicy(PLANS, plan) if isinstance(plan, str) else plan
    policy.probes = probe_share > 0.0
    state = StateManager(LOG.ensemble, probing=Probing(probe_share, adapt=False))
    learner = Learner(LOG.ensemble, CONTRACT, state, RLManager(policy, np.random.default_rng(0)))
    journal = MemoryJournal()
    return sample_orchestrator(learner, LOG, journal, meter=ProfileMeter(LOG.ensemble, broken)), learner, journal


def told(experience, plans=PLANS):
    found = revealed(plans, CONTRACT, experience)
    np.testing.assert_array_equal(earnings(plans, CONTRACT, experience), found.rewards)
    return found


def request(*rows):
    return Request(np.array(rows)[:, None], np.zeros(3), at=0.0)


@pytest.mark.parametrize("plan", PLANS.names)
def test_every_plan_answers_as_if_it_had_been_walked_alone(plan):
    orchestrator, _, _ = parts(plan)
    weights = recent_weights(orchestrator.state.statistics().accuracy, 3)
    seen = evaluate(PLANS, LOG.scores.astype(float), np.ones((60, 4), dtype=bool), weights)
    k = PLANS.index(plan)
    for i in range(60):
        _, answer = orchestrator.answer(request(i))
        assert answer.labels[0] == seen.labels[i, k]
        assert answer.confidence[0] == pytest.approx(seen.confidence[i, k], abs=1e-12)
        assert answer.stages_run == seen.stop[i, k] + 1


@pytest.mark.parametrize("rows", [(0,), (1, 2), (3, 4, 5, 6, 7, 8, 9)])
@pytest.mark.parametrize("plan", PLANS.names[::4])
def test_a_plans_counterfactual_reward_is_the_one_it_would_have_earned(plan, rows):
    probing, learner, journal = parts(PLANS.names[0], probe_share=1.0)
    decision, answer = probing.answer(request(*rows))
    probing.probe(decision, answer, request(*rows))
    outcome = Outcome(0.0, tuple(int(LOG.truth[i]) for i in rows))
    experience = settle(journal, learner, decision.id, outcome).experience
    alone, its_learner, its_journal = parts(plan)
    decision, _ = alone.answer(request(*rows))
    earned = settle(its_journal, its_learner, decision.id, outcome).experience.reward.value
    assert told(experience).rewards[PLANS.index(plan)] == pytest.approx(earned, abs=1e-12)


def test_without_a_probe_only_plans_over_what_ran_are_known():
    orchestrator, learner, journal = parts("m0>m1@0.9")
    for i in range(30):
        decision, answer = orchestrator.answer(request(i))
        experience = settle(journal, learner, decision.id, Outcome(0.0, (int(LOG.truth[i]),))).experience
        ran = {a.name for a in answer.ran}
        for plan, reward in zip(PLANS.plans, told(experience).rewards, strict=True):
            if set(plan.members) <= ran:
                assert not np.isnan(reward)
            if not set(plan.stages[0]) <= ran:
                assert np.isnan(reward)


def test_later_stages_see_only_the_rows_that_are_not_settled():
    orchestrator, _, _ = parts("m0>m1>m2@0.7")
    rows = tuple(range(20))
    _, answer = orchestrator.answer(request(*rows))
    first, second = answer.ran[:2]
    unsettled = [i for i in rows if LOG.scores[i, 0].max() < 0.7]
    assert first.rows.tolist() == list(rows)
    assert second.rows.tolist() == unsettled


def test_the_rest_answer_when_a_member_fails_and_the_plan_keeps_the_reward():
    orchestrator, learner, journal = parts("m0+m1", broken={"m0"})
    decision, answer = orchestrator.answer(request(5))
    assert answer.labels[0] == LOG.scores[5, 1].argmax()
    assert [a.error for a in answer.ran] == ["it broke", None]
    experience = settle(journal, learner, decision.id, Outcome(0.0, (int(LOG.truth[5]),))).experience
    assert (
        told(experience).rewards[PLANS.index(decision.plan)] == experience.own == pytest.approx(experience.reward.value)
    )
    assert experience.correct[0] == 0.0


def test_nobody_answers_when_every_member_of_the_plan_fails():
    orchestrator, learner, journal = parts("m0", broken={"m0"})
    decision, answer = orchestrator.answer(request(5))
    assert answer.labels.tolist() == [NO_ANSWER]
    assert answer.confidence.tolist() == [0.0]
    experience = settle(journal, learner, decision.id, Outcome(0.0, (int(LOG.truth[5]),))).experience
    assert experience.reward.raw["accuracy"] == 0.0
    assert experience.reward.raw["energy"] > 0.0


def test_a_probe_is_charged_to_its_request_and_not_to_its_plan():
    orchestrator, learner, journal = parts("m0", probe_share=1.0)
    decision, answer = orchestrator.answer(request(5))
    probed = orchestrator.probe(decision, answer, request(5))
    assert {a.name for a in probed.probes} == {"m1", "m2", "m3"}
    experience = settle(journal, learner, decision.id, Outcome(0.0, (int(LOG.truth[5]),))).experience
    figures = profile_figures(PLANS.ensemble)
    assert experience.reward.raw["energy"] == pytest.approx(figures.energy_j.sum())
    assert experience.reward.raw["latency"] == pytest.approx(figures.latency_s[0])
    assert told(experience).rewards[PLANS.index(decision.plan)] == experience.own > experience.reward.value


def test_a_member_that_ran_for_some_rows_and_for_the_probe_is_paid_for_both_calls_and_no_third():
    plan = "m0>m1@0.7"
    rows = (0, 1, 2, 3, 4, 5)
    orchestrator, learner, journal = parts(plan, probe_share=1.0)
    decision, answer = orchestrator.answer(request(*rows))
    assert 0 < len(answer.ran[1].rows) < len(rows)
    orchestrator.probe(decision, answer, request(*rows))
    outcome = Outcome(0.0, tuple(int(LOG.truth[i]) for i in rows))
    experience = settle(journal, learner, decision.id, outcome).experience
    energy = profile_figures(PLANS.ensemble).energy_j
    again = len(answer.ran[1].rows) * energy[1]
    assert experience.reward.raw["energy"] == pytest.approx(6 * energy.sum() + again)
    alone, its_learner, its_journal = parts(plan)
    decision, _ = alone.answer(request(*rows))
    own = settle(its_journal, its_learner, decision.id, outcome).experience.reward.value
    assert experience.own == pytest.approx(own)


def test_a_rewards_probability_of_being_known_counts_probes_and_every_plan_that_covers_it():
    orchestrator, learner, journal = parts(RandomPolicy(PLANS), probe_share=0.25)
    seen = []
    for i in range(400):
        decision, answer = orchestrator.answer(request(i % 60))
        if decision.probed:
            answer = orchestrator.probe(decision, answer, request(i % 60))
        experience = settle(journal, learner, decision.id, Outcome(0.0, (int(LOG.truth[i % 60]),))).experience
        found = told(experience)
        known = ~np.isnan(found.rewards)
        assert np.array_equal(known, ~np.isnan(found.observed_p))
        assert np.all((found.observed_p[known] > 0.0) & (found.observed_p[known] <= 1.0))
        seen.append(known)
    # One member alone is known by every plan that starts with it; its share must be near the mean stated.
    k = PLANS.index("m0")
    starts = np.mean([("m0" in p.stages[0]) for p in PLANS.plans])
    stated = 0.25 + 0.75 * starts
    # 400 draws: the true share lies within 4.5 standard errors, false alarm below 1e-5.
    assert abs(np.mean([s[k] for s in seen]) - stated) < 4.5 * np.sqrt(stated * (1 - stated) / 400)


def test_a_plain_reward_teaches_about_the_chosen_plan_alone():
    orchestrator, learner, journal = parts("m0+m1")
    decision, _ = orchestrator.answer(request(0))
    experience = settle(journal, learner, decision.id, Outcome(0.0, reward=0.25)).experience
    assert experience.reward.value == 0.25
    chosen = PLANS.index("m0+m1")
    assert told(experience).rewards[chosen] == experience.own == 0.25
    assert np.isnan(np.delete(told(experience).rewards, chosen)).all()
    assert np.isnan(experience.correct).all()


def test_a_wrong_number_of_labels_is_not_learned_from():
    orchestrator, learner, journal = parts("m0")
    decision, _ = orchestrator.answer(request(0, 1))
    assert settle(journal, learner, decision.id, Outcome(0.0, (0,))).experience is None
    assert learner.state.version == 0


def asked(*names):
    return compiled(names, LOG.ensemble)


@pytest.mark.parametrize("rows", [(0,), (3, 4, 5, 6)])
def test_what_a_request_tells_about_a_plan_does_not_depend_on_which_others_are_asked_about(rows):
    orchestrator, learner, journal = parts(RandomPolicy(PLANS), probe_share=0.3)
    for _ in range(20):
        decision, answer = orchestrator.answer(request(*rows))
        if decision.probed:
            orchestrator.probe(decision, answer, request(*rows))
        outcome = Outcome(0.0, tuple(int(LOG.truth[i]) for i in rows))
        experience = settle(journal, learner, decision.id, outcome).experience
        every, some = told(experience), told(experience, asked(*PLANS.names[3:30:5]))
        np.testing.assert_array_equal(some.rewards, every.rewards[3:30:5])
        np.testing.assert_allclose(some.observed_p, every.observed_p[3:30:5], rtol=1e-12)


def test_a_plan_that_was_never_offered_is_known_as_likely_as_one_that_covers_it_was_sampled():
    policy = RandomPolicy(asked("m0", "m0+m1", "m2"))
    policy._p = np.array([0.5, 0.3, 0.2])
    orchestrator, learner, journal = parts(policy)
    known = []
    for i in range(60):
        decision, _ = orchestrator.answer(request(i))
        experience = settle(journal, learner, decision.id, Outcome(0.0, (int(LOG.truth[i]),))).experience
        found = told(experience, asked("m1", "m0+m1~recent", "m3"))
        known.append(~np.isnan(found.rewards))
        covered = decision.plan == "m0+m1"
        assert known[-1].tolist() == [covered, covered, False]
        # That of m0+m1; a plan that nobody knows has none.
        np.testing.assert_allclose(found.observed_p, [0.3, 0.3, np.nan] if covered else [np.nan] * 3)
    assert any(k[0] for k in known)


def test_rows_that_a_cascade_never_showed_a_member_tell_nothing_about_that_member_alone():
    orchestrator, learner, journal = parts("m0>m1@0.7")
    rows = tuple(range(8))
    decision, answer = orchestrator.answer(request(*rows))
    assert 0 < len(answer.ran[1].rows) < len(rows)
    outcome = Outcome(0.0, tuple(int(LOG.truth[i]) for i in rows))
    found = told(settle(journal, learner, decision.id, outcome).experience, asked("m1", "m0", "m0>m1@0.7"))
    assert np.isnan(found.rewards).tolist() == [True, False, False]
    assert np.isnan(found.observed_p).tolist() == [True, False, False]


def test_a_decision_over_members_that_are_gone_is_not_learned_from():
    orchestrator, learner, journal = parts("m0")
    decision, answer = orchestrator.answer(request(0))
    strange = replace(decision, plans=("m0", "m9"), probabilities=np.array([1.0, 0.0]))
    journal.record(strange, answer)
    assert settle(journal, learner, decision.id, Outcome(0.0, (0,))).experience is None
    assert learner.state.version == 0


def test_a_decision_over_plans_of_another_day_is_learned_from():
    orchestrator, learner, journal = parts("m0")
    decision, answer = orchestrator.answer(request(0))
    other = replace(decision, plans=("m3>m0@0.42", "m0"), probabilities=np.array([0.5, 0.5]), chosen=1)
    journal.record(other, answer)
    experience = settle(journal, learner, decision.id, Outcome(0.0, (0,))).experience
    assert told(experience).rewards[PLANS.index("m0")] == experience.own


def test_a_snapshot_fits_the_members_classes_policy_and_configured_plans_alone():
    dumped = parts(RandomPolicy(PLANS))[1].dump()
    parts(RandomPolicy(asked(*PLANS.names)))[1].load(dumped)
    for other in (RandomPolicy(asked("m0", "m1")), ConstantPolicy(PLANS, "m0")):
        with pytest.raises(BandmasterError, match="other members, classes, plans or policy"):
            parts(other)[1].load(dumped)


def test_a_snapshot_of_another_version_is_refused_before_anything_of_it_is_taken():
    learner = parts(RandomPolicy(PLANS))[1]
    dumped, before = msgspec.msgpack.decode(learner.dump()), learner.dump()
    for earlier in ({k: v for k, v in dumped["fits"].items() if k != "format"}, dumped["fits"] | {"format": 99}):
        with pytest.raises(BandmasterError, match="another version of Bandmaster"):
            learner.load(msgspec.msgpack.encode(dumped | {"fits": earlier, "state": {}}))
    assert learner.dump() == before
