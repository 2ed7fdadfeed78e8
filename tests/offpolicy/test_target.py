"""Targets: what they say of each decision, and of all actions, agrees."""

import numpy as np
import polars as pl
import pytest

from bandmaster.core import BandmasterError
from bandmaster.offpolicy.evaluate import evaluate
from bandmaster.offpolicy.log import read
from bandmaster.offpolicy.target import parse_target

LOG = pl.DataFrame(
    {
        "action": ["a", "b", "b", "a"],
        "propensity": [0.5, 0.5, 0.5, 0.5],
        "reward": [1.0, 0.0, 1.0, 0.0],
        "slot": [1, 2, 1, 2],
        "mine": [0.9, 0.1, 0.2, 0.3],
    }
)
TABLE = "slot,action,probability\n1,a,0.25\n1,b,0.75\n2,a,0.5\n2,c,0.5\n"


@pytest.fixture
def log(tmp_path):
    LOG.write_parquet(tmp_path / "log.parquet")
    return read(tmp_path / "log.parquet")


@pytest.fixture
def table(tmp_path):
    (tmp_path / "table.csv").write_text(TABLE)
    return f"table:{tmp_path / 'table.csv'}"


def test_a_target_says_how_likely_it_does_what_was_done(log, table):
    wanted = {"uniform": [0.5] * 4, "column:mine": [0.9, 0.1, 0.2, 0.3], table: [0.25, 0.0, 0.75, 0.5]}
    for spec, probabilities in wanted.items():
        assert parse_target(spec).logged(log).collect()["target"].to_list() == probabilities


def test_what_a_target_says_of_all_actions_is_what_it_says_of_the_one_taken(log, table):
    for spec in ("uniform", table):
        target = parse_target(spec)
        rows, actions = target.logged(log).collect(), target.actions(log)
        every = target.spread(rows, actions)
        np.testing.assert_allclose(every.sum(axis=1), 1.0)
        taken = [actions.index(name) for name in rows["action"]]
        np.testing.assert_allclose(every[np.arange(len(rows)), taken], rows["target"])
    assert actions == ("a", "b", "c")


def test_a_table_may_depend_on_nothing(log, tmp_path):
    (tmp_path / "t.csv").write_text("action,probability\na,0.1\nb,0.9\n")
    target = parse_target(f"table:{tmp_path / 't.csv'}")
    assert target.logged(log).collect()["target"].to_list() == [0.1, 0.9, 0.9, 0.1]
    assert target.spread(log.frame.collect(), ("a", "b")).tolist() == [[0.1, 0.9]] * 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slot,action,probability\n1,a,0.5\n1,b,0.4\n", r"sum to 0\.9 where slot=1; they must to 1"),
        ("action,probability\na,0.5\nb,0.4\n", r"sum to 0\.9; they must to 1"),
        ("slot,action,probability\n1,a,-1\n1,b,2\n", r"row 0, column 'probability': -1 must be a number from 0 to 1"),
        ("slot,action,probability\n1,a,half\n", r"row 0, column 'probability': half must be"),
        ("slot,action,probability\n1,a,0.5\n1,a,0.5\n", r"has action a twice where slot=1"),
        ("slot,action\n1,a\n", r"has no column 'probability'"),
        ("slot,action,probability\n1,a,1\n", r"says nothing of slot=2, which row 1 of .*log\.parquet has"),
        ("town,action,probability\n1,a,1\n", r"log\.parquet: has no column 'town'"),
    ],
)
def test_a_table_that_is_no_policy_is_refused(log, tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(BandmasterError, match=said):
        evaluate(log, parse_target(f"table:{tmp_path / 't.csv'}"))


def test_specs_and_columns_that_name_no_target_are_refused(log, tmp_path):
    for spec in ("best", "column:", "table:", ""):
        with pytest.raises(
            BandmasterError, match="names no target; uniform, column:NAME, table:FILE and vw:OPTIONS do"
        ):
            parse_target(spec)
    with pytest.raises(BandmasterError, match="has no column 'theirs'"):
        evaluate(log, parse_target("column:theirs"))
    with pytest.raises(BandmasterError, match="needs those of all"):
        evaluate(log, parse_target("column:mine"), modelled=True)
    LOG.with_columns(mine=pl.lit(1.5)).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(BandmasterError, match="says no probability, from 0 to 1, of 4 decisions"):
        evaluate(read(tmp_path / "log.parquet"), parse_target("column:mine"))
