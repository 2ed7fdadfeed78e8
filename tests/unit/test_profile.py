"""What a member's measured profile says, on members whose truth is known."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandmaster.config import quantity
from bandmaster.core import BandmasterError, MemberAnswer
from bandmaster.inputs import WARM_UP
from bandmaster.profile import CHUNK, Measured, Sample, calibration_error, fidelity, measure, read_sample
from bandmaster.table import NO_LABEL


class Threshold:
    """Says class 1 where the first column is positive, with ``sure`` probability; fails where it is above 9."""

    name = "threshold"

    def __init__(self, sure=0.9):
        self._sure = sure

    def predict(self, rows):
        if rows[0, 0] > 9.0:
            raise ValueError("too much")
        return np.eye(2)[(rows[:, 0] > 0.0).astype(int)] * (2 * self._sure - 1) + (1 - self._sure)


class CountingMeter:
    """Takes 1 ms for the first call, 2 ms for the second, and so on; one millijoule each."""

    def __init__(self):
        self.calls = 0

    def run(self, member, rows, index):
        self.calls += 1
        assert len(rows) == 1
        try:
            scores, error = member.predict(rows[index]), None
        except ValueError as problem:
            scores, error = None, str(problem)
        return MemberAnswer(member.name, index, scores, self.calls * 1e-3, 1e-3, "estimated", error)


def sample(n=200, wrong=0.25, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 3))
    truth = (rows[:, 0] > 0.0).astype(int)
    truth[: int(wrong * n)] = 1 - truth[: int(wrong * n)]
    return Sample(rows, truth, n)


def test_every_figure_is_the_one_that_the_member_has():
    found = measure(Threshold(), sample(), CountingMeter())
    assert found.accuracy == 0.75
    assert found.calibration == pytest.approx(0.15)
    assert found.latency_s == pytest.approx((WARM_UP + 100.5) * 1e-3)
    assert found.latency_p95_s > found.latency_s
    assert found.energy_j == pytest.approx(1e-3)
    assert found.explainability == pytest.approx(1.0, abs=0.05)  # a threshold is a tree
    assert (found.requests, found.labelled, found.failed, found.fitted, found.judged) == (200, 200, 0, 100, 100)


def test_the_accuracys_interval_is_wilsons():
    low, high = measure(Threshold(), sample(), CountingMeter()).accuracy_interval
    p, n, z = 0.75, 200, 1.959964
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (low, high) == pytest.approx(((centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)), abs=1e-6)


def test_a_failure_counts_as_wrong_and_is_counted():
    drawn = sample(wrong=0.0)
    drawn.rows[:20, 0] = 10.0
    found = measure(Threshold(), drawn, CountingMeter())
    assert found.failed == 20
    assert found.accuracy == 0.9
    assert found.calibration == pytest.approx(0.1)  # of those that it answered


def test_without_labels_all_is_measured_that_needs_none():
    drawn = sample()
    found = measure(Threshold(), Sample(drawn.rows, np.full(200, NO_LABEL), 200), CountingMeter())
    assert (found.accuracy, found.accuracy_interval, found.calibration, found.labelled) == (None, None, None, 0)
    assert set(found.values()) == {"latency", "energy", "explainability"}


def test_a_member_that_never_answers_is_refused_with_its_reason():
    with pytest.raises(BandmasterError, match=r"threshold.*none of 30.*too much"):
        measure(Threshold(), Sample(np.full((30, 3), 10.0), np.zeros(30, dtype=int), 30), CountingMeter())


@pytest.mark.parametrize("n", [20, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_progress_is_told_once_a_chunk(n):
    heard = []
    measure(Threshold(), sample(n), CountingMeter(), lambda: heard.append(1))
    assert len(heard) == -(-n // CHUNK)


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), min_size=1, max_size=80))
def test_the_calibration_error_lies_in_its_range_and_never_below_the_gap_of_the_means(cases):
    confidence, right = (np.array(column, dtype=float) for column in zip(*cases, strict=True))
    error = calibration_error(confidence, right)
    assert abs(confidence.mean() - right.mean()) - 1e-9 <= error <= 1.0


@given(st.permutations(range(12)))
def test_the_calibration_error_does_not_depend_on_the_order_of_the_data(order):
    confidence = np.array([0.5] * 6 + [0.9] * 6)
    right = np.array([1, 0, 1, 0, 1, 0, 1, 1, 1, 1, 1, 0], dtype=float)
    assert calibration_error(confidence[list(order)], right[list(order)]) == pytest.approx(0.5 * (0.9 - 5 / 6))


def test_a_tree_reproduces_a_threshold_and_cannot_reproduce_noise():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2000, 3))
    clear, fitted, judged = fidelity(rows, (rows[:, 1] > 0.3).astype(int))
    noise, _, _ = fidelity(rows, rng.integers(2, size=2000))
    assert (fitted, judged) == (1000, 1000)
    assert clear > 0.99
    assert abs(noise - 0.5) < 0.08  # five standard errors of 1,000 coin flips
    assert fidelity(rows[:3], np.zeros(3, dtype=int))[0] is None


@given(st.floats(1e-7, 1e4), st.floats(1e-9, 1e5))
def test_what_is_written_is_what_the_config_reads_back(latency, energy):
    measured = Measured("m", 9, 0, 0, None, None, None, latency, latency, energy, "estimated", 1e-5, 4, 5)
    values = measured.values()
    assert quantity(values["latency"], "time") == pytest.approx(latency, rel=6e-3)
    assert quantity(values["energy"], "energy") == pytest.approx(energy, rel=6e-3)
    assert values["explainability"] == "0"


# ---- Reading -------------------------------------------------------------------------------------------------

ROWS = np.arange(24.0).reshape(6, 4)


def frame(**columns):
    return pl.DataFrame({f"x{i}": ROWS[:, i] for i in range(4)} | columns)


def test_columns_a_list_and_arrays_give_the_same_rows(tmp_path: Path):
    labels = ["b", "a", None, "b", "a", "a"]
    frame(label=labels).write_parquet(tmp_path / "a.parquet")
    frame(y=labels).write_csv(tmp_path / "b.csv")
    pl.DataFrame({"pixels": ROWS.tolist(), "label": labels}).write_ipc(tmp_path / "c.arrow", compression="zstd")
    np.savez(tmp_path / "d.npz", X=ROWS)
    for name in ("a.parquet", "b.csv", "c.arrow", "d.npz"):
        found = read_sample(tmp_path / name, (4,), ("a", "b"), 100)
        assert np.array_equal(found.rows, ROWS)
        assert found.of == 6
        if name != "d.npz":
            assert found.truth.tolist() == [1, 0, NO_LABEL, 1, 0, 0]
    np.savez(tmp_path / "e.npz", X=ROWS, y=np.arange(6) % 2)
    assert read_sample(tmp_path / "e.npz", (4,), (0, 1), 100).truth.tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("shape", "given"), [((4,), (4,)), ((None,), (4,)), ((2, 2), (2, 2)), ((1, None, 2), (1, 2, 2))]
)
def test_rows_take_the_shape_that_the_members_take(tmp_path: Path, shape, given):
    frame().write_parquet(tmp_path / "a.parquet")
    assert read_sample(tmp_path / "a.parquet", shape, (0, 1), 100).rows.shape == (6, *given)
    np.savez(tmp_path / "a.npz", X=ROWS.reshape(6, *given))
    assert read_sample(tmp_path / "a.npz", shape, (0, 1), 100).rows.shape == (6, *given)


def test_at_most_so_many_rows_are_drawn_the_same_each_time_and_in_order(tmp_path: Path):
    pl.DataFrame({"x0": np.arange(500.0)}).write_parquet(tmp_path / "a.parquet")
    found = read_sample(tmp_path / "a.parquet", (1,), (0, 1), 100)
    again = read_sample(tmp_path / "a.parquet", (1,), (0, 1), 100)
    assert np.array_equal(found.rows, again.rows)
    assert len(found.rows) == 100
    assert np.all(np.diff(found.rows[:, 0]) > 0)
    assert found.rows[:, 0].max() > 300  # from everywhere, not the head


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"x0": [1.0, 2.0]}, r"rows have 1 figures, but the members take rows of shape \(4,\)"),
        ({"a": [1.0, 2.0]}, "neither x0 … xn nor exactly one column of lists"),
        ({"a": [[1.0], [2.0, 3.0]]}, "must be a list of 1 figures"),
        ({"x0": [1.0], "label": ["c"]}, "none of the 2 classes"),
    ],
)
def test_data_that_do_not_fit_are_refused_with_the_file_and_the_fix(tmp_path: Path, columns, says):
    pl.DataFrame(columns).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(BandmasterError, match=rf"a\.parquet.*{says}"):
        read_sample(tmp_path / "a.parquet", (4,), ("a", "b"), 100)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"y": np.zeros(3)}, "no array X"),
        ({"X": np.array(["a", "b"])}, "no array X of numbers"),
        ({"X": np.zeros((3, 4)), "y": np.zeros(2, dtype=int)}, "give each one label"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, arrays, says):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(BandmasterError, match=says):
        read_sample(tmp_path / "a.npz", (4,), (0, 1), 100)


def test_an_npz_that_is_none_or_holds_objects_is_refused(tmp_path: Path):
    (tmp_path / "a.npz").write_bytes(b"no zip")
    np.savez(tmp_path / "b.npz", X=np.array([object()]))
    for name in ("a.npz", "b.npz"):
        with pytest.raises(BandmasterError, match="cannot be read as"):
            read_sample(tmp_path / name, (4,), (0, 1), 100)
