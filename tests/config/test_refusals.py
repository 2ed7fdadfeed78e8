"""What a bad configuration is told: the file, the line, the path, the value and the fix."""

from datetime import date
from pathlib import Path

import pytest

from bandmaster.config import ConfigError, Source, load, parse
from bandmaster.yaml_reader import MAX_PROBLEMS

GOOD = """\
args:
  orchestration:
    contract:
      accuracy: {weight: 0.6}
      latency:
        weight: 0.15
        range: [1 ms, 200 ms]
    members:
      linear: {}
      forest: {profile: {latency: 34 ms}}
"""
O = "args.orchestration"  # noqa: E741


def problems(tmp_path: Path, text: str | bytes) -> tuple[str, ...]:
    """The problems of a file of this text, each without the folder."""
    path = tmp_path / "bentofile.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return tuple(problem.removeprefix(f"{tmp_path}/") for problem in caught.value.problems)


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


LATENCY = "range: [1 ms, 200 ms]"
IN_CONTRACT = [
    ("range: [200 ms, 1 ms]", 7, "range", "[200 ms, 1 ms] goes down; write [1 ms, 200 ms]"),
    ("range: [5 ms, 0.005 s]", 7, "range", "[5 ms, 0.005 s] has no width; write two different figures, as in"),
    ("range: [5 ms]", 7, "range", "[5 ms] is not two figures; write the least and the greatest, as in [1 ms"),
    ("range: 5 ms", 7, "range", "5 ms is not a list"),
    ("range: [200, 1 s]", 7, "range[0]", "200 has no unit; write 200 ms or 0.2 s"),
    ("range: [1 ms, 0.2]", 7, "range[1]", "0.2 has no unit; write 200 ms or 0.2 s"),
    ("range: [1 ms, 5 J]", 7, "range[1]", "5 J is an energy, but a time is meant; write one like 200 ms"),
    ("range: [1 ms, 5 sec]", 7, "range[1]", "5 sec has the unknown unit sec; write one of ns us µs ms s min h"),
    ("range: [-1 ms, 5 s]", 7, "range[0]", "-1 ms must be finite and not below 0"),
    ("range: [true, 5 s]", 7, "range[0]", "true is no figure with a unit; write one like 200 ms"),
    ("range: [0 ms, 1 s]\n        scale: log", 7, "range", "[0 ms, 1 s] touches 0, which has no logarithm"),
    ("range: [1 ms, 1 s]\n        scale: lin", 8, "scale", "lin is no choice here; write linear or log"),
    ("range: [1 ms, 1 s]\n        goal: up", 8, "goal", "up is no choice here; write max or min"),
    ("range: [1 ms, 1 s]\n        rang: 1", 8, "rang", "is an unknown key; did you mean range?"),
    ("range: [1 ms, 1 s]\n        from: log", 8, "from", "log is no choice here; write live or profile"),
    ("goal: min", 5, "range", "is missing; add range: [1 ms, 200 ms]"),
]


@pytest.mark.parametrize(("new", "line", "path", "text"), IN_CONTRACT, ids=[case[0] for case in IN_CONTRACT])
def test_a_wrong_metric_is_refused_at_its_line(tmp_path: Path, new: str, line: int, path: str, text: str) -> None:
    (problem,) = problems(tmp_path, changed(LATENCY, new))
    assert problem.startswith(f"bentofile.yaml:{line}: {O}.contract.latency.{path}: {text}")


