"""The two halves of serving without HTTP: a worker answers, the learner's loop learns, snapshots go back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandmaster import hosting
from bandmaster.config import Config, load
from bandmaster.core import Answer, BandmasterError, Decision, DriftEvent, Request, Snapshot
from bandmaster.serving import learning
from bandmaster.serving.learning import LearningLoop
from bandmaster.serving.pages import Report
from bandmaster.serving.worker import AT_ONCE, BUSY_AT, THREADS, Worker
from bandmaster.state import Heard
from tests.serving.tiny import LABELS, POISON, ROWS, made_of, project


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load(project(tmp_path, seed=3, probes={"share": 0.2}) / "bentofile.yaml")


@pytest.fixture
def loop(config: Config, hosted: hosting.Hosted) -> Iterator[LearningLoop]:
    loop = make_loop(config, hosted)
    yield loop
    loop.close()


def make_loop(config: Config, hosted: hosting.Hosted) -> LearningLoop:
    return LearningLoop(made_of(config, hosted))


def ask(config: Config, hosted: hosting.Hosted, rows: np.ndarray) -> list[tuple[Decision, Answer]]:
    """A worker's answers to single rows; it has finished its probes and gone when they are returned."""

    async def work() -> list[tuple[Decision, Answer]]:
        worker = Worker(made_of(config, hosted), worker=1)
        answers = [await worker.answer(Request(r[None].astype(np.float32), r, time.time())) for r in rows]
        await worker.close()
        return answers

    return asyncio.run(work())


def test_requests_whose_rows_run_together_are_decisions_of_their_own(
    config: Config, hosted: hosting.Hosted, loop: LearningLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosting, "SLOW_S", 0.0)  # so that all members run in threads
    rows, made = ROWS[:40].astype(np.float32), replace(made_of(config, hosted), batch=16)

    async def work() -> list[tuple[Decision, Answer]]:
        worker = Worker(made, worker=1)
        answers = await asyncio.gather(*(worker.answer(Request(r[None], r, time.time())) for r in rows))
        await worker.close()
        return answers

    answers = asyncio.run(work())
    assert len({decision.id for decision, _ in answers}) == 40
    for row, (_, answer) in zip(rows, answers, strict=True):
        for said in answer.ran:
            np.testing.assert_allclose(said.scores, hosted.members[said.name].predict(row[None]), atol=1e-6)
    loop.tick()
    assert loop.state().counts["decisions"] == 40


def report(decision: Decision, label: int) -> Report:
    return Report(decision_id=decision.id, at=time.time(), labels=(label,))


def test_what_a_worker_decided_is_joined_learned_and_published(
    config: Config, hosted: hosting.Hosted, loop: LearningLoop
) -> None:
    answers = ask(config, hosted, ROWS[:40])
    receipts = loop.settle([report(d, int(label)) for (d, _), label in zip(answers, LABELS[:40], strict=True)])
    assert {r.status for r in receipts} == {"joined"}  # the worker is gone, so every probe has come
    assert all(r.reward is not None and 0 <= r.reward <= 1 for r in receipts)
    loop.tick()
    page = loop.state()
    assert (page.counts["decisions"], page.counts["joined"], page.snapshot_version) == (40, 40, 1)

    async def follow() -> int:
        worker = Worker(made_of(config, hosted), worker=2)
        worker.poll()
        await worker.close()
        return worker.snapshot

    assert asyncio.run(follow()) == 1


def test_what_is_learned_is_published_though_the_clock_goes_back(
    config: Config, hosted: hosting.Hosted, loop: LearningLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "SNAPSHOT_EVERY_S", 0.0)
    answers, right = ask(config, hosted, ROWS[:20]), time.time
    for n, (decision, _) in enumerate(answers[:3], start=1):
        loop.settle([report(decision, 0)])
        loop.tick()
        assert loop.state().snapshot_version == n
        monkeypatch.setattr(time, "time", lambda back_s=3600.0 * n: right() - back_s)


def test_a_learner_starts_where_its_predecessor_stopped(config: Config, hosted: hosting.Hosted) -> None:
    answers = ask(config, hosted, ROWS[:30])
    first = make_loop(config, hosted)
    first.settle([report(d, 0) for d, _ in answers[:20]])
    first.tick()  # publishes
    first.settle([report(d, 0) for d, _ in answers[20:]])  # too soon to publish again
    before = first.state()
    first._journal.close()  # as kill -9 leaves it
    first._lease.close()
    second = make_loop(config, hosted)
    after = second.state()
    second.close()
    assert after.counts == before.counts
    assert after.reward == pytest.approx(before.reward)
    assert [m.accuracy for m in after.members] == pytest.approx([m.accuracy for m in before.members])


