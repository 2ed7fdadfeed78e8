"""A policy may offer other plans after every lesson: what was decided before stays what it was."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from bandmaster import build
from bandmaster.core import BandmasterError, Joined, Outcome
from bandmaster.counterfactual import revealed
from bandmaster.plans import compiled
from bandmaster.replay import Traffic, draw, run, trace_frame
from bandmaster.rl_manager import RLManager
from bandmaster.testing import check_policy


class Wanderer:
    """Offers five plans evenly, and with every lesson the next five."""

    name = "wanderer"
    probes = True
    aims = False

    def __init__(self, every):
        self.every, self.learned = every, 0

    @property
    def version(self):
        return str(self.learned)

    @property
    def catalogue(self):
        start = self.learned % (len(self.every) - 5)
        return compiled(self.every.names[start : start + 5], self.every.ensemble)

    def probabilities(self, state):
        return np.full(5, 0.2)

    def learn(self, experience):
        self.learned += 1

    def dump(self):
        return msgspec.msgpack.encode({"learned": self.learned})

    def load(self, snapshot):
        try:
            self.learned = msgspec.msgpack.decode(snapshot, type=dict[str, int])["learned"]
        except (msgspec.DecodeError, KeyError) as problem:
            raise BandmasterError(f"no snapshot: {problem}") from None


def wander(lab, traffic):
    """A run of the wanderer: its trace, the traffic, the learner, and each lesson."""
    drawn = draw(lab.logs[0], traffic, seed=1)
    parts = build.ReplayFactory(lab.config)("random", drawn.log, 1)
    manager = RLManager(Wanderer(lab.catalogue), np.random.default_rng(1))
    parts.learner.manager = parts.orchestrator.manager = manager
    lessons, learn = [], manager.policy.learn
    manager.policy.learn = lambda experience: (lessons.append(experience), learn(experience))
    return run(drawn, lambda *_: parts, "wanderer", seed=1), drawn, parts.learner, lessons


def test_the_contract_of_policies_allows_it():
    check_policy(lambda plans, contract, belief: Wanderer(plans))


@pytest.mark.parametrize("traffic", [Traffic(), Traffic(delay=40)], ids=["labels as logged", "labels late"])
def test_a_run_is_accounted_by_the_plans_that_were_really_played(lab, traffic):
    trace, drawn, learner, lessons = wander(lab, traffic)
    assert len(trace.plans) > 5
    assert len({e.joined.decision.plans for e in lessons}) > 5
    for lesson in lessons:
        i = int(lesson.joined.decision.id)
        assert trace.plans[trace.plan[i]] == lesson.joined.decision.plan
        assert trace.reward[i] == pytest.approx(lesson.reward.value, abs=1e-12)
        truth = Outcome(at=0.0, labels=(int(drawn.log.truth[i]),))
        again = learner.reward(Joined(0, lesson.joined.decision, lesson.joined.answer, truth))
        assert again.value == pytest.approx(lesson.reward.value)


def test_the_trace_names_the_plans(lab):
    trace, drawn, _, _ = wander(lab, Traffic())
    frame = trace_frame(trace, drawn.log.ensemble, "wanderer", 1, 0)
    assert frame["plan"].to_list() == [trace.plans[k] for k in trace.plan]
    for plan, ran in frame.select("plan", "ran").iter_rows():
        assert ran == plan.split("@")[0].split("~")[0].replace(">", "+").split("+")[: len(ran)]


def test_late_lessons_tell_about_todays_plans_what_they_tell_about_yesterdays(lab):
    _, _, learner, lessons = wander(lab, Traffic(delay=40))
    for lesson in lessons[::10]:
        then = compiled(lesson.joined.decision.plans, lab.catalogue.ensemble)
        every = revealed(lab.catalogue, learner.contract, lesson)
        own = revealed(then, learner.contract, lesson)
        at = [lab.catalogue.index(name) for name in then.names]
        np.testing.assert_array_equal(own.rewards, every.rewards[at])
        np.testing.assert_allclose(own.observed_p, every.observed_p[at])
        assert own.observed_p[lesson.joined.decision.chosen] >= lesson.joined.decision.propensity


def test_a_lesson_over_plans_nobody_offers_any_more_is_learned(lab):
    _, _, learner, lessons = wander(lab, Traffic())
    old = replace(lessons[0].joined, seq=1)
    assert learner.refuses(old) is None