METRICS = [
    ("accuracy: {weight: true}", "accuracy.weight: true is not a number; write one in [0, 1e+06]"),
    ('accuracy: {weight: "0.6"}', "accuracy.weight: 0.6 is text, not a number; write 0.6"),
    ("accuracy: {weight: 1e-3}", "accuracy.weight: 1e-3 is text, not a number; write 0.001"),
    ("accuracy: {weight: much}", "accuracy.weight: much is text, not a number; write a number in"),
    ("accuracy: {weight: -1}", "accuracy.weight: -1 is outside [0, 1e+06]"),
    ("accuracy: {weight: .nan}", "accuracy.weight: nan is outside [0, 1e+06]"),
    ("accuracy: {weight: .inf}", "accuracy.weight: inf is outside [0, 1e+06]"),
    (
        "accuracy: {weight: 0x" + "f" * 9000 + "}",
        "accuracy.weight: 0x" + "f" * 57 + "… is no int; write one, or quote text",
    ),
    ("accuracy: {weight: null}", "accuracy.weight: null is not a number"),
    ("accuracy: {}", "accuracy.weight: is missing; add weight: 0.5"),
    ("accuracy: 0.6", "accuracy: 0.6 is not a mapping; write {weight: …}"),
    ("accuracy: {weight: 1, from: profile}", "accuracy.from: profile is no choice here; write live or consensus"),
    ("confidence: {weight: 1, from: live}", "confidence.from: is an unknown key; use one of weight, goal"),
    ('accuracy: {weight: 1, use: "a:b"}', "accuracy.use: is an unknown key; use one of weight, goal"),
    ("fairness: {weight: 1}", "fairness: is an unknown key; use one of accuracy, confidence, explainability, latency"),
    ("fairness: {weight: 1, use: a}", "fairness.use: a cannot be used; write module:function, as in my_metrics:fai"),
    ('fairness: {weight: 1, use: "../a:b"}', "fairness.use: ../a:b cannot be used; write module:function"),
    ("fairness: {weight: 1, use: 5}", "fairness.use: 5 cannot be used; write module:function"),
    ('fairness: {use: "a:b"}', "fairness.weight: is missing; add weight: 0.5"),
    ('fairness: {weight: 1, use: "a:b", from: live}', "fairness.from: is an unknown key; use one of weight"),
    ('fairness: {weight: 1, use: "a:b", range: [2, -1]}', "fairness.range: [2, -1] goes down; write [-1, 2]"),
    ('fairness: {weight: 1, use: "a:b", range: [-1, 2], scale: log}', "fairness.range: [-1, 2] touches 0, which has"),
    ('fairness: {weight: 1, use: "a:b", range: [0, 2 s]}', "fairness.range[1]: 2 s is text, not a number"),
    ('Fairness: {weight: 1, use: "a:b"}', "Fairness: Fairness cannot be a metric's name; write small letters"),
    ('truth: {weight: 1, use: "a:b"}', "truth: truth cannot be a metric's name; write small letters, digits and _"),
    ('latency_term: {weight: 1, use: "a:b"}', "latency_term: latency_term cannot be a metric's name"),
    ("accuracy: {weight: 1, range: [0, 100]}", "accuracy.range[1]: 100 is outside [0, 1]; write a number inside"),
    ("accuracy: {weight: 1, range: [1, 0]}", "accuracy.range: [1, 0] goes down; write [0, 1]"),
    ("accuracy: {weight: 1, scale: log}", "accuracy.range: is missing, and a log scale cannot begin at 0; add"),
    ("acuracy: {weight: 1}", "acuracy: is an unknown key; did you mean accuracy?"),
    ("energy: {weight: 1, range: [1 mJ, 2 s]}", "energy.range[1]: 2 s is a time, but an energy is meant; write"),
    ("energy: {weight: 1, range: [1, 2 J]}", "energy.range[0]: 1 has no unit; write 1 mJ or 0.001 J"),
    ("energy: {weight: 1}", "energy.range: is missing; add range: [1 mJ, 5 J]"),
    ("cost: {weight: 0}", "cost.range: is missing; add range: [0, 0.01]"),
    ("cost: {weight: 0, range: [0, 1 USD]}", "cost.range[1]: 1 USD is text, not a number; write a number in"),
]


@pytest.mark.parametrize(("new", "text"), METRICS, ids=[case[0][:40] for case in METRICS])
def test_each_metric_is_checked(tmp_path: Path, new: str, text: str) -> None:
    (problem,) = problems(tmp_path, changed("accuracy: {weight: 0.6}", new))
    assert problem.startswith(f"bentofile.yaml:4: {O}.contract.{text}")


