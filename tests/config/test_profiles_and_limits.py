"""``profiles:`` and ``limits:`` are read as written, or refused with the place and the fix."""

from pathlib import Path

import pytest

from bandmaster.config import ConfigError, load
from bandmaster.limits import Budget, Limits

GOOD = """\
orchestration:
  contract:
    accuracy: {weight: 3}
    latency: {weight: 1, range: [1 ms, 200 ms]}
    cost: {weight: 0, range: [0, 1]}
  members:
    linear: {}
"""


def read(folder: Path, more: str, text: str = GOOD):
    (folder / "config.yaml").write_text(f"{text}{more}\n")
    return load(folder / "config.yaml")


def test_a_profile_has_the_contracts_metrics_and_weights_of_its_own_that_sum_to_one(tmp_path):
    contract = read(tmp_path, "  profiles: {fast: {latency: 6, accuracy: 2}, sure: {accuracy: 1}}").contract
    fast = contract.under("fast")
    assert [m.weight for m in fast.metrics] == [0.25, 0.75, 0.0]
    assert fast.metric("latency").high == contract.metric("latency").high == 0.2
    assert contract.under("default") is contract
    assert contract.weight("latency") == 0.25
    assert contract.counts("latency")
    assert not contract.counts("cost")


def test_limits_are_read_in_seconds_joules_and_money(tmp_path):
    text = GOOD.replace("{}", "{profile: {cost: 0.001}}")
    config = read(tmp_path, "  limits: {deadline: 200 ms, energy: 5 J / 1 min, cost: 0.02/1 h}", text)
    assert config.limits == Limits(0.2, Budget(5.0, 60.0), Budget(0.02, 3600.0))
    assert read(tmp_path, "").limits == Limits()


REFUSED = [
    ("profiles: {fast: {lat: 1}}", "profiles.fast.lat: is an unknown key; did you mean latency?"),
    ("profiles: {fast: {energy: 1}}", "profiles.fast.energy: is an unknown key; use one of accuracy, latency, cost"),
    ("profiles: {fast: {}}", "profiles.fast: {} has weights that sum to 0; give at least one"),
    ("profiles: {fast: {latency: 0}}", "profiles.fast: {…} has weights that sum to 0; give at least one"),
    ("profiles: {fast: {latency: -1}}", "profiles.fast.latency: -1 is outside [0, 1e+06]"),
    ("profiles: {fast: 3}", "profiles.fast: 3 is not a mapping"),
    ("profiles: [fast]", "profiles: [fast] is not a mapping; write {fast: {latency: 0.6, accuracy: 0.4}}"),
    ("profiles: {default: {latency: 1}}", "profiles.default: default is no profile's name; write a letter"),
    ("profiles: {a b: {latency: 1}}", "profiles.a b: a b is no profile's name; write a letter"),
    ("profiles: {dear: {cost: 1}}", "members.linear: has no profile.cost, which the contract counts"),
    ("limits: {deadline: 0 ms}", "limits.deadline: 0 ms leaves no time; write 200 ms"),
    ("limits: {deadline: 200}", "limits.deadline: 200 has no unit; write 200 ms or 0.2 s"),
    ("limits: {energy: 5 J}", "limits.energy: 5 J is no budget; write an amount and a period, as in 5 J / 1 min"),
    ("limits: {energy: 5 / 1 min}", "limits.energy: 5 has no unit; write one of"),
    ("limits: {energy: 5 s / 1 min}", "limits.energy: 5 s is a time, but an energy is meant"),
    ("limits: {energy: 5 J / 1 J}", "limits.energy: 1 J is an energy, but a time is meant"),
    ("limits: {energy: 0 J / 1 s}", "limits.energy: 0 J / 1 s lets nothing be spent"),
    ("limits: {energy: 1 J / 0 s}", "limits.energy: 1 J / 0 s lets nothing be spent"),
    ("limits: {cost: 1 / 1 h}", "members.linear: has no profile.cost, which limits.cost counts; add"),
    ("limits: {cost: x / 1 h}", "limits.cost: x is text, not a number"),
    ("limits: {cost: -1 / 1 h}", "limits.cost: -1.0 is outside [0, 1e+12]"),
    ("limits: {cost: 5}", "limits.cost: 5 is no budget; write an amount and a period, as in 0.02 / 1 h"),
    ("limits: {price: 5}", "limits.price: is an unknown key; use one of deadline, energy, cost"),
    ("limits: 5 J", "limits: 5 J is not a mapping"),
]


@pytest.mark.parametrize(("more", "told"), REFUSED, ids=[case[0] for case in REFUSED])
def test_what_cannot_be_meant_is_refused_at_its_place(tmp_path, more, told):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"  {more}")
    assert any(f": orchestration.{told}" in problem for problem in caught.value.problems)
