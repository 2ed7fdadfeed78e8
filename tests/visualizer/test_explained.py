"""A decision's page tells the truth about that decision, and one sentence why it was made."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from bandmaster.core import NO_ANSWER, VALUE, Answer, Decision, Exposure, MemberAnswer, Outcome, Reward
from bandmaster.counterfactual import evaluate
from bandmaster.journal.reading import Recorded
from bandmaster.plans import compiled
from bandmaster.policies.traditional import RandomPolicy
from bandmaster.testing import sample_answer, sample_decision, sample_experiences, sample_learner, sample_log
from bandmaster.visualizer.explained import SHOWN, combined, explain, why

LOG = sample_log(200, seed=5)
CLASSES = LOG.ensemble.classes


def chosen(p: list[float], k: int, **changes: object) -> Decision:
    decision = replace(sample_decision(), probabilities=np.array(p), chosen=k)
    return replace(decision, **changes)  # type: ignore[arg-type]


def exposure(intended: str, share: float, *, exposed: bool) -> Exposure:
    return Exposure(intended, 0.7, share, exposed, 0.1)


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        (chosen([0.1, 0.8, 0.1], 1), "Of 3 plans forest promised the most by what has been learned, .*, 0.8"),
        (
            chosen([0.1, 0.8, 0.1], 2),
            r"exploration: linear\+forest was drawn with probability 0.1 .* while forest promised",
        ),
        (chosen([0.5, 0.5, 0.0], 1), "forest promised the most"),
        (chosen([1.0], 0, plans=("all",)), "all was the only plan on offer"),
        (chosen([0.1, 0.8, 0.1], 1, over_limits=True), "No plan on offer kept within the limits"),
        (
            chosen([0.1, 0.8, 0.1], 0, exposure=exposure("forest", 0.2, exposed=False)),
            "guard had its baseline, linear, answer instead of forest, .* probability 0.7: .* probability 0.2",
        ),
        (
            chosen([0.1, 0.8, 0.1], 1, exposure=exposure("forest", 0.2, exposed=True)),
            "The policy chose forest, with probability 0.7, and the guard let that answer",
        ),
    ],
)
def test_one_sentence_says_why_and_admits_exploration(decision: Decision, said: str) -> None:
    sentence = why(decision)
    assert re.search(said, sentence), sentence
    assert sentence.endswith(".")


def test_the_page_tells_what_was_recorded() -> None:
    learner = sample_learner(lambda plans, *_: RandomPolicy(plans), LOG, probe_share=0.5)
    learner.manager.compares = True  # so that there are probes
    together = compiled(("all",), LOG.ensemble)
    asked_all = 0
    for experience in sample_experiences(learner, LOG):
        joined = experience.joined
        page = explain(Recorded(joined.decision, joined.answer, joined.outcome, experience.reward), CLASSES)
        assert (page.id, page.plan, page.propensity) == (
            joined.decision.id, joined.decision.plan, joined.decision.propensity,
        )  # fmt: skip
        assert page.labels == [None if k == NO_ANSWER else CLASSES[k] for k in joined.answer.labels]
        assert page.outcome == [CLASSES[int(k)] for k in joined.outcome.labels or ()]
        assert page.reward == experience.reward.value
        assert [s.member for s in page.said] == [s.name for s in (*joined.answer.ran, *joined.answer.probes)]
        assert [o.probability for o in page.offered] == sorted(joined.decision.probabilities, reverse=True)[:SHOWN]
        assert (page.everybody is not None) == experience.known.all()
        if page.everybody is not None:
            asked_all += 1
            scores = experience.scores
            labels = evaluate(together, scores, experience.known, np.ones(scores.shape[1])).labels[:, 0]
            assert page.everybody == [None if k == NO_ANSWER else CLASSES[k] for k in labels]
    assert 50 < asked_all < 150


def test_what_nobody_reported_or_answered_is_not_made_up() -> None:
    decision, answer = sample_decision(), sample_answer()
    silent = replace(answer, labels=np.array([NO_ANSWER]), scores=np.zeros((1, 3)), confidence=np.zeros(1))
    page = explain(Recorded(decision, silent, None, None), ("a", "b", "c"))
    assert (page.labels, page.outcome, page.reward, page.everybody) == ([None], None, None, None)
    page = explain(Recorded(decision, answer, Outcome(1.0, reward=0.5), Reward(0.5, {}, {})), ())
    assert (page.outcome, page.reward) == (None, 0.5)
    assert page.labels == [int(answer.labels[0])]  # of classes that nobody knows the numbers


def test_values_are_told_as_values() -> None:
    said = tuple(MemberAnswer(n, np.arange(2), np.array([[v], [v + 1.0]]), 0.1, 0.2, "measured") for n, v in
                 (("a", 1.0), ("b", 3.0)))  # fmt: skip
    answer = Answer(np.array([[1.0], [2.0]]), np.array([0, NO_ANSWER]), np.array([1.0, 0.0]), said[:1], 1, np.ones(2),
                    probes=said[1:])  # fmt: skip
    page = explain(Recorded(sample_decision(), answer, Outcome(1.0, (1.5, 2.5)), None), (VALUE,))
    assert page.labels == [1.0, None]
    assert page.outcome == [1.5, 2.5]
    assert page.everybody == [2.0, 3.0]
    assert page.said[1].labels == [3.0, 4.0]


def test_a_sentence_says_how_the_answer_was_made() -> None:
    one = sample_answer()
    failed = replace(one.ran[0], name="forest", scores=None, error="it crashed")
    other = replace(one.ran[0], name="forest")
    two = replace(one, ran=(*one.ran, other))
    assert combined(sample_decision(), one) == "It is what linear said."
    assert combined(sample_decision(), replace(one, ran=(*one.ran, failed))).endswith("forest failed.")
    assert combined(sample_decision(), replace(one, ran=(failed,))).startswith("Nobody answered.")
    for plan, how in (("linear+forest~recent", "recent accuracy"), ("linear+forest~learned", "has been learned"),
                      ("linear+0.5*forest", "own weights"), ("linear+forest", "pooled alike")):  # fmt: skip
        decision = replace(sample_decision(), plans=(plan,), probabilities=np.ones(1), chosen=0)
        assert how in combined(decision, two)
    cascade = replace(sample_decision(), plans=("linear>forest@0.9",), probabilities=np.ones(1), chosen=0)
    assert "in 2 stages" in combined(cascade, replace(two, stages_run=2))


def test_a_member_that_saw_some_rows_and_then_all_for_the_probe_is_told_of_twice() -> None:
    first = MemberAnswer("linear", np.arange(3), np.eye(3), 0.1, 0.2, "measured")
    some = MemberAnswer("forest", np.array([1, 2]), np.eye(3)[1:], 0.1, 0.2, "measured")
    whole = MemberAnswer("forest", np.arange(3), np.eye(3), 0.1, 0.2, "measured")
    answer = Answer(np.eye(3), np.arange(3), np.ones(3), (first, some), 2, np.ones(2), probes=(whole,))
    page = explain(Recorded(sample_decision(), answer, None, None), ("a", "b", "c"))
    told = [(say.member, say.probe, say.labels) for say in page.said]
    assert told == [
        ("linear", False, ["a", "b", "c"]), ("forest", False, [None, "b", "c"]), ("forest", True, ["a", "b", "c"]),
    ]  # fmt: skip
    assert page.everybody == ["a", "b", "c"]
