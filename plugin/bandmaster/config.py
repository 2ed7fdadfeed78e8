"""The user's YAML block, read into frozen dataclasses or refused with the file, line, path, value and fix.

``load`` reads a file, ``parse`` a block that BentoML has parsed already. Both find every problem before they
raise, so that one run shows all there is to mend.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal, TypeVar

from bandmaster.contract import METRICS, Contract, Goal, Metric, Scale
from bandmaster.core import DEFAULT_PROFILE, VALUE, BandmasterError, Ensemble, Profile, Task
from bandmaster.limits import Budget, Limits
from bandmaster.metrics import ImportedFunction
from bandmaster.plans import ALL, parse_plan
from bandmaster.policies.exploration import STRENGTH, Algorithm, Exploration
from bandmaster.probes import Probing
from bandmaster.yaml_reader import (
    At,
    Book,
    dotted,
    read_text,
    read_yaml,
    show,
)
from bandmaster.yaml_reader import (
    ConfigError as ConfigError,  # the error that this module raises
)

MAX_CANDIDATES = 200_000
"""Plans that a catalogue may be picked from: beyond it, generating them would take seconds or for ever."""

UNITS: Mapping[str, Mapping[str, Decimal]] = {
    "time": {u: Decimal(f) for u, f in {
        "ns": "1e-9", "us": "1e-6", "µs": "1e-6", "μs": "1e-6", "ms": "1e-3", "s": "1", "min": "60", "h": "3600",
    }.items()},
    "energy": {u: Decimal(f) for u, f in {
        "uJ": "1e-6", "µJ": "1e-6", "μJ": "1e-6", "mJ": "1e-3", "J": "1", "kJ": "1e3", "Wh": "3600",
    }.items()},
}  # fmt: skip
"""Each unit's size in seconds or joules. Decimal, so that ``200 ms`` and ``0.2 s`` are the same float. µ has
two code points, and keyboards differ in which they write."""

_PROFILE = {
    "latency": "latency_s", "energy": "energy_j", "cost": "cost", "explainability": "explainability",
    "accuracy": "accuracy", "calibration": "calibration",
}  # fmt: skip
_FROM: Mapping[str, tuple[Literal["live", "profile", "consensus"], ...]] = {
    "accuracy": ("live", "consensus"),
    **dict.fromkeys(("latency", "energy", "cost", "explainability"), ("live", "profile")),
}
"""Where a metric's figure may come from; those not named have one source."""

_TAKEN = {
    "policy", "seed", "log", "request", "position", "phase", "profile", "plan", "propensity", "over_limits", "ran",
    "probed", "label", "truth", "reward", "latency_s", "energy_j", "members_per_request", "calibration",
}  # fmt: skip
"""Names that a metric of the user's own may not have: a trace's columns, and what members' profiles hold besides."""

_RANGE = {"latency": "[1 ms, 200 ms]", "energy": "[1 mJ, 5 J]", "cost": "[0, 0.01]"}
_FIGURE = {"latency": "34 ms", "energy": "124 mJ", "cost": "0.001", "explainability": "0.4"}

KEYS = (
    "service", "method", "task", "returns", "contract", "profiles", "members", "classes", "plans", "policy", "limits",
    "probes", "drift", "feedback", "journal", "seed",
)  # fmt: skip
"""What the block may hold."""

POLICIES = (
    "bandit", "constant", "random", "scoring", "vw", "thompson", "ucb", "exp3", "exp4", "blast", "knora-e",
)  # fmt: skip
"""Every policy by name, the one that is used where none is named first."""

T = TypeVar("T", bound=str)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a block stands: the file's or other source's ``name``, the block's dotted ``path`` in it, and
    ``root``, the folder that ``onnx`` paths start from and may not leave."""

    name: str
    path: str = "args.orchestration"
    root: Path = Path()


@dataclass(frozen=True, slots=True)
class MemberConfig:
    """One member: a model file or a model of BentoML's store; with neither it exists only in logs."""

    name: str
    onnx: Path | None = None
    bento_model: str | None = None
    profile: Profile = field(default_factory=Profile)
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class PlansConfig:
    """Which plans are offered; the arguments of ``plans.generate``. ``include`` holds plans' names."""

    subsets: int = 2
    cascades: int = 2
    stop_at: tuple[float, ...] = (0.7, 0.8, 0.9, 0.95)
    limit: int = 64
    include: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """Who chooses. ``explore`` is for bandit and vw; ``plan`` names the constant policy's plan; ``experts`` are the
    policies that exp4 weighs, as ``--policies`` names them: none for every member alone.
    """

    use: str = "bandit"
    explore: Exploration = field(default_factory=Exploration)
    plan: str | None = None
    experts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DriftConfig:
    """``delta`` in (0, 1] is the detector's tolerated rate of false alarms."""

    detector: Literal["adwin"] = "adwin"
    delta: float = 0.002
    reaction: Literal["forget", "none"] = "forget"


