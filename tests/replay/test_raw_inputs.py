"""Raw inputs: members are asked about each row once, as they would be served, and what they say is kept."""

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from bandmaster import build, config, hosting
from bandmaster.cli import main
from bandmaster.core import BandmasterError
from bandmaster.features import features_of
from tests.serving.tiny import CLASSES, LABELS, POISON, ROWS, project

MEMBERS = ("linear", "tree", "bayes", "fragile")


@pytest.fixture
def folder(tmp_path):
    project(tmp_path / "p")
    columns = {f"x{i}": ROWS[:, i] for i in range(4)} | {"label": [CLASSES[k] for k in LABELS], "ctx_site": "north"}
    pl.DataFrame(columns).write_csv(tmp_path / "p" / "held.csv")
    return tmp_path / "p"


def read(folder, name="held.csv", told=None):
    return build.recorded_logs(config.load(folder / "bentofile.yaml"), [folder / name], folder / "cache", told)[0]


def test_each_member_says_what_its_model_does_to_the_row_alone(folder):
    log = read(folder)
    hosted = hosting.host(config.load(folder / "bentofile.yaml"))
    assert log.ensemble.names == MEMBERS
    assert log.ensemble.classes == hosted.ensemble.classes
    for m, name in enumerate(MEMBERS):
        alone = np.stack([hosted.members[name].predict(row[None])[0] for row in ROWS])
        np.testing.assert_allclose(log.scores[:, m], alone, atol=1e-6, err_msg=name)
    assert log.truth.tolist() == LABELS.tolist()
    assert (log.latency_s > 0.0).all()
    assert log.tags[0] == ("site=north",)


def test_it_is_asked_once_and_so_is_the_same_to_the_byte_ever_after(folder):
    said = []
    first, again = read(folder, told=said.append), read(folder, told=said.append)
    assert len(said) == 1 + len(MEMBERS), "the second time nobody is asked"
    np.testing.assert_array_equal(first.latency_s, again.latency_s)
    np.testing.assert_array_equal(first.scores, again.scores)


def test_other_rows_and_other_models_are_asked_anew(folder):
    said = []
    read(folder, told=said.append)
    frame = pl.read_csv(folder / "held.csv")
    frame.head(50).write_csv(folder / "fewer.csv")
    assert len(read(folder, "fewer.csv", said.append)) == 50
    assert len(said) == 2 * (1 + len(MEMBERS))
    models = sorted(folder.rglob("*.onnx"))
    tree, bayes = (next(p for p in models if p.stem == name) for name in ("tree", "bayes"))
    tree.write_bytes(bayes.read_bytes())
    swapped = read(folder, told=said.append)
    assert len(said) == 3 * (1 + len(MEMBERS))
    np.testing.assert_array_equal(swapped.scores[:, 1], swapped.scores[:, 2])


def test_a_member_that_fails_on_a_row_gave_no_answer_to_it(folder):
    frame = pl.read_csv(folder / "held.csv").with_columns(x0=pl.lit(POISON + 1.0))
    frame.write_csv(folder / "poison.csv")
    said = []
    log = read(folder, "poison.csv", said.append)
    assert not log.scores[:, MEMBERS.index("fragile")].any()
    assert log.scores[:, MEMBERS.index("linear")].any()
    assert "  fragile: 150 rows, 150 of them failed" in said


def test_a_policy_sees_the_features_that_it_is_served_with(folder):
    lists = pl.DataFrame({"pixels": ROWS.tolist(), "label": [CLASSES[k] for k in LABELS]})
    lists.write_parquet(folder / "lists.parquet")
    log = read(folder, "lists.parquet")
    shape = hosting.host(config.load(folder / "bentofile.yaml")).input_shape
    served = [features_of(row[None], summarise=None in shape) for row in ROWS]
    np.testing.assert_allclose(log.features, served)
    np.testing.assert_allclose(log.scores, read(folder).scores)


def test_the_command_replays_them(folder, tmp_path):
    asked = ["replay", folder / "held.csv", "--config", folder / "bentofile.yaml", "--cache", tmp_path, "--jobs", 1]
    asked += ["--seeds", 2, "--order", "shuffled", "--policies", "constant:linear,random", "--json"]
    first, again = (CliRunner().invoke(main, list(map(str, asked))) for _ in range(2))
    assert first.exit_code == 0, first.output
    assert "4 members answer its 150 rows" in first.stderr
    assert first.stdout == again.stdout


def test_what_does_not_fit_the_members_is_refused_by_name(folder, tmp_path):
    pl.DataFrame({"x0": [1.0, 2.0], "label": ["setosa", "virginica"]}).write_csv(folder / "narrow.csv")
    with pytest.raises(BandmasterError, match=r"narrow.csv: rows have 1 figures, but the members take rows of shape"):
        read(folder, "narrow.csv")
    pl.DataFrame({"age": [1.0, 2.0], "label": ["setosa", "virginica"]}).write_csv(folder / "unlike.csv")
    with pytest.raises(BandmasterError, match=r"unlike.csv: there is neither x0 … xn nor exactly one column of lists"):
        read(folder, "unlike.csv")
    (folder / "cache").rmdir() if (folder / "cache").exists() else None
    (folder / "cache").touch()
    with pytest.raises(BandmasterError, match="what members say cannot be kept there"):
        read(folder)