APPENDED = [
    ("plan: {}", "plan: is an unknown key; did you mean plans?"),
    ("guards: {}", "guards: is an unknown key; did you mean guard?"),
    ("zebra: {}", "zebra: is an unknown key; use one of service, method"),
    ("plans: [1]", "plans: [1] is not a mapping; write {subsets: …}"),
    ("plans:", "plans: null is not a mapping; write {subsets: …}"),
    ("plans: {subsets: 2.5}", "plans.subsets: 2.5 is not a whole number; write one from 0 to 64"),
    ("plans: {cascades: -1}", "plans.cascades: -1 is outside [0, 64]"),
    ("plans: {limit: 1}", "plans.limit: 1 is outside [2, 1024]; write a whole number inside"),
    ("plans: {limit: 1025}", "plans.limit: 1025 is outside [2, 1024]"),
    ("plans: {limit: true}", "plans.limit: true is not a whole number"),
    ("plans: {stop_at: [0]}", "plans.stop_at[0]: 0 is outside (0, 1]; write a number inside"),
    ("plans: {stop_at: [0.5, 1.1]}", "plans.stop_at[1]: 1.1 is outside (0, 1]"),
    ("plans: {stop_at: []}", "plans.stop_at: [] is not a list of at least one; write [0.8, 0.9]"),
    ("plans: {stop_at: 0.9}", "plans.stop_at: 0.9 is not a list of at least one"),
    ("plans: {stop_at: [0.9, 0.90000001]}", "plans.stop_at: has one threshold twice; keep one of them"),
    ("plans: {include: [linear>boost@0.9]}", "plans.include[0]: plan 'linear>boost@0.9': no member 'boost'; mem"),
    ("plans: {include: [linear>forest]}", "plans.include[0]: plan 'linear>forest': a cascade needs a threshold"),
    ("plans: {include: [linear@0.9]}", "plans.include[0]: plan 'linear@0.9': a cascade needs a threshold and on"),
    ("plans: {include: [linear~old]}", "plans.include[0]: plan 'linear~old': weights 'old' are unknown; write"),
    ("plans: {include: [5]}", "plans.include[0]: 5 is no plan's name; write one, as in a+b or a>b@0.9"),
    ("policy: {use: greedy}", "policy.use: greedy is no choice here; write bandit or constant or random or sco"),
    ("policy: {plan: linear}", "policy.plan: linear is for the constant policy only; remove it or write use: con"),
    ("policy: {use: constant, plan: mlp}", "policy.plan: plan 'mlp': no member 'mlp'; members are linear, fo"),
    ("policy: {explore: {epsilon: 1.5}}", "policy.explore.epsilon: 1.5 is outside [0, 1]; write a number"),
    ("policy: {epsilon: 0.1}", "policy.epsilon: is an unknown key; use one of use, explore, plan"),
    ("policy: {explore: {greedy: 1}}", "policy.explore.greedy: is an unknown key; use one of epsilon, squarecb, soft"),
    ("policy: {explore: {bag: 5}}", "policy.explore.bag: 5 is Vowpal Wabbit's own way; write use: vw, or explore by"),
    ("policy: {use: vw, explore: {rnd: 0}}", "policy.explore.rnd: 0 is outside [1, 64]"),
    ("policy: {explore: {squarecb: 10}}", "policy.explore.squarecb: 10 is not a mapping; write {gamma: …}"),
    ("policy: {explore: {softmax: {gamma: 10}}}", "policy.explore.softmax.gamma: is an unknown key; use one of lam"),
    ("policy: {explore: {epsilon: 0.1, bag: 2}}", "policy.explore: {…} names 2 ways; keep one of epsilon, bag"),
    ("policy: {experts: [scoring, random]}", "policy.experts: [scoring, random] is for exp4 only; remove it or wri"),
    ("policy: {use: exp4, experts: [scoring]}", "policy.experts: [scoring] is a single expert; write two policies"),
    ("policy: {use: exp4, experts: [scoring, exp4]}", "policy.experts[1]: exp4 is no expert; write one of bandit, c"),
    ("policy: {use: exp4, experts: [bandit, bandit]}", "policy.experts[1]: bandit stands twice; keep one of them"),
    ("policy: {use: exp4, experts: [bandit, constant:mlp]}", "policy.experts[1]: plan 'mlp': no member 'mlp'"),
    ("policy: {shadows: [linear.onnx]}", "policy.shadows: [linear.onnx] have nobody to be compared with; name the"),
    ("policy: {promote: true}", "policy.promote: true has nobody to promote; name agents under shadows:, or remove it"),
    ("policy: {promote: 1}", "policy.promote: 1 is neither true nor false; write one of them"),
    ("policy: {gate: 0.01}", "policy.gate: 0.01 is for what an agent edits; name one, as in agent: ppo.onnx, or rem"),
    ("probes: {share: -0.1}", "probes.share: -0.1 is outside [0, 1]; write a number inside"),
    ("probes: {share: 2 %}", "probes.share: 2 % is text, not a number; write a number in [0, 1]"),
    ("drift: {detector: kswin}", "drift.detector: kswin is no choice here; write adwin"),
    ("drift: {delta: 0}", "drift.delta: 0 is outside (0, 1]; write a number inside"),
    ("drift: {reaction: reset}", "drift.reaction: reset is no choice here; write forget or none"),
    ("guard: {mode: on}", "guard.mode: true is no choice here; write off or shadow or canary or live"),
    ("guard: {baseline: best}", "guard.baseline: plan 'best': no member 'best'"),
    ("guard: {baseline: [a]}", "guard.baseline: [a] is no plan's name; write one, as in a+b"),
    ("guard: {loss_budget: 2}", "guard.loss_budget: 2 is outside [0, 1]; write a number inside"),
    ("guard: {silence: 0 s}", "guard.silence: 0 s leaves no time; write 10 min"),
    ("guard: all", "guard: all is no guard; write {mode: shadow}, or none to have the policy answer every request"),
    ("retention: 5 min", "retention: 5 min is less than the feedback window of 600 s, in which outcomes still come"),
    ("retention: 90", "retention: 90 has no unit; write 90 d or 2160 h"),
    ("features: some", "features: some is no choice of columns; write all, none, or their numbers from 0"),
    ("features: [0, true]", "features: [0, true] is no choice of columns"),
    ("features: [-1]", "features: [-1] is no choice of columns"),
    ("feedback: {rate: 0}", "feedback.rate: 0 is outside (0, 1e+09]; write a number inside"),
    ("guard: {burn: 0}", "guard.burn: 0 is outside (0, 1e+09]; write a number inside"),
    ("faults: {eject_after: 0}", "faults.eject_after: 0 is outside [1, 1000000]; write a whole number inside"),
    ("faults: {cooldown: 10}", "faults.cooldown: 10 has no unit; write 10 s or 0.166667 min"),
    ("faults: {out_at_most: 50%}", "faults.out_at_most: 50% is text, not a number; write a number in [0, 1]"),
    ("faults: {fallback: [a]}", "faults.fallback: [a] is no label; write one of the classes"),
    ("feedback: {window: 600}", "feedback.window: 600 has no unit; write 600 s or 10 min"),
    ("feedback: {window: 0 s}", "feedback.window: 0 s leaves no time; write 10 min"),
    ("feedback: {window: 3 J}", "feedback.window: 3 J is an energy, but a time is meant"),
    ("feedback: {missing: zero}", "feedback.missing: zero is no choice here; write skip"),
    ("journal: mysql://x/y", "journal: mysql://x/y cannot be used; write sqlite:///orchestration.db"),
    ("journal: sqlite:///", "journal: sqlite:/// cannot be used; write sqlite:///orchestration.db"),
    ("durability: none", "durability: none is no choice here; write group or full"),
    ("journal: [a]", "journal: [a] cannot be used; write sqlite:///orchestration.db"),
    ("replicas: 0", "replicas: 0 is outside [1, 10000]"),
    ("seed: -1", "seed: -1 is outside [0, 9223372036854775807]"),
    ("seed: no", "seed: false is not a whole number"),
    ("service: Digits", "service: Digits cannot be used; write module:Class, as in service:Digits"),
    ('service: "a:B\\n"', "service: 'a:B\\n' cannot be used; write module:Class, as in service:Digits"),
    ("method: __del__", "method: __del__ cannot be used; write the name of a method, as in predict"),
    ("returns: proba", "returns: proba is no choice here; write label or scores"),
    ("classes: [a, a]", "classes[1]: a stands twice; write at least two different labels"),
    ("classes: [yes, no]", "classes[0]: true is no label; write a whole number, or a text in quotes"),
    ("classes: [0.5, 1]", "classes[0]: 0.5 is no label; write a whole number, or a text in quotes"),
    ("classes: [a]", "classes: [a] is a single class; write at least two different labels"),
    ("classes: [2001-01-01, 1]", "classes[0]: 2001-01-01 is a timestamp to YAML; put it in quotes if it is text"),
]  # fmt: skip


