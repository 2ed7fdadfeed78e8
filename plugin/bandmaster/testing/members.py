"""The contract suite of members."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bandmaster.core import Array, Member


def check_member(factory: Callable[[], Member], rows: Array) -> None:
    """Assert the rules of ``Member`` on what ``factory`` gives; ``rows`` are at least four that it can answer.

    Raises ``AssertionError``, which says in a sentence what was broken.
    """
    for rule in MEMBER_RULES:
        rule(factory(), rows.copy())


def _it_has_a_name(member: Member, rows: Array) -> None:
    assert member.name, "a member has a name"


def _its_answers_are_distributions_or_abstentions(member: Member, rows: Array) -> None:
    scores = member.predict(rows)
    assert scores.dtype == np.float64, "scores are float64"
    assert scores.ndim == 2, "scores have the shape (rows, classes)"
    assert len(scores) == len(rows), "there is one answer a row"
    total = scores.sum(axis=1)
    assert np.all(scores >= 0.0), "no probability is negative"
    assert np.all((abs(total - 1.0) < 1e-3) | (total == 0.0)), "an answer sums to 1, or to 0 where it abstains"


def _one_row_is_answered_like_many(member: Member, rows: Array) -> None:
    together = member.predict(rows)
    alone = np.concatenate([member.predict(row[None]) for row in rows])
    assert np.allclose(together, alone, atol=1e-5), "a row's answer does not depend on its neighbours"


def _the_same_rows_get_the_same_answer(member: Member, rows: Array) -> None:
    assert np.array_equal(member.predict(rows), member.predict(rows)), "the same rows get the same answer"


def _the_rows_stay_as_they_were(member: Member, rows: Array) -> None:
    before = rows.copy()
    member.predict(rows)
    assert np.array_equal(before, rows), "a member does not write into its input"


def _several_threads_may_ask_at_once(member: Member, rows: Array) -> None:
    wanted = member.predict(rows)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: member.predict(rows), range(32)))
    assert all(np.array_equal(a, wanted) for a in answers), "threads that ask at once get what one alone gets"


MEMBER_RULES: tuple[Callable[[Member, Array], None], ...] = (
    _it_has_a_name,
    _its_answers_are_distributions_or_abstentions,
    _one_row_is_answered_like_many,
    _the_same_rows_get_the_same_answer,
    _the_rows_stay_as_they_were,
    _several_threads_may_ask_at_once,
)
