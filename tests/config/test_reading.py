"""What a good configuration becomes."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bandmaster.breaker import Breaking
from bandmaster.config import (
    UNITS,
    Config,
    DriftConfig,
    FaultsConfig,
    FeedbackConfig,
    MemberConfig,
    PlansConfig,
    PolicyConfig,
    Source,
    load,
    parse,
    quantity,
)
from bandmaster.contract import Contract, Metric
from bandmaster.core import BandmasterError, Profile
from bandmaster.guard import Guarding
from bandmaster.ledger import Allowance
from bandmaster.metrics import ImportedFunction
from bandmaster.policies.exploration import Exploration
from bandmaster.probes import Probing

CONFIGS = Path(__file__).parents[2] / "configs"

FULL = """\
service: "bandmaster.auto:svc"
include: ["*.py", "*.py"]
docker: &d {env: *d}
args:
  other: 1
  orchestration:
    service: "service:Digits"
    method: classify
    returns: scores
    contract:
      accuracy:       {weight: 6, range: [0.5, 1]}
      confidence:     {weight: 1, goal: max, scale: linear}
      explainability: {weight: 0.5}
      latency:        {weight: 1.5, goal: min, range: [1 ms, 200 ms], scale: log}
      energy:         {weight: 1.0, range: [1 mJ, 0.5 Wh], scale: log, from: profile}
      cost:           {weight: 0, range: [0, 0.01], from: live}
    members:
      linear: {bento_model: "digits-linear:latest", profile: {energy: 124 mJ, explainability: 0.4}}
      forest:
        onnx: models/forest.onnx
        profile: {latency: 34 ms, energy: 1 J, cost: 0.001, explainability: 1}
      logged: {profile: {energy: 5 µJ, explainability: 0}}
    classes: [0, 1, two]
    plans:
      subsets: 3
      cascades: 1
      stop_at: [0.5, 1]
      limit: 100
      include: [linear>forest@0.9, linear+logged~recent, all]
    policy: {use: constant, explore: {epsilon: 0.1}, plan: linear+forest}
    probes: {share: 0}
    drift: {detector: adwin, delta: 0.01, reaction: none}
    guard: {mode: canary, baseline: forest, loss_budget: 0.05, burn: 7, silence: 5 min}
    feedback: {window: 10 min, missing: skip}
    journal: sqlite:///data/j.db
    seed: 7
