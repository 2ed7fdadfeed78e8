"""Every figure of results.json can be recomputed from the trace, and does not depend on how it was computed."""

import json
import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from bandmaster.core import BandmasterError
from bandmaster.intervals import block_interval, t_interval
from bandmaster.plans import Catalogue

POLICIES = ("constant", "random", "scoring", "bandit")


@pytest.fixture(scope="module")
def shuffled(lab, tmp_path_factory):
    trace = tmp_path_factory.mktemp("trace") / "trace.parquet"
    results = lab.replay(*POLICIES, order="shuffled", seeds=3, trace=trace)
    return results.as_json(), pl.read_parquet(trace)


def reward_by_hand(row: dict) -> float:
    """The contract of the lab, written out once more."""
    log = lambda x, low, high: min(max(math.log(x / low) / math.log(high / low), 0.0), 1.0)  # noqa: E731
    return (
        0.5 * row["accuracy"]
        + 0.1 * row["confidence"]
        + 0.1 * row["explainability"]
        + 0.2 * (1 - log(row["latency_s"], 0.001, 0.1))
        + 0.1 * (1 - log(row["energy_j"], 0.001, 0.1))
    )


def test_every_reward_follows_from_the_trace_and_the_log(shuffled, lab):
    _, trace = shuffled
    log = lab.logs[0]
    energy = {"cheap": 0.002, "mid": 0.01, "dear": 0.07}
    for row in trace.sample(400, seed=1).to_dicts():
        i = row["request"]
        # The contract takes energy from the profile and latency from the log; a probe runs all the others too.
        assert row["energy_j"] == pytest.approx(sum(energy[n] for n in (energy if row["probed"] else row["ran"])))
        plan = row["plan"].partition("@")[0].partition("~")[0]
        ran = [stage.split("+") for stage in plan.split(">")]
        while sum(map(len, ran)) > len(row["ran"]):
            ran.pop()
        assert [n for stage in ran for n in stage] == row["ran"]
        slowest = [max(log.latency_s[i, log.ensemble.index(n)] for n in stage) for stage in ran]
        assert row["latency_s"] == pytest.approx(sum(slowest))
        truth = None if log.truth[i] < 0 else log.ensemble.classes[log.truth[i]]
        assert row["truth"] == truth
        if truth is None:
            assert row["reward"] is None
            assert row["accuracy"] is None
        else:
            assert row["accuracy"] == float(row["label"] == truth)
            assert row["reward"] == pytest.approx(reward_by_hand(row))


def test_the_trace_has_every_request_of_every_run_once(shuffled, lab):
    _, trace = shuffled
    runs = trace.group_by("policy", "seed", maintain_order=True).agg("request", "position")
    assert runs.select("policy", "seed").rows() == [(p, s) for p in POLICIES for s in range(3)]
    for requests, positions in runs.select("request", "position").rows():
        assert sorted(requests) == positions == list(range(300))
    orders = {tuple(r) for r in runs["request"].to_list()}
    assert len(orders) == 3  # the same order for every policy of a seed


def test_every_figure_is_the_mean_over_seeds_of_means_over_requests(shuffled):
    results, trace = shuffled
    trace = trace.with_columns(members_per_request=pl.col("ran").list.len(), probe_share=pl.col("probed").cast(float))
    for name, result in results["policies"].items():
        played = trace.filter(pl.col("policy") == name)
        for figure in ("reward", "accuracy", "confidence", "latency_s", "energy_j", "cost", "members_per_request",
                       "probe_share"):  # fmt: skip
            by_seed = played.group_by("seed").agg(pl.col(figure).mean())[figure]
            assert result[figure] == pytest.approx(by_seed.mean(), rel=1e-5), (name, figure)
        rewards = played.group_by("seed", maintain_order=True).agg(pl.col("reward").mean())["reward"].to_numpy()
        assert result["interval"] == pytest.approx(t_interval(rewards), rel=1e-4)


def test_phases_are_merged_by_name_in_order_of_appearance(shuffled):
    results, trace = shuffled
    for name, result in results["policies"].items():
        assert [(p["phase"], p["rows"]) for p in result["by_phase"]] == [("day", 150), ("night", 150)]
        for phase in result["by_phase"]:
            rows = trace.filter((pl.col("policy") == name) & (pl.col("phase") == phase["phase"]))
            by_seed = rows.group_by("seed").agg(pl.col("reward", "accuracy", "energy_j").mean())
            for figure in ("reward", "accuracy", "energy_j"):
                assert phase[figure] == pytest.approx(by_seed[figure].mean(), rel=1e-5)