@pytest.mark.parametrize(("new", "text"), APPENDED, ids=[case[0] for case in APPENDED])
def test_each_setting_is_checked(tmp_path: Path, new: str, text: str) -> None:
    found = problems(tmp_path, f"{GOOD}    {new}\n")
    assert found[0].startswith(f"bentofile.yaml:11: {O}.{text}")
    assert len(found) == (2 if new == "classes: [yes, no]" else 1)


@pytest.mark.parametrize(
    ("new", "text"),
    [
        ("shadows: b.onnx", "shadows: b.onnx is not a list of at least one; write a list of agents' files, as in"),
        ("shadows: [gone.onnx]", "shadows[0]: gone.onnx is no file; put the model there or correct the path"),
        ("shadows: [b.onnx, a.onnx]", "shadows[1]: a.onnx stands twice; keep one of them"),
        ("gate: 2", "gate: 2 is outside [0, 1]; write a number inside"),
    ],
)
def test_what_an_agent_is_compared_with_is_checked(tmp_path: Path, new: str, text: str) -> None:
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).touch()
    (found,) = problems(tmp_path, f"{GOOD}    policy: {{agent: a.onnx, {new}}}\n")
    assert found.startswith(f"bentofile.yaml:11: {O}.policy.{text}")


MEMBERS = [
    ("linear: {profile: {latency: 34}}", "linear.profile.latency: 34 has no unit; write 34 ms or 0.034 s"),
    ("linear: {profile: {latency: 3 mJ}}", "linear.profile.latency: 3 mJ is an energy, but a time is meant"),
    ("linear: {profile: {energy: 3 s}}", "linear.profile.energy: 3 s is a time, but an energy is meant"),
    ("linear: {profile: {cost: 3 ct}}", "linear.profile.cost: 3 ct is text, not a number; write a number in"),
    ("linear: {profile: {explainability: 40}}", "linear.profile.explainability: 40 is outside [0, 1]"),
    ("linear: {profile: {accuracy: 97}}", "linear.profile.accuracy: 97 is outside [0, 1]"),
    ("linear: {profile: {power: 3}}", "linear.profile.power: is an unknown key; use one of latency, energy, cost"),
    ("linear:", "linear: null is not a mapping; write {onnx: …}"),
    ("linear: {onx: a.onnx}", "linear.onx: is an unknown key; did you mean onnx?"),
    ("linear: {onnx: a.onnx}", "linear.onnx: a.onnx is no file; put the model there or correct the path"),
    ("linear: {onnx: .}", "linear.onnx: . is no file"),
    ("linear: {onnx: /etc/passwd}", "linear.onnx: /etc/passwd leads out of this file's folder; put the model in"),
    ("linear: {onnx: C:/a.onnx}", "linear.onnx: C:/a.onnx leads out of this file's folder"),
    ("linear: {onnx: ../a.onnx}", "linear.onnx: ../a.onnx leads out of this file's folder"),
    ("linear: {onnx: 'a\\..\\a.onnx'}", "linear.onnx: a\\..\\a.onnx leads out of this file's folder"),
    ("linear: {onnx: out.onnx}", "linear.onnx: out.onnx is a link that leads out of this file's folder; put the"),
    ("linear: {onnx: folder/a.onnx}", "linear.onnx: folder/a.onnx is a link that leads out of this file's folder"),
    ("linear: {onnx: loop}", "linear.onnx: loop "),
    ('linear: {onnx: "a\\0b"}', "linear.onnx: 'a\\x00b' cannot be looked up (ValueError); write the path of"),
    ("linear: {onnx: 5}", "linear.onnx: 5 is no path; write one from this file's folder, as in forest.onnx"),
    ("linear: {bento_model: ../x}", "linear.bento_model: ../x cannot be used; write name:version, as in"),
    ("linear: {bento_model: 5}", "linear.bento_model: 5 cannot be used; write name:version"),
    ("linear: {onnx: here.onnx, bento_model: a}", "linear: has both onnx and bento_model; keep one of them"),
    ("a+b: {}", "a+b: a+b is no member name; write a letter, then up to 63 letters, digits, _ or -"),
    ("9a: {}", "9a: 9a is no member name"),
    ("all: {}", "all: all is no member name"),
    (f"{'a' * 65}: {{}}", f"{'a' * 59}…: {'a' * 59}… is no member name"),
    ("forest: {}", "forest: stands twice, first on line 9; keep one of them"),
    ("no: {}", "?: false is no text; put the key in quotes"),
    ("[a]: {}", "?: [a] is no text; put the key in quotes"),
]