"""


@pytest.fixture
def full(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "forest.onnx").write_bytes(b"")
    path = tmp_path / "bentofile.yaml"
    path.write_text(FULL, encoding="utf-8")
    return path


def test_every_key_of_the_block_is_read(full: Path) -> None:
    root = full.parent
    linear = MemberConfig(
        "linear", bento_model="digits-linear:latest", profile=Profile(energy_j=0.124, explainability=0.4)
    )
    forest = MemberConfig("forest", root / "models/forest.onnx", None, Profile(0.034, 1.0, 0.001, 1.0))
    assert load(full) == Config(
        service="service:Digits",
        method="classify",
        returns="scores",
        contract=Contract.of(
            Metric("accuracy", 6, low=0.5),
            Metric("confidence", 1),
            Metric("explainability", 0.5),
            Metric("latency", 1.5, "min", 0.001, 0.2, "log"),
            Metric("energy", 1.0, "min", 0.001, 1800.0, "log", "profile"),
            Metric("cost", 0, "min", 0.0, 0.01),
        ),
        members=(
            linear,
            forest,
            MemberConfig("logged", profile=Profile(energy_j=5e-6, explainability=0.0)),
        ),
        classes=(0, 1, "two"),
        plans=PlansConfig(3, 1, (0.5, 1.0), 100, ("linear>forest@0.9", "linear+logged~recent", "all")),
        policy=PolicyConfig("constant", Exploration("epsilon", 0.1), "linear+forest"),
        probes=Probing(0.0),
        drift=DriftConfig("adwin", 0.01, "none"),
        guard=Guarding("canary", "forest", Allowance(0.05, 7.0), 300.0),
        feedback=FeedbackConfig(600.0),
        journal="sqlite:///data/j.db",
        seed=7,
        root=root,
        source=Source(str(full), "args.orchestration", root),
    )


def test_a_metric_of_the_users_own_and_accuracy_by_consensus_are_read(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    contract = (
        "accuracy: {weight: 3, from: consensus}, "
        'fairness: {weight: 1, use: "my_metrics:fairness", range: [-1, 2], goal: min}'
    )
    profile = "{profile: {accuracy: 0.9, calibration: 0.05}}"
    path.write_text(f"orchestration: {{contract: {{{contract}}}, members: {{a: {profile}, b: {{}}, c: {{}}}}}}")
    config = load(path)
    assert config.contract == Contract(
        (
            Metric("accuracy", 0.75, source="consensus"),
            Metric("fairness", 0.25, "min", -1.0, 2.0, use=ImportedFunction("my_metrics:fairness", tmp_path)),
        )
    )
    assert config.contract.by_consensus
    assert config.contract.describe()["accuracy"]["proxy"] is True
    assert config.contract.describe()["fairness"]["use"] == "my_metrics:fairness"
    assert config.members[0].profile == Profile(accuracy=0.9, calibration=0.05)


def test_what_is_left_out_has_the_documented_default(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text("orchestration: {contract: {accuracy: {weight: 2}}, members: {a: {}}}")
    config = load(path)
    assert config == Config(
        contract=Contract((Metric("accuracy", 1.0),)),
        members=(MemberConfig("a"),),
        source=Source(str(path), "orchestration", tmp_path),
        root=tmp_path,
    )
    assert (config.service, config.method, config.returns) == (None, "predict", "label")
    assert (config.classes, config.seed, config.journal) == (None, None, "sqlite:///orchestration.db")
    assert config.plans == PlansConfig(2, 2, (0.7, 0.8, 0.9, 0.95), 64, ())
    assert config.policy == PolicyConfig("bandit", Exploration("epsilon", 0.005), None)
    assert config.probes.share == 0.02
    assert config.drift == DriftConfig("adwin", 0.002, "forget")
    assert config.feedback == FeedbackConfig(600.0, "skip")
    assert config.guard is None
    assert config.guarding == Guarding("shadow", "all")  # a new block costs nobody anything
    assert config.faults == FaultsConfig(Breaking(5, 10.0, 0.5), None)


def test_empty_sections_mean_their_defaults(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    sections = ", ".join(f"{name}: {{}}" for name in ("policy", "probes", "drift", "feedback"))
    start = "contract: {accuracy: {weight: 1}}, members: {a: {}}, plans: {include: []}"
    path.write_text(f"orchestration: {{{start}, {sections}}}")
    assert load(path).plans == PlansConfig()


@pytest.mark.parametrize(
    ("block", "baseline"),
    [
        ("guard: {}", "all"),
        ("guard: {baseline: constant}", "all"),
        ("guard: {baseline: constant}, policy: {use: constant, plan: a+b}", "a+b"),
        ("guard: {baseline: a>b@0.9}, policy: {use: constant, plan: a+b}", "a>b@0.9"),
    ],
)
def test_a_guard_is_against_the_plan_it_names_or_that_of_the_constant_policy(
    tmp_path: Path, block: str, baseline: str
) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(f"orchestration: {{contract: {{accuracy: {{weight: 1}}}}, members: {{a: {{}}, b: {{}}}}, {block}}}")
    assert load(path).guard == Guarding("shadow", baseline, Allowance(0.02, 20.0))


@pytest.mark.parametrize("mode", ["off", "shadow", "canary", "live"])
def test_every_mode_of_a_guard_is_written_as_it_is_called(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(
        f"orchestration: {{contract: {{accuracy: {{weight: 1}}}}, members: {{a: {{}}}}, guard: {{mode: {mode}}}}}"
    )
    guard = load(path).guard
    assert guard is not None
    assert guard.mode == mode


def test_without_a_guard_a_service_is_in_the_shadow_and_only_none_lets_the_policy_answer_everything(
    tmp_path: Path,
) -> None:
    path = tmp_path / "small.yaml"
    start = "orchestration: {contract: {accuracy: {weight: 1}}, members: {a: {}, b: {}}, "
    path.write_text(start + "policy: {use: constant, plan: a+b}}")
    assert load(path).guarding == Guarding("shadow", "a+b")
    path.write_text(start + "guard: none}")
    assert (load(path).guard, load(path).guarding) == (None, None)


@pytest.mark.parametrize(
    ("written", "columns"),
    [
        ("", None),
        (", features: all", None),
        (", features: none", ()),
        (", features: []", ()),
        (", features: [3, 0, 3]", (0, 3)),
    ],
)
def test_the_columns_that_may_be_recorded_are_read(
    tmp_path: Path, written: str, columns: tuple[int, ...] | None
) -> None:
    path = tmp_path / "small.yaml"
    start = "orchestration: {contract: {accuracy: {weight: 1}}, members: {a: {}}, retention: 90 d, feedback: {rate: 5}"
    path.write_text(f"{start}, replicas: 3{written}}}")
    config = load(path)
    assert (config.features, config.retention_s, config.feedback.rate) == (columns, 90 * 86400.0, 5.0)
    assert config.replicas == 3


@pytest.mark.parametrize(
    ("guard", "baseline"),
    [("", "all"), ("guard: {mode: off, baseline: a}", "a"), ("guard: {mode: canary}", None), ("guard: none", None)],
)
def test_limits_that_a_baseline_in_the_shadow_does_not_keep_are_known(
    tmp_path: Path, guard: str, baseline: str | None
) -> None:
    path = tmp_path / "small.yaml"
    start = "orchestration: {contract: {accuracy: {weight: 1}}, members: {a: {}, b: {}}"
    path.write_text(f"{start}, limits: {{deadline: 1 s}}, {guard}}}")
    assert load(path).ignores_limits == baseline
    path.write_text(f"{start}, {guard}}}")
    assert load(path).ignores_limits is None


def test_a_block_that_bentoml_has_parsed_reads_as_the_file_does(full: Path) -> None:
    block = yaml.safe_load(FULL.replace("docker: &d {env: *d}\n", ""))["args"]["orchestration"]
    source = Source(str(full), "args.orchestration", full.parent)
    assert parse(block, source) == load(full)


def test_a_config_cannot_be_changed(full: Path) -> None:
    with pytest.raises(FrozenInstanceError):
        load(full).seed = 1  # type: ignore[misc]


def test_paths_of_members_start_from_the_files_folder_not_from_the_working_one(
    full: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(full.parent)
    config = load(Path("bentofile.yaml"))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert config.members[1].onnx is not None
    assert config.members[1].onnx.is_file()


def test_a_byte_order_mark_and_quoted_keys_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_text('\ufeff"orchestration": {"contract": {"accuracy": {"weight": 1}}, "members": {"a": {}}}', "utf-8")
    assert load(path).members == (MemberConfig("a"),)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_every_file_in_configs_loads(path: Path) -> None:
    assert load(path).members


def test_there_are_files_in_configs() -> None:
    assert {"digits-replay.yaml", "frugalml.yaml", "imagenet16.yaml"} <= {p.name for p in CONFIGS.iterdir()}


@pytest.mark.parametrize("dimension", UNITS)
@given(value=st.floats(1e-12, 1e6))
def test_a_figure_written_in_any_unit_reads_back_as_itself(dimension: str, value: float) -> None:
    for unit, size in UNITS[dimension].items():
        for text in (f"{value!r} {unit}", f"{value!r}{unit}"):
            assert quantity(text, dimension) == pytest.approx(value * float(size), rel=1e-15)


@pytest.mark.parametrize(
    ("text", "same"),
    [("200 ms", "0.2 s"), ("1 us", "0.000001 s"), ("10 min", "600 s"), ("1 h", "60 min"), ("7 µs", "7000 ns")],
)
def test_the_same_time_in_two_units_is_the_same_float(text: str, same: str) -> None:
    assert quantity(text, "time") == quantity(same, "time")


@pytest.mark.parametrize(
    ("text", "same"), [("5 mJ", "0.005 J"), ("1 Wh", "3.6 kJ"), ("3 uJ", "3 μJ"), ("3 µJ", "3e-6 J")]
)
def test_the_same_energy_in_two_units_is_the_same_float(text: str, same: str) -> None:
    assert quantity(text, "energy") == quantity(same, "energy")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("5", "has no unit; write one of ns us µs ms s min h d, as in 200 ms or 0.2 s"),
        ("5 J", "is an energy, but a time is meant"),
        ("5 MS", "unknown unit MS"),
        ("-1 s", "not below 0"),
        ("1e999 s", "must be finite"),
        ("1e999999999999999999999 h", "must be finite"),
        ("nan s", "no figure with a unit"),
        ("", "no figure with a unit"),
        ("1 s 2 s", "no figure with a unit"),
        ("٣ s", "no figure with a unit"),
    ],
)
def test_a_text_that_is_no_time_is_refused(text: str, why: str) -> None:
    with pytest.raises(BandmasterError, match=why.replace("(", r"\(")):
        quantity(text, "time")


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("{explore: {squarecb: {gamma: 50}}}", PolicyConfig("bandit", Exploration("squarecb", 50.0))),
        ("{explore: {softmax: {}}}", PolicyConfig("bandit", Exploration("softmax", 60.0))),
        ("{use: vw, explore: {bag: 7}}", PolicyConfig("vw", Exploration("bag", 7.0))),
        ("{use: vw, explore: {rnd: 2}}", PolicyConfig("vw", Exploration("rnd", 2.0))),
        ("{use: thompson}", PolicyConfig("thompson")),
        ("{use: exp4}", PolicyConfig("exp4")),
        (
            "{use: exp4, experts: [bandit, constant:a+b, constant]}",
            PolicyConfig("exp4", experts=("bandit", "constant:a+b", "constant")),
        ),
    ],
)
def test_a_policy_may_explore_in_many_ways_and_weigh_others(tmp_path: Path, policy: str, wanted: PolicyConfig) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        f"orchestration: {{contract: {{accuracy: {{weight: 1}}}}, members: {{a: {{}}, b: {{}}}}, policy: {policy}}}"
    )
    assert load(path).policy == wanted
