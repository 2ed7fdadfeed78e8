"""Reading recorded logs: what they may hold, and what a bad one is told."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bandmaster.core import BandmasterError, Profile
from bandmaster.features import MAX_COLUMNS, features_of
from bandmaster.recorded import read_log, read_logs
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


def test_a_log_without_any_label_and_classes_is_refused(tmp_path):
    frame = pl.DataFrame({"label": [None, None], "a__pred": ["x", None]}, schema_overrides={"label": pl.String})
    with pytest.raises(BandmasterError, match="no row has a label, so that no class is known; list them under"):
        read(frame, tmp_path / "log.parquet")
    log = read_log(tmp_path / "log.parquet", None, {}, ("x", "y"))
    assert log.ensemble.classes == ("x", "y")


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
    "requests in another order": (
        with_column(ts=[1.0, 2.0, 1.5, 3.0]),
        "row 2, column 'ts': 1.5 is earlier than the row before; sort the log by ts",
    ),
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


# ---- Answers that are never true -----------------------------------------------------------------------------

STRANGE = pl.DataFrame(
    {
        "label": ["cat", "dog", None, "cat"],
        "a__pred": ["cow", "dog", "cat", None],
        "a__conf": [0.7, 0.4, 0.1, 0.9],
        "b__pred": ["cat", "cat", "ant", "dog"],
    }
)


def test_answers_that_are_never_true_are_one_class(tmp_path):
    log = read(STRANGE, tmp_path / "log.parquet")
    assert log.ensemble.classes == ("cat", "dog", "other")
    assert log.truth.tolist() == [0, 1, NO_LABEL, 0]
    low = 1 / 3 + 1e-3  # a confidence that would let another class outweigh the answer
    expected = [[0.15, 0.15, 0.7], [0.3, 0.4, 0.3], [low, (1 - low) / 2, (1 - low) / 2], [0, 0, 0]]
    np.testing.assert_allclose(log.scores[:, 0], expected, atol=1e-6)
    np.testing.assert_array_equal(log.scores[:, 1], [[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]])


@pytest.mark.parametrize("suffix", ["csv", "arrow", "parquet"])
def test_numbers_collapse_like_texts_in_every_format(suffix, tmp_path):
    frame = pl.DataFrame({"label": [1, 2, None, 1], "a__pred": [7, 2, None, -3]})
    path = tmp_path / f"log.{suffix}"
    {"csv": frame.write_csv, "arrow": frame.write_ipc, "parquet": frame.write_parquet}[suffix](path)
    log = read_log(path, None, {}, None)
    assert log.ensemble.classes == (1, 2, "other")
    assert log.scores[:, 0].argmax(axis=1).tolist() == [2, 1, 0, 2]
    assert log.scores[2, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("by", ["config", "metadata"])
def test_classes_that_are_named_stay_and_what_is_beyond_them_is_other(by, tmp_path):
    path, named = tmp_path / "log.parquet", ["dog", "cat", "emu"]
    STRANGE.write_parquet(path, metadata={"classes": json.dumps(named)} if by == "metadata" else None)
    log = read_log(path, None, {}, named if by == "config" else None)
    assert log.ensemble.classes == ("dog", "cat", "emu", "other")
    assert log.scores[:, 1].argmax(axis=1).tolist() == [1, 1, 3, 0]


def test_a_true_class_may_be_called_other(tmp_path):
    frame = pl.DataFrame({"label": ["other", "dog"], "a__pred": ["other", "cow"]})
    log = read(frame, tmp_path / "log.parquet")
    assert log.ensemble.classes == ("dog", "other", "(other)")
    assert log.scores[:, 0].argmax(axis=1).tolist() == [1, 2]


def test_where_members_give_all_figures_every_class_that_occurs_has_its_own(tmp_path):
    proba = [[0.4, 0.3, 0.3], [0.1, 0.2, 0.7]]
    frame = pl.DataFrame({"label": ["a", "a"], "m__pred": ["a", "c"], "n__pred": ["a", "b"], "m__proba": proba})
    log = read(frame, tmp_path / "log.parquet")
    assert log.ensemble.classes == ("a", "b", "c")
    np.testing.assert_allclose(log.scores[:, 0], proba, atol=1e-6)


def test_an_answer_beyond_the_figures_is_taken_at_its_word(tmp_path):
    frame = pl.DataFrame({"label": ["cat", "dog"], "m__pred": ["cat", "cow"], "m__conf": [0.9, 0.6]})
    frame = frame.with_columns(m__proba=pl.Series([[0.9, 0.1], [0.6, 0.4]]))
    frame.write_parquet(tmp_path / "log.parquet")
    log = read_log(tmp_path / "log.parquet", None, {}, ["cat", "dog"])
    np.testing.assert_allclose(log.scores[:, 0], [[0.9, 0.1, 0.0], [0.2, 0.2, 0.6]], atol=1e-6)


def test_redraws_of_one_traffic_have_one_ensemble(tmp_path):
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    STRANGE.write_parquet(paths[0])
    STRANGE.filter(pl.col("label") == "dog").write_parquet(paths[1])
    first, second = read_logs(paths, None, {}, None)
    assert first.ensemble == second.ensemble
    assert second.truth.tolist() == [1]
    GOOD.write_parquet(paths[1], metadata={"classes": '["dog", "cat"]'})
    with pytest.raises(BandmasterError, match=r"a\.parquet.*b\.parquet.*list other 'classes'"):
        read_logs(paths, ["a", "b"], {}, None)


answers = st.lists(
    st.tuples(st.sampled_from("abcxyz") | st.none(), st.floats(0, 1) | st.none(), st.sampled_from("abc")),
    min_size=1,
    max_size=8,
)


@given(answers)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_answer_is_a_distribution_that_puts_what_was_said_first(tmp_path, rows):
    said, conf, truth = zip(*rows, strict=True)
    types = {"m__pred": pl.String, "m__conf": pl.Float64}
    log = read(pl.DataFrame({"label": truth, "m__pred": said, "m__conf": conf}, types | {"label": pl.String}),
               tmp_path / "log.parquet")  # fmt: skip
    classes = log.ensemble.classes
    assert set(truth) <= set(classes) <= {*truth, "other"}
    for name, scores in zip(said, log.scores[:, 0], strict=True):
        if name is None:
            assert not scores.any()
        else:
            assert scores.sum() == pytest.approx(1.0, abs=1e-5)
            assert classes[scores.argmax()] == (name if name in truth else "other")


# ---- Other details -------------------------------------------------------------------------------------------


def test_all_rows_of_a_csv_file_say_what_a_column_holds(tmp_path):
    frame = pl.DataFrame({"label": [1] * 300, "a__pred": [None] * 299 + [1], "a__conf": [1.0] * 299 + [0.75]})
    text = frame.write_csv().replace(",1.0\n", ",1\n")
    (tmp_path / "log.csv").write_text(text)
    log = read_log(tmp_path / "log.csv", None, {}, None)
    assert log.scores[-1, 0].tolist() == [1.0]
    assert not log.scores[:-1].any()


def test_many_features_are_summarised_row_by_row_as_a_request_s_are(tmp_path):
    rows = np.random.default_rng(0).normal(size=(20, MAX_COLUMNS + 8))
    frame = pl.DataFrame({f"x{i}": column for i, column in enumerate(rows.T)})
    log = read(frame.with_columns(label=pl.lit(0), a__pred=pl.lit(0)), tmp_path / "log.parquet")
    np.testing.assert_array_equal(log.features, [features_of(row[None]) for row in rows])


def test_the_window_is_that_of_the_last_label_that_comes(tmp_path):
    frame = pl.DataFrame({"label": [0] * 5, "a__pred": [0] * 5, "ts": [0.0, 5.0, 10.0, 30.0, 31.0]})
    for delays, expected in (([0] * 5, 0.0), ([2, 1, 1, 9, 9], 20.0), ([9] * 5, 0.0)):
        log = read(frame.with_columns(label_delay=pl.Series(delays)), tmp_path / "log.parquet")
        assert log.window_s == expected


def test_a_log_may_be_played_longer_than_it_is(tmp_path):
    log = read(GOOD, tmp_path / "log.parquet").redrawn(np.array([3, 0, 1, 2, 2, 1]))
    assert log.at.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert log.truth.tolist() == [0, 0, 1, NO_LABEL, NO_LABEL, 1]
    assert log.request(4).rows.item() == 2
