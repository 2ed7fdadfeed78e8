"""Every scenario file is one that can be run, and says what no other does."""

from fnmatch import filter as matching

import msgspec
import numpy as np
import pytest

from bandmaster.config import POLICIES
from bandmaster.core import BandmasterError
from bandmaster.references import REFERENCES
from benchmarks.checks import OfSeveral
from benchmarks.scenario import PEERS, SCENARIOS, UNAVAILABLE, Hosted, Replayed, Summary, expand, load, load_all

ALL = load_all()


def by_kind(kind):
    return [pytest.param(s, id=s.id) for s in ALL.values() if isinstance(s, kind)]


def test_every_file_is_a_scenario_of_its_own_id():
    assert set(ALL) == {path.stem for path in SCENARIOS.glob("*.yaml")}
    assert len({s.why for s in ALL.values()}) == len(ALL)
    assert all(s.why.strip() and len(s.id) <= 40 for s in ALL.values())


@pytest.mark.parametrize("scenario", by_kind(Hosted))
def test_every_configuration_and_traffic_that_a_scenario_means_is_accepted(scenario):
    assert scenario.read_config().contract.weight("accuracy") > 0.0
    for play in scenario.all_plays().values() if isinstance(scenario, Replayed) else ():
        scenario.read_config(play.settings)
        play.traffic.traffic()
        assert {p.partition(":")[0] for p in play.policies} <= {*POLICIES, *REFERENCES, *UNAVAILABLE}


@pytest.mark.parametrize("scenario", by_kind(Replayed))
def test_every_check_is_about_a_play_and_a_policy_that_the_scenario_has(scenario):
    plays = {window: play for play in scenario.all_plays().values() for window in play.windows}
    for check in scenario.must_show:
        for field in ("play", "against"):
            assert getattr(check, field, None) in {None, *plays}, check
        policies = plays[check.play].policies if hasattr(check, "play") else expand(scenario.policies)
        assert check.policy in policies, check


@pytest.mark.parametrize("scenario", by_kind(Summary))
def test_every_summary_is_about_as_many_scenarios_as_it_says(scenario):
    for check in scenario.must_show:
        assert isinstance(check, OfSeveral)
        of = [k for k in matching(ALL, check.of) if check.verdict_name in {c.name for c in ALL[k].must_show}]
        assert len(of) == check.among


def test_one_sweep_is_common_to_all_tasks_of_frugalml():
    tasks = [s for key, s in ALL.items() if key.startswith("frugalml-") and isinstance(s, Replayed)]
    assert len(tasks) == 7
    assert len({s.sweep for s in tasks}) == 1
    for task in tasks:
        config = task.read_config()
        everyone = sum(m.profile.cost for m in config.members)
        cost = config.contract.metric("cost")
        assert (cost.low, cost.scale) == (0.0, "linear")
        assert cost.high == pytest.approx(everyone)


def test_of_a_sweep_a_policy_plays_the_part_that_it_is_given_and_others_all_of_it():
    task = ALL["frugalml-digit"]
    part = msgspec.structs.replace(task, sweep=(0.5, 0.7, 0.9), between={"bandit": (0.6, 0.7)}).all_plays()
    assert [play.policies for play in part.values()] == [
        ("frugalml-offline",), ("bandit", "frugalml-offline"), ("frugalml-offline",)
    ]  # fmt: skip


def test_a_point_of_a_sweep_that_nobody_plays_is_not_played():
    alone = msgspec.structs.replace(
        ALL["frugalml-digit"], policies=("bandit",), sweep=(0.5, 0.7, 0.9), between={"bandit": (0.6, 0.7)}
    )
    assert {name: play.policies for name, play in alone.all_plays().items()} == {"accuracy 0.7": ("bandit",)}


def test_a_sweep_sets_the_weight_of_accuracy_and_leaves_the_others_their_proportions():
    task = ALL["imagenet16-accurate"]
    swept = Replayed(
        id="x", why="x", source=task.source, config="configs/imagenet16.yaml", policies=("bandit",), sweep=(0.5, 0.9)
    )
    for play in swept.all_plays().values():
        contract = swept.config_of(play).contract
        assert contract.weight("accuracy") == pytest.approx(play.at)
        assert contract.weight("latency") == pytest.approx(contract.weight("energy"))
        assert sum(m.weight for m in contract.metrics) == pytest.approx(1.0)


def test_peers_are_all_policies_that_are_not_named_each_once():
    found = expand(("bandit", PEERS))
    assert found[0] == "bandit"
    assert len(set(found)) == len(found)
    assert {*POLICIES, *REFERENCES, *UNAVAILABLE} == set(found)


REPLAY = """
id: x
kind: replay
why: x
source: {from: data, file: f}
config: configs/frugalml.yaml
policies: [bandit]
"""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("id: other\nkind: summary\nwhy: x", "its id is 'other'"),
        ("id: x\nkind: summary\nwhy: x\nsurprise: 1", "surprise"),
        ("id: x\nkind: parade\nwhy: x", "parade"),
        ("id: x\nkind: summary", "why"),
        ("id: [", "is no scenario"),
        (REPLAY + "plays: {a: {windows: {w: 1.0}}, b: {windows: {w: 0.5}}}", "a window twice: w, w"),
        (REPLAY + "traffic: {last: 0.5}\nplays: {a: {windows: {w: 1.0}}}", "play a has windows and a last share"),
        (REPLAY + "plays: {a: {}}\nsweep: [0.5]", "plays and a sweep"),
        (REPLAY + "sweep: [0.5]\nbetween: {bandit: [0.6, 0.7]}", "between bandit"),
    ],
)
def test_a_file_that_is_no_scenario_is_refused_by_name(tmp_path, text, why):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(BandmasterError, match=f"x.yaml.*{why}"):
        load(path)


def test_seeds_are_ten_wherever_policies_are_compared():
    assert all(s.seeds >= 10 for s in ALL.values() if isinstance(s, Replayed))
    assert np.all([s.seeds >= 10 for s in ALL.values() if s.id.startswith("degraded")])
