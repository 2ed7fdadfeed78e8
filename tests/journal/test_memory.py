"""The journal in memory, when it keeps nothing: who is told what is the same, and decisions are let go."""

from collections.abc import Iterator, Sequence

from bandmaster.core import Joined, Outcome, Reward, Settlement, Status
from bandmaster.journal.memory import MemoryJournal
from bandmaster.testing import CHECKED_WINDOW_S, check_journal
from bandmaster.testing.journals import same, sample_answer, sample_decision

START = sample_decision().at


def forgetful() -> MemoryJournal:
    return MemoryJournal(CHECKED_WINDOW_S, keep=False)


class Recalled(MemoryJournal):
    """A journal that keeps nothing, and beside it what it told: so that every rule can be asked of it."""

    def __init__(self) -> None:
        super().__init__(CHECKED_WINDOW_S, keep=False)
        self._told: list[Joined] = []
        self._told_rewards: dict[str, Reward] = {}

    def settle(self, decision_id: str, outcome: Outcome) -> Settlement:
        settlement = super().settle(decision_id, outcome)
        self._told += [settlement.joined] if settlement.joined is not None else []
        return settlement

    def due(self, now: float | None = None) -> Sequence[Joined]:
        joined = super().due(now)
        self._told += joined
        return joined

    def since(self, seq: int) -> Iterator[Joined]:
        yield from (joined for joined in self._told if joined.seq > seq)

    def save_reward(self, joined: Joined, reward: Reward) -> None:
        super().save_reward(joined, reward)
        self._told_rewards[joined.decision.id] = reward

    def reward(self, decision_id: str) -> Reward | None:
        return self._told_rewards.get(decision_id)


def test_who_keeps_nothing_tells_the_same():
    check_journal(Recalled)


def test_a_settled_decision_is_let_go_and_counted():
    journal = forgetful()
    decision, answer = sample_decision(1), sample_answer(1)
    journal.record(decision, answer)
    joined = journal.settle(decision.id, Outcome(at=START + 1.0, labels=(0,))).joined
    assert joined is not None
    assert same(joined.decision, decision)
    journal.save_reward(joined, Reward(1.0, {}, {}))
    journal.record(decision, answer)  # a probe that comes after all
    assert journal._stored == {}
    assert list(journal.since(0)) == []
    assert journal.reward(decision.id) is None
    counts = journal.counts()
    assert (counts.decisions, counts.joined) == (1, 1)
    assert journal.settle(decision.id, Outcome(at=START + 2.0, labels=(0,))).status is Status.DUPLICATE


def test_a_decision_that_could_only_settle_late_is_let_go_and_does_so():
    journal = forgetful()
    for n in range(50):
        journal.record(sample_decision(n, at=START + 100.0 * n), sample_answer(n))
        assert len(journal._stored) <= 7
    status = [journal.settle(sample_decision(n).id, Outcome(at=START + 4900.0, labels=(0,))).status for n in range(50)]
    assert status == [Status.LATE] * 43 + [Status.JOINED] * 7
    counts = journal.counts()
    assert (counts.decisions, counts.joined, counts.late) == (50, 7, 43)
    assert journal.settle(sample_decision(0).id, Outcome(at=START, labels=(0,))).status is Status.DUPLICATE


def test_an_outcome_that_waits_for_probes_is_not_let_go_of():
    journal = forgetful()
    probed = sample_decision(1, probed=True)
    journal.record(probed, sample_answer(1))
    assert journal.settle(probed.id, Outcome(at=START + 1.0, labels=(0,))).status is Status.EARLY
    journal.record(sample_decision(2, at=START + 10_000.0), sample_answer(2))
    (joined,) = journal.due(START + 10_000.0)
    assert joined.decision.id == probed.id
