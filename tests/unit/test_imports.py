"""Imports point one way (each module may import only from rooms before its own), and only entry points have effects."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bandmaster

ROOT = Path(bandmaster.__file__).parent

ROOMS = [
    ["core"],
    [
        *("contract", "combine", "plans", "estimators", "features", "counterfactual", "intervals", "limits"),
        *("yaml_reader", "yaml_writer", "metrics", "consensus", "belief", "competence", "planner", "awaited", "probes"),
        *("errors", "files", "guard", "ledger", "breaker", "seldom", "seen", "changes"),
    ],
    [
        *("members", "policies", "journal", "drift", "power", "meter", "pin", "regimes", "state", "value_planner"),
        *("agents", "conductor", "rehearsal", "shadows", "edits", "replicas"),
        *(
            "table",
            "answers",
            "streams",
            "inputs",
            "recorded",
            "simulator",
            "rl_manager",
            "learner",
            "lean",
            "calling",
            "reporters",
            "together",
        ),
    ],
    ["orchestrator"],
    ["references", "replay", "results", "visualizer", "gate", "export", "profile", "offpolicy", "windows"],
    ["testing", "config"],
    ["build", "config_manager", "hosting"],
    ["serving", "demo", "environment", "training"],
    ["cli"],
    ["auto", "__main__"],
]
PACKAGES = {
    "journal": [
        *("keys", "seal", "ids", "codec", "rules", "places", "snapshots", "spool"),
        *("relay", "schema", "reading", "memory", "sql", "sqlite", "postgres", "opening", "checkup"),
    ],
    "serving": [
        "pages",
        "telemetry",
        "tracing",
        "door",
        "signature",
        "discovery",
        "others",
        "live",
        "conducting",
        "learning",
        "learner_service",
        "worker",
        "desk",
        "front",
        "service",
    ],
    "offpolicy": ["estimators", "log", "model", "examples", "dsjson", "learning", "target", "evaluate"],
    "cli": [
        "shown",
        "played",
        "configured",
        "replayed",
        "simulated",
        "trained",
        "swept",
        "gated",
        "demonstrated",
        "evaluated",
        "converted",
        "exported",
        "pinned",
        "rotated",
        "initiated",
        "doctored",
        "edited",
        "watched",
    ],
    "replay": ["traffic", "trace", "playing", "hindsight", "kept", "spread", "engine"],
    "visualizer": [
        *("units", "page", "frontier", "verdict", "report"),
        *("tallies", "chronicle", "keeper", "explained", "summary", "dashboard", "served"),
    ],
    "config": [
        "records",
        "values",
        "contract",
        "members",
        "plans",
        "policy",
        "guard",
        "faults",
        "limits",
        "checks",
        "block",
        "schema",
        "simulation",
    ],
}
FREE = {"__init__"}


def room_of(module: str) -> int:
    top = module.split(".")[1] if "." in module else "__init__"
    return next((i for i, names in enumerate(ROOMS) if top in names), -1)


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(("bandmaster", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        yield name, ast.parse(path.read_text())


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = ROOT.parent.joinpath(*node.module.split("."))
            there = [a.name for a in node.names if (inside / f"{a.name}.py").exists() or (inside / a.name).is_dir()]
            yield from ([f"{node.module}.{name}" for name in there] or [node.module])


@pytest.mark.parametrize(("name", "tree"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_module_imports_only_from_rooms_before_its_own(name, tree):
    if name == "bandmaster":
        return
    assert room_of(name) >= 0, f"{name} has no room; give it one in ROOMS"
    for other in imported(tree):
        if other.startswith("bandmaster."):
            assert room_of(other) <= room_of(name), f"{name} imports {other} from a later room"


@pytest.mark.parametrize(("package", "name"), [(p, name) for p, names in PACKAGES.items() for name in names])
def test_within_a_package_of_several_layers_too_imports_point_one_way(package, name):
    tree = ast.parse((ROOT / package / f"{name}.py").read_text())
    inside, order = f"bandmaster.{package}", PACKAGES[package]
    own = [m.removeprefix(f"{inside}.") for m in imported(tree) if m.startswith(inside)]
    assert all(other in order[: order.index(name)] for other in own)
    assert {path.stem for path in (ROOT / package).glob("*.py")} == {"__init__", *order}


@pytest.mark.parametrize(("name", "tree"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_only_serving_and_hosting_know_bentoml(name, tree):
    if name.split(".")[1:2] not in (["serving"], ["hosting"], ["auto"], ["demo"]):
        assert not [m for m in imported(tree) if m.split(".")[0] in ("bentoml", "_bentoml_sdk", "_bentoml_impl")]


def test_the_request_path_can_be_imported_without_bentoml_or_a_web_server():
    code = "import sys, bandmaster.orchestrator, bandmaster.replay; print(*(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"bentoml", "starlette", "uvicorn", "onnxruntime"} & set(loaded)


def test_neither_a_server_nor_a_command_waits_for_what_takes_longest_to_import():
    """Scikit-learn and SciPy's statistics: half of the time that it took to start, for what few of them need."""
    code = "import sys, bandmaster.serving, bandmaster.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"sklearn", "scipy.stats", "scipy.optimize", "river", "matplotlib"} & set(loaded)