@dataclass(frozen=True, slots=True)
class FeedbackConfig:
    """``window_s`` seconds after a decision its outcome is late."""

    window_s: float = 600.0
    missing: Literal["skip"] = "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One validated block. ``root`` is the folder of the file it was read from."""

    contract: Contract
    members: tuple[MemberConfig, ...]
    source: Source
    root: Path
    service: str | None = None
    method: str = "predict"
    task: Task = "classification"
    returns: Literal["label", "scores"] = "label"
    classes: tuple[int | str, ...] | None = None
    plans: PlansConfig = field(default_factory=PlansConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    limits: Limits = field(default_factory=Limits)
    probes: Probing = field(default_factory=Probing)
    drift: DriftConfig = field(default_factory=DriftConfig)
    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
    journal: str = "sqlite:///orchestration.db"
    seed: int | None = None


def load(path: Path) -> Config:
    """Read a bentofile with ``args: orchestration:``, or a file with ``orchestration:`` at the top.

    Raises ``ConfigError`` listing every problem as ``file:line: path: value is wrong so; do this``.
    """
    book = Book(str(path))
    document = read_yaml(read_text(path, book), book)
    at = _find_block(document, book)
    return _config(at, Source(str(path), dotted(at.path), path.parent))


def parse(block: Mapping[str, object], source: Source) -> Config:
    """Read a block that has been parsed already; problems then name ``source`` and the path, but no line.

    What only the text shows (duplicated keys, anchors) cannot be seen here. Raises ``ConfigError``.
    """
    at = At(Book(source.name), tuple(filter(None, source.path.split("."))), block)
    return _config(at, source)


def quantity(text: str, dimension: str) -> float:
    """``200 ms`` in seconds (``dimension="time"``), ``5 mJ`` in joules (``"energy"``): finite and ≥ 0.

    Raises ``BandmasterError`` saying what is wrong with ``text`` and what to write.
    """
    units, other = UNITS[dimension], UNITS["energy" if dimension == "time" else "time"]
    example = "200 ms or 0.2 s" if dimension == "time" else "5 mJ or 0.005 J"
    found = re.fullmatch(r"([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?) *([A-Za-zµμ]*)", text.strip())
    if not found:
        raise BandmasterError(f"is no figure with a unit; write one like {example}")
    number, unit = found.groups()
    if unit in other:
        wrong = "an energy" if dimension == "time" else "a time"
        right = "a time" if dimension == "time" else "an energy"
        raise BandmasterError(f"is {wrong}, but {right} is meant; write one like {example}")
    if unit not in units:
        why = f"has the unknown unit {unit}" if unit else "has no unit"
        raise BandmasterError(f"{why}; write one of {' '.join(u for u in units if 'μ' not in u)}, as in {example}")
    try:
        value = float(Decimal(number) * units[unit])
    except ArithmeticError:
        value = math.inf
    if not 0.0 <= value < math.inf:
        raise BandmasterError(f"must be finite and not below 0; write one like {example}")
    return value


def _find_block(document: object, book: Book) -> At:
    """The block's place. Raises ``ConfigError`` when there is none, or one too many."""
    if not isinstance(document, dict):
        At(book, (), document).refuse("is not a mapping; begin with orchestration:")
        document = {}
    args = document.get("args")
    places: list[At] = []
    if isinstance(args, dict) and "orchestration" in args:
        places.append(At(book, ("args", "orchestration"), args["orchestration"]))
    if "orchestration" in document:
        places.append(At(book, ("orchestration",), document["orchestration"]))
    if len(places) == 2:
        book.refuse(("orchestration",), "stands here and under args; keep one of them")
    if not places and not book.problems:
        book.refuse(("args", "orchestration"), "is missing; add it with contract: and members:")
    if len(places) != 1:
        book.settle()
    return places[0]


# ---- Values to fields --------------------------------------------------------------------------------------


def _entries(at: At, fix: str) -> dict[str, At]:
    """A mapping's values by key, in the file's order; of anything else, none."""
    if not isinstance(at.value, Mapping):
        at.refuse(f"is not a mapping; {fix}")
        return {}
    for key in at.value:
        if not isinstance(key, str):
            at.book.refuse((*at.path, "?"), f"{show(key)} is no text; put the key in quotes")
    return {key: at.child(key, value) for key, value in at.value.items() if isinstance(key, str)}


def _fields(at: At | None, known: Sequence[str], required: Mapping[str, str] | None = None) -> dict[str, At]:
    """The known keys' values. ``required`` gives for each key that must be there an example to write."""
    if at is None:
        return {}
    entries = _entries(at, f"write {{{known[0]}: …}}")
    for key, value in entries.items():
        if key not in known:
            near = get_close_matches(key[:64], known, n=1)
            fix = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
            at.book.refuse(value.path, f"is an unknown key; {fix}")
    for key, example in (required or {}).items():
        if isinstance(at.value, Mapping) and key not in entries:
            at.book.refuse((*at.path, key), f"is missing; add {key}: {example}")
    return {key: value for key, value in entries.items() if key in known}


def _items(at: At | None, fix: str) -> list[At]:
    """A list's values; of anything else, and of an empty list, none."""
    if at is None:
        return []
    if not isinstance(at.value, list | tuple) or not at.value:
        at.refuse(f"is not a list of at least one; {fix}")
        return []
    return [at.child(i, value) for i, value in enumerate(at.value)]


def _number(at: At | None, default: float, low: float, high: float, *, above: bool = False) -> float:
    """A number in [low, high], or in (low, high] with ``above``; the default where there is none."""
    if at is None:
        return default
    value, allowed = at.value, f"{'(' if above else '['}{low:g}, {high:g}]"
    if isinstance(value, str):
        at.refuse(f"is text, not a number; write {_as_number(value) or f'a number in {allowed}'}")
    elif isinstance(value, bool) or not isinstance(value, int | float):
        at.refuse(f"is not a number; write one in {allowed}")
    elif not low <= value <= high or (above and value == low):  # NaN is refused here too
        at.refuse(f"is outside {allowed}; write a number inside")
    else:
        return float(value)
    return default


def _as_number(text: str) -> str | None:
    """The YAML number that a text was meant to be: YAML 1.1 takes ``1e-3`` and ``"0.5"`` for text."""
    try:
        value = float(text)
    except ValueError:
        return None
    return f"{Decimal(repr(value)):f}" if 1e-9 < abs(value) < 1e15 else None


def _flag(at: At | None, default: bool) -> bool:
    """True or false; the default where there is none."""
    if at is None:
        return default
    if not isinstance(at.value, bool):
        at.refuse("is neither true nor false; write one of them")
        return default
    return at.value


def _integer(at: At | None, default: int, low: int, high: int) -> int:
    """A whole number in [low, high]; the default where there is none."""
    if at is None:
        return default
    if isinstance(at.value, bool) or not isinstance(at.value, int):
        at.refuse(f"is not a whole number; write one from {low} to {high}")
    elif not low <= at.value <= high:
        at.refuse(f"is outside [{low}, {high}]; write a whole number inside")
    else:
        return at.value
    return default


def _choice(at: At | None, default: T, options: Sequence[T]) -> T:
    if at is None:
        return default
    for option in options:
        if at.value == option:
            return option
    at.refuse(f"is no choice here; write {' or '.join(options)}")
    return default


def _text(at: At | None, pattern: str, fix: str) -> str | None:
    """A text that ``pattern`` matches as a whole."""
    if at is None:
        return None
    if isinstance(at.value, str) and re.fullmatch(pattern, at.value, re.ASCII):
        return at.value
    at.refuse(f"cannot be used; write {fix}")
    return None


def _quantity(at: At, dimension: str, units: tuple[str, str]) -> float:
    """Seconds or joules, NaN where refused. ``units``, a small and a large one, serve for the fix."""
    if isinstance(at.value, str):
        try:
            return quantity(at.value, dimension)
        except BandmasterError as error:
            at.refuse(str(error))
            return math.nan
    small, large = units
    value = at.value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        at.refuse(f"is no figure with a unit; write one like 200 {small}")
        return math.nan
    ratio = float(UNITS[dimension][large] / UNITS[dimension][small])
    in_large = value if value < 1 else value / ratio
    at.refuse(f"has no unit; write {in_large * ratio:g} {small} or {in_large:g} {large}")
    return math.nan


def _figure(at: At | None, metric: str) -> float | None:
    """A metric's figure in the contract's unit: seconds, joules, a price, a share. NaN where refused."""
    if at is None:
        return None
    if metric == "latency":
        return _quantity(at, "time", ("ms", "s"))
    if metric == "energy":
        return _quantity(at, "energy", ("mJ", "J"))
    if metric not in METRICS and metric not in _PROFILE:  # the user's own, in a unit of its own
        return _number(at, math.nan, -1e12, 1e12)
    return _number(at, math.nan, 0.0, 1e12 if metric == "cost" else 1.0)


# ---- The block ---------------------------------------------------------------------------------------------


def _config(at: At, source: Source) -> Config:
    required = {"contract": "{accuracy: {weight: 1}}", "members": "{name: {onnx: name.onnx}}"}
    get = _fields(at, KEYS, required).get
    root = source.root.resolve()
    metrics = _metrics(get("contract"), root)
    profiles = _profiles(get("profiles"), metrics)
    members = _members(get("members"), root)
    _check_declared(at, metrics, profiles, members)
    probing = _fields(get("probes"), ("share", "adapt"))
    probes = Probing(_number(probing.get("share"), Probing().share, 0, 1), _flag(probing.get("adapt"), Probing().adapt))
    _check_consensus(at, metrics, members, probes)
    limits = _limits(get("limits"))
    _check_prices(at, limits, members)
    names = tuple(m.name for m in members)
    task: Task = _choice(get("task"), "classification", ("classification", "regression"))
    _check_task(at, task, metrics, names)
    seed = get("seed")
    default = Config(contract=Contract(()), members=(), source=source, root=root)
    config = replace(
        default,
        members=members,
        service=_text(get("service"), r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", "module:Class, as in service:Digits"),
        method=_text(get("method"), r"[A-Za-z]\w*", "the name of a method, as in predict") or default.method,
        task=task,
        returns=_choice(get("returns"), default.returns, ("label", "scores")),
        classes=_classes(get("classes")),
        plans=_plans(get("plans"), names),
        policy=_policy(get("policy"), names),
        limits=limits,
        probes=probes,
        drift=_drift(get("drift")),
        feedback=_feedback(get("feedback")),
        journal=_text(get("journal"), r"sqlite:///[^\s?#]+", "sqlite:///orchestration.db") or default.journal,
        seed=_integer(seed, 0, 0, 2**63 - 1) if seed else None,
    )
    at.book.settle()
    return replace(config, contract=Contract.of(*metrics, profiles=profiles))


def _metrics(at: At | None, root: Path) -> list[Metric]:
    """The contract's metrics, without those that were refused."""
    if at is None:
        return []
    entries = _entries(at, "write {accuracy: {weight: 1}}")
    if at.value == {}:
        at.book.refuse((*at.path, "accuracy"), "is missing; add accuracy: {weight: 1}")
    found = [_metric(name, entry, root) for name, entry in entries.items()]
    metrics = [metric for metric in found if metric]
    if metrics and len(metrics) == len(found) and not any(m.weight for m in metrics):
        at.refuse("has weights that sum to 0; give at least one metric a weight above 0")
    return metrics


def _metric(name: str, at: At, root: Path) -> Metric | None:
    if name not in METRICS and not _is_own(name, at):
        return None
    spent, own = name in _RANGE, name not in METRICS
    required = {"weight": "0.5"} | ({"range": _RANGE[name]} if spent else {})
    known = (
        *("weight", "goal", "range", "scale", *(("from",) if name in _FROM else ())),
        *(("use",) if own else ("error",) if name == "accuracy" else ()),
    )
    get = _fields(at, known, required).get
    weight = _number(get("weight"), math.nan, 0.0, 1e6)
    goal: Goal = _choice(get("goal"), "min" if spent else "max", ("max", "min"))
    scale: Scale = _choice(get("scale"), "linear", ("linear", "log"))
    figures = _choice(get("from"), "live", _FROM.get(name, ()))
    use = _text(get("use"), r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", "module:function, as in my_metrics:fairness")
    span = get("range")
    if span is None and scale == "log" and not spent:
        at.book.refuse((*at.path, "range"), "is missing, and a log scale cannot begin at 0; add range: [0.01, 1]")
    ends = _range(span, name, scale) if span else None if spent or scale == "log" else (0.0, 1.0)
    if ends is None or math.isnan(weight) or (own and use is None):
        return None
    function = ImportedFunction(use, root) if use else None
    return Metric(name, weight, goal, *ends, scale, figures, function, _errors(get("error")))


def _errors(at: At | None) -> tuple[float, float] | None:
    """Two absolute errors of a regression, the smaller first; ``None`` where there are none or they were refused."""
    ends = [_number(end, math.nan, 0.0, 1e30) for end in _items(at, f"write {_ERRORS}, {_IN_UNIT}")]
    if at and ends and not (len(ends) == 2 and ends[0] < ends[1]):
        if not any(map(math.isnan, ends)):
            at.refuse(f"is not a small and a larger error; write {_ERRORS}, {_IN_UNIT}")
        return None
    return (ends[0], ends[1]) if ends else None


_ERRORS = "error: [0, 50]"
_IN_UNIT = "the absolute errors that are worth all and nothing, in the label's unit"


def _profiles(at: At | None, metrics: Sequence[Metric]) -> dict[str, dict[str, float]]:
    """Each profile's weights by metric, without the profiles that were refused."""
    if at is None:
        return {}
    known = tuple(m.name for m in metrics) or tuple(METRICS)  # that there are none has been noted already
    profiles = {}
    for name, entry in _entries(at, "write {fast: {latency: 0.6, accuracy: 0.4}}").items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", name) or name == DEFAULT_PROFILE:
            fix = (
                f"write a letter, then up to 63 letters, digits, _ or -, and not {DEFAULT_PROFILE}, the contract's own"
            )
            entry.book.refuse(entry.path, f"{show(name)} is no profile's name; {fix}")
        weights = {metric: _number(w, math.nan, 0.0, 1e6) for metric, w in _fields(entry, known).items()}
        if isinstance(entry.value, Mapping) and not sum(weights.values()):
            entry.refuse("has weights that sum to 0; give at least one of the contract's metrics a weight above 0")
        profiles[name] = weights
    return profiles


def _is_own(name: str, at: At) -> bool:
    """Whether this is a metric of the user's own, which ``use`` measures; if not, it is refused."""
    if not isinstance(at.value, Mapping) or "use" not in at.value:
        near = get_close_matches(name[:64], METRICS, n=1)
        fix = f"did you mean {near[0]}?" if near else f"use one of {', '.join(METRICS)}, or add use: module:function"
        at.book.refuse(at.path, f"is an unknown key; {fix}")
        return False
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name) or name in _TAKEN or name.endswith("_term"):
        fix = "write small letters, digits and _, and no name that traces use for something else"
        at.book.refuse(at.path, f"{show(name)} cannot be a metric's name; {fix}")
        return False
    return True


def _range(at: At, metric: str, scale: str) -> tuple[float, float] | None:
    """The range's two ends, or ``None`` where it was refused."""
    example = _RANGE.get(metric, "[0, 1]")
    ends = _items(at, f"write the least and the greatest, as in {example}")
    if not ends:
        return None
    if len(ends) != 2:
        at.refuse(f"is not two figures; write the least and the greatest, as in {example}")
        return None
    low, high = (_figure(end, metric) for end in ends)
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return None
    if scale == "log" and min(low, high) <= 0.0:
        at.refuse("touches 0, which has no logarithm; begin above 0 or write scale: linear")
    elif low > high:
        at.refuse(f"goes down; write [{show(ends[1].value)}, {show(ends[0].value)}]")
    elif low == high or (scale == "log" and math.log(low) == math.log(high)):
        at.refuse(f"has no width; write two different figures, as in {example}")
    else:
        return low, high
    return None


def _members(at: At | None, root: Path) -> tuple[MemberConfig, ...]:
    if at is None:
        return ()
    fix = "write {name: {onnx: name.onnx}}"
    entries = _entries(at, fix)
    if at.value == {}:
        at.refuse(f"has no member; {fix}")
    return tuple(_member(name, entry, root) for name, entry in entries.items())


def _member(name: str, at: At, root: Path) -> MemberConfig:
    # Names become parts of plans' names, whose grammar uses + > @ ~ and the word "all".
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", name) or name == ALL:
        fix = f"write a letter, then up to 63 letters, digits, _ or -, and not {ALL}"
        at.book.refuse(at.path, f"{show(name)} is no member name; {fix}")
    get = _fields(at, ("onnx", "bento_model", "profile", "weight")).get
    onnx, bento_model = get("onnx"), get("bento_model")
    if onnx and bento_model:
        at.book.refuse(at.path, "has both onnx and bento_model; keep one of them")
    tag = r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?(:[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?)?"
    return MemberConfig(
        name=name,
        onnx=_onnx(onnx, root) if onnx else None,
        bento_model=_text(bento_model, tag, "name:version, as in digits-linear:latest"),
        profile=_profile(get("profile")),
        weight=_number(get("weight"), 1.0, 0.0, 1e6, above=True),
    )


def _profile(at: At | None) -> Profile:
    get = _fields(at, tuple(_PROFILE)).get
    return Profile(**{field_: _figure(get(metric), metric) for metric, field_ in _PROFILE.items()})


def _onnx(at: At, root: Path) -> Path | None:
    """The model's resolved path: a file inside ``root``, also after every link has been followed."""
    text = at.value
    if not isinstance(text, str) or not text:
        at.refuse("is no path; write one from this file's folder, as in forest.onnx")
        return None
    # Both systems' grammars, since a config moves between machines.
    if any(p.anchor or ".." in p.parts for p in (PurePosixPath(text), PureWindowsPath(text))):
        at.refuse("leads out of this file's folder; put the model inside and write its path from here")
        return None
    try:
        path = (root / text).resolve()
        inside, there = path.is_relative_to(root), path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, a loop of links
        at.refuse(f"cannot be looked up ({type(error).__name__}); write the path of a file in this folder")
        return None
    if not inside:
        at.refuse("is a link that leads out of this file's folder; put the model itself inside")
    elif not there:
        at.refuse("is no file; put the model there or correct the path")
    return path


def _check_declared(
    at: At, metrics: Sequence[Metric], profiles: Mapping[str, Mapping[str, float]], members: Sequence[MemberConfig]
) -> None:
    """A term unknown for any member is off for the whole contract; better to hear so before serving."""
    for metric in metrics:
        weighed = metric.weight > 0 or any(weights.get(metric.name, 0.0) > 0 for weights in profiles.values())
        only_declared = metric.name in ("explainability", "cost") and weighed
        if not only_declared and metric.source != "profile":
            continue
        other = f"weigh {metric.name} with 0" if only_declared else f"take {metric.name}'s from: profile out"
        for member in members:
            if getattr(member.profile, _PROFILE[metric.name]) is None:
                at.book.refuse(
                    (*at.path, "members", member.name),
                    f"has no profile.{metric.name}, which the contract counts; "
                    f"add profile: {{{metric.name}: {_FIGURE[metric.name]}}}, or {other}",
                )


def _check_consensus(at: At, metrics: Sequence[Metric], members: Sequence[MemberConfig], probes: Probing) -> None:
    """Consensus needs others to agree with, and requests that all members answer."""
    if not any(m.name == "accuracy" and m.source == "consensus" for m in metrics):
        return
    place = (*at.path, "contract", "accuracy", "from")
    if 0 < len(members) < 3:
        at.book.refuse(place, "consensus needs at least 3 members to agree; add members, or take from: consensus out")
    if probes.share == 0.0:
        at.book.refuse(place, "consensus learns from probes alone, and probes.share is 0; write probes: {share: 0.02}")


def _check_task(at: At, task: Task, metrics: Sequence[Metric], members: tuple[str, ...]) -> None:
    """What is for classes, or for values, alone."""
    block = at.value if isinstance(at.value, Mapping) else {}
    accuracy = next((m for m in metrics if m.name == "accuracy"), None)
    place = (*at.path, "contract", "accuracy")
    if task == "classification":
        if accuracy and accuracy.error:
            at.book.refuse((*place, "error"), "is for values; write task: regression, or leave it out")
        return
    written = block.get("contract")
    entry = written.get("accuracy") if isinstance(written, Mapping) else None
    if isinstance(written, Mapping) and entry is None:
        at.book.refuse(
            place, f"is missing, and in regression nothing else says what is right; add {_ERRORS} and a weight"
        )
    elif isinstance(entry, Mapping) and "error" not in entry:
        at.book.refuse((*place, "error"), f"is missing; add {_ERRORS}, {_IN_UNIT}")
    if accuracy and accuracy.source == "consensus":
        at.book.refuse((*place, "from"), "consensus is among classes; in regression take it out")
    if any(m.name == "confidence" and m.weight for m in metrics):
        at.book.refuse((*at.path, "contract", "confidence"), "is a probability, and values have none; take it out")
    if "classes" in block:
        at.book.refuse((*at.path, "classes"), "are not there in regression; take them out")
    plans = block.get("plans")
    for key in ("cascades", "stop_at"):
        if isinstance(plans, Mapping) and key in plans and plans[key] not in (0, 1):
            why = "stops at a confidence, which values do not have; take it out: in regression plans are subsets"
            at.book.refuse((*at.path, "plans", key), why)
    named = plans.get("include") if isinstance(plans, Mapping) else None
    for i, plan in enumerate(named if isinstance(named, list) else []):
        if isinstance(plan, str) and members:
            try:
                parse_plan(plan, Ensemble(members, (VALUE,), task="regression"))
                if plan.endswith("~learned"):
                    why = (
                        f"plan {plan!r}: what is learned of errors is the bandit's own; write a+b, ~recent or ~declared"
                    )
                    at.book.refuse((*at.path, "plans", "include", str(i)), why)
            except BandmasterError as error:
                at.book.refuse((*at.path, "plans", "include", str(i)), str(error))


def _classes(at: At | None) -> tuple[int | str, ...] | None:
    if at is None:
        return None
    fix = "write at least two different labels, as in [0, 1] or [cat, dog]"
    items = _items(at, fix)
    labels: dict[int | str, None] = {}
    for item in items:
        label = item.value
        if isinstance(label, bool) or not isinstance(label, int | str) or not _fits(label):
            item.refuse("is no label; write a whole number, or a text in quotes")
        elif label in labels:
            item.refuse(f"stands twice; {fix}")
        else:
            labels[label] = None
    if len(items) == 1:
        at.refuse(f"is a single class; {fix}")
    return tuple(labels)


def _fits(label: int | str) -> bool:
    return bool(label) if isinstance(label, str) else abs(label) < 2**63


def _plans(at: At | None, members: tuple[str, ...]) -> PlansConfig:
    get, default = _fields(at, ("subsets", "cascades", "stop_at", "limit", "include")).get, PlansConfig()
    stops = [_number(s, math.nan, 0, 1, above=True) for s in _items(get("stop_at"), "write [0.8, 0.9]")]
    if at and len({f"{s:g}" for s in stops if s == s}) < sum(s == s for s in stops):
        at.book.refuse((*at.path, "stop_at"), "has one threshold twice; keep one of them")
    named = get("include")
    fix = f"write plans' names, as in [{'>'.join(members[:2])}@0.9]"
    include = _items(named, fix) if named and named.value != [] else []
    plans = PlansConfig(
        subsets=_integer(get("subsets"), default.subsets, 0, 64),
        cascades=_integer(get("cascades"), default.cascades, 0, 64),
        stop_at=tuple(stops) or default.stop_at,
        limit=_integer(get("limit"), default.limit, 2, 1024),
        include=tuple(name for name in (_plan(item, members) for item in include) if name),
    )
    count = _candidates(plans, len(members))
    if at and count > MAX_CANDIDATES:
        at.refuse(f"gives more than {MAX_CANDIDATES} candidates; lower subsets, cascades or the number of stop_at")
    return plans


def _candidates(plans: PlansConfig, members: int) -> int:
    """How many plans the catalogue is picked from."""
    subsets = sum(math.comb(members, k) for k in range(2, plans.subsets + 1))
    cascades = sum(math.comb(members, k) for k in range(2, plans.cascades + 1))
    return 2 * subsets + len(plans.stop_at) * cascades


def _plan(at: At | None, members: tuple[str, ...]) -> str | None:
    """A plan's name, whose members all exist."""
    if at is None:
        return None
    if not isinstance(at.value, str):
        at.refuse("is no plan's name; write one, as in a+b or a>b@0.9")
        return None
    try:
        if members:  # their absence has been noted already
            parse_plan(at.value, Ensemble(members, ()))
    except BandmasterError as error:
        at.book.refuse(at.path, str(error))
    return at.value


def _policy(at: At | None, members: tuple[str, ...]) -> PolicyConfig:
    get, default = _fields(at, ("use", "explore", "plan", "experts")).get, PolicyConfig()
    use, plan, experts = _choice(get("use"), default.use, POLICIES), get("plan"), get("experts")
    if plan and use != "constant":
        plan.refuse("is for the constant policy only; remove it or write use: constant")
    if experts and use != "exp4":
        experts.refuse("is for exp4 only; remove it or write use: exp4")
    return PolicyConfig(use, _explore(get("explore"), use), _plan(plan, members), _experts(experts, members))


def _explore(at: At | None, use: str) -> Exploration:
    entries = _fields(at, tuple(STRENGTH))
    if at is None or not entries:
        return Exploration()
    if len(entries) > 1:
        at.refuse(f"names {len(entries)} ways; keep one of {', '.join(entries)}")
    by: Algorithm = next(way for way in STRENGTH if way in entries)
    own = entries[by]
    if by in ("bag", "rnd"):
        if use == "bandit":
            own.refuse("is Vowpal Wabbit's own way; write use: vw, or explore by epsilon, squarecb or softmax")
        return Exploration(by, float(_integer(own, int(STRENGTH[by]), 1, 64)))
    if by == "epsilon":
        return Exploration(by, _number(own, STRENGTH[by], 0, 1))
    figure = "gamma" if by == "squarecb" else "lambda"
    return Exploration(by, _number(_fields(own, (figure,)).get(figure), STRENGTH[by], 0, 1e6))


def _experts(at: At | None, members: tuple[str, ...]) -> tuple[str, ...]:
    items = _items(at, "write two policies or more, as in [scoring, constant:all]")
    if at and len(items) == 1:
        at.refuse("is a single expert; write two policies or more, as in [scoring, constant:all]")
    experts: dict[str, None] = {}
    for item in items:
        expert = item.value if isinstance(item.value, str) else ""
        name, _, plan = expert.partition(":")
        if name not in POLICIES or name == "exp4" or (plan and name != "constant"):
            item.refuse(f"is no expert; write one of {', '.join(p for p in POLICIES if p != 'exp4')}, or constant:PLAN")
        elif expert in experts:
            item.refuse("stands twice; keep one of them")
        elif not plan or _plan(replace(item, value=plan), members):
            experts[expert] = None
    return tuple(experts)


def _limits(at: At | None) -> Limits:
    get = _fields(at, ("deadline", "energy", "cost")).get
    deadline = get("deadline")
    seconds = _quantity(deadline, "time", ("ms", "s")) if deadline else None
    if deadline and seconds == 0.0:
        deadline.refuse("leaves no time for an answer; write 200 ms")
    return Limits(seconds, _budget(get("energy"), "energy", "5 J / 1 min"), _budget(get("cost"), "cost", "0.02 / 1 h"))


def _budget(at: At | None, metric: str, example: str) -> Budget | None:
    """An amount and a period, ``5 J / 1 min``; ``None`` where there is none or it was refused."""
    if at is None:
        return None
    amount, slash, period = (part.strip() for part in (at.value if isinstance(at.value, str) else "").partition("/"))
    if not slash:
        at.refuse(f"is no budget; write an amount and a period, as in {example}")
        return None
    spent = _figure(replace(at, value=_as_float(amount) if metric == "cost" else amount), metric)
    per_s = _quantity(replace(at, value=period), "time", ("s", "min"))
    if spent == 0.0 or per_s == 0.0:
        at.refuse(f"lets nothing be spent; write an amount and a period above 0, as in {example}")
    return Budget(spent, per_s) if spent and per_s else None


def _as_float(text: str) -> float | str:
    """The number that a text stands for, or the text."""
    try:
        return float(text)
    except ValueError:
        return text


def _check_prices(at: At, limits: Limits, members: Sequence[MemberConfig]) -> None:
    """What a plan will cost is known from its members' profiles alone."""
    for member in members:
        if limits.cost and member.profile.cost is None:
            at.book.refuse(
                (*at.path, "members", member.name),
                "has no profile.cost, which limits.cost counts; add profile: {cost: 0.001}, or take limits.cost out",
            )


def _drift(at: At | None) -> DriftConfig:
    get, default = _fields(at, ("detector", "delta", "reaction")).get, DriftConfig()
    return DriftConfig(
        detector=_choice(get("detector"), default.detector, ("adwin",)),
        delta=_number(get("delta"), default.delta, 0, 1, above=True),
        reaction=_choice(get("reaction"), default.reaction, ("forget", "none")),
    )


def _feedback(at: At | None) -> FeedbackConfig:
    get, default = _fields(at, ("window", "missing")).get, FeedbackConfig()
    window = get("window")
    seconds = _quantity(window, "time", ("s", "min")) if window else default.window_s
    if window and seconds == 0.0:
        window.refuse("leaves no time for feedback; write 10 min")
    return FeedbackConfig(seconds, _choice(get("missing"), default.missing, ("skip",)))
