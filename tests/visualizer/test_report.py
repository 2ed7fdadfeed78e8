"""The report of a replay shows what the replay found, in one file that needs nothing else."""

import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from bandmaster import build, config
from bandmaster.cli import main
from bandmaster.replay import Traffic, processes, replay
from bandmaster.results import BEST_PLAN, PARTS, course
from bandmaster.visualizer.report import _Seen, _summed, write_report

CONFIG = """
orchestration:
  contract:
    accuracy: {weight: 0.7}
    latency:  {weight: 0.2, goal: min, range: [1 ms, 100 ms], scale: log}
    energy:   {weight: 0.1, goal: min, range: [1 mJ, 100 mJ], scale: log}
  members: {first: {}, second: {}, third: {}}
"""
POLICIES = ["constant", "random", "bandit", "frugalml-offline"]


def make_log(rows=600, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=rows)
    columns = {"label": truth, "phase": np.where(np.arange(rows) < rows // 2, "a", "b")}
    for m, name in enumerate(("first", "second", "third")):
        right = rng.random(rows) < np.where(np.arange(rows) < rows // 2, 0.6 + 0.1 * m, 0.9 - 0.2 * m)
        columns[f"{name}__pred"] = np.where(right, truth, (truth + 1) % 3)
        columns[f"{name}__conf"] = np.where(right, 0.9, 0.5)
        columns[f"{name}__latency_s"] = np.full(rows, 0.004 * 2.0**m)
        columns[f"{name}__energy_j"] = np.full(rows, 0.003 * 3.0**m)
    return pl.DataFrame(columns)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "config.yaml").write_text(CONFIG)
    make_log().write_parquet(folder / "log.parquet")
    return folder


def played(project, trace, last=1.0):
    read = config.load(project / "config.yaml")
    bench = build.bench(read, [build.recorded_log(read, project / "log.parquet")])
    bench = replace(bench, traffic=Traffic("shuffled"))
    (results,) = replay(bench, POLICIES, 3, lasts=(last,), spread=processes(1), trace=trace)
    return results


@pytest.fixture(scope="module")
def seen(project):
    results = played(project, project / "trace.parquet")
    write_report(project / "report.html", results, project / "trace.parquet")
    return _Seen(results, pl.scan_parquet(project / "trace.parquet"), "bandit")


@pytest.fixture(scope="module")
def page(project, seen) -> str:
    return (project / "report.html").read_text()


def table(page, after=""):
    """The cells of the first table after some text."""
    body = page[page.index(after) :]
    rows = re.findall(r"<tr>(.*?)</tr>", body[body.index("<table>") : body.index("</table>")])
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]


def test_its_table_is_what_the_results_say(page, seen):
    head, *rows = table(page)
    shown = {row[0].removesuffix(" (in hindsight)"): dict(zip(head, row, strict=True)) for row in rows}
    for name, policy in seen.results.policies.items():
        assert shown[name]["reward"] == f"{policy.measures.reward:.4f}"
        assert shown[name]["accuracy"] == f"{policy.measures.accuracy:.4f}"
        assert shown[name]["members"] == f"{policy.measures.members_per_request:.2f}"
        assert shown[name]["probed"] == f"{policy.probe_share:.1%}"
    assert f"{seen.results.oracle:.4f}" in page
    assert "frugalml-offline (in hindsight)" in page


def test_every_picture_that_is_promised_is_there_with_its_words(page):
    titles = re.findall(r"<h2>(.*?)</h2><p>(.+?)</p><figure><svg", page)
    assert [title for title, _ in titles] == [
        "Reward", "Over time", "Cumulative reward", "Regret to the oracle", "What the reward is made of",
        "Members over time: bandit", "Accuracy and its price",
    ]  # fmt: skip


def test_it_needs_nothing_else_and_runs_nothing(page):
    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            assert tag not in ("script", "link", "iframe", "object", "embed", "img", "base"), tag
            for name, value in attributes:
                assert not name.startswith("on")
                assert name not in ("src", "action", "formaction")
                assert name not in ("href", "xlink:href") or value.startswith("#"), value

    Reader().feed(page)
    assert "url(http" not in page
    assert "@import" not in page


def test_the_same_replay_gives_the_same_bytes(project, page, tmp_path):
    results = played(project, tmp_path / "trace.parquet")
    write_report(tmp_path / "report.html", results, tmp_path / "trace.parquet")
    assert (tmp_path / "report.html").read_text() == page


def test_what_is_summed_up_in_the_end_is_what_the_means_say(seen):
    results = seen.results
    for name, policy in results.policies.items():
        ahead = _summed(seen.rewards[name] - results.courses[BEST_PLAN], seen)[-1]
        assert ahead == pytest.approx(600 * (policy.measures.reward - results.best_constant_plan.measures.reward))
        behind = _summed(results.courses["oracle"] - seen.rewards[name], seen)[-1]
        assert behind == pytest.approx(600 * (results.oracle - policy.measures.reward))


def test_the_bars_of_terms_add_up_to_the_reward(seen):
    contract = seen.results.setting.contract
    found = seen.trace.group_by("policy").agg(pl.col("^.*_term$").mean()).collect()
    for row in found.iter_rows(named=True):
        total = sum(contract[name]["weight"] * row[f"{name}_term"] for name in ("accuracy", "latency", "energy"))
        assert total == pytest.approx(seen.results.policies[row["policy"]].measures.reward)


def test_a_course_is_the_mean_of_each_part_and_unknown_where_there_is_none():
    rng = np.random.default_rng(0)
    rewards = rng.random((1000, 2))
    rewards[:10] = np.nan
    found = course(rewards)
    assert found.shape == (PARTS, 2)
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1:], rewards[10:].reshape(99, 10, 2).mean(axis=1))
    few = course(rewards[10:13])
    assert (~np.isnan(few)).sum() == 6


def test_only_what_counts_is_shown_where_the_rest_warms_up(project, tmp_path):
    results = played(project, tmp_path / "trace.parquet", last=0.5)
    late = _Seen(results, pl.scan_parquet(tmp_path / "trace.parquet"), "bandit")
    assert (late.first, late.requests) == (300, 600)
    assert np.nanmean(late.rewards["bandit"]) == pytest.approx(results.policies["bandit"].measures.reward)
    write_report(tmp_path / "report.html", results, tmp_path / "trace.parquet")


def test_the_command_writes_it_and_leaves_no_trace_behind(project, tmp_path):
    asked = ["replay", str(project / "log.parquet"), "--config", str(project / "config.yaml"), "--jobs", "1"]
    asked += ["--seeds", "2", "--policies", "random,scoring", "--report", str(tmp_path / "r.html")]
    assert CliRunner().invoke(main, asked).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_without_matplotlib_it_says_what_to_install_before_anything_is_played(project, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    asked = ["replay", str(project / "log.parquet"), "--config", str(project / "config.yaml")]
    ran = CliRunner().invoke(main, [*asked, "--report", str(tmp_path / "r.html")])
    assert ran.exit_code == 2
    assert "pip install 'bandmaster[plot]'" in ran.output
    assert not list(tmp_path.iterdir())
