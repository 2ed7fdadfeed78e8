"""Reading recorded logs: what they may hold, and what a bad one is told."""

import json

import numpy as np
import polars as pl
import pytest

from bandmaster.core import BandmasterError, Profile
from bandmaster.recorded import read_log
from bandmaster.table import NO_LABEL

GOOD = pl.DataFrame(
    {
        "label": ["cat", "dog", None, "cat"],
        "label_delay": [0, 2, 0, None],
        "ts": [1.0, 2.0, 3.0, 4.0],
        "x0": [0.5, 1.5, 2.5, 3.5],
        "a__pred": ["cat", "cat", None, "dog"],
        "a__conf": [0.9, 0.6, 0.5, None],
        "a__latency_s": [0.1, None, 0.3, 0.4],
        "b__pred": ["cat", "dog", "dog", "cat"],
        "b__proba": [[0.8, 0.2], [0.3, 0.7], [0.0, 1.0], [0.5, 0.5]],
    }
)


def read(frame, path, **options):
    frame.write_parquet(path)
    return read_log(path, None, {"a": Profile(latency_s=9.0)}, None, **options)


def test_a_good_log_is_read_whole(tmp_path):
    log = read(GOOD, tmp_path / "log.parquet")
    assert log.ensemble.classes == ("cat", "dog")
    assert log.truth.tolist() == [0, 1, NO_LABEL, 0]
    assert log.delay.tolist() == [0, 2, 0, 0]
    assert log.at.tolist() == [1.0, 2.0, 3.0, 4.0]
    np.testing.assert_allclose(log.scores[:, 0], [[0.9, 0.1], [0.6, 0.4], [0, 0], [0.499, 0.501]], atol=1e-6)
    np.testing.assert_allclose(log.scores[:, 1], GOOD["b__proba"].to_list(), atol=1e-6)
    assert log.latency_s[:, 0].tolist() == [0.1, 9.0, 0.3, 0.4]  # a null falls back to the profile
    assert np.isnan(log.latency_s[:, 1]).all()


def test_parquet_csv_and_arrow_hold_the_same_log(tmp_path):
    frame = GOOD.drop("b__proba")
    frame.write_csv(tmp_path / "log.csv")
    frame.write_ipc(tmp_path / "log.arrow")
    parquet = read(frame, tmp_path / "log.parquet")
    for name in ("log.csv", "log.arrow"):
        other = read_log(tmp_path / name, None, {"a": Profile(latency_s=9.0)}, None)
        for array in ("truth", "delay", "at", "features", "scores", "latency_s"):
            np.testing.assert_array_equal(getattr(other, array), getattr(parquet, array))


def test_whole_floats_are_classes_since_pandas_writes_nulls_that_way(tmp_path):
    frame = pl.DataFrame({"label": [1.0, float("nan"), 0.0], "a__pred": [1, 1, 0]})
    log = read(frame, tmp_path / "log.parquet")
    assert log.ensemble.classes == (0, 1)
    assert log.truth.tolist() == [1, NO_LABEL, 0]


def test_the_classes_of_the_file_s_metadata_order_the_figures(tmp_path):
    path = tmp_path / "log.parquet"
    frame = pl.DataFrame({"label": ["cat"], "a__pred": ["dog"], "a__proba": [[0.7, 0.2, 0.1]]})
    frame.write_parquet(path, metadata={"classes": json.dumps(["dog", "cat", "cow"])})
    log = read_log(path, None, {}, None)
    assert log.ensemble.classes == ("dog", "cat", "cow")
    assert log.truth.tolist() == [1]


def with_column(**columns):
    return GOOD.with_columns(**{name: pl.Series(values) for name, values in columns.items()})