MEMBERS += [
    (
        f"linear: {{open_inference: {url}, model: m}}",
        f"linear.open_inference: {url} cannot be used; write its address, ",
    )
    for url in (
        "far",
        "ftp://far",
        "http://me:secret@far",
        "http://far#x",
        "http://",
        "grpc://far",
        "grpc://far:1/x",
        "grpcs://a@far:1",
    )
] + [
    ("linear: {open_inference: http://far}", "linear.model: is missing; add model: resnet50"),
    ("linear: {open_inference: http://far, model: a/../b}", "linear.model: a/../b cannot be used; write the model's"),
    ("linear: {open_inference: http://far, model: m, version: 1.5}", "linear.version: 1.5 cannot be used; write a"),
    ("linear: {open_inference: http://far, model: m, token: s3cret-}", "linear.token: s3cret- cannot be used; write t"),
    (
        "linear: {open_inference: http://far, model: m, isolated: true}",
        "linear.isolated: true is for onnx and bento_mo",
    ),
    ("linear: {open_inference: http://far, model: m, onnx: here.onnx}", "linear: has both onnx and open_inference; k"),
    ("linear: {bento: service}", "linear.bento: service cannot be used; write module:Class, as in service:Other"),
    ("linear: {bento: 'a:B', method: 'no method'}", "linear.method: no method cannot be used; write the name of a"),
    ("linear: {bento: 'a:B', model: m}", "linear.model: m is for open_inference; leave it out"),
    ("linear: {onnx: here.onnx, method: x}", "linear.method: x is for bento; leave it out"),
    (
        "linear: {onnx: here.onnx, providers: [gpu]}",
        "linear.providers[0]: gpu is no execution provider; write a list",
    ),
    (
        "linear: {onnx: here.onnx, providers: cuda}",
        "linear.providers: cuda is not a list of at least one; write a list",
    ),
    (
        "linear: {onnx: here.onnx, providers: [cuda, CUDAExecutionProvider]}",
        "linear.providers[1]: CUDAExecutionProvider is named twice; keep one of them",
    ),
    ("linear: {bento: 'a:B', providers: [cuda]}", "linear.providers: [cuda] is for onnx and bento_model; leave it out"),
    ("linear: {onnx: here.onnx, host: cuda}", "linear.host: is an unknown key"),
    ("linear: {onnx: here.onnx, output: x}", "linear.output: x is for open_inference; leave it out"),
]


