"""Plans with learned weights answer, stage by stage, what walking all of them at once says that they would."""

import itertools

import numpy as np
import pytest

from bandmaster.core import NO_ANSWER, Outcome, Request, Said
from bandmaster.counterfactual import evaluate, revealed
from bandmaster.journal.memory import MemoryJournal
from bandmaster.learner import Learner
from bandmaster.orchestrator import settle
from bandmaster.plans import compiled
from bandmaster.policies.traditional import ConstantPolicy, RandomPolicy
from bandmaster.rl_manager import RLManager
from bandmaster.testing import sample_experiences, sample_learner, sample_log, sample_orchestrator
from bandmaster.testing.policies import CONTRACT
from tests.unit.test_counterfactual import ProfileMeter

LOG = sample_log(400, seed=3, abstain=0.2)
NAMES = (
    *("m0~learned", "m3~learned", "m0+m1~learned", "m0+m1+m2+m3~learned", "m0>m1@0.7~learned"),
    *("m0>m1>m2@0.6,0.8~learned", "m1>m0+m2>m3@0.95,0.5~learned", "m3>m2>m1>m0@0.9,0.8,0.7~learned"),
    *("m0>m1>m2@0.7", "m0+m2~recent"),
)
PLANS = compiled(NAMES, LOG.ensemble)


@pytest.fixture(scope="module")
def state():
    """What is known after 300 requests on which all members ran."""
    everyone = compiled(("m0+m1+m2+m3",), LOG.ensemble)
    learner = sample_learner(lambda *_: RandomPolicy(everyone), LOG, probe_share=0.0)
    for _ in itertools.islice(sample_experiences(learner, LOG), 300):
        pass
    assert learner.state.belief.learned == 300
    return learner.state


def parts(state, plan, broken=()):
    learner = Learner(LOG.ensemble, CONTRACT, state, RLManager(ConstantPolicy(PLANS, plan), np.random.default_rng(0)))
    journal = MemoryJournal()
    return sample_orchestrator(learner, LOG, journal, meter=ProfileMeter(LOG.ensemble, broken)), learner, journal


def request(*rows):
    return Request(np.array(rows)[:, None], np.zeros(3), at=0.0)


@pytest.mark.parametrize("broken", [(), ("m1",), ("m0", "m2")], ids=["all well", "one fails", "two fail"])
@pytest.mark.parametrize("plan", NAMES)
def test_a_learned_plan_answers_as_if_all_plans_were_walked_at_once(state, plan, broken):
    orchestrator, _, _ = parts(state, plan, broken)
    scores = LOG.scores[300:].astype(float)
    scores[:, [LOG.ensemble.index(n) for n in broken]] = 0.0
    k, known = PLANS.index(plan), np.ones((100, 4), dtype=bool)
    batches = [(i,) for i in range(300, 360)] + [tuple(range(360, 400))]
    for rows in batches:
        decision, answer = orchestrator.answer(request(*rows))
        at = np.array(rows) - 300
        evidence = state.evidence(Said.of(scores[at]), decision.state)
        seen = evaluate(PLANS, scores[at], known[at], answer.weights, evidence)
        assert answer.labels.tolist() == seen.labels[:, k].tolist()
        np.testing.assert_allclose(answer.confidence, seen.confidence[:, k], atol=1e-12)
        assert answer.stages_run == seen.stop[:, k].max() + 1


@pytest.mark.parametrize("plan", ["m1~learned", "m1>m3@0.9~learned"])
def test_where_all_that_ran_fail_nobody_has_answered(state, plan):
    plans = compiled((plan,), LOG.ensemble)
    manager = RLManager(ConstantPolicy(plans, plan), np.random.default_rng(0))
    orchestrator, _, _ = parts(state, NAMES[0], broken=("m1", "m3"))
    orchestrator.manager = manager
    decision, answer = orchestrator.answer(request(301, 302))
    assert answer.labels.tolist() == [NO_ANSWER, NO_ANSWER]
    assert answer.confidence.tolist() == [0.0, 0.0]
    silent = np.zeros((2, 4, 3))
    evidence = state.evidence(Said.of(silent), decision.state)
    seen = evaluate(plans, silent, np.ones((2, 4), dtype=bool), answer.weights, evidence)
    assert seen.labels.tolist() == [[NO_ANSWER], [NO_ANSWER]]
    assert (seen.confidence == 0.0).all()


@pytest.mark.parametrize("rows", [(301,), (302, 303), tuple(range(304, 312))])
@pytest.mark.parametrize("plan", NAMES[:8])
def test_what_a_learned_plan_would_have_earned_is_what_it_does_earn(state, plan, rows):
    earned = {}
    for played in (plan, "m0+m1+m2+m3~learned"):
        orchestrator, learner, journal = parts(state, played)
        decision, _ = orchestrator.answer(request(*rows))
        learner.state = _Still(state)
        outcome = Outcome(0.0, tuple(int(LOG.truth[i]) for i in rows))
        earned[played] = settle(journal, learner, decision.id, outcome).experience
    told = revealed(PLANS, CONTRACT, earned["m0+m1+m2+m3~learned"])
    assert told.rewards[PLANS.index(plan)] == pytest.approx(earned[plan].reward.value, abs=1e-12)


class _Still:
    """A state that observes nothing, so that what is believed stays what it is."""

    def __init__(self, state):
        self.evidence, self.label_mix, self.repeats = state.evidence, state.label_mix, state.repeats

    def observe(self, experience):
        return ()


def played(late, stop=None):
    """A class stays for thirty requests; 45 later it is another. No label comes any more after ``stop`` requests."""
    learner = sample_learner(lambda plans, *_: ConstantPolicy(plans, plans.names[0]), LOG, probe_share=0.0)
    journal = MemoryJournal()
    orchestrator = sample_orchestrator(learner, LOG, journal, meter=ProfileMeter(LOG.ensemble))
    by_class = [np.flatnonzero(LOG.truth == c) for c in range(len(LOG.ensemble.classes))]
    made = []
    for i in range(1200):
        c = i // 30 % len(by_class)
        decision, answer = orchestrator.answer(request(int(by_class[c][i % len(by_class[c])])))
        learner.notice(decision, answer)
        made.append((decision, c))
        if i >= late and (stop is None or i < stop):
            settle(journal, learner, made[i - late][0].id, Outcome(0.0, (made[i - late][1],)))
    return learner.state.get_state(request(0)), made


def test_where_labels_repeat_the_newest_one_speaks_for_itself():
    state, made = played(late=0)
    assert (state.newest, state.since) == (made[-1][1], 1)
    assert state.repeats > 0.5
    assert state.prior[state.newest] > 0.9


@pytest.mark.parametrize(("late", "stop"), [(45, None), (0, 900)], ids=["labels come late", "labels have stopped"])
def test_where_the_newest_label_is_too_old_to_tell_it_says_nothing(late, stop):
    state, made = played(late, stop)
    assert state.since == (46 if stop is None else 301)
    assert state.newest == made[-state.since][1]
    assert state.repeats < 0.06