def test_there_is_one_learner_a_journal(
    config: Config, hosted: hosting.Hosted, loop: LearningLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "LEASE_PATIENCE_S", 0.0)
    with pytest.raises(BandmasterError, match="another learner holds its lease"):
        make_loop(config, hosted)


def test_of_reports_with_one_misfit_none_is_settled(config: Config, hosted: hosting.Hosted, loop: LearningLoop) -> None:
    (good, _), (bad, _) = ask(config, hosted, ROWS[:2])
    misfit = Report(decision_id=bad.id, at=time.time(), labels=(0, 1))
    receipts = loop.settle([report(good, 0), misfit])
    assert [r.status for r in receipts] == ["refused", "refused"]
    assert "answered 1 rows, but 2 labels came" in str(receipts[1].why)
    assert loop.state().counts["joined"] == 0


def test_a_failed_member_is_recorded_and_the_rest_of_its_plan_answers(tmp_path: Path) -> None:
    changes = {"policy": {"use": "constant", "plan": "linear+fragile"}, "probes": {"share": 0}}
    config = load(project(tmp_path, **changes) / "bentofile.yaml")
    row = ROWS[:1].copy()
    row[0, 0] = 2 * POISON
    ((_, answer),) = ask(config, hosting.host(config), row)
    assert {a.name: a.error is None for a in answer.ran} == {"linear": True, "fragile": False}
    assert answer.labels[0] >= 0


