"""The main job, end to end: train, serve, drift, learn, compare. One run of the demo, and everything it promises."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from bandmaster.visualizer.chronicle import Window, read_courses, read_extent
from tests.end_to_end.servers import stop

ROOT = Path(__file__).parents[2]
REQUESTS, SEEDS = 2000, 5
PATIENCE_S = 1200
"""It takes about a minute; on a machine that does seven other things, as many."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "bandmaster", "demo", "--requests", str(REQUESTS), "--seeds", str(SEEDS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "plugin")}
    with subprocess.Popen(
        [*command, "--out", str(out)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, wrong = process.communicate(timeout=PATIENCE_S)
        finally:
            stop(process)  # with the server that it has started, if it has not ended
    assert process.returncode == 0, said[-3000:] + wrong[-3000:]
    return out, said, json.loads((out / "results.json").read_text())


def test_it_says_where_it_serves_and_ends_with_the_comparison_and_the_dashboard(demo):
    out, said, _ = demo
    assert "serving at http://127.0.0.1:" in said
    assert all(f"\n{policy} " in said for policy in ("constant", "random", "scoring", "bandit"))
    journal = out / "journal" / "orchestration.db"
    assert said.rstrip().splitlines()[-1] == f"The dashboard of what was served: bandmaster dashboard {journal}"
    covered = read_extent(journal)
    assert covered.start is not None
    assert covered.end is not None
    live = read_courses(journal, Window(covered.start, covered.end)).series
    assert sum(course.whole.n for course in live["latency"].values()) == REQUESTS


def test_it_leaves_results_by_policy_and_phase_and_the_picture(demo):
    out, _, results = demo
    assert list(results["policies"]) == ["constant", "random", "scoring", "bandit"]
    for policy in results["policies"].values():
        assert {p["phase"] for p in policy["by_phase"]} >= {
            "clean",
            "blur",
            "noise",
            "rotation",
            "inversion",
            "occlusion",
        }
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "timing.json").is_file()


def test_the_rewards_of_the_live_run_and_of_a_replay_of_its_journal_agree(demo):
    _, _, results = demo
    live = results["live"]
    assert live["requests"] == live["joined"] == REQUESTS
    assert live["largest_disagreement"] <= 1e-9
    assert live["replayed_reward"] == pytest.approx(live["reward"], abs=1e-12)


def test_the_bandit_beats_every_traditional_way_and_the_best_constant_plan_in_hindsight(demo):
    _, _, results = demo
    bandit = results["policies"]["bandit"]
    # 95 % intervals, paired over the redraws. When written the nearest one began three half-widths above zero.
    for other in ("constant", "random", "scoring", "best_constant_plan"):
        assert bandit["advantage"][other]["interval"][0] > 0.0, other


def test_the_bandit_uses_less_than_half_the_energy_of_all_members_at_no_lower_accuracy(demo):
    _, _, results = demo
    bandit, everyone = results["policies"]["bandit"], results["all_members"]
    assert bandit["energy_j"] < 0.5 * everyone["energy_j"]
    assert bandit["accuracy"] >= everyone["accuracy"]


def test_no_plan_is_the_best_in_every_phase(demo):
    _, _, results = demo
    assert len({best["plan"] for best in results["best_constant_plan"]["by_phase"]}) > 1


def test_every_figure_of_the_table_can_be_recomputed_from_the_trace(demo):
    out, _, results = demo
    trace = pl.read_parquet(out / "trace.parquet")
    assert len(trace) == REQUESTS * SEEDS * 4
    for (name,), rows in trace.group_by("policy"):
        by_seed = rows.group_by("seed").agg(pl.col("reward").mean(), pl.col("energy_j").mean())
        assert by_seed["reward"].mean() == pytest.approx(results["policies"][name]["reward"], rel=1e-5)
        assert by_seed["energy_j"].mean() == pytest.approx(results["policies"][name]["energy_j"], rel=1e-5)
        terms = [rows[f"{m}_term"] * c["weight"] for m, c in results["contract"].items()]
        assert abs(sum(terms) - rows["reward"]).max() < 1e-9
