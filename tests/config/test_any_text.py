"""Whatever a file holds, it loads or is refused; nothing else may happen."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bandmaster.config import Config, ConfigError, Source, load, parse

WORDS = (  # noqa: SIM905
    "orchestration args contract members accuracy latency energy cost explainability weight range goal scale from "
    "log profile plans stop_at include limit policy use constant plan probes share feedback window classes seed "
    "journal onnx bento_model a b all a+b a>b@0.9 1 0.5 -1 .nan .inf 1e999 0x1f 1:30 2001-01-01 = ~ yes no null "
    "5_ms 200ms 1J sqlite:///x {} []"
).split()
SYNTAX = [": ", "\n", "  ", "- ", "{", "}", "[", "]", ", ", "&a ", "*a", "<<", "!!int ", "!!str ", "!!float ",
          "!!bool ", "!!null ", "!!map ", "!x ", '"', "'", "? ", "| ", "> ", "#", "---\n", "%YAML 1.1\n", "\\",
          "\t", "\ufeff", "\x85", "\u2028", '"\\x', '"\\U', "\0"]  # fmt: skip

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.dates() | st.sampled_from(WORDS) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.integers(), inner),
    max_leaves=12,
)
METRIC = st.fixed_dictionaries(
    {},
    optional={
        "weight": values | st.floats(0, 2),
        "range": values | st.lists(st.sampled_from(["1 ms", "0 s", "1 J", "2 kJ"]) | st.floats(), max_size=3),
        "scale": st.sampled_from(["log", "linear"]) | values,
        "goal": st.sampled_from(["min", "max"]) | values,
        "from": st.sampled_from(["live", "profile"]) | values,
    },
)
METRICS = st.sampled_from(["accuracy", "confidence", "explainability", "latency", "energy", "cost"])
BLOCK = st.fixed_dictionaries(
    {"contract": st.dictionaries(METRICS, METRIC) | values},
    optional={
        "members": st.dictionaries(st.sampled_from(["a", "b"]), values | st.just({})) | values,
        "plans": st.dictionaries(
            st.sampled_from(["subsets", "cascades", "stop_at", "limit", "include"]), values | st.integers(0, 70)
        ),
        "policy": values
        | st.fixed_dictionaries(
            {},
            optional={
                "use": st.sampled_from(["exp4", "vw", "bandit"]) | values,
                "explore": st.dictionaries(st.sampled_from(["epsilon", "squarecb", "bag"]), values) | values,
                "experts": st.lists(st.sampled_from(["scoring", "constant:a", "constant:x"]) | values, max_size=3),
            },
        ),
        "classes": values,
        "feedback": values,
        "seed": values,
    },
)


def problems_of(read: Callable[[], Config]) -> tuple[str, ...]:
    """None for a configuration that can be used; any other exception goes through."""
    try:
        assert read().members
    except ConfigError as error:
        return error.problems
    return ()


def refused_or_loaded(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        problems = problems_of(lambda: load(path))
        assert all(problem.startswith(str(path)) for problem in problems)
        "\n".join(problems).encode()  # can be printed


@given(st.text() | st.lists(st.sampled_from(WORDS + SYNTAX)).map("".join))
@settings(max_examples=300, deadline=None)
def test_any_text_loads_or_is_refused(text: str) -> None:
    refused_or_loaded(text)


@given(st.lists(st.sampled_from(WORDS + SYNTAX)).map("".join))
@settings(max_examples=300, deadline=None)
def test_any_text_inside_a_block_loads_or_is_refused(text: str) -> None:
    refused_or_loaded("orchestration:\n  contract: {accuracy: {weight: 1}}\n  members: {a: {}, b: {}}\n  " + text)


@given(BLOCK)
@settings(max_examples=300, deadline=None)
def test_any_yaml_values_load_or_are_refused(block: dict[str, object]) -> None:
    refused_or_loaded(yaml.safe_dump({"orchestration": block}, allow_unicode=True))


@given(BLOCK)
@settings(max_examples=200, deadline=None)
def test_any_parsed_block_is_read_or_refused(block: dict[str, object]) -> None:
    problems = problems_of(lambda: parse(block, Source("block")))
    assert all(problem.startswith("block: ") for problem in problems)