@pytest.mark.parametrize(("new", "text"), MEMBERS, ids=[case[0][:40] for case in MEMBERS])
def test_each_member_is_checked(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, new: str, text: str) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "a.onnx").touch()
    (tmp_path / "here.onnx").touch()
    (tmp_path / "out.onnx").symlink_to(outside / "a.onnx")
    (tmp_path / "folder").symlink_to(outside)
    (tmp_path / "loop").symlink_to("loop")
    found = problems(tmp_path, changed("linear: {}", new))
    line = 10 if "stands twice" in text else 9
    assert found[0].startswith(f"bentofile.yaml:{line}: {O}.members.{text}")


def test_a_figure_from_the_profile_must_be_in_every_profile(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, changed(LATENCY, f"{LATENCY}\n        from: profile"))
    assert problem == (
        f"bentofile.yaml:10: {O}.members.linear: has no profile.latency, which the contract counts; "
        "add profile: {latency: 34 ms}, or take latency's from: profile out"
    )


@pytest.mark.parametrize(
    ("metric", "fix"),
    [("explainability: {weight: 1}", "{explainability: 0.4}"), ("cost: {weight: 1, range: [0, 1]}", "{cost: 0.001}")],
)
def test_a_metric_that_is_only_ever_declared_must_be_declared_for_every_member(
    tmp_path: Path, metric: str, fix: str
) -> None:
    name = metric.partition(":")[0]
    found = problems(tmp_path, changed("accuracy: {weight: 0.6}", metric))
    assert [f.split(": ")[1] for f in found] == [f"{O}.members.linear", f"{O}.members.forest"]
    assert found[0].endswith(f"add profile: {fix}, or weigh {name} with 0")


FAR = 'linear: {open_inference: "http://far:8000", model: m}'


@pytest.mark.parametrize(
    ("member", "where"),
    [
        ('{open_inference: "http://far:8000", model: m}', "elsewhere"),
        ("{bento: service:Other}", "elsewhere"),
        ("{onnx: a.onnx, providers: [tensorrt, cpu]}", "on TensorrtExecutionProvider, CPUExecutionProvider"),
    ],
)
@pytest.mark.parametrize(
    ("energy", "who", "other"),
    [
        ("energy: {weight: 1, range: [0 J, 1 J]}", "the contract", "weigh energy with 0"),
        ("accuracy: {weight: 1}\n    limits: {energy: 5 J / 1 min}", "limits.energy", "take limits.energy out"),
    ],
)
def test_energy_that_counts_must_be_declared_of_a_member_of_which_it_cannot_be_measured(
    tmp_path: Path, energy: str, who: str, other: str, member: str, where: str
) -> None:
    (tmp_path / "a.onnx").touch()
    contract, _, limits = energy.partition("\n")
    text = changed("linear: {}", f"linear: {member}").replace("accuracy: {weight: 0.6}", contract) + limits
    (problem,) = problems(tmp_path, text)
    assert problem == (
        f"bentofile.yaml:9: {O}.members.linear: runs {where}, where its energy cannot be measured, and {who} counts "
        f"that; add profile: {{energy: 124 mJ}}, what one row takes there, or {other}"
    )
    (tmp_path / "bentofile.yaml").write_text(text.replace(member, member[:-1] + ", profile: {energy: 1 J}}"))
    assert load(tmp_path / "bentofile.yaml").members[0].profile.energy_j == 1.0


