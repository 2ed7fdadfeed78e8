"""Logs of decisions: three formats read alike, and every defect named by row and column."""

import polars as pl
import pytest

from bandmaster.core import BandmasterError
from bandmaster.offpolicy.evaluate import evaluate
from bandmaster.offpolicy.log import Columns, read
from bandmaster.offpolicy.target import Uniform

ROWS = {
    "action": ["a", "b", "b", "a", "b", "a"],
    "propensity": [0.5, 0.25, 0.25, 0.75, 0.25, 0.5],
    "reward": [1.0, 0.0, 1.0, 0.0, 1.0, None],
    "site": ["n", "n", "s", "s", "n", "n"],
}
WRITERS = {"parquet": pl.DataFrame.write_parquet, "csv": pl.DataFrame.write_csv, "arrow": pl.DataFrame.write_ipc}


def write(tmp_path, suffix="parquet", **changed):
    path = tmp_path / f"log.{suffix}"
    WRITERS[suffix](pl.DataFrame(ROWS).with_columns(**changed), path)
    return path


@pytest.mark.parametrize("suffix", WRITERS)
def test_parquet_csv_and_arrow_say_the_same(tmp_path, suffix):
    found = evaluate(read(write(tmp_path, suffix)), Uniform())
    # Weights 1, 2, 2, 2/3, 2; the last decision's reward is not known.
    assert found.decisions == 5
    assert found.unrewarded == 1
    assert found.of("ips").value == pytest.approx((1 + 2 + 2) / 5)
    assert found.of("snips").value == pytest.approx((1 + 2 + 2) / (1 + 2 + 2 + 2 / 3 + 2))
    assert found.logged == pytest.approx(3 / 5)


def test_a_part_of_a_log_can_be_judged(tmp_path):
    found = evaluate(read(write(tmp_path), where={"site": "s"}), Uniform())
    assert found.decisions == 2


def test_columns_may_have_other_names_and_rewards_another_range(tmp_path):
    path = write(tmp_path, reward=pl.col("reward") * 10 - 5)
    plain = evaluate(read(write(tmp_path / ".." / tmp_path.name, "csv")), Uniform())
    pl.read_parquet(path).rename({"action": "item", "propensity": "p", "reward": "click"}).write_parquet(path)
    renamed = evaluate(read(path, Columns("item", "p", "click", low=-5.0, high=5.0)), Uniform())
    assert renamed == plain


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        (
            "propensity",
            [0.5, 0.0, 0.5, 0.5, 0.5, 0.5],
            r"row 1, column 'propensity': 0\.0 must be a probability above 0",
        ),
        ("propensity", [0.5, 0.5, 1.5, 0.5, 0.5, 0.5], r"row 2, column 'propensity': 1\.5 must be a probability"),
        ("propensity", [0.5, 0.5, 0.5, None, 0.5, 0.5], r"row 3, column 'propensity': nothing must be a probability"),
        ("propensity", ["1", "1", "1", "1", "one", "1"], r"row 4, column 'propensity': one must be a probability"),
        ("reward", [1.0, 0.0, 0.0, 7.0, 1.0, 1.0], r"row 3, column 'reward': 7\.0 must be a number from 0 to 1"),
        ("reward", ["1", "0", "won", "1", "1", "1"], r"row 2, column 'reward': won must be a number from 0 to 1"),
        ("action", ["a", "b", "b", "a", "b", None], r"row 5, column 'action': nothing must name an action"),
    ],
)
def test_a_defect_is_refused_with_its_row_and_column(tmp_path, suffix, column, values, said):
    path = (
        write(tmp_path, suffix, **{column: pl.Series(values)}, reward=pl.lit(1.0))
        if column != "reward"
        else write(tmp_path, suffix, reward=pl.Series(values))
    )
    with pytest.raises(BandmasterError, match=said):
        evaluate(read(path), Uniform())


def test_not_a_number_is_no_propensity(tmp_path):
    path = write(tmp_path, propensity=pl.Series([0.5, float("nan"), 0.5, 0.5, 0.5, 0.5]))
    with pytest.raises(BandmasterError, match="row 1, column 'propensity': NaN"):
        evaluate(read(path), Uniform())


def test_files_that_are_no_logs_are_refused(tmp_path):
    (tmp_path / "log.txt").write_text("x")
    with pytest.raises(BandmasterError, match=r"ends in \.parquet, \.csv, \.arrow, \.feather, not in '\.txt'"):
        read(tmp_path / "log.txt")
    with pytest.raises(BandmasterError, match="no such file"):
        read(tmp_path / "none.parquet")
    whole = write(tmp_path).read_bytes()
    (tmp_path / "half.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BandmasterError, match=r"half\.parquet: cannot be read as parquet"):
        read(tmp_path / "half.parquet")
    broken = bytearray(whole)
    broken[8:40] = bytes(32)
    (tmp_path / "broken.parquet").write_bytes(broken)
    with pytest.raises(BandmasterError, match=r"broken\.parquet: cannot be read as parquet"):
        evaluate(read(tmp_path / "broken.parquet"), Uniform())
    pl.DataFrame(ROWS).clear().write_parquet(tmp_path / "empty.parquet")
    with pytest.raises(BandmasterError, match="holds no decision"):
        read(tmp_path / "empty.parquet")
    with pytest.raises(BandmasterError, match="holds no decision where site=west"):
        read(write(tmp_path), where={"site": "west"})
    with pytest.raises(BandmasterError, match="has no column 'pscore'; it has action, propensity, reward, site"):
        read(write(tmp_path), Columns(propensity="pscore"))
    with pytest.raises(BandmasterError, match="no reward of any"):
        evaluate(read(write(tmp_path, reward=pl.lit(None, dtype=pl.Float64))), Uniform())
    with pytest.raises(BandmasterError, match="rewards from 1 to 0: no range"):
        read(write(tmp_path), Columns(low=1.0, high=0.0))
