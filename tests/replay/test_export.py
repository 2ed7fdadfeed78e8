"""The journal as a table: what was recorded comes back, is scored anew, and can be evaluated and replayed."""

from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from bandmaster import build, config, hosting
from bandmaster.cli import main
from bandmaster.core import BandmasterError, Joined, Outcome
from bandmaster.export import _with_delays, export
from bandmaster.journal.keys import Keys
from bandmaster.journal.reading import read_joined
from bandmaster.journal.sqlite import SqliteJournal
from bandmaster.offpolicy.evaluate import evaluate
from bandmaster.offpolicy.log import read
from bandmaster.offpolicy.target import parse_target
from tests.replay.conftest import CONFIG

REQUESTS = 60


def served(lab, probed):
    """What a service would have settled of a log's first requests, every one of them probed or none."""
    settings = replace(lab.config, probes=replace(lab.config.probes, share=1.0 if probed else 0.0, adapt=False))
    log = lab.logs[0]
    parts = build.ReplayFactory(settings)("scoring" if probed else "random", log, 0)
    found = []
    for i in range(REQUESTS):
        request = log.request(i)
        decision, answer = parts.orchestrator.answer(request)
        assert decision.probed is probed
        if probed:
            answer = parts.orchestrator.probe(decision, answer, request)
        if log.labelled[i]:
            found.append(Joined(len(found) + 1, decision, answer, Outcome(at=request.at, labels=log.labels(i))))
    learner = build.learner(settings, lab.catalogue, np.random.default_rng(0))
    return found, learner


def test_what_was_recorded_comes_back_and_what_did_not_run_is_null(lab, tmp_path):
    joined, learner = served(lab, probed=False)
    assert export(joined, learner, tmp_path / "e.parquet") == len(joined)
    table = pl.read_parquet(tmp_path / "e.parquet")
    assert table["request"].to_list() == [j.decision.id for j in joined]
    assert table["action"].to_list() == [j.decision.plan for j in joined]
    np.testing.assert_allclose(table["reward"], [learner.reward(j).value for j in joined])
    for row, one in zip(table.iter_rows(named=True), joined, strict=True):
        ran = {reply.name for reply in one.answer.ran}
        assert {n for n in learner.ensemble.names if row[f"{n}__latency_s"] is not None} == ran
        assert row["label"] == learner.ensemble.classes[one.outcome.labels[0]]


def test_an_exported_journal_can_be_evaluated(lab, tmp_path):
    joined, learner = served(lab, probed=False)
    export(joined, learner, tmp_path / "e.parquet")
    found = evaluate(read(tmp_path / "e.parquet"), parse_target("column:propensity"))
    assert found.of("ips").value == pytest.approx(np.mean([learner.reward(j).value for j in joined]))


@pytest.fixture
def late(lab):
    """Probed requests whose labels came up to nine requests late, in another order; and after how many each did."""
    joined, learner = served(lab, probed=True)
    rng = np.random.default_rng(0)
    came = [j.decision.at + late for j, late in zip(joined, rng.uniform(0.0, 9.0, len(joined)), strict=True)]
    found = [replace(j, outcome=replace(j.outcome, at=at)) for j, at in zip(joined, came, strict=True)]
    after = [
        sum(j.decision.at < other.decision.at <= at for other in joined) for j, at in zip(joined, came, strict=True)
    ]
    assert max(after) > 5
    return found, learner, after


def test_what_was_settled_in_another_order_is_read_in_that_of_arrival(late, tmp_path):
    joined, _, _ = late
    journal = SqliteJournal(tmp_path / "main.db", Keys(b"k" * 32))
    for one in joined:
        journal.record(one.decision, one.answer)
    for one in sorted(joined, key=lambda j: j.outcome.at):
        journal.settle(one.decision.id, one.outcome)
    journal.close()
    assert [j.decision.id for j in read_joined(tmp_path / "main.db")] == [j.decision.id for j in joined]


def test_delays_are_written_as_they_were(lab, late, tmp_path, monkeypatch):
    joined, learner, after = late
    monkeypatch.setattr("bandmaster.export._BATCH", 7)  # delays go across the parts that are held at once
    export(joined, learner, tmp_path / "late.parquet", complete=True)
    table = pl.read_parquet(tmp_path / "late.parquet")
    assert table["label_delay"].to_list() == table["reward_delay"].to_list() == after
    assert "outcome_ts" not in table.columns
    assert build.recorded_log(lab.config, tmp_path / "late.parquet").delay.tolist() == after


