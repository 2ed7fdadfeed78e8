"""Agreement with the others: leave-one-out, blind to names, and what a plan earns by it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bandmaster.combine import pool, verdict
from bandmaster.consensus import member_agreement, others_say, plan_agreement
from bandmaster.core import NO_ANSWER


@st.composite
def outputs(draw, least=1):
    """Distributions (n, M, C) with abstentions among them."""
    n, m, c = draw(st.integers(1, 4)), draw(st.integers(least, 5)), draw(st.integers(2, 4))
    raw = draw(arrays(np.float64, (n, m, c), elements=st.sampled_from([0.1, 0.2, 0.3, 0.5, 1.0, 2.0])))
    answered = draw(arrays(np.bool_, (n, m), elements=st.sampled_from([True, True, True, False])))
    return raw / raw.sum(axis=-1, keepdims=True) * answered[..., None]


def said_by(scores, members):
    """The answers (n, 1) of the plan of these members, and who was heard in them (n, 1, M)."""
    heard = np.isin(np.arange(scores.shape[1]), members)
    labels, _ = verdict(pool(scores, np.broadcast_to(heard.astype(float), scores.shape[:2])))
    return labels[:, None], np.broadcast_to(heard, (len(scores), 1, scores.shape[1]))


@given(outputs())
def test_agreement_lies_between_zero_and_one_or_is_unknown(scores):
    agreement = member_agreement(scores)
    assert np.all(np.isnan(agreement) | ((agreement >= 0.0) & (agreement <= 1.0)))


@given(outputs(least=2), st.data())
def test_nothing_that_a_member_says_changes_what_it_is_held_against(scores, data):
    m = data.draw(st.integers(0, scores.shape[1] - 1))
    changed = scores.copy()
    changed[:, m] = np.eye(scores.shape[2])[0]
    assert np.allclose(others_say(changed)[:, m], others_say(scores)[:, m])


@given(outputs(), st.randoms(use_true_random=False))
def test_agreement_does_not_depend_on_how_the_classes_are_numbered(scores, random):
    order = random.sample(range(scores.shape[2]), scores.shape[2])
    # A member's own tie is broken by the lowest class everywhere in the project; here none has one.
    scores = scores + np.linspace(0.0, 1e-3, scores.size).reshape(scores.shape) * (scores > 0.0)
    assert np.allclose(member_agreement(scores), member_agreement(scores[..., order]), equal_nan=True)


@given(outputs(), st.randoms(use_true_random=False))
def test_agreement_goes_with_the_member_whatever_its_place(scores, random):
    order = random.sample(range(scores.shape[1]), scores.shape[1])
    assert np.allclose(member_agreement(scores[:, order]), member_agreement(scores)[order], equal_nan=True)


@given(outputs())
def test_a_plan_of_one_member_earns_that_members_agreement(scores):
    for m in range(scores.shape[1]):
        assert np.allclose(
            plan_agreement(scores, *said_by(scores, [m]))[0], member_agreement(scores)[m], equal_nan=True
        )


@given(outputs(least=2), st.data())
def test_a_plan_is_worth_the_mean_over_its_members_left_out(scores, data):
    members = data.draw(st.lists(st.integers(0, scores.shape[1] - 1), min_size=1, unique=True))
    labels, heard = said_by(scores, members)
    reference = others_say(scores)
    judged = [[reference[i, m, labels[i, 0]] if labels[i, 0] >= 0 else 0.0 for m in members if reference[i, m].any()]
              for i in range(len(scores))]  # fmt: skip
    rows = [np.mean(values) for values in judged if values]
    expected = np.mean(rows) if rows else np.nan
    assert np.allclose(plan_agreement(scores, labels, heard)[0], expected, equal_nan=True)


@pytest.mark.parametrize("members", [2, 3, 7])
def test_where_all_say_the_same_everyone_agrees(members):
    scores = np.broadcast_to(np.array([0.1, 0.7, 0.2]), (3, members, 3))
    assert member_agreement(scores).tolist() == [1.0] * members
    assert plan_agreement(scores, *said_by(scores, range(members))).tolist() == [1.0]


def test_a_member_alone_has_nobody_to_agree_with():
    scores = np.array([[[0.9, 0.1], [0.0, 0.0]]])
    first, silent = member_agreement(scores)
    assert np.isnan(first)
    assert silent == 0.0  # it abstained where another knew
    assert np.isnan(plan_agreement(scores, np.array([[0]]), np.array([[[True, False]]]))[0])


def test_a_tie_among_the_others_is_shared():
    scores = np.array([[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    assert member_agreement(scores).tolist() == [0.5, 0.5, 0.0]


def test_no_answer_agrees_with_nobody():
    scores = np.array([[[1.0, 0.0], [1.0, 0.0]]])
    assert plan_agreement(scores, np.array([[NO_ANSWER]]), np.array([[[True, True]]])).tolist() == [0.0]


def test_members_that_are_right_more_often_agree_more_where_mistakes_are_their_own():
    rng = np.random.default_rng(0)
    truth, skill = rng.integers(4, size=2000), np.array([0.6, 0.7, 0.8, 0.9])
    wrong = (truth[:, None] + rng.integers(1, 4, size=(2000, 4))) % 4
    labels = np.where(rng.random((2000, 4)) < skill, truth[:, None], wrong)
    agreement = member_agreement(np.eye(4)[labels])
    # Neighbours' expected agreements lie 0.05 apart and more; the standard error is 0.011.
    assert agreement.argsort().tolist() == [0, 1, 2, 3]