def test_advantages_are_paired_over_seeds(shuffled):
    results, trace = shuffled
    table = trace.group_by("policy", "seed").agg(pl.col("reward").mean()).pivot("policy", index="seed").sort("seed")
    for name in POLICIES:
        advantage = results["policies"][name]["advantage"]
        assert list(advantage) == [*(p for p in POLICIES if p != name), "best_constant_plan"]
        for other in POLICIES:
            if other != name:
                paired = (table[name] - table[other]).to_numpy()
                assert advantage[other]["mean"] == pytest.approx(paired.mean(), abs=1e-6)
                assert advantage[other]["interval"] == pytest.approx(t_interval(paired), abs=1e-6)


def test_the_yardsticks_are_the_best_of_all_constant_policies(lab):
    specs = [f"constant:{name}" for name in lab.catalogue.names]
    results = lab.replay(*specs, seeds=1, delay=3).as_json()
    rewards = {spec.partition(":")[2]: r["reward"] for spec, r in results["policies"].items()}
    singles = {name: rewards[name] for name in ("cheap", "mid", "dear")}
    assert results["best_constant"]["plan"] == max(singles, key=singles.get)
    assert results["best_constant"]["reward"] == pytest.approx(max(singles.values()), rel=1e-5)
    assert results["best_constant_plan"]["plan"] == max(rewards, key=rewards.get)
    assert results["all_members"]["plan"] == "cheap+mid+dear"
    assert results["all_members"]["reward"] == pytest.approx(rewards["cheap+mid+dear"], rel=1e-5)
    for phase in results["best_constant_plan"]["by_phase"]:
        named = {
            spec.partition(":")[2]: next(p["reward"] for p in r["by_phase"] if p["phase"] == phase["phase"])
            for spec, r in results["policies"].items()
        }
        assert phase["plan"] == max(named, key=named.get)
        assert phase["reward"] == pytest.approx(max(named.values()), rel=1e-5)
    assert {p["plan"] for p in results["best_constant_plan"]["by_phase"]} != {results["best_constant_plan"]["plan"]}


def test_the_oracle_takes_the_best_single_member_of_every_request(lab, tmp_path):
    singles = [f"constant:{name}" for name in ("cheap", "mid", "dear")]
    results = lab.replay(*singles, seeds=1, trace=tmp_path / "t.parquet").as_json()
    trace = pl.read_parquet(tmp_path / "t.parquet")
    best = trace.group_by("request").agg(pl.col("reward").max())["reward"].mean()
    oracle, constant = results["oracle"]["reward"], results["best_constant"]["reward"]
    assert oracle == pytest.approx(best, rel=1e-5)
    for result in results["policies"].values():
        expected = (result["reward"] - constant) / (oracle - constant)
        assert result["gap_closed"] == pytest.approx(expected, abs=1e-4)


def test_results_are_byte_identical_for_any_number_of_jobs(lab, tmp_path):
    for jobs in (1, 2):
        options = {"order": "shuffled", "label_share": 0.7, "seeds": 2, "jobs": jobs}
        results = lab.replay("random", "bandit", logs=2, **options, trace=tmp_path / f"{jobs}.parquet")
        results.write(tmp_path / str(jobs) / "results.json")
    assert (tmp_path / "1/results.json").read_bytes() == (tmp_path / "2/results.json").read_bytes()
    assert pl.read_parquet(tmp_path / "1.parquet").equals(pl.read_parquet(tmp_path / "2.parquet"))
    timing = json.loads((tmp_path / "2/timing.json").read_text())
    assert set(timing["us_per_request"]) == {"random", "bandit"}


def test_a_kept_order_is_judged_by_blocks_of_its_requests(lab, tmp_path):
    results = lab.replay("random", "scoring", seeds=2, trace=tmp_path / "t.parquet").as_json()
    trace = pl.read_parquet(tmp_path / "t.parquet")

    def mean_of_seeds(name: str) -> np.ndarray:
        rows = trace.filter(pl.col("policy") == name).group_by("position", maintain_order=True)
        return rows.agg(pl.col("reward").mean())["reward"].drop_nulls().to_numpy()

    scoring, random = mean_of_seeds("scoring"), mean_of_seeds("random")
    assert results["policies"]["scoring"]["interval"] == pytest.approx(block_interval(scoring), rel=1e-4)
    paired = results["policies"]["scoring"]["advantage"]["random"]
    assert paired["interval"] == pytest.approx(block_interval(scoring - random), abs=1e-5)


def test_several_logs_in_their_own_order_count_as_that_many_traffics(lab, tmp_path):
    results = lab.replay("random", logs=2, seeds=4, trace=tmp_path / "t.parquet").as_json()
    trace = pl.read_parquet(tmp_path / "t.parquet")
    assert trace.group_by("seed", maintain_order=True).agg(pl.col("log").first())["log"].to_list() == [0, 1, 0, 1]
    by_seed = trace.group_by("log", "seed").agg(pl.col("reward").mean())
    by_log = by_seed.group_by("log").agg(pl.col("reward").mean()).sort("log")["reward"].to_numpy()
    assert results["policies"]["random"]["interval"] == pytest.approx(t_interval(by_log), rel=1e-4)
    assert results["log"]["rows"] == 600
    assert results["log"]["sha256"] == ",".join(log.sha256 for log in lab.logs)