def test_delays_count_requests_or_rows_where_requests_have_several(tmp_path):
    frame = pl.DataFrame(
        {
            "request": ["a", "a", "b", "c", "c", "c"],
            "ts": [1.0, 1.0, 2.0, 3.0, 3.0, 3.0],
            "outcome_ts": [2.5, 2.5, 1.0, 3.0, 3.0, 3.0],
        }
    )
    parts = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    frame[:4].write_parquet(parts[0])
    frame[4:].write_parquet(parts[1])
    _with_delays(parts)
    found = pl.concat([pl.read_parquet(part) for part in parts])
    assert found["label_delay"].to_list() == [1, 1, 0, 0, 0, 0]
    assert found["reward_delay"].to_list() == [2, 1, 0, 2, 1, 0]


def test_requests_that_all_members_answered_read_as_the_log_that_they_came_from(lab, tmp_path):
    joined, learner = served(lab, probed=True)
    assert export(joined, learner, tmp_path / "e.parquet", complete=True) == len(joined)
    back, was = build.recorded_log(lab.config, tmp_path / "e.parquet"), lab.logs[0]
    rows = np.flatnonzero(was.labelled[:REQUESTS])
    assert back.ensemble.names == was.ensemble.names
    np.testing.assert_array_equal(back.truth, was.truth[rows])
    np.testing.assert_allclose(back.scores[back.rows], was.scores[was.rows][rows], atol=1e-6)
    np.testing.assert_allclose(back.latency_s, was.latency_s[rows])


def test_of_requests_that_not_all_answered_none_are_complete(lab, tmp_path):
    joined, learner = served(lab, probed=False)
    alone = [j for j in joined if len(j.answer.ran) == 1]
    with pytest.raises(BandmasterError, match="there is nothing to export"):
        export(alone, learner, tmp_path / "e.parquet", complete=True)
    assert not list(tmp_path.iterdir())


def test_with_another_contract_history_is_scored_anew(lab, tmp_path):
    joined, _ = served(lab, probed=False)
    (accuracy,) = (m for m in lab.config.contract.metrics if m.name == "accuracy")
    only = replace(lab.config, contract=replace(lab.config.contract, metrics=(replace(accuracy, weight=1.0),)))
    export(joined, build.learner(only, lab.catalogue, np.random.default_rng(0)), tmp_path / "e.parquet")
    right = [float(j.answer.labels[0] == j.outcome.labels[0]) for j in joined]
    np.testing.assert_allclose(pl.read_parquet(tmp_path / "e.parquet")["reward"], right)


def test_a_journal_is_read_beside_its_owner(lab, tmp_path):
    joined, _ = served(lab, probed=False)
    journal = SqliteJournal(tmp_path / "main.db", Keys(b"k" * 32))
    settle = partial(map, lambda j: (journal.record(j.decision, j.answer), journal.settle(j.decision.id, j.outcome)))
    list(settle(joined[:20]))
    assert [j.decision.id for j in read_joined(tmp_path / "main.db")] == [j.decision.id for j in joined[:20]]
    list(settle(joined[20:]))
    assert len(list(read_joined(tmp_path / "main.db"))) == len(joined)
    journal.close()
    (tmp_path / "other.db").write_text("no database")
    for name, said in (("other.db", "cannot be read as a journal"), ("none.db", "no such journal")):
        with pytest.raises(BandmasterError, match=said):
            list(read_joined(tmp_path / name))


def test_decisions_of_another_ensemble_are_refused(lab, tmp_path):
    joined, _ = served(lab, probed=False)
    members = "{cheap: {profile: {cost: 1}}, other: {profile: {cost: 1}}}"
    (tmp_path / "c.yaml").write_text(f"orchestration: {{contract: {{accuracy: {{weight: 1}}}}, members: {members}}}")
    other = config.load(tmp_path / "c.yaml")
    ensemble = hosting.ensemble_of(other, lab.logs[0].ensemble.classes)
    learner = build.learner(other, build.catalogue(other, ensemble), np.random.default_rng(0))
    with pytest.raises(BandmasterError, match="export with the configuration that it was made under"):
        export(joined, learner, tmp_path / "e.parquet")


def test_the_command_reads_the_journal_that_the_config_names(lab, tmp_path):
    joined, learner = served(lab, probed=False)
    journal = SqliteJournal(tmp_path / "orchestration.db", Keys(b"k" * 32))
    for one in joined:
        journal.record(one.decision, one.answer)
        journal.settle(one.decision.id, one.outcome)
    journal.close()
    classes = f"  classes: {list(learner.ensemble.classes)}\n"
    (tmp_path / "c.yaml").write_text(CONFIG.replace("orchestration:\n", f"orchestration:\n{classes}"))
    shown = CliRunner().invoke(main, ["export", str(tmp_path / "e.parquet"), "--config", str(tmp_path / "c.yaml")])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.endswith(f"e.parquet: {len(joined)} decisions\n")
    assert pl.read_parquet(tmp_path / "e.parquet")["reward"].null_count() == 0
