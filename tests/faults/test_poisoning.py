"""Forged labels: who reports them is named."""

from tests.faults.poisoned import played


def test_whoever_forges_her_labels_is_named_and_nobody_else():
    run = played(0.3, "random", 0, requests=2000)
    assert run.labels_until_named is not None
    assert (run.labels_until_named < 200, run.others_named) == (True, 0)


def test_where_all_labels_are_honest_nobody_is_named():
    run = played(0.0, "random", 1, requests=2000)
    assert run.others_named == 0
