"""Scenarios run end to end on made logs, and the report says what their records say."""

import json

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from bandmaster.cli import main as bandmaster
from bandmaster.core import BandmasterError
from bandmaster.offpolicy.log import read
from benchmarks import __main__ as command
from benchmarks import crossed, decision_cost, degraded, effort, record, report, scenario, suite
from benchmarks.checks import Beats, Measure, judged
from benchmarks.scenario import (
    Bundled,
    Crossed,
    DecisionCost,
    Degraded,
    Generated,
    Grouping,
    LogSpeed,
    Made,
    Play,
    Recording,
    Replayed,
    Segment,
)
from benchmarks.scenario import TrafficSpec as Spec
from benchmarks.sources import Place, UnavailableError, logs_of, made
from tests.replay.conftest import make_frame


def tiny(config_file, **fields):
    given = {"source": Made(rows=300, classes=4, features=2), "policies": ("bandit", "random", "meta-des")}
    checks = (Beats(name="beaten", policy="bandit"), Measure(name="accuracy", policy="bandit", measure="accuracy"))
    return Replayed(id="tiny", why="because", config=str(config_file), must_show=checks, **(given | fields))


@pytest.fixture(scope="module")
def ran(config_file, place):
    found = tiny(
        config_file,
        over_time=True,
        plays={"replay": Play(), "late": Play(Spec("shuffled", delay=20, label_share=0.5, last=0.5), ("scoring",))},
    )
    listener = suite.Listener(lambda step: None, lambda line: None)
    return found, suite.run(found, place, listener, seeds=2, jobs=1)


def test_a_scenario_runs_every_play_through_the_engine(ran):
    found = ran[1].record
    assert list(found.plays) == ["replay", "late"]
    assert list(found.plays["replay"].results["policies"]) == ["bandit", "random"]
    assert found.plays["late"].results["traffic"] == {
        "order": "shuffled", "mix": None, "delay": 20, "label_share": 0.5,
    }  # fmt: skip
    assert "DESlib" in found.missing["meta-des"]
    assert [m.name for m in found.members] == ["cheap", "mid", "dear"]
    assert ran[1].us_per_request["bandit"] > 0.0


def test_a_play_is_judged_over_each_of_its_windows_as_if_it_had_been_played_for_it(config_file, place, silent):
    plays = {"whole": Play(windows={"replay": 1.0, "end": 0.2})}
    windows = suite.run(tiny(config_file, plays=plays, over_time=True), place, silent, seeds=2, jobs=1).record.plays
    apart = {"replay": Play(), "end": Play(Spec(last=0.2))}
    plays = suite.run(tiny(config_file, plays=apart), place, silent, seeds=2, jobs=1).record.plays
    assert {name: play.results for name, play in windows.items()} == {n: p.results for n, p in plays.items()}
    assert windows["replay"].curves
    assert not windows["end"].curves


def test_a_course_over_time_averages_to_the_reward(ran):
    played = ran[1].record.plays["replay"]
    for curve in played.curves:
        assert len(curve.rewards) == suite.BINS
        reward = played.results["policies"][curve.policy]["reward"]
        assert np.mean(curve.rewards) == pytest.approx(reward, abs=1e-5)


def test_a_record_is_read_as_it_was_written_and_the_report_tells_it(ran, tmp_path):
    found, run = ran
    timing = record.Timing(date="2026-01-01", machine="a machine", versions={"numpy": "2"}, seconds=1.0)
    record.write(tmp_path / "results", judged(run.record, found.must_show, {}), timing)
    records = report.write(tmp_path, {"tiny": found}, {"other": "other.parquet is absent"})
    text = (tmp_path / "RESULTS.md").read_text()
    reward = records["tiny"].plays["replay"].results["policies"]["bandit"]["reward"]
    assert f"| bandit | {reward:.4g} ±" in text
    for said in ("because", "other.parquet is absent", "META-DES", "a machine", "Repeating the newest known label"):
        assert said in text
    for picture in ("tiny-replay.png", "tiny-replay-over-time.png"):
        assert f"(results/{picture})" in text
        assert (tmp_path / "results" / picture).read_bytes()[:4] == b"\x89PNG"
    before = text, (tmp_path / "results" / "tiny.json").read_bytes()
    report.write(tmp_path, {"tiny": found}, {"other": "other.parquet is absent"})
    assert before == ((tmp_path / "RESULTS.md").read_text(), (tmp_path / "results" / "tiny.json").read_bytes())


