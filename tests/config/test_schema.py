"""The JSON schema for editors and the readers of the block say the same, as far as a schema can say it."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from jsonschema import Draft7Validator

from bandmaster.cli import main
from bandmaster.config import ConfigError, Source, parse, values
from bandmaster.config.schema import schema
from tests.config.test_any_text import BLOCK, problems_of
from tests.config.test_refusals import APPENDED, GOOD, IN_CONTRACT, LATENCY, MEMBERS, METRICS, changed

ROOT = Path(__file__).parents[2]
WHOLE = schema()
FILE = Draft7Validator(WHOLE)
OF_BLOCK = Draft7Validator(WHOLE["definitions"]["block"])

BLOCKS = [
    """
    service: "service:Iris"
    method: classify
    task: classification
    returns: label
    contract:
      accuracy: {weight: 1, goal: max, range: [0, 1], scale: linear, from: live}
      confidence: {weight: 1, goal: max, range: [0, 1], scale: linear}
      explainability: {weight: 1, goal: max, range: [0, 1], scale: linear, from: live}
      latency: {weight: 1, goal: min, range: [1 ms, 1 s], scale: log, from: live}
      energy: {weight: 1, goal: min, range: [1 mJ, 1 J], scale: log, from: live}
      cost: {weight: 1, goal: min, range: [0, 1], scale: linear, from: live}
      fairness: {weight: 1, goal: max, range: [-1, 1], scale: linear, use: "mine:fairness"}
    profiles: {fast: {latency: 1}}
    members:
      a:
        onnx: a.onnx
        profile: {latency: 1 ms, energy: 1 mJ, cost: 1, explainability: 1, accuracy: 1, calibration: 0}
        weight: 1
        active: true
        providers: [cpu]
        deadline: 1 s
        isolated: false
      b: {bento_model: "b:latest", profile: {cost: 1, explainability: 1}}
    classes: [0, 1]
    plans: {subsets: 2, cascades: 2, stop_at: [0.9], limit: 64, include: [a+b]}
    policy: {use: vw, explore: {epsilon: 0.1}, agent: a.onnx, shadows: [b.onnx], promote: true, gate: 0.1}
    limits: {deadline: 1 s, energy: 1 J / 1 s, cost: 1 / 1 s}
    probes: {share: 0.1, adapt: true}
    drift: {detector: adwin, delta: 0.1, reaction: none}
    guard: {mode: shadow, baseline: a, loss_budget: 0.1, burn: 1, silence: 1 min}
    faults: {eject_after: 1, cooldown: 1 s, out_at_most: 0.5, fallback: 0}
    feedback: {window: 1 min, missing: skip, rate: 1}
    features: [0]
    journal: sqlite:///j.db
    durability: full
    retention: 1 h
    replicas: 2
    seed: 1
    """,
    "{contract: {accuracy: {weight: 1}}, members: {a: {open_inference: 'http://b', model: c, version: '1', input: d, "
    "output: e, token: F}, g: {bento: 'h:I', method: j}, k: {open_inference: 'grpcs://[::1]:8001', model: c}}}",
    "{contract: {accuracy: {weight: 1, error: [0, 1]}}, members: {a: {}}, task: regression, faults: {fallback: 1.5}}",
    *(
        f"{{contract: {{accuracy: {{weight: 1}}}}, members: {{a: {{}}, b: {{}}}}, policy: {{{policy}}}}}"
        for policy in (
            "use: constant, plan: a",
            "use: exp4, experts: [scoring, 'constant:a']",
            "explore: {squarecb: {gamma: 1}}",
            "explore: {softmax: {lambda: 1}}",
            "use: vw, explore: {bag: 1}",
            "use: vw, explore: {rnd: 1}",
            "use: 'mine:Policy'",
        )
    ),
]
"""Blocks in which, together, everything stands that there is."""


@dataclass(frozen=True)
class Asked:
    """What a reader asked for at a place: the reader's name and what it was given."""

    path: tuple[str | int, ...]
    reader: str
    arguments: tuple[Any, ...]


READERS = ("fields_of", "number_of", "integer_of", "choice_of", "flag_of", "text_of", "items_of")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Asked]:
    """All that the readers of the block ask for as they read ``BLOCKS``."""
    notes: list[Asked] = []

    def noting(name: str) -> Any:
        reader = getattr(values, name)

        def read(at: Any, *arguments: Any, **options: Any) -> Any:
            if at is not None:
                notes.append(Asked(at.path, name, (*arguments, *options.values())))
            return reader(at, *arguments, **options)

        return read

    modules = [m for name, m in sys.modules.items() if name.startswith("bandmaster.config.") and name.count(".") == 2]
    for name in READERS:
        wrapped = noting(name)
        for module in modules:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, wrapped)
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).touch()
    for block in BLOCKS:
        parse(yaml.safe_load(block), Source("whole", "", tmp_path))
    return notes