def test_every_answered_request_is_noticed_once_and_its_probe_with_it(
    config: Config, hosted: hosting.Hosted, loop: LearningLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    noticed: list[tuple[str, int]] = []
    real = loop._learner.hear

    def hear(decision: Decision, answer: Answer) -> tuple[Heard | None, DriftEvent | None]:
        noticed.append((decision.id, len(answer.probes)))
        return real(decision, answer)

    monkeypatch.setattr(loop._learner, "hear", hear)
    answers = ask(config, hosted, ROWS[:60])
    probed = {d.id for d, _ in answers if d.probed}
    assert 0 < len(probed) < 60
    for _ in range(3):
        loop.tick()
        loop.state()
    assert sorted(id_ for id_, _ in noticed) == sorted(d.id for d, _ in answers)
    ran = {d.id: len(a.ran) for d, a in answers}
    assert all(probes == (4 - ran[id_] if id_ in probed else 0) for id_, probes in noticed)
    loop.settle([report(d, int(label)) for (d, _), label in zip(answers, LABELS[:60], strict=True)])
    loop.tick()
    assert len(noticed) == 60
    assert loop._learner.state._probes.made == len(probed)


def test_the_mix_of_classes_is_followed_without_any_label_and_reaches_the_workers(tmp_path: Path) -> None:
    config = load(project(tmp_path, seed=3, probes={"share": 0.5}) / "bentofile.yaml")
    hosted = hosting.host(config)
    order, only = np.random.default_rng(0).permutation(len(ROWS)), ROWS[LABELS == 1]
    taught = ask(config, hosted, ROWS[order])
    loop = make_loop(config, hosted)
    for (decision, _), label in zip(taught, LABELS[order], strict=True):
        loop.settle([report(decision, int(label))])
    before = loop.state().label_mix
    assert max(before.values()) < 0.6
    asked = ask(config, hosted, np.concatenate([only, only]))
    loop._published = 0.0  # as if the last snapshot were long ago
    loop.tick()
    page = loop.state()
    loop.close()
    assert page.counts["joined"] == len(taught)
    assert page.counts["decisions"] == len(taught) + len(asked)
    assert page.label_mix["versicolor"] > 0.8
    assert page.repeats < 0.1  # the newest label is of long ago

    async def follow() -> np.ndarray:
        worker = Worker(made_of(config, hosted), worker=2)
        worker.poll()
        await worker.close()
        return worker._serving.learned.state.label_mix

    assert asyncio.run(follow())[1] == pytest.approx(page.label_mix["versicolor"])


def test_a_new_learner_notices_what_lies_in_the_spools_and_only_that(config: Config, hosted: hosting.Hosted) -> None:
    answers = ask(config, hosted, ROWS[:20])
    first = make_loop(config, hosted)
    first.settle([report(d, 0) for d, _ in answers[:10]])
    first.tick()  # publishes
    more = ask(config, hosted, ROWS[20:40])
    first._journal.close()  # as kill -9 leaves it
    first._lease.close()
    second = make_loop(config, hosted)
    made = second._learner.state._probes.made
    second.tick()
    counts, all_made = second.state().counts, second._learner.state._probes.made
    second.close()
    assert made == sum(d.probed for d, _ in answers)
    assert all_made == sum(d.probed for d, _ in [*answers, *more])
    assert counts["decisions"] == 40


def test_a_learner_that_starts_anew_notices_again_what_it_learns_again(config: Config, hosted: hosting.Hosted) -> None:
    order = np.random.default_rng(0).permutation(len(ROWS))
    answers = ask(config, hosted, ROWS[order])
    first = make_loop(config, hosted)
    first.settle([report(d, int(label)) for (d, _), label in zip(answers, LABELS[order], strict=True)])
    first._journal.close()  # before anything was published
    first._lease.close()
    second = make_loop(config, hosted)
    state = second._learner.state
    second.close()
    assert state._probes.made == sum(d.probed for d, _ in answers)
    assert state.label_mix.min() > 0.2  # a third each was asked


def test_what_another_ensemble_decided_is_not_noticed(config: Config, hosted: hosting.Hosted) -> None:
    answers = ask(config, hosted, ROWS[:20])
    assert len(answers) == 20
    more = replace(hosted.ensemble, classes=(*hosted.ensemble.classes, "a fourth"))
    loop = LearningLoop(made_of(config, replace(hosted, ensemble=more)))
    loop.tick()
    page = loop.state()
    loop.close()
    assert page.counts["decisions"] == 20
    assert set(page.label_mix.values()) == {0.25}


def test_while_much_is_under_way_nothing_is_probed_and_that_is_what_is_logged(tmp_path: Path) -> None:
    config = load(project(tmp_path, seed=3, probes={"share": 1.0, "adapt": False}) / "bentofile.yaml")
    hosted = hosting.host(config)
    for member in hosted.members.values():
        member.latency_s = 1.0  # declared slow: they run in threads, and so overlap

    async def work() -> tuple[list[Decision], list[Decision], Decision]:
        worker = Worker(made_of(config, hosted), worker=1)
        gate, real = threading.Event(), worker._serving.orchestrator.run

        def held(decision: Decision, request: Request, due: float | None = None) -> Answer:
            assert gate.wait(30.0)
            return real(decision, request, due)

        worker._serving.orchestrator.run = held  # type: ignore[method-assign]
        requests = [Request(r[None].astype(np.float32), r, time.time()) for r in ROWS[: THREADS + 2]]
        asked = [asyncio.create_task(worker.answer(r)) for r in requests]
        await asyncio.sleep(0)  # each has been decided, none answered
        gate.set()
        together = [d for d, _ in await asyncio.gather(*asked)]
        await asyncio.gather(*worker._after)
        alone = []
        for request in requests:
            alone.append((await worker.answer(request))[0])
            await asyncio.gather(*worker._after)
        probing, real_probe, shut = [], worker._serving.orchestrator.probe, threading.Event()

        def stuck(decision: Decision, answer: Answer, request: Request) -> Answer:
            assert shut.wait(30.0)
            return real_probe(decision, answer, request)

        worker._serving.orchestrator.probe = stuck  # type: ignore[method-assign]
        for request in requests[: BUSY_AT + 1]:
            probing.append((await worker.answer(request))[0])
        shut.set()
        await worker.close()
        assert [d.probed for d in probing[:BUSY_AT]] == [True] * BUSY_AT
        return together, alone, probing[-1]

    together, alone, behind_probes = asyncio.run(work())
    assert [(d.probe_p, d.probed) for d in together[:BUSY_AT]] == [(1.0, True)] * BUSY_AT
    assert [(d.probe_p, d.probed) for d in together[BUSY_AT:]] == [(0.0, False)] * (THREADS + 2 - BUSY_AT)
    assert all(d.probed for d in alone)
    assert (behind_probes.probe_p, behind_probes.probed) == (0.0, False)


def test_slow_members_leave_the_event_loop_free(config: Config, hosted: hosting.Hosted) -> None:
    for member in hosted.members.values():
        member.latency_s = 1.0  # declared slow: what counts is where they run

    async def work() -> int:
        worker = Worker(made_of(config, hosted), worker=1)
        turns = 0

        async def spin() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        spinning = asyncio.create_task(spin())
        await worker.answer(Request(ROWS[:1].astype(np.float32), ROWS[0], time.time()))
        spinning.cancel()
        await worker.close()
        return turns

    assert asyncio.run(work()) > 1


def test_a_worker_may_be_asked_from_another_event_loop(config: Config, hosted: hosting.Hosted) -> None:
    async def work() -> tuple[Decision, Answer]:
        worker = Worker(made_of(config, hosted), worker=1)
        request = Request(ROWS[:1].astype(np.float32), ROWS[0], time.time())
        found = await asyncio.to_thread(lambda: asyncio.run(worker.answer(request)))
        await worker.close()
        return found

    decision, answer = asyncio.run(work())
    assert decision.plan in decision.plans
    assert len(answer.labels) == 1


def test_models_with_other_classes_start_anew_on_an_old_journal(config: Config, hosted: hosting.Hosted) -> None:
    answers = ask(config, hosted, ROWS[:20])
    first = make_loop(config, hosted)
    first.settle([report(d, 0) for d, _ in answers[:15]])
    first.close()
    more = replace(hosted.ensemble, classes=(*hosted.ensemble.classes, "a fourth"))
    second = LearningLoop(made_of(config, replace(hosted, ensemble=more)))
    receipts = second.settle([report(d, 0) for d, _ in answers[15:]])  # answered by the models of before
    page = second.state()
    second.close()
    assert {r.status for r in receipts} == {"joined"}
    assert page.policy_version == "0"
    assert page.counts["joined"] == 20


def test_an_outcome_that_cannot_be_learned_from_is_settled_all_the_same(
    config: Config, hosted: hosting.Hosted, loop: LearningLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, _), (second, _) = ask(config, hosted, ROWS[:2])
    with monkeypatch.context() as broken:
        broken.setattr(loop._learner, "learn", lambda joined: 1 / 0)
        assert loop.settle([report(first, 0)])[0].status == "joined"
    assert loop.settle([report(first, 0)])[0].status == "duplicate"
    assert loop.settle([report(second, 0)])[0].reward is not None


def test_snapshots_outnumber_those_that_another_key_sealed(config: Config, hosted: hosting.Hosted) -> None:
    first = make_loop(config, hosted)
    for _ in range(3):
        first._journal.save_snapshot(Snapshot(first._version + 1000, 0, time.time(), b"sealed with the old key"))
        first._version += 1000
    first.close()
    key = next(config.root.rglob("bandmaster.key"))
    key.unlink()
    answers = ask(config, hosted, ROWS[:5])
    second = make_loop(config, hosted)
    second.settle([report(d, 0) for d, _ in answers])
    second.tick()
    second.close()

    async def follow() -> int:
        worker = Worker(made_of(config, hosted), worker=2)
        worker.poll()
        await worker.close()
        return worker.snapshot

    assert asyncio.run(follow()) > 3000


def test_by_consensus_a_probe_is_learned_from_and_a_label_only_recorded(tmp_path: Path) -> None:
    by_consensus = {"accuracy": {"weight": 1, "from": "consensus"}}
    config = load(project(tmp_path, seed=3, probes={"share": 0.5}, contract=by_consensus) / "bentofile.yaml")
    hosted = hosting.host(config)
    answers = ask(config, hosted, ROWS[:20])
    loop = make_loop(config, hosted)
    probed = [d for d, _ in answers if d.probed]
    left = loop.settle([Report(decision_id=d.id, at=d.at, consensus=True) for d in probed])
    assert all(r.status == "joined" and r.reward is not None for r in left)
    told = loop.settle([report(d, 0) for d, _ in answers])
    assert {r.status for r in told} == {"joined", "duplicate"}
    assert all(r.reward is None for r in told)
    assert loop.state().counts["joined"] == 20
    assert int(loop._learner.state.version) == len(probed) > 0
    loop.close()


def test_an_outcome_without_a_figure_is_counted_on_the_state_page(tmp_path: Path) -> None:
    own = {"accuracy": {"weight": 1}, "own": {"weight": 1, "use": "figures_for_serving:own"}}
    folder = project(tmp_path, seed=3, contract=own)
    (folder / "figures_for_serving.py").write_text(
        "def own(decision, answer, outcome):\n    return answer.confidence[0] if outcome.labels == (0,) else None\n"
    )
    config = load(folder / "bentofile.yaml")
    hosted = hosting.host(config)
    answers = ask(config, hosted, ROWS[:10])
    loop = make_loop(config, hosted)
    receipts = loop.settle([report(d, k % 2) for k, (d, _) in enumerate(answers)])
    assert [r.reward is not None for r in receipts] == [True, False] * 5
    page = loop.state()
    assert (page.counts["joined"], page.without_reward) == (10, 5)
    loop.close()


def test_a_metric_that_cannot_be_imported_is_refused_before_anything_is_served(tmp_path: Path) -> None:
    own = {"accuracy": {"weight": 1}, "own": {"weight": 1, "use": "nowhere_to_be_found:own"}}
    config = load(project(tmp_path, contract=own) / "bentofile.yaml")
    with pytest.raises(BandmasterError, match=r"contract\.own\.use: nowhere_to_be_found:own cannot be imported"):
        hosting.host(config)


def counted_turns(worker: Worker) -> list[int]:
    """Of how many requests each turn is, from now on."""
    turns, real = list[int](), worker._serving.orchestrator.decide_each

    def counting(requests: Sequence[Request]) -> list[Decision]:
        turns.append(len(requests))
        return real(requests)

    worker._serving.orchestrator.decide_each = counting  # type: ignore[method-assign]
    return turns


def test_requests_that_come_together_are_answered_in_one_turn_but_for_those_that_went_away(tmp_path: Path) -> None:
    config = load(project(tmp_path, seed=3) / "bentofile.yaml")

    async def work() -> tuple[list[int], int]:
        worker = Worker(made_of(config, hosting.host(config)), worker=1)
        turns = counted_turns(worker)
        asked = [
            asyncio.create_task(worker.answer(Request(r[None].astype(np.float32), r, time.time()))) for r in ROWS[:9]
        ]
        await asyncio.sleep(0)  # all have come
        asked[4].cancel()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(answers[4], asyncio.CancelledError)
        assert all(isinstance(answer, tuple) for i, answer in enumerate(answers) if i != 4)
        under_way = worker._serving.under_way - len(worker._after)
        await worker.close()
        return turns, under_way

    assert asyncio.run(work()) == ([8], 0)


def test_of_very_many_that_come_together_some_are_answered_before_others(tmp_path: Path) -> None:
    config = load(project(tmp_path, seed=3) / "bentofile.yaml")

    async def work() -> list[int]:
        worker = Worker(made_of(config, hosting.host(config)), worker=1)
        turns = counted_turns(worker)
        many = [Request(r[None].astype(np.float32), r, time.time()) for r in ROWS]
        await asyncio.gather(*(worker.answer(request) for request in many))
        await worker.close()
        return turns

    assert asyncio.run(work()) == [AT_ONCE, AT_ONCE, len(ROWS) - 2 * AT_ONCE]


def test_a_turn_that_fails_fails_whoever_waits_for_it_and_the_next_one_is_answered(tmp_path: Path) -> None:
    config = load(project(tmp_path, seed=3) / "bentofile.yaml")

    async def work() -> None:
        worker = Worker(made_of(config, hosting.host(config)), worker=1)
        real = worker._serving.orchestrator.run_each

        def broken(decided: object) -> list[tuple[Decision, Answer]]:
            raise BandmasterError("broken")

        def ask() -> Coroutine[Any, Any, tuple[Decision, Answer]]:
            return worker.answer(Request(ROWS[:1].astype(np.float32), ROWS[0], time.time()))

        worker._serving.orchestrator.run_each = broken  # type: ignore[method-assign]
        failed = await asyncio.gather(ask(), ask(), return_exceptions=True)
        assert [str(problem) for problem in failed] == ["broken", "broken"]
        worker._serving.orchestrator.run_each = real  # type: ignore[method-assign]
        assert len(await ask()) == 2
        assert worker._serving.under_way == len(worker._after)
        await worker.close()

    asyncio.run(work())