def test_a_sweep_plays_every_weight_and_draws_the_frontier(config_file, place, silent, tmp_path):
    found = tiny(config_file, policies=("scoring",), sweep=(0.5, 0.9))
    swept = suite.run(found, place, silent, seeds=1, jobs=1).record
    assert [p.at for p in swept.plays.values()] == [0.5, 0.9]
    record.write(tmp_path / "results", swept, record.Timing(date="d", machine="m", versions={}, seconds=0.0))
    report.write(tmp_path, {"tiny": found}, {})
    assert (tmp_path / "results" / "tiny-frontier.png").is_file()


def test_what_is_missing_is_said_and_the_rest_runs(config_file, place, silent, tmp_path):
    absent = tiny(config_file, source=Recording("absent.parquet"))
    for where in (place, Place(tmp_path, place.cache)):
        with pytest.raises(UnavailableError, match=r"absent\.parquet"):
            suite.run(absent, where, silent, seeds=1, jobs=1)
    for strange in (Bundled("Elec2"), Bundled("Nothing"), Generated("Nothing", (Segment(10),))):
        with pytest.raises(UnavailableError, match="River"):
            suite.run(tiny(config_file, source=strange), place, silent, seeds=1, jobs=1)


@pytest.mark.parametrize(
    "source",
    [Bundled("Phishing"), Generated("SEA", (Segment(400, {"variant": 0}), Segment(200, {"variant": 3})))],
    ids=["bundled", "generated"],
)
def test_rivers_streams_become_logs_of_the_twelve_members_without_a_network(source, place):
    found = Replayed(id="x", why="x", source=source, config="configs/streams.yaml", policies=("random",))
    (log,) = logs_of(found, found.read_config(), place, 1, lambda line: None)
    assert len(log.ensemble.names) == 12
    assert set(log.ensemble.classes) == {0, 1}
    assert len(log) == {"Phishing": 1000}.get(getattr(source, "dataset", ""), 480)