def nodes(path: tuple[str | int, ...]) -> Iterator[dict[str, Any]]:
    """What the schema says at a path of the block; of alternatives, each."""
    found = [WHOLE["definitions"]["block"]]
    for step in path:
        under = []
        for node in found:
            for way in node.get("anyOf", [node]):
                if isinstance(step, int):
                    under += [way["items"]] if "items" in way else []
                elif step in way.get("properties", {}):
                    under.append(way["properties"][step])
                elif way.get("additionalProperties"):
                    under.append(way["additionalProperties"])
        found = under
    for node in found:
        yield from node.get("anyOf", [node])


def agrees(node: dict[str, Any], note: Asked) -> bool:
    """Whether this is what the reader asked for."""
    arguments = note.arguments
    if note.reader == "fields_of":
        known, required = arguments[0], arguments[1] if len(arguments) > 1 and arguments[1] else {}
        if note.path[:-1] == ("profiles",):  # whose keys are the contract's
            return node["type"] == "object" and set(known) == set(parsed_contract())
        decides = (
            {"use"} if note.path == ("contract", "fairness") else set()
        )  # by it a reader knows a metric of one's own
        same_keys = set(node.get("properties", {})) == set(known)
        return same_keys and set(node.get("required", ())) == set(required) | decides
    if note.reader == "number_of":
        _, low, high, *above = arguments
        lower = node.get("exclusiveMinimum") if above == [True] else node.get("minimum")
        return node.get("type") == "number" and (lower, node.get("maximum")) == (low, high)
    if note.reader == "integer_of":
        return (node.get("type"), node.get("minimum"), node.get("maximum")) == ("integer", *arguments[1:3])
    if note.reader == "choice_of":
        return [option for option in node.get("enum", ()) if option is not False] == list(arguments[1])
    if note.reader == "flag_of":
        return node.get("type") == "boolean"
    if note.reader == "items_of":
        return node.get("type") == "array"
    ascii_alone = arguments[0].replace(r"\w", "A-Za-z0-9_")
    return node.get("pattern") == f"^(?:{ascii_alone})$"


def parsed_contract() -> dict[str, Any]:
    contract: dict[str, Any] = yaml.safe_load(BLOCKS[0])["contract"]
    return contract


BY_TEXT = {("limits", "energy"), ("limits", "cost")}
"""A budget is one text, of which the readers read the parts."""

EITHER = {("faults", "fallback")}
"""A label, or in regression a value: the schema has one for both."""


def test_what_the_readers_ask_for_stands_in_the_schema(asked):
    assert len(asked) > 100
    for note in asked:
        if note.path not in BY_TEXT | EITHER:
            assert any(agrees(node, note) for node in nodes(note.path)), note


