"""Streams: twelve members learn the first 20 %, the rest is traffic, and what they said is kept."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bandmaster import build, config, streams
from bandmaster.answers import default_cache
from bandmaster.core import BandmasterError
from bandmaster.recorded import read_log, read_logs
from bandmaster.streams import KINDS, MEMBERS, models
from bandmaster.table import NO_LABEL

CONFIG = Path(__file__).parents[2] / "configs" / "streams.yaml"
ROWS = 400


def make_stream(rows: int = ROWS) -> pl.DataFrame:
    """Two of three classes until a tenth of the rows are over; which they are follows from x0 and x1."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int16)
    y[rows // 10 :][x[rows // 10 :, 1] > 0.8] = 2
    return pl.DataFrame({f"x{i}": column for i, column in enumerate(x.T)}).with_columns(y=y, segment=pl.lit(1))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stream") / "stream.parquet"
    make_stream().write_parquet(path)
    return path


def read(path, cache, **options):
    return read_logs([path], None, {}, options.pop("classes", None), cache, **options)[0]


@pytest.fixture(scope="module")
def log(path, cache):
    return read(path, cache)


def test_the_last_four_fifths_are_the_traffic(log):
    stream = make_stream()[ROWS // 5 :]
    assert log.ensemble.names == MEMBERS
    assert log.ensemble.classes == (0, 1, 2)
    assert log.truth.tolist() == stream["y"].to_list()
    np.testing.assert_allclose(log.features, stream.select("x0", "x1", "x2").to_numpy())
    assert log.scores.shape == (len(stream), 12, 3)
    assert log.scores.dtype == np.float32
    assert log.unused == ("segment",)


def test_members_answer_with_distributions_and_have_learned(log):
    np.testing.assert_allclose(log.scores.sum(axis=-1), 1.0, atol=1e-5)
    accuracy = (log.scores.argmax(axis=-1) == log.truth[:, None]).mean(axis=0)
    assert np.median(accuracy) > 0.8


def test_members_are_those_models_fitted_on_the_first_fifth_and_on_its_last_quarter(log):
    stream = make_stream()
    x, y = stream.select("x0", "x1", "x2").to_numpy().astype(float), stream["y"].to_numpy()
    for name, start in (("forest", 0), ("forest_late", 60), ("logistic_late", 60)):
        model = models()[name.removesuffix("_late")].fit(x[start:80], y[start:80])
        expected = np.zeros((320, 3))
        expected[:, model.classes_] = model.predict_proba(x[80:])
        np.testing.assert_allclose(log.scores[:, MEMBERS.index(name)], expected, atol=1e-6)


def test_a_class_that_a_member_never_met_has_no_probability(tmp_path, cache):
    x = np.random.default_rng(1).normal(size=200)
    y = np.where(np.arange(200) < 20, 5, np.where(x > 0, 7, 9))
    pl.DataFrame({"x0": x, "y": y}).write_csv(tmp_path / "stream.csv")
    log = read(tmp_path / "stream.csv", cache)
    assert log.ensemble.classes == (5, 7, 9)
    late = [MEMBERS.index(f"{kind}_late") for kind in KINDS]
    assert (log.scores[:, late, 0] == 0.0).all()
    assert (log.scores[:, [MEMBERS.index(kind) for kind in KINDS], 0] > 0.0).any()


def test_where_all_training_rows_are_of_one_class_members_say_that_class(tmp_path, cache):
    frame = pl.DataFrame({"x0": np.arange(50.0), "y": ["a"] * 10 + ["b"] * 40})
    frame.write_parquet(tmp_path / "stream.parquet")
    log = read(tmp_path / "stream.parquet", cache)
    assert log.ensemble.classes == ("a", "b")
    np.testing.assert_array_equal(log.scores, np.broadcast_to(np.float32([1.0, 0.0]), (40, 12, 2)))


def test_absurd_constant_and_missing_figures_do_no_harm(tmp_path, cache):
    x = [1e300, None, -1e300, *np.random.default_rng(2).normal(size=57)]
    frame = pl.DataFrame({"x0": x, "x1": [3.0] * 60, "y": [0, 1, None, *([0, 1, 1] * 19)]})
    frame.write_parquet(tmp_path / "stream.parquet")
    log = read(tmp_path / "stream.parquet", cache)
    np.testing.assert_allclose(log.scores.sum(axis=-1), 1.0, atol=1e-5)


def test_a_label_that_is_missing_is_missing_in_the_traffic(tmp_path, cache):
    frame = make_stream(100).with_columns(y=pl.when(pl.int_range(100) == 90).then(None).otherwise("y"))
    frame.write_parquet(tmp_path / "stream.parquet")
    assert read(tmp_path / "stream.parquet", cache).truth[70] == NO_LABEL


# ---- What is kept --------------------------------------------------------------------------------------------


def test_members_are_trained_once_for_a_file_s_content(path, cache, log, tmp_path, monkeypatch):
    told = []
    (tmp_path / "copy.parquet").write_bytes(path.read_bytes())
    monkeypatch.setattr(streams, "_answers", lambda *_: pytest.fail("trained again"))
    again = read(tmp_path / "copy.parquet", cache, told=told.append)
    assert told == []
    np.testing.assert_array_equal(again.scores, log.scores)
    assert again.sha256 == log.sha256


def test_other_classes_are_other_answers(path, cache):
    told = []
    log = read(path, cache, classes=(2, 1, 0, 3), told=told.append)
    assert log.ensemble.classes == (2, 1, 0, 3)
    assert (log.scores[..., 3] == 0.0).all()
    (line,) = told
    assert line == f"{path}: a stream; 12 members learn its first 80 rows, kept in {cache}"


def test_answers_are_kept_in_the_user_s_cache_unless_told_otherwise(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache("streams") == tmp_path / "bandmaster" / "streams"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache("streams") == Path.home() / ".cache" / "bandmaster" / "streams"


def test_a_broken_or_impossible_cache_is_refused_with_the_fix(path, cache, log, tmp_path):
    broken = tmp_path / "cache"
    broken.mkdir()
    for kept in cache.iterdir():
        (broken / kept.name).write_bytes(b"not an array")
    with pytest.raises(BandmasterError, match=r"\.npy: cannot be read .*; delete it"):
        read(path, broken)
    (tmp_path / "file").touch()
    with pytest.raises(BandmasterError, match="name another folder with --cache"):
        read(path, tmp_path / "file" / "cache")


# ---- What is refused -----------------------------------------------------------------------------------------

BAD = {
    "nothing to look at": (pl.DataFrame({"y": [0, 1] * 20}), "no column x0 … xn"),
    "no label to learn from": (make_stream(100).with_columns(y=pl.Series([None] * 20 + [1] * 80)), "rows 15 to 19"),
    "too short": (make_stream(40)[:4], "more rows"),
    "labels that are no classes": (make_stream(50).with_columns(y=pl.Series([0.5] * 50)), "row 0, column 'y': 0.5"),
    "features in words": (make_stream(50).with_columns(x1=pl.lit("a")), "row 0, column 'x1': a must be a number"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_stream_is_refused(what, tmp_path):
    frame, told = BAD[what]
    frame.write_parquet(tmp_path / "stream.parquet")
    with pytest.raises(BandmasterError, match=told):
        read(tmp_path / "stream.parquet", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_member_that_no_stream_has_is_named(path, cache):
    with pytest.raises(BandmasterError, match="no column 'oracle__pred'; members in the log: naive_bayes, logistic"):
        read_logs([path], ["oracle"], {}, None, cache)


def test_rows_of_a_stream_s_traffic_are_counted_from_the_file_s_first(path, cache, log, tmp_path):
    make_stream().with_columns(ts=pl.int_range(ROWS) + pl.lit(0.0)).with_columns(
        ts=pl.when(pl.col("ts") == 100).then(None).otherwise("ts")
    ).write_parquet(tmp_path / "stream.parquet")
    with pytest.raises(BandmasterError, match="row 100, column 'ts'"):
        read(tmp_path / "stream.parquet", cache)


def test_a_log_that_has_a_column_y_is_still_a_log(tmp_path):
    pl.DataFrame({"label": [0, 1], "a__pred": [0, 1], "y": [3, 4]}).write_parquet(tmp_path / "log.parquet")
    assert read_log(tmp_path / "log.parquet", None, {}, None).unused == ("y",)


# ---- The configuration ---------------------------------------------------------------------------------------


def test_the_shipped_configuration_names_the_members_in_order_and_its_scales_span_them():
    found = config.load(CONFIG)
    assert tuple(m.name for m in found.members) == MEMBERS
    assert tuple(models()) == KINDS
    for name, field in (("latency", "latency_s"), ("energy", "energy_j")):
        metric = found.contract.metric(name)
        assert (metric.weight, metric.source, metric.scale) == (0.1, "profile", "log")
        figures = [getattr(m.profile, field) for m in found.members]
        assert metric.low <= min(figures) < max(figures) <= metric.high
        assert figures[:6] == figures[6:]
    assert found.contract.weight("accuracy") == 0.8


def test_a_stream_is_replayed_with_the_shipped_configuration(path, cache, log):
    read_config = config.load(CONFIG)
    (found,) = build.recorded_logs(read_config, [path], cache)
    build.require_known_terms(read_config.contract, found)
    np.testing.assert_array_equal(found.scores, log.scores)
    assert (found.latency_s == [m.profile.latency_s for m in read_config.members]).all()