def test_a_streams_feature_can_be_foretold_from_the_others(place, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    pl.DataFrame({"x0": x[:, 0], "x1": x[:, 0] - x[:, 2], "x2": x[:, 2], "y": x[:, 1] > 0}).write_parquet(
        tmp_path / "s.parquet"
    )
    where = Place(tmp_path, place.cache)
    fields = {"id": "x", "why": "x", "config": "configs/streams-regression.yaml", "policies": ("random",)}
    found = Replayed(source=Recording("s.parquet", target="x1"), **fields)
    (log,) = logs_of(found, found.read_config(), where, 1, lambda line: None)
    assert log.features.shape == (240, 2)
    assert log.values.tolist() == (x[60:, 0] - x[60:, 2]).tolist()
    assert np.abs(log.scores[:, 0, 0] - log.values).max() < 0.3
    members = suite.run(found, where, suite.Listener(lambda step: None, lambda line: None), seeds=1, jobs=1)
    assert members.record.members[0].accuracy > 0.9
    with pytest.raises(BandmasterError, match=r"no feature 'x9'"):
        logs_of(replace(found, source=Recording("s.parquet", target="x9")), found.read_config(), where, 1, str)


def test_a_regressions_labels_stay_the_numbers_that_they_are(place):
    found = Replayed(
        id="x", why="x", source=Bundled("TrumpApproval"), config="configs/streams-regression.yaml", policies=("random",)
    )
    (log,) = logs_of(found, found.read_config(), place, 1, lambda line: None)
    assert 30.0 < log.values.mean() < 50.0


@pytest.mark.parametrize("mixed", [False, True])
def test_rows_become_requests_of_several_and_none_is_lost(config_file, place, mixed):
    found = tiny(config_file, grouping=Grouping(most=5, mixed=mixed))
    (log,) = logs_of(found, found.read_config(), place, 1, lambda line: None)
    (single,) = logs_of(tiny(config_file), found.read_config(), place, 1, lambda line: None)
    sizes = np.diff(log.bounds)
    assert sizes.sum() == 300
    assert set(sizes) == {1, 2, 3, 4, 5}
    assert (log.truth.tolist() == single.truth.tolist()) is not mixed
    assert sorted(log.truth.tolist()) == sorted(single.truth.tolist())
    again = logs_of(found, found.read_config(), place, 1, lambda line: None)[0]
    assert again.sha256 == log.sha256


def test_the_command_writes_results_and_says_what_fails(config_file, tmp_path, monkeypatch):
    hard = Measure(name="impossible", policy="random", measure="reward", at_least=2.0)
    found = tiny(config_file)
    files = {"tiny": found, "absent": tiny(config_file, source=Recording("absent.parquet"))}
    files = {k: type(s)(**{f: getattr(s, f) for f in s.__struct_fields__} | {"id": k, "must_show": (hard,)})
             for k, s in files.items()}  # fmt: skip
    monkeypatch.setattr(command, "load_all", lambda: files)
    (tmp_path / "data").mkdir()
    args = ["--seeds", "1", "--jobs", "1", "--data", tmp_path / "data", "--cache", tmp_path, "--out", tmp_path / "out"]
    done = CliRunner().invoke(command.main, list(map(str, args)))
    assert done.exit_code == 1, done.output
    assert "impossible" in done.output
    assert "absent: left out" in done.output
    assert json.loads((tmp_path / "out" / "results" / "tiny.json").read_text())["verdicts"][0]["passed"] is False
    assert CliRunner().invoke(command.main, ["--only", "nothing"]).exit_code == 2


def test_the_time_left_follows_what_is_left_to_play_at_the_pace_so_far(config_file, place):
    found = tiny(config_file, policies=("constant", "random", "meta-des"))
    kept = effort.policy_requests(found.all_plays()["replay"], 300, 10)
    redrawn = tiny(config_file, policies=("constant",), traffic=Spec("shuffled")).all_plays()["replay"]
    assert kept == {"constant": 300, "random": 3000}
    assert effort.policy_requests(redrawn, 300, 10) == {"constant": 3000}
    assert effort.effort(found, place, 10) == pytest.approx(3300 * 400e-6)
    assert effort.effort(tiny(config_file, source=Recording("absent.parquet")), place, 10) == 0.0
    clock = effort.Clock([60.0, 600.0, 120.0], jobs=2)
    assert clock.left == "about 7 min left"
    clock.ran(60.0, 120.0)
    assert clock.left == "about 24 min left"
    clock.skipped(600.0)
    assert clock.left == "about 4 min left"


# ---- Yardsticks and experiments --------------------------------------------------------------------------------


def test_made_ensembles_repeat_themselves_and_dearer_members_are_better(config_file):
    members = [(m.name, m.profile) for m in tiny(config_file).read_config().members]
    frame = made(Made(rows=4000, classes=5, features=1), members)
    assert frame.equals(made(Made(rows=4000, classes=5, features=1), members))
    right = {n: (frame[f"{n}__pred"] == frame["label"]).mean() for n, _ in members}
    assert right["cheap"] < right["dear"]
    sure = frame.filter(frame["cheap__conf"] > frame["cheap__conf"].median())
    assert (sure["cheap__pred"] == sure["label"]).mean() > right["cheap"]


def test_degrading_deals_one_members_outputs_anew_and_touches_nothing_else(config_file, place):
    found = tiny(config_file)
    (log,) = logs_of(found, found.read_config(), place, 1, lambda line: None)
    drawn = log.redrawn(np.random.default_rng(0).permutation(len(log)))
    broken = degraded.shuffled(drawn, 1, 100, 200, np.random.default_rng(1))
    before, after = (x.scores[x.rows] for x in (drawn, broken))
    assert np.array_equal(np.delete(before, 1, axis=1), np.delete(after, 1, axis=1))
    assert np.array_equal(before[:100], after[:100])
    assert np.array_equal(before[200:], after[200:])
    assert not np.array_equal(before[100:200, 1], after[100:200, 1])
    assert np.array_equal(np.sort(before[100:200, 1], axis=0), np.sort(after[100:200, 1], axis=0))


def test_a_member_is_out_and_back_where_windows_say_so():
    undisturbed = np.ones(3000, dtype=bool)
    ran = undisturbed.copy()
    ran[1150:2200] = False
    lost = np.where(ran, 0.0, 0.25)
    found = degraded.course(undisturbed, ran, lost, 1000, 2000)
    assert found.used_before == 1.0
    assert found.out_after == 145  # five answers of the next hundred still have it
    assert found.back_after == 106  # six of the next hundred have it again
    assert found.whole_after == 150  # half of them
    assert found.out_share == 1.0
    assert found.lost_while == pytest.approx(0.25 * 850 / 1000)
    never = degraded.course(undisturbed, np.zeros(3000, dtype=bool), lost, 1000, 2000)
    assert (never.out_after, never.back_after, never.whole_after) == (0, None, None)


def test_a_degraded_scenario_runs(config_file, place, silent):
    found = Degraded(
        id="d", why="x", source=Made(rows=1000, classes=4), config=str(config_file), policy="scoring",
        healthy=400, degraded=400, recovered=200,
    )  # fmt: skip
    figures = suite.run(found, place, silent, seeds=1, jobs=1).record.figures
    assert figures["used_before"] > 0.5
    assert figures["out_share"] > 0.5


def test_the_price_of_a_decision_is_told_with_its_split(config_file, place):
    found = DecisionCost(
        id="c", why="x", source=Made(rows=200, classes=4, features=3), config=str(config_file), policy="bandit",
        warm_up=40, requests=60,
    )  # fmt: skip
    config = found.read_config()
    (log,) = logs_of(found, config, place, 1, lambda line: None)
    figures = decision_cost.measure(found, config, log)
    assert figures["members"] == 3
    assert all(figures[name] > 0.0 for name in figures if name != "memory_mb")


def test_the_speed_on_logs_is_told_as_ratios(place, silent):
    found = LogSpeed(id="s", why="x", rows=20_000, times=2, decisions=3000)
    figures = suite.run(found, place, silent, seeds=None, jobs=1).record.figures
    assert figures["evaluate_to_scan"] == pytest.approx(figures["evaluate_s"] / figures["scan_s"])
    assert figures["adapter_to_driver"] == pytest.approx(figures["adapter_per_s"] / figures["driver_per_s"])
    assert figures["log_gb"] > 0.0
    assert figures["peak_mb"] > 50.0  # Python and Polars alone


def test_the_harness_and_the_command_come_to_the_same_figures(config_file, tmp_path, silent):
    make_frame().write_parquet(tmp_path / "log.parquet")
    found = tiny(
        config_file, source=Recording("log.parquet"), policies=("bandit", "constant", "random", "exp3", "knora-u"),
        traffic=Spec("shuffled", delay=5), over_time=True,
    )  # fmt: skip
    record_of = suite.run(found, Place(tmp_path, tmp_path), silent, seeds=3, jobs=1).record
    asked = ["replay", tmp_path / "log.parquet", "--config", config_file, "--order", "shuffled", "--delay", 5]
    asked += ["--policies", "bandit,constant,random,exp3,knora-u", "--seeds", 3, "--jobs", 2]
    done = CliRunner().invoke(bandmaster, [*map(str, asked), "--out", str(tmp_path / "results.json")])
    assert done.exit_code == 0, done.output
    assert record_of.plays["replay"].results == json.loads((tmp_path / "results.json").read_text())


@pytest.fixture
def served(tmp_path):
    """Two fixed policies over three actions at two sites, 4,000 decisions each; the first action is the better one."""
    rng, does, parts = np.random.default_rng(0), {"even": [1 / 3, 1 / 3, 1 / 3], "keen": [0.6, 0.3, 0.1]}, []
    for policy, p in does.items():
        for site in ("north", "south"):
            taken = rng.choice(3, size=4000, p=p)
            click = (rng.random(4000) < np.array([0.5, 0.2, 0.1])[taken]).astype(int)
            columns = {"item": taken, "p": np.array(p)[taken], "click": click, "x0": rng.normal(size=4000)}
            parts.append(pl.DataFrame(columns).with_columns(who=pl.lit(policy), site=pl.lit(site)))
    pl.concat(parts).write_parquet(tmp_path / "served.parquet")
    return Crossed(
        id="c", why="x", file="served.parquet", policy="who", cell="site", action="item", propensity="p",
        reward="click", features=("x0",),
    )  # fmt: skip


def test_what_one_policys_log_says_of_another_stands_beside_what_that_one_earned(served, tmp_path, silent):
    figures = suite.run(served, Place(tmp_path, tmp_path), silent, seeds=None, jobs=1).record.figures
    worth = {"even": 0.8 / 3, "keen": 0.37}
    for target, by in (("even", "keen"), ("keen", "even")):
        for site in ("north", "south"):
            said = f"{target} by {by}, {site}"
            assert figures[f"{said}: earned"] == pytest.approx(worth[target], abs=0.035)  # 4 standard errors and more
            assert 1000 < figures[f"{said}: counts as"] < 4000
            for estimator in ("ips", "snips", "dr"):
                low, value, high = (figures[f"{said}: {estimator}{end}"] for end in (", from", "", ", to"))
                assert low < value < high
                assert value == pytest.approx(worth[target], abs=0.06)
        held = [figures[f"{target} by {by}, held by {e}"] for e in ("ips", "snips", "dr")]
        inside = [
            np.mean([figures[f"{target} by {by}, {s}: {e}, from"] <= figures[f"{target} by {by}, {s}: earned"]
                     <= figures[f"{target} by {by}, {s}: {e}, to"] for s in ("north", "south")])
            for e in ("ips", "snips", "dr")
        ]  # fmt: skip
        assert held == inside


def test_a_policy_that_changed_as_it_served_is_judged_as_what_it_was_on_average(tmp_path):
    # Half of the time it always takes a, half of the time every fifth time: three in five on average.
    rng = np.random.default_rng(0)
    p = np.where(np.arange(8000) < 4000, 1.0, 0.2)
    takes = rng.random(8000) < p
    pl.DataFrame(
        {"action": np.where(takes, "a", "b"), "propensity": np.where(takes, p, 1.0 - p), "reward": np.zeros(8000)}
    ).write_parquet(tmp_path / "own.parquet")
    table = crossed._mean_policy(read(tmp_path / "own.parquet"), (), tmp_path / "table.csv")
    found = dict(table.given.iter_rows())
    assert found["a"] == pytest.approx(0.6, abs=0.02)  # 4 standard errors


def test_policies_whose_log_is_absent_are_left_out_with_the_reason(served, tmp_path, silent):
    for place in (Place(None, tmp_path), Place(tmp_path / "elsewhere", tmp_path)):
        with pytest.raises(UnavailableError, match=r"served\.parquet is absent"):
            suite.run(served, place, silent, seeds=None, jobs=1)


def test_scenarios_without_recordings_name_what_they_lack():
    lacking = [s for s in scenario.load_all().values() if isinstance(getattr(s, "source", None), Recording)]
    assert lacking
    with pytest.raises(UnavailableError, match="--data"):
        logs_of(lacking[0], lacking[0].read_config(), Place(None, scenario.ROOT), 1, lambda line: None)