def test_a_metric_that_weighs_nothing_need_not_be_declared(tmp_path: Path) -> None:
    path = tmp_path / "bentofile.yaml"
    path.write_text(changed("accuracy: {weight: 0.6}", "explainability: {weight: 0}"))
    assert load(path).contract.weight("latency") == 1.0


def test_weights_that_sum_to_zero_are_refused(tmp_path: Path) -> None:
    text = GOOD.replace("0.6", "0").replace("0.15", "0")
    assert problems(tmp_path, text) == (
        f"bentofile.yaml:3: {O}.contract: {{…}} has weights that sum to 0; give at least one metric a weight above 0",
    )


def test_what_must_be_there_and_is_not_is_named_with_an_example(tmp_path: Path) -> None:
    assert problems(tmp_path, "orchestration: {seed: 1}") == (
        "bentofile.yaml:1: orchestration.contract: is missing; add contract: {accuracy: {weight: 1}}",
        "bentofile.yaml:1: orchestration.members: is missing; add members: {name: {onnx: name.onnx}}",
    )
    assert problems(tmp_path, "orchestration: {contract: {}, members: {}}") == (
        "bentofile.yaml:1: orchestration.contract.accuracy: is missing; add accuracy: {weight: 1}",
        "bentofile.yaml:1: orchestration.members: {} has no member; write {name: {onnx: name.onnx}}",
    )


def test_a_catalogue_that_could_never_be_generated_is_refused(tmp_path: Path) -> None:
    members = "".join(f"      m{i}: {{}}\n" for i in range(40))
    (problem,) = problems(tmp_path, f"{GOOD}{members}    plans: {{subsets: 20}}\n")
    assert f":51: {O}.plans: {{…}} gives more than 200000 candidates; lower subsets" in problem


def test_all_problems_are_listed_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = GOOD.replace("0.6", "-1").replace("[1 ms, 200 ms]", "[2 s, 1 s]").replace("34 ms", "34")
    found = problems(tmp_path, text + "    seed: x\n    limit: 5\n")
    assert [int(problem.split(":")[1]) for problem in found] == [4, 7, 10, 11, 12]


def test_far_too_many_problems_are_cut_short(tmp_path: Path) -> None:
    found = problems(tmp_path, GOOD + "".join(f"    unknown{i}: 1\n" for i in range(2_000)))
    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1] == "bentofile.yaml: further problems are not shown; mend these first"


YAML = [
    ("    seed: 1\n    seed: 2\n", f":12: {O}.seed: stands twice, first on line 11; keep one of them"),
    ("    seed: &a 1\n", f":11: {O}.seed: &a is an anchor; remove it and write values out"),
    ("    plans: &a {}\n    probes: *a\n", f":11: {O}.plans: &a is an anchor; remove it and write values out"),
    ("    probes: *a\n", f":11: {O}.probes: *a is an alias; write the value out"),
    ("    plans: {<<: {limit: 5}}\n", f":11: {O}.plans.?: << is a merge key; write the keys out"),
    ("    seed: !!python/object/apply:os.getpid []\n", f":11: {O}.seed: tag:yaml.org,2002:python/object/apply:os.getp"),
    ("    seed: !!python/name:os.system x\n", f":11: {O}.seed: tag:yaml.org,2002:python/name:os.system is a tag that"),
    ("    seed: !secret x\n", f":11: {O}.seed: !secret is a tag that no config needs; remove it"),
    ("    plans: !!set {limit}\n", f":11: {O}.plans: tag:yaml.org,2002:set is a tag that no config needs"),
    ("    seed: !!binary aGk=\n", f":11: {O}.seed: tag:yaml.org,2002:binary is a tag that no config needs"),
    ("    seed: !!int five\n", f":11: {O}.seed: five is no int; write one, or quote text"),
    ("    seed: !!map five\n", f":11: {O}.seed: tag:yaml.org,2002:map is a tag that no config needs"),
    ("    seed: [\n", ":12: this is not YAML ("),
    ("    seed: \x07\n", ":11: this is not YAML (character #x0007 is not allowed); look at the indentation"),
    ('    seed: "\\Uffffffff"\n', ": this is not YAML ("),
    ("\tseed: 1\n", ":11: this is not YAML ("),
    ("---\na: 1\n", ":11: a second document begins; keep one document a file"),
    ("    seed: " + "[" * 30 + "\n", ":11: nested deeper than 20 levels; make it flatter"),
    ("other: " + "[" * 500_000, ":11: nested deeper than 20 levels; make it flatter"),
    ("other:\n  " + "? " * 50_000, ":12: nested deeper than 20 levels; make it flatter"),
    ("orchestration: {}\n", ":11: orchestration: stands here and under args; keep one of them"),
    ("args: {}\n", ":11: args: stands twice, first on line 1; keep one of them"),
]  # fmt: skip


