"""A run that would be the same is played once, and judged over as many shares of it as are asked for."""

import pytest

from bandmaster.replay import engine, processes, replay

SEEDLESS = ("constant", "dynamic-weighted-majority", "frugalml-offline")


@pytest.mark.parametrize(("logs", "label_share"), [(1, 1.0), (2, 1.0), (1, 0.5)])
def test_seeds_share_a_run_of_a_policy_that_draws_nothing_and_results_are_the_same(
    lab, monkeypatch, tmp_path, logs, label_share
):
    def play(trace):
        steps = []
        given = {"logs": logs, "seeds": 3, "label_share": label_share, "trace": trace, "progress": steps.append}
        return lab.replay(*SEEDLESS, "random", **given).as_json(), [(s.name, s.seed) for s in steps]

    shared, fewer = play(tmp_path / "shared.parquet")
    monkeypatch.setattr(engine.Bench, "draws", lambda bench, policy: True)
    apart, steps = play(tmp_path / "apart.parquet")
    assert shared == apart
    assert (tmp_path / "shared.parquet").read_bytes() == (tmp_path / "apart.parquet").read_bytes()
    for name in SEEDLESS:
        assert [s for n, s in steps if n == name] == [0, 1, 2]
        assert [s for n, s in fewer if n == name] == ([0, 1, 2] if label_share < 1.0 else list(range(logs)))
    assert [s for n, s in fewer if n == "random"] == [0, 1, 2]


def test_redrawn_traffic_is_played_by_everybody(lab):
    steps = []
    lab.replay("constant", order="shuffled", seeds=2, progress=steps.append)
    assert [(s.name, s.seed) for s in steps if s.name == "constant"] == [("constant", 0), ("constant", 1)]


@pytest.mark.parametrize("order", ["kept", "shuffled"])
def test_several_shares_of_the_same_runs_are_judged_as_if_each_had_been_played_alone(lab, order):
    policies, shares = ("constant", "random", "scoring", "dynamic-weighted-majority"), (1.0, 0.2, 0.5)
    found = replay(lab.bench(order=order), policies, 2, lasts=shares, spread=processes(1))
    for share, results in zip(shares, found, strict=True):
        assert results.as_json() == lab.replay(*policies, seeds=2, order=order, last=share).as_json()
