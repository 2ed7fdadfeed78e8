"""Setting values in a YAML text changes these values, and not a byte besides."""

import difflib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bandmaster.core import BandmasterError
from bandmaster.yaml_writer import with_values, write_values

TEXT = """\
service: "a:b"   # ours
args:
  orchestration:
    contract:
      accuracy:       {weight: 0.6}   # aligned by hand
    members:
      linear: {onnx: linear.onnx}  # the first
      forest:
        onnx: 'forest.onnx'        # quoted

      # a comment of its own
      price: {profile: {cost: 0.001, latency: 34 ms}}
      empty: {}
      block:
        profile:
          energy: 5 mJ   # by hand
          cost: 3
    plans: {limit: 12}
"""
MEMBERS = ("linear", "forest", "price", "empty", "block")
FIGURES = {"latency": "1.5 ms", "energy": "7 mJ"}


def at(member, figure="latency"):
    return ("args", "orchestration", "members", member, "profile", figure)


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_value_is_set_in_every_style_and_nothing_else_changes(member, newline):
    text = TEXT.replace("\n", newline)
    edited = with_values(text, {at(member, k): v for k, v in FIGURES.items()})
    profile = yaml.safe_load(edited)["args"]["orchestration"]["members"][member]["profile"]
    before = yaml.safe_load(text)["args"]["orchestration"]["members"][member].get("profile", {})
    assert profile == before | FIGURES
    assert edited.count("\n") == edited.count(newline)
    changes = [d for d in difflib.ndiff(text.splitlines(), edited.splitlines()) if d[0] in "+-"]
    assert len(changes) <= 3
    assert edited.count("#") == text.count("#")


def test_a_flow_mapping_grows_by_exactly_what_is_set():
    edited = with_values(TEXT, {at("linear"): "2 ms"})
    assert edited == TEXT.replace("{onnx: linear.onnx}", "{onnx: linear.onnx, profile: {latency: 2 ms}}")


def test_a_block_mapping_gets_a_line_after_its_last_and_before_the_next_comment():
    edited = with_values(TEXT, {at("forest"): "2 ms"})
    old = "        onnx: 'forest.onnx'        # quoted\n"
    assert edited == TEXT.replace(old, old + "        profile: {latency: 2 ms}\n")


def test_a_value_that_is_there_is_replaced_in_its_place():
    assert with_values(TEXT, {at("price"): "2 ms"}) == TEXT.replace("34 ms", "2 ms")
    assert with_values(TEXT, {at("block", "energy"): "2 mJ"}) == TEXT.replace("5 mJ", "2 mJ")


@given(st.sampled_from(MEMBERS), st.dictionaries(st.sampled_from(["latency", "energy", "x"]), st.integers(0, 99)))
def test_setting_the_same_values_again_changes_nothing(member, values):
    paths = {at(member, name): str(value) for name, value in values.items()}
    once = with_values(TEXT, paths)
    assert with_values(once, paths) == once


@pytest.mark.parametrize(
    "text",
    [
        "a: &x {b: 1}\nc: *x\n",  # a change of one would change the other
        "a: [1, 2]\n",
        "- a\n",
        "",
        "a: 1\na: {b: 2}\n",
    ],
)
def test_a_text_that_cannot_be_edited_faithfully_is_refused(text):
    with pytest.raises(BandmasterError, match="by hand"):
        with_values(text, {("a", "b"): "3"})


def test_a_file_keeps_its_rights_and_a_failed_edit_leaves_it_alone(tmp_path):
    file = tmp_path / "b.yaml"
    file.write_text(TEXT)
    file.chmod(0o640)
    write_values(file, {at("linear"): "2 ms"})
    assert "2 ms" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o640
    whole = file.read_text()
    with pytest.raises(BandmasterError, match=r"b\.yaml"):
        write_values(file, {("args", "orchestration", "members", "linear", "profile"): "[1, 2"})
    assert file.read_text() == whole
    assert [p.name for p in tmp_path.iterdir()] == ["b.yaml"]