def test_one_seed_in_another_order_still_has_an_interval(lab):
    low, high = lab.replay("random", order="shuffled", seeds=1).as_json()["policies"]["random"]["interval"]
    assert low < high


def test_unlabelled_requests_are_counted(lab):
    missing = int((lab.logs[0].truth < 0).sum())
    assert missing > 0
    assert lab.replay("random", seeds=1).as_json()["log"]["unlabelled"] == missing


def test_policies_that_do_not_learn_from_probes_pay_for_none(shuffled):
    results, _ = shuffled
    share = {name: result["probe_share"] for name, result in results["policies"].items()}
    assert share["constant"] == share["random"] == 0.0
    assert 0.0 < share["scoring"] < 0.3


def test_progress_hears_of_every_step(lab):
    steps = []
    lab.replay("constant", "random", seeds=2, progress=steps.append)
    assert [(s.name, s.seed) for s in steps] == [
        ("yardsticks", 0), ("constant", 0), ("random", 0), ("random", 1),
    ]  # fmt: skip
    assert [s.done for s in steps] == list(range(1, 5))
    assert {s.of for s in steps} == {4}


@pytest.mark.parametrize(
    ("policies", "told"),
    [
        ((), "at least one log, one policy"),
        (("random", "random"), "named twice"),
        (("oracle",), "no policy 'oracle'"),
        (("constant:nobody",), "no member 'nobody'"),
    ],
)
def test_what_cannot_be_played_is_refused_before_the_first_run(lab, policies, told):
    with pytest.raises(BandmasterError, match=told):
        lab.replay(*policies, seeds=1, progress=lambda step: pytest.fail("something ran"))


def test_logs_of_other_classes_or_without_labels_are_refused_before_the_first_run(lab):
    log = lab.logs[0]
    mute = replace(log, truth=np.full(len(log), -1))
    strange = replace(log, ensemble=replace(log.ensemble, classes=(0, 1, 3)))
    for second, told in ((mute, "log 2 of 2: column 'label' is empty"), (strange, "log 2 of 2 has other members")):
        with pytest.raises(BandmasterError, match=told):
            replace(lab, logs=(log, second)).replay("random", logs=2, seeds=2)


def test_the_gap_closed_is_null_where_the_best_member_is_the_oracle(lab):
    log = lab.logs[0]
    equal = {
        name: np.repeat(getattr(log, name)[:, :1], 3, axis=1) for name in ("scores", "latency_s", "explainability")
    }
    profiles = dict.fromkeys(log.ensemble.names, log.ensemble.profiles["cheap"])
    same = replace(log, ensemble=replace(log.ensemble, profiles=profiles), **equal)
    plans = Catalogue.of(same.ensemble, lab.catalogue.plans)
    results = replace(lab, logs=(same, same), catalogue=plans).replay("random", seeds=1).as_json()
    assert results["best_constant"]["reward"] == results["oracle"]["reward"]
    assert results["policies"]["random"]["gap_closed"] is None


def test_a_log_without_phases_has_none(lab):
    results = replace(lab, logs=(replace(lab.logs[0], phases=None),) * 2).replay("random", seeds=1).as_json()
    assert results["policies"]["random"]["by_phase"] == []
    assert results["best_constant_plan"]["by_phase"] == []


def test_a_phase_without_labels_is_null_in_it(lab):
    log = lab.logs[0]
    truth = np.where(np.array(log.phases) == "night", -1, log.truth)
    results = replace(lab, logs=(replace(log, truth=truth),) * 2).replay("random", seeds=1).as_json()
    day, night = results["policies"]["random"]["by_phase"]
    assert night["reward"] is None
    assert night["energy_j"] > 0.0
    assert results["policies"]["random"]["reward"] == day["reward"]
    assert [p["phase"] for p in results["best_constant_plan"]["by_phase"]] == ["day"]


def test_a_figure_that_one_member_lacks_is_null_and_no_mean_of_the_others(lab):
    log = lab.logs[0]
    cost = log.cost.copy()
    cost[:, 2] = np.nan
    results = replace(lab, logs=(replace(log, cost=cost),) * 2).replay("constant:cheap", "random", seeds=1).as_json()
    assert results["policies"]["random"]["cost"] is None
    assert results["policies"]["constant:cheap"]["cost"] == pytest.approx(0.1)
    assert results["all_members"]["cost"] is None


def test_results_that_cannot_be_written_are_refused_naming_the_file(lab, tmp_path):
    (tmp_path / "file").touch()
    results = lab.replay("constant", seeds=1)
    with pytest.raises(BandmasterError, match=r"file/results\.json"):
        results.write(tmp_path / "file" / "results.json")
    with pytest.raises(BandmasterError, match=r"file/trace\.parquet"):
        lab.replay("constant", seeds=1, trace=tmp_path / "file" / "trace.parquet")
