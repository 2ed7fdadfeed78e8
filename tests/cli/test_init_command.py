"""``bandmaster init``: a block that is accepted, in the shadow, and nothing else changed."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bandmaster import config
from bandmaster.cli import main
from bandmaster.guard import Guarding
from tests.serving.tiny import models

BENTO = '# mine\nservice: "service:Iris"  # the class\ninclude: ["*.py", "*.onnx"]\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, model in models().items():
        (tmp_path / f"{name}.onnx").write_bytes(model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["init", "bentofile.yaml", *arguments])


def test_the_block_is_accepted_as_it_stands_and_starts_in_the_shadow(folder: Path) -> None:
    done = init("linear.onnx", "tree.onnx", "--service", "service:Iris", "--method", "classify", "--baseline", "tree")
    assert done.exit_code == 0, done.output
    assert "2 members, 8 plans; tree answers, and the policy is in the shadow." in done.output
    read = config.load(folder / "bentofile.yaml")
    assert (read.service, read.method) == ("service:Iris", "classify")
    assert [m.name for m in read.members] == ["linear", "tree"]
    assert read.guard == Guarding("shadow", "tree")
    checked = CliRunner().invoke(main, ["check", "bentofile.yaml"])
    assert checked.exit_code == 0
    assert "warning" not in checked.output  # the ranges tell the members apart


def test_a_bentofile_that_is_there_keeps_all_but_its_service(folder: Path) -> None:
    (folder / "bentofile.yaml").write_text(BENTO)
    assert init("linear.onnx", "tree.onnx", "--method", "classify").exit_code == 0
    text = (folder / "bentofile.yaml").read_text()
    assert text.startswith(BENTO.replace("service:Iris", "bandmaster.auto:svc"))
    assert config.load(folder / "bentofile.yaml").service == "service:Iris"


@pytest.mark.parametrize(
    ("before", "arguments", "told"),
    [
        ("", ["linear.onnx"], "names no service; give yours, as in --service service:Digits"),
        ('service: "bandmaster.auto:svc"\n', ["linear.onnx"], "names no service"),
        (BENTO + "args: {a: 1}\n", ["linear.onnx"], "has args: already"),
        ("- a\n", ["linear.onnx"], "is no mapping"),
        ("a: [", ["linear.onnx"], "cannot be read as YAML"),
        (BENTO, ["absent.onnx"], "absent.onnx is no file; put the model there or correct the path"),
        (BENTO, ["linear.onnx", "./linear.onnx"], "there is a member 'linear' already; give models different names"),
        (BENTO, ["../linear.onnx"], "lies outside"),
        (BENTO, ["linear.onnx", "--baseline", "x"], "--baseline: plan 'x': no member 'x'"),
        (BENTO, ["nowhere:latest"], "'nowhere:latest' is not in BentoML's model store"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(
    folder: Path, before: str, arguments: list[str], told: str
) -> None:
    (folder / "bentofile.yaml").write_text(before)
    done = init(*arguments)
    assert (done.exit_code, told in done.output) == (2, True), done.output
    assert (folder / "bentofile.yaml").read_text() == before


def test_names_that_no_member_may_have_are_changed(folder: Path) -> None:
    (folder / "1 best.onnx").write_bytes(models()["linear"])
    (folder / "all.onnx").write_bytes(models()["tree"])
    assert init("1 best.onnx", "all.onnx", "--service", "service:Iris").exit_code == 0
    assert [m.name for m in config.load(folder / "bentofile.yaml").members] == ["m-1-best", "m-all"]