def test_what_stands_in_the_schema_is_asked_for_by_the_readers(asked):
    mappings = {note.path: set(note.arguments[0]) for note in asked if note.reader == "fields_of"}
    known = {(*path, key) for path, keys in mappings.items() for key in keys}

    def places(node: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for way in node.get("anyOf", [node]):
            for key, under in way.get("properties", {}).items():
                yield (*path, key)
                yield from places(under, (*path, key))
            if way.get("type") == "object" and way.get("additionalProperties"):
                some = {"contract": "fairness", "profiles": "fast", "members": "a"}[path[0]]
                yield from places(way["additionalProperties"], (*path, some))

    metrics = {("contract", name) for name in parsed_contract()}  # each is read by its name
    assert set(places(WHOLE["definitions"]["block"], ())) <= known | metrics


def test_every_figure_with_a_unit_is_taken_with_every_unit_that_there_is():
    for place, dimension in ((("feedback", "window"), "time"), (("members", "a", "profile", "energy"), "energy")):
        (node,) = nodes(place)
        for unit in values.UNITS[dimension]:
            for text in (f"5 {unit}", f"5{unit}", f".5e1 {unit}", f" 5. {unit} "):
                assert Draft7Validator(node).is_valid(text), text
                assert math.isfinite(values.quantity(text, dimension))


# ---- Files -----------------------------------------------------------------------------------------------------


def documents() -> Iterator[tuple[str, object]]:
    """Every YAML of this repository that holds a block, and each that stands in a page."""
    for folder in ("bento", "configs", "examples", "benchmarks", "tests"):
        for path in sorted((ROOT / folder).rglob("*.y*ml")):
            yield path.relative_to(ROOT).as_posix(), yaml.safe_load(path.read_text())
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for k, text in enumerate(re.findall(r"^```yaml[^\n]*\n(.*?)^```", path.read_text(), re.M | re.S)):
            found = yaml.safe_load(text)
            if "contract" in found:  # the inside of a block
                found = {"orchestration": {"members": {"a": {}}, **found}}
            yield f"{path.relative_to(ROOT)}#{k}", found


HELD = [
    (name, found) for name, found in documents() if isinstance(found, dict) and {"args", "orchestration"} & {*found}
]


@pytest.mark.parametrize("found", [found for _, found in HELD], ids=[name for name, _ in HELD])
def test_every_block_of_this_repository_is_taken(found):
    assert [error.message for error in FILE.iter_errors(found)] == []


def test_there_are_blocks_to_be_taken():
    folders = {re.split("[/#]", name)[0] for name, _ in HELD}
    assert {"README.md", "bento", "configs", "docs", "examples"} <= folders


# ---- Refusals --------------------------------------------------------------------------------------------------

UNKNOWN = {
    *("range: [200 ms, 1 ms]", "range: [5 ms, 0.005 s]", "range: [-1 ms, 5 s]"),
    "range: [0 ms, 1 s]\n        scale: log",
    *("accuracy: {weight: .nan}", "accuracy: {weight: 1, range: [1, 0]}"),
    'fairness: {weight: 1, use: "a:b", range: [2, -1]}',
    'fairness: {weight: 1, use: "a:b", range: [-1, 2], scale: log}',
    *("plans: {stop_at: [0.9, 0.90000001]}", "plans: {include: [linear>boost@0.9]}"),
    *("plans: {include: [linear>forest]}", "plans: {include: [linear@0.9]}", "plans: {include: [linear~old]}"),
    *("policy: {use: constant, plan: mlp}", "policy: {use: exp4, experts: [bandit, constant:mlp]}"),
    *("guard: {baseline: best}", "guard: {silence: 0 s}", "feedback: {window: 0 s}", "retention: 5 min"),
    'service: "a:B\\n"',  # Python's $ matches before a newline, JavaScript's does not
    *("linear: {onnx: a.onnx}", "linear: {onnx: .}", "linear: {onnx: out.onnx}", "linear: {onnx: folder/a.onnx}"),
    "linear: {onnx: here.onnx, providers: [cuda, CUDAExecutionProvider]}",
    *("linear: {onnx: loop}", 'linear: {onnx: "a\\0b"}'),
}
"""Of the refusals that are tested, those that need more than a schema: figures compared, plans' names parsed, files."""

NO_VALUES = ("0x" + "f" * 100, "forest: {}", "no: {}", "[a]: {}")
"""What is refused as YAML already, so that there are no values to judge."""

CASES = [
    *((case[0], changed(LATENCY, case[0])) for case in IN_CONTRACT),
    *((case[0], changed("accuracy: {weight: 0.6}", case[0])) for case in METRICS),
    *((case[0], f"{GOOD}    {case[0]}\n") for case in APPENDED),
    *((case[0], changed("linear: {}", case[0])) for case in MEMBERS),
]
REFUSALS = [(new, text) for new, text in CASES if not any(part in new for part in NO_VALUES)]


@pytest.mark.parametrize(("new", "text"), REFUSALS, ids=[new[:40] for new, _ in REFUSALS])
def test_what_the_readers_refuse_the_schema_refuses_too_where_it_can_know(new, text):
    assert FILE.is_valid(yaml.safe_load(text)) == (new in UNKNOWN)


def test_the_refusals_that_a_schema_cannot_know_are_among_those_that_are_tested():
    assert {new for new, _ in REFUSALS} >= UNKNOWN


@pytest.mark.parametrize("policy", ["{agent: a.onnx, shadows: b.onnx}", "{agent: a.onnx, gate: 2}"])
def test_what_an_agent_is_compared_with_is_refused_alike(policy):
    assert not FILE.is_valid(yaml.safe_load(f"{GOOD}    policy: {policy}\n"))


@given(BLOCK)
@settings(max_examples=300, deadline=None)
def test_whatever_the_schema_refuses_the_readers_refuse(block):
    if not OF_BLOCK.is_valid(_json_keys(block)):
        assert problems_of(lambda: parse(block, Source("block")))


def _json_keys(value: Any) -> Any:
    """The value with every key a text, as JSON would have it."""
    if isinstance(value, dict):
        return {str(key): _json_keys(item) for key, item in value.items()}
    return [_json_keys(item) for item in value] if isinstance(value, list) else value


def test_the_command_prints_it():
    printed = CliRunner().invoke(main, ["schema"])
    assert json.loads(printed.stdout) == WHOLE
    Draft7Validator.check_schema(WHOLE)


def test_a_file_that_holds_no_block_is_none_of_its_business():
    assert FILE.is_valid({"service": "service:Iris", "include": ["*.py"], "args": {"other": 1}})
    with pytest.raises(ConfigError):
        parse({}, Source("empty"))