@pytest.mark.parametrize(("new", "text"), YAML, ids=[repr(case[0][:40]) for case in YAML])
def test_what_yaml_allows_and_a_config_does_not_is_refused(tmp_path: Path, new: str, text: str) -> None:
    assert text in problems(tmp_path, GOOD + new)[0]


WHOLE = [
    ("", "bentofile.yaml:1: null is not a mapping; begin with orchestration:"),
    ("- a", "bentofile.yaml:1: [a] is not a mapping; begin with orchestration:"),
    ("service: a", f"bentofile.yaml:1: {O}: is missing; add it with contract: and members:"),
    ("args: [a]", f"bentofile.yaml:1: {O}: is missing; add it with contract: and members:"),
    ("orchestration:", "bentofile.yaml:1: orchestration: null is not a mapping; write {service: …}"),
    ("args: *x", "bentofile.yaml:1: args: *x is an alias; write the value out"),
    ("!!python/object/apply:os.getpid []", "bentofile.yaml:1: tag:yaml.org,2002:python/object/apply:os.getpid is"),
    (b"a: 1\nb: \xff", "bentofile.yaml:2: the file is not UTF-8; save it as UTF-8"),
    ("# " + "x" * (1 << 20), "bentofile.yaml: the file is over 1 MiB; a config holds figures and names, no data"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "problem"), WHOLE, ids=[repr(case[0][:40]) for case in WHOLE])
def test_a_file_without_a_usable_block_is_refused(tmp_path: Path, text: str | bytes, problem: str) -> None:
    assert problems(tmp_path, text)[0].startswith(problem)


@pytest.mark.parametrize("name", ["absent.yaml", ".", "a\0b", "a" * 5000])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / name)


def test_a_parsed_block_is_refused_with_its_source_and_path() -> None:
    block = {"contract": {"accuracy": {"weight": True}}, "seed": 16**9000, "members": {1: {}, "a": {"onnx": "x.onnx"}},
             "classes": [date(2001, 1, 1), 1]}  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        parse(block, Source("BENTOML_CONFIG", "services.Digits.orchestration"))
    at = "BENTOML_CONFIG: services.Digits.orchestration."
    assert set(caught.value.problems) == {
        f"{at}contract.accuracy.weight: true is not a number; write one in [0, 1e+06]",
        f"{at}seed: a huge integer is outside [0, 9223372036854775807]; write a whole number inside",
        f"{at}members.?: 1 is no text; put the key in quotes",
        f"{at}members.a.onnx: x.onnx is no file; put the model there or correct the path",
        f"{at}classes[0]: 2001-01-01 is no label; write a whole number, or a text in quotes",
    }


def test_where_consensus_judges_a_guard_stays_in_the_shadow(tmp_path: Path) -> None:
    text = changed("accuracy: {weight: 0.6}", "accuracy: {weight: 0.6, from: consensus}") + "    guard: {mode: live}\n"
    assert any("guard: {…} judges by outcomes, and where consensus judges most" in p for p in problems(tmp_path, text))


def test_consensus_needs_three_members_and_probes(tmp_path: Path) -> None:
    text = changed("accuracy: {weight: 0.6}", "accuracy: {weight: 0.6, from: consensus}") + "    probes: {share: 0}\n"
    few, unprobed = problems(tmp_path, text)
    assert few.startswith(f"bentofile.yaml:4: {O}.contract.accuracy.from: consensus needs at least 3 members")
    assert unprobed.startswith(f"bentofile.yaml:4: {O}.contract.accuracy.from: consensus learns from probes alone")