BAD = {
    "no label": (GOOD.drop("label"), "no column 'label'"),
    "labels that are no classes": (
        with_column(label=[0.5, 1.0, 1.0, 0.0]),
        "row 0, column 'label': 0.5 must be a class",
    ),
    "labels of truth values": (with_column(label=[True, False, True, True]), "column 'label' holds Boolean"),
    "text and numbers": (with_column(label=[1, 2, 1, 2]), "mix text and numbers"),
    "a negative delay": (with_column(label_delay=[0, 1, -2, 0]), "row 2, column 'label_delay': -2 must be"),
    "a delay in words": (with_column(label_delay=["0", "soon", "1", "2"]), "row 1, column 'label_delay': soon must be"),
    "a time missing": (with_column(ts=[1.0, None, 2.0, 3.0]), "row 1, column 'ts'"),
    "a feature in words": (with_column(x0=["1", "2", "x", "4"]), "row 2, column 'x0': x must be a number"),
    "a confidence above 1": (with_column(a__conf=[0.1, 0.2, 0.3, 1.5]), "row 3, column 'a__conf': 1.5 must be"),
    "a confidence below 0": (with_column(a__conf=[-0.1, 0.2, 0.3, 1.0]), "row 0, column 'a__conf': -0.1 must be"),
    "a latency below 0": (with_column(a__latency_s=[0.1, 0.2, -1.0, 0.1]), "row 2, column 'a__latency_s'"),
    "an endless latency": (with_column(a__latency_s=[0.1, float("inf"), 1.0, 0.1]), "row 1, column 'a__latency_s'"),
    "explained too well": (with_column(a__explainability=[0.1, 0.2, 2.0, 0.1]), "row 2, column 'a__explainability'"),
    "figures that do not sum to 1": (
        with_column(b__proba=[[0.8, 0.2], [0.3, 0.3], [0.0, 1.0], [0.5, 0.5]]),
        "row 1, column 'b__proba': .* is no distribution",
    ),
    "a negative probability": (
        with_column(b__proba=[[1.2, -0.2], [0.3, 0.7], [0.0, 1.0], [0.5, 0.5]]),
        "row 0, column 'b__proba': .* is no distribution",
    ),
    "too few figures": (
        with_column(b__proba=[[0.8, 0.2], [1.0], [0.0, 1.0], [0.5, 0.5]]),
        "row 1, .* must hold 2 figures",
    ),
    "a null among figures": (
        with_column(b__proba=[[0.8, 0.2], [None, 1.0], [0.0, 1.0], [0.5, 0.5]]),
        "row 1, column 'b__proba': .* is no distribution",
    ),
    "figures in words": (with_column(b__proba=["a", "b", "c", "d"]), "column 'b__proba' holds String"),
    "figures in another order": (
        with_column(b__proba=[[0.2, 0.8], [0.7, 0.3], [1.0, 0.0], [0.5, 0.5]]),
        "most rows put another class than __pred first",
    ),
    "a label beyond all integers": (
        GOOD.with_columns(label=pl.Series([1, 2**63, 1, 0], dtype=pl.UInt64)),
        "row 1, column 'label': 9223372036854775808 must be a class",
    ),
    "a category in lists": (with_column(ctx_a=[["x"], ["y"], [], ["z"]]), "column 'ctx_a' holds List"),
    "no request": (GOOD.head(0), "holds no request"),
    "no member": (GOOD.select("label", "x0"), "no column ends in __pred"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_log_is_refused_naming_file_and_place(what, tmp_path):
    frame, told = BAD[what]
    with pytest.raises(BandmasterError, match=told) as problem:
        read(frame, tmp_path / "log.parquet")
    assert str(problem.value).startswith(str(tmp_path / "log.parquet"))


def test_columns_that_mean_nothing_here_are_named(tmp_path):
    odd = with_column(a__confidence=[0.1] * 4, alcohol=[1.0] * 4, **{"x²": [1.0] * 4})
    log = read(odd, tmp_path / "log.parquet")
    assert set(log.unused) == {"a__confidence", "alcohol", "x²"}


def test_a_member_or_class_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "log.parquet"
    GOOD.write_parquet(path)
    with pytest.raises(BandmasterError, match="no column 'c__pred'; members in the log: a, b"):
        read_log(path, ["a", "c"], {}, None)
    with pytest.raises(BandmasterError, match="row 1, column 'label': dog is none of the 1 classes"):
        read_log(path, ["a"], {}, ["cat"])


@pytest.mark.parametrize("metadata", ["cat", "[]", '["cat", "cat"]', "[1.5]", '{"cat": 1}'])
def test_bad_classes_in_the_metadata_are_refused(metadata, tmp_path):
    GOOD.write_parquet(tmp_path / "log.parquet", metadata={"classes": metadata})
    with pytest.raises(BandmasterError, match="metadata 'classes'"):
        read_log(tmp_path / "log.parquet", None, {}, None)


def test_files_that_are_no_log_are_refused(tmp_path):
    whole = tmp_path / "whole.parquet"
    GOOD.write_parquet(whole)
    content = whole.read_bytes()
    files = {
        "empty.parquet": b"",
        "empty.csv": b"",
        "half.parquet": content[: len(content) // 2],
        "short.parquet": content[:-1],
        "holes.parquet": content[:8] + b"\xff" * 200 + content[208:],
        "text.arrow": b"not arrow",
    }
    for name, held in files.items():
        (tmp_path / name).write_bytes(held)
        with pytest.raises(BandmasterError, match=name):
            read_log(tmp_path / name, None, {}, None)
    with pytest.raises(BandmasterError, match="no such file"):
        read_log(tmp_path / "none.parquet", None, {}, None)
    with pytest.raises(BandmasterError, match=r"ends in \.parquet"):
        read_log(tmp_path / "log.xlsx", None, {}, None)
