"""The example ensemble is what its cards say, comes out the same every time, and is worth orchestrating."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from models import check, digits, profiling, store, train
from models.members import MEMBERS
from models.record import record


@pytest.fixture(autouse=True, scope="session")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """BentoML's own home, wherever it is looked up, is a temporary one; nothing is reported to its makers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(tmp_path_factory.mktemp("default-home")))
        patch.setenv("BENTOML_DO_NOT_TRACK", "True")
        yield


@pytest.fixture(scope="session")
def home(_home: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BentoML home with the trained ensemble in it, and its cards and manifest under `out`."""
    home = tmp_path_factory.mktemp("bentoml")
    train.train_all(home, seed=0, out=home / "out")
    return home


@pytest.fixture(scope="session")
def log(home: Path) -> pl.DataFrame:
    return record(3000, seed=1, store_home=home)


def read_card(home: Path, name: str) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((home / "out" / "cards" / f"{name}.json").read_text())
    return card


def test_an_onnx_file_that_differs_from_scikit_learn_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # train_all compares every member it trains, so the `home` fixture proves that all ten agree.
    monkeypatch.setattr(train, "TOLERANCE", 1e-12)
    with pytest.raises(ValueError, match="linear: ONNX differs from scikit-learn"):
        train.train_all(tmp_path, seed=0, out=tmp_path, members=["linear"])
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", ["linear", "blur", "boost"])
def test_onnx_gives_scikit_learns_probabilities(name: str) -> None:
    trained = train.train_member(MEMBERS[name], seed=3)
    assert train.difference(trained, digits.split().held_rows) <= train.TOLERANCE


@pytest.mark.parametrize("name", ["linear", "inversion"])
def test_the_same_seed_gives_the_same_bytes(name: str, home: Path) -> None:
    assert train.train_member(MEMBERS[name], seed=0).onnx == store.load(name, home)


def test_the_bytes_do_not_depend_on_the_process() -> None:
    # Sets of strings are ordered differently under these two hash seeds.
    code = (
        "from models import store, train; from models.members import MEMBERS;"
        "print(store.sha256(train.train_member(MEMBERS['linear'], seed=0).onnx))"
    )
    root = Path(train.__file__).parents[1]
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=root,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("0", "6")
    }
    assert len(hashes) == 1


def test_another_seed_gives_another_specialist(home: Path) -> None:
    assert train.train_member(MEMBERS["inversion"], seed=1).onnx != store.load("inversion", home)


@pytest.mark.parametrize("name", MEMBERS)
def test_every_stored_member_has_the_promised_inputs_outputs_and_classes(name: str, home: Path) -> None:
    session = store.session(store.load(name, home))
    assert [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()] == [("input", "tensor(float)", [64])]
    assert [output.name for output in session.get_outputs()] == ["label", "probabilities"]
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(range(10))
    _, probabilities = session.run(None, {"input": digits.split().held_rows[:7]})
    assert probabilities.shape == (7, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", MEMBERS)
def test_every_card_names_the_stored_file_and_where_its_numbers_come_from(name: str, home: Path) -> None:
    card = read_card(home, name)
    assert card["onnx"]["sha256"] == store.sha256(store.load(name, home))
    assert set(card["accuracy"]) == set(digits.CORRUPTIONS)
    assert card["profile"]["provenance"] == card["measured"]["provenance"] == profiling.PROVENANCE
    assert card["measured"]["latency_s"] > 0
    assert card["explainability"]["provenance"] == "declared"


def test_specialists_are_good_at_their_corruption_and_nobody_else_is(home: Path) -> None:
    for corruption in ("blur", "noise", "rotation", "inversion", "occlusion"):
        accuracy = {name: read_card(home, name)["accuracy"][corruption] for name in MEMBERS}
        others = max(value for name, value in accuracy.items() if name != corruption)
        assert accuracy[corruption] >= 0.78
        assert others <= accuracy[corruption] - 0.05, (corruption, accuracy)


def test_generalists_are_good_on_clean_images_and_better_there_than_specialists(home: Path) -> None:
    clean = {name: read_card(home, name)["accuracy"]["clean"] for name in MEMBERS}
    specialists = [clean[name] for name, spec in MEMBERS.items() if spec.corruption]
    for name, spec in MEMBERS.items():
        if not spec.corruption:
            assert clean[name] >= 0.95
            assert clean[name] > max(specialists)


def test_the_reference_profiles_cover_all_members_and_a_fiftyfold_range_of_cost() -> None:
    reference = profiling.read_reference()
    assert set(reference) == set(MEMBERS)
    for cost in ("latency_s", "energy_j"):
        values = [profile[cost] for profile in reference.values()]
        assert max(values) >= 50 * min(values)


def test_the_manifest_is_trusted_only_while_the_hashes_match(home: Path) -> None:
    out = home / "out"
    assert train.up_to_date(home, seed=0, out=out)
    assert not train.up_to_date(home, seed=1, out=out)
    path = out / "cards" / "linear.json"
    original = path.read_bytes()
    path.write_bytes(original + b" ")
    assert not train.up_to_date(home, seed=0, out=out)
    path.write_bytes(original)
    assert train.up_to_date(home, seed=0, out=out)


def test_a_member_that_was_not_trained_is_reported_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"python -m models\.train"):
        record(10, seed=0, store_home=tmp_path)


@pytest.mark.parametrize("kind", digits.CORRUPTIONS)
def test_corruptions_keep_shape_and_range_and_leave_their_input_alone(kind: str) -> None:
    rows = digits.split().held_rows
    before = rows.copy()
    corrupted = digits.corrupt(rows, kind, np.random.default_rng(0))
    assert corrupted.shape == rows.shape
    assert corrupted.dtype == np.float32
    assert corrupted.min() >= 0
    assert corrupted.max() <= 1
    assert np.array_equal(rows, before)
    assert np.array_equal(corrupted, digits.corrupt(rows, kind, np.random.default_rng(0)))
    assert np.array_equal(corrupted, rows) == (kind == "clean")


def test_an_unknown_corruption_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="unknown corruption 'fog'; choose one of clean, blur"):
        digits.corrupt(digits.split().held_rows, "fog", np.random.default_rng(0))


def test_the_split_is_balanced_and_shares_no_image() -> None:
    data = digits.split()
    assert len(data.train_rows) + len(data.held_rows) == 1797
    together = np.concatenate([data.train_rows, data.held_rows])
    assert len(np.unique(together, axis=0)) == len(together)
    difference = np.bincount(data.train_labels) - np.bincount(data.held_labels)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("requests", [1000, 6000])
@pytest.mark.parametrize("seed", [0, 7])
def test_every_phase_of_the_traffic_comes_back(requests: int, seed: int) -> None:
    stream = digits.traffic(requests, seed)
    assert stream.rows.shape == (requests, 64)
    assert stream.labels.shape == stream.phase.shape == (requests,)
    starts = np.flatnonzero(np.diff(stream.phase, prepend=-1))
    visits = [stream.phase_names[phase] for phase in stream.phase[starts]]
    assert all(visits.count(kind) >= 2 for kind in digits.CORRUPTIONS)
    assert np.diff(starts).min() >= requests / 30


def test_traffic_is_the_same_for_the_same_seed_and_differs_for_another() -> None:
    first, again, other = digits.traffic(500, 4), digits.traffic(500, 4), digits.traffic(500, 5)
    assert np.array_equal(first.rows, again.rows)
    assert np.array_equal(first.labels, again.labels)
    assert np.array_equal(first.phase, again.phase)
    assert not np.array_equal(first.rows, other.rows)


def test_traffic_needs_at_least_one_request() -> None:
    assert len(digits.traffic(1, 0).labels) == 1
    with pytest.raises(ValueError, match="at least 1"):
        digits.traffic(0, 0)


def test_the_recorded_log_has_the_promised_columns(log: pl.DataFrame) -> None:
    expected = ["label", "ts", "phase", *(f"x{i}" for i in range(64))]
    expected += [f"{name}__{part}" for name in MEMBERS for part in ("pred", "conf", "proba")]
    assert log.columns == expected
    assert log.height == 3000
    assert log["ts"].to_list()[:3] == [0, 0.1, 0.2]
    for name in MEMBERS:
        probabilities = np.array(log[f"{name}__proba"].to_list())
        assert probabilities.shape == (3000, 10)
        assert np.array_equal(probabilities.max(axis=1), log[f"{name}__conf"].to_numpy())
        # The label output breaks ties its own way; wherever it points, nothing is more probable.
        predicted = probabilities[np.arange(3000), log[f"{name}__pred"].to_numpy()]
        np.testing.assert_allclose(predicted, log[f"{name}__conf"].to_numpy(), atol=1e-6)


def test_no_member_and_not_the_vote_of_all_is_best_in_every_phase(log: pl.DataFrame) -> None:
    table = check.accuracies(log)
    assert set(table["phase"]) == set(digits.CORRUPTIONS)
    assert table.columns == ["phase", *MEMBERS, "vote"]
    check.check(table)


def test_an_ensemble_with_one_member_best_everywhere_is_reported() -> None:
    table = pl.DataFrame({"phase": ["a", "b"], "good": [0.9, 0.8], "poor": [0.5, 0.8], "vote": [0.7, 0.7]})
    with pytest.raises(ValueError, match="good is best in every phase"):
        check.check(table)
