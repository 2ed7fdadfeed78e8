"""Requests that are decided and walked together come to what each would have come to alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandmaster.breaker import Breaker, Breaking
from bandmaster.calling import Faults
from bandmaster.core import Answer, Array, Decision, IntArray, Member, MemberAnswer, Request
from bandmaster.features import features_of, features_of_requests
from bandmaster.journal.codec import decode, encode
from bandmaster.journal.memory import MemoryJournal
from bandmaster.learner import Learner, profile_figures
from bandmaster.limits import Budget, Limits
from bandmaster.meter import CpuTimeMeter
from bandmaster.orchestrator import Orchestrator
from bandmaster.policies.bandit import BanditPolicy
from bandmaster.testing.policies import sample_experiences, sample_learner, sample_log, sample_orchestrator

LOG = sample_log(400, seed=1)
TURN = 40


class Counting(CpuTimeMeter):
    """Counts calls, and rows by member; a member in ``ill`` fails where a row of the log is asked about that is."""

    def __init__(self) -> None:
        super().__init__(len(LOG.ensemble.classes))
        self.calls, self.ill = list[tuple[str, int]](), dict[str, int]()

    def run(self, member: Member, rows: Array, index: IntArray, within_s: float = float("inf")) -> MemberAnswer:
        self.calls.append((member.name, len(index)))
        reply = super().run(member, rows, index, within_s)
        failed = self.ill.get(member.name) in rows[index, 0]
        return replace(reply, scores=None, error="it broke") if failed else reply


@pytest.fixture(scope="module")
def learned() -> Learner:
    figures = profile_figures(LOG.ensemble)
    learner = sample_learner(lambda plans, *known: BanditPolicy(plans, known[0], figures, known[1]), LOG)
    for _ in sample_experiences(learner, LOG):
        pass
    return learner


def made(learned: Learner, faults: bool = False, **more: object) -> tuple[Orchestrator, Counting]:
    meter = Counting()
    watched = Faults(Breaker(LOG.ensemble.names, Breaking(after=50))) if faults else None
    return sample_orchestrator(learned, LOG, MemoryJournal(), meter=meter, faults=watched, **more), meter  # type: ignore[arg-type]


def asked(first: int = 0, count: int = TURN) -> list[Request]:
    return [replace(LOG.request(i), rows=np.array([[i]])) for i in range(first, first + count)]


def same(together: tuple[Decision, Answer], alone: tuple[Decision, Answer]) -> None:
    (decision, one), (again, other) = together, alone
    assert (decision.plan, decision.propensity) == (again.plan, again.propensity)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-12)
    assert one.labels.tolist() == other.labels.tolist()
    assert one.stages_run == other.stages_run
    assert {said.name for said in one.ran} == {said.name for said in other.ran}
    for said in one.ran:
        (twin,) = [reply for reply in other.ran if reply.name == said.name]
        assert (said.rows.tolist(), said.error) == (twin.rows.tolist(), twin.error)
        np.testing.assert_array_equal(said.scores, twin.scores)
    assert (one.stand_ins, one.down) == (other.stand_ins, other.down)
    encode(one)


def test_each_has_the_probabilities_that_it_would_have_alone_to_the_bit(learned: Learner) -> None:
    orchestrator, _ = made(learned)
    for decision in orchestrator.decide_each(asked()):
        read = decode(encode(decision), Decision)
        np.testing.assert_array_equal(learned.manager.distribution(read.state), read.probabilities)
        np.testing.assert_array_equal(
            learned.state.get_state(LOG.request(int(decision.at))).expected, read.state.expected
        )


@pytest.mark.parametrize("faults", [False, True])
def test_each_is_answered_as_it_would_be_alone(learned: Learner, faults: bool) -> None:
    orchestrator, meter = made(learned, faults)
    plans = learned.manager.policy.catalogue.names
    decided = [
        (replace(decision, chosen=i % len(plans)), request)  # every plan, cascades and all
        for i, (decision, request) in enumerate(zip(orchestrator.decide_each(asked()), asked(), strict=True))
    ]
    together = orchestrator.run_each(decided)
    calls = len(meter.calls)
    for answered, (decision, request) in zip(together, decided, strict=True):
        same(answered, orchestrator.run(decision, request))
    assert calls <= 4 * len(LOG.ensemble.names) < len(meter.calls) - calls  # a member is asked once a stage


def test_each_call_is_charged_once_and_shared(learned: Learner) -> None:
    orchestrator, meter = made(learned)
    together = orchestrator.run_each(list(zip(orchestrator.decide_each(asked()), asked(), strict=True)))
    rows = sum(len(said.rows) for _, answer in together for said in answer.ran)
    assert rows == sum(count for _, count in meter.calls)
    for name in LOG.ensemble.names:
        said = [said for _, answer in together for said in answer.ran if said.name == name]
        assert len({one.latency_s for one in said}) <= len([n for n, _ in meter.calls if n == name])


def test_what_a_member_fails_at_is_no_concern_of_the_others(learned: Learner) -> None:
    orchestrator, meter = made(learned, faults=True)
    decided = list(zip(orchestrator.decide_each(asked()), asked(), strict=True))
    member, row = next((said.name, i) for i, (_, a) in enumerate(orchestrator.run_each(decided)) for said in a.ran)
    meter.ill[member] = row
    together = orchestrator.run_each(decided)
    failed = [i for i, (_, answer) in enumerate(together) if any(said.error for said in answer.ran)]
    assert failed == [row]
    assert all((answer.labels >= 0).all() for _, answer in together)


def _with_a_deadline(request: Request) -> Request:
    return replace(request, deadline_s=60.0)


def _of_two_rows(request: Request) -> Request:
    return replace(request, rows=np.concatenate([request.rows, request.rows]))


@pytest.mark.parametrize("changed", [_with_a_deadline, _of_two_rows])
def test_what_must_be_walked_alone_is(learned: Learner, changed: Callable[[Request], Request]) -> None:
    orchestrator, meter = made(learned, faults=True)
    requests = [changed(request) for request in asked()]
    decided = list(zip(orchestrator.decide_each(requests), requests, strict=True))
    together = orchestrator.run_each(decided)
    assert len(meter.calls) == sum(len(answer.ran) for _, answer in together)
    for answered, (decision, request) in zip(together, decided, strict=True):
        same(answered, orchestrator.run(decision, request))


def test_under_a_budget_each_sees_what_those_before_it_spend(learned: Learner) -> None:
    most = float(learned.state.statistics().energy_j.max())
    limits = Limits(energy=Budget(3.0 * most, 1e6))
    together = made(learned, limits=limits)[0].decide_each(asked())
    orchestrator, _ = made(learned, limits=limits)
    assert [d.state.fits for d in together] == [orchestrator.decide(request).state.fits for request in asked()]


def test_a_turn_of_none_and_of_one_are_turns(learned: Learner) -> None:
    orchestrator, _ = made(learned)
    assert orchestrator.decide_each([]) == []
    assert orchestrator.run_each([]) == []
    (request,) = asked(count=1)
    same(orchestrator.run_each([(orchestrator.decide(request), request)])[0], orchestrator.answer(request))


@given(st.integers(1, 6), st.integers(1, 50), st.booleans(), st.integers(0, 2**32 - 1))
def test_features_found_together_are_those_found_alone_to_the_bit(
    n: int, columns: int, summarise: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    for allowed in (None, (0, 3)):
        rows = [rng.normal(size=(1, columns)).astype(np.float32) for _ in range(n)]
        mixed = [*rows, rng.normal(size=(2, columns)).astype(np.float32)]
        for requests in (rows, mixed):
            together = features_of_requests(requests, summarise=summarise, allowed=allowed)
            for each, alone in zip(together, requests, strict=True):
                np.testing.assert_array_equal(each, features_of(alone, summarise=summarise, allowed=allowed))
