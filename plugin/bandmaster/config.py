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
from typing import Any, Literal, TypeVar

import yaml

from bandmaster.contract import METRICS, Contract, Goal, Metric, Scale
from bandmaster.core import BandmasterError, Ensemble, Profile
from bandmaster.plans import ALL, parse_plan

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_PROBLEMS = 100
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

_PROFILE = {"latency": "latency_s", "energy": "energy_j", "cost": "cost", "explainability": "explainability"}
_RANGE = {"latency": "[1 ms, 200 ms]", "energy": "[1 mJ, 5 J]", "cost": "[0, 0.01]"}
_FIGURE = {"latency": "34 ms", "energy": "124 mJ", "cost": "0.001", "explainability": "0.4"}

T = TypeVar("T", bound=str)
Step = str | int


class ConfigError(BandmasterError):
    """A configuration that cannot be used. ``problems`` has one text each, in the order of the file."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


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
    """Who chooses. ``epsilon`` in [0, 1] is the share explored; ``plan`` names the constant policy's plan."""

    use: Literal["bandit", "constant", "random", "scoring"] = "bandit"
    epsilon: float = 0.02
    plan: str | None = None


@dataclass(frozen=True, slots=True)
class ProbesConfig:
    """``share`` in [0, 1] of the requests runs every member after the reply."""

    share: float = 0.02


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
    returns: Literal["label", "scores"] = "label"
    classes: tuple[int | str, ...] | None = None
    plans: PlansConfig = field(default_factory=PlansConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    probes: ProbesConfig = field(default_factory=ProbesConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
    journal: str = "sqlite:///orchestration.db"
    seed: int | None = None


def load(path: Path) -> Config:
    """Read a bentofile with ``args: orchestration:``, or a file with ``orchestration:`` at the top.

    Raises ``ConfigError`` listing every problem as ``file:line: path: value is wrong so; do this``.
    """
    book = _Book(str(path))
    document = _read_yaml(_read_text(path, book), book)
    at = _find_block(document, book)
    return _config(at, Source(str(path), _dotted(at.path), path.parent))


def parse(block: Mapping[str, object], source: Source) -> Config:
    """Read a block that has been parsed already; problems then name ``source`` and the path, but no line.

    What only the text shows (duplicated keys, anchors) cannot be seen here. Raises ``ConfigError``.
    """
    at = _At(_Book(source.name), tuple(filter(None, source.path.split("."))), block)
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


# ---- Problems and their places ---------------------------------------------------------------------------


class _Book:
    """Collects the problems of one source, and knows on which line each path stands, if that is known."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[tuple[Step, ...], int] = {}
        self.problems: list[tuple[int, str]] = []

    def refuse(self, path: tuple[Step, ...], why: str, line: int | None = None) -> None:
        """Note a problem. A path without a line has its parent's. Raises when there are far too many."""
        known = (self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines)
        line = line or next(known, 0)
        place = f"{self.name}:{line}" if line else self.name
        self.problems.append((line, f"{place}: {_dotted(path)}: {why}" if path else f"{place}: {why}"))
        if len(self.problems) >= MAX_PROBLEMS:
            self.problems.append((1 << 30, f"{self.name}: further problems are not shown; mend these first"))
            self.settle()

    def settle(self) -> None:
        """Raise ``ConfigError`` if there was any problem."""
        if self.problems:
            raise ConfigError(*(text for _, text in sorted(self.problems, key=lambda p: p[0])))


@dataclass(frozen=True, slots=True)
class _At:
    """A value and its place. A value that is wrong is noted and stands for the default from there on."""

    book: _Book
    path: tuple[Step, ...]
    value: object

    def refuse(self, why: str) -> None:
        # What the YAML reader has refused is not judged twice.
        if self.value is not _REFUSED:
            self.book.refuse(self.path, f"{_show(self.value)} {why}")

    def child(self, step: Step, value: object) -> _At:
        return _At(self.book, (*self.path, step), value)


_REFUSED = object()
"""Stands where the YAML reader met something it refused."""


def _dotted(path: Sequence[Step]) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{_show(step)}" for step in path)
    return "".join(steps).removeprefix(".")


def _show(value: object) -> str:
    """A value as in YAML, on one line and short, whatever it holds."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        text = value if value and value.isprintable() else ascii(value[:60])
    elif isinstance(value, int):
        # Python refuses to print an integer of thousands of digits.
        text = str(value) if abs(value) < 10**60 else "a huge integer"
    elif isinstance(value, Mapping):
        text = "{…}" if value else "{}"
    elif isinstance(value, list):
        items = ["[…]" if isinstance(v, list) else _show(v) for v in value[:4]]
        text = f"[{', '.join(items)}{', …' if len(value) > 4 else ''}]"
    else:
        text = str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


# ---- Text to values ----------------------------------------------------------------------------------------


def _read_text(path: Path, book: _Book) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{book.name}: the file is over 1 MiB; a config holds figures and names, no data")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{book.name}:{line}: the file is not UTF-8; save it as UTF-8") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{book.name}: cannot be read ({why}); name a file that can") from None


def _read_yaml(text: str, book: _Book) -> object:
    """The document's plain values. Raises ``ConfigError`` for what is no YAML at all."""
    line, why = 1, ""
    try:
        return _Reader(text, book).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, why = mark.line + 1 if mark else 1, error.problem or ""
    except yaml.reader.ReaderError as error:
        line, why = text[: error.position].count("\n") + 1, f"character #x{error.character:04x} is not allowed"
    except (ValueError, OverflowError) as error:  # PyYAML's own, for instance from the escape "\Uffffffff"
        why = str(error)
    raise ConfigError(f"{book.name}:{line}: this is not YAML ({why}); look at the indentation and quotes here")


_TAG = "tag:yaml.org,2002:"
_SCALARS = {_TAG + kind for kind in ("str", "int", "float", "bool", "null")}


class _Reader:
    """Reads one document into plain values and notes every value's line.

    ``yaml.safe_load`` would forget the lines, let the last of two equal keys win, and expand aliases and merge
    keys; all of those make a config mean something else than it seems to say. Parsing, the types of scalars
    and their conversion are PyYAML's.
    """

    def __init__(self, text: str, book: _Book) -> None:
        self.yaml: Any = yaml.SafeLoader(text)  # Any: its stubs leave the methods used here untyped
        self.book = book

    def next_is(self, event: type[yaml.Event]) -> bool:
        return bool(self.yaml.check_event(event))

    def next_line(self) -> int:
        return int(self.yaml.peek_event().start_mark.line) + 1

    def document(self) -> object:
        self.book.lines[()] = 1
        self.yaml.get_event()  # the stream's start
        if self.next_is(yaml.StreamEndEvent):
            return None
        self.yaml.get_event()  # the document's start
        value = self.value(())
        self.yaml.get_event()  # the document's end
        if not self.next_is(yaml.StreamEndEvent):
            line = self.next_line()
            self.book.refuse((), "a second document begins; keep one document a file", line)
        return value

    def value(self, path: tuple[Step, ...]) -> object:
        event = self.yaml.get_event()
        line = event.start_mark.line + 1
        self.book.lines.setdefault(path, line)  # a mapping's value has its key's line already
        if isinstance(event, yaml.AliasEvent):
            return self.refuse(path, f"*{_show(event.anchor)} is an alias; write the value out", line)
        if event.anchor is not None:
            self.refuse(path, f"&{_show(event.anchor)} is an anchor; remove it and write values out", line)
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event, path, line)
        is_list = isinstance(event, yaml.SequenceStartEvent)
        if event.tag not in (None, "!", _TAG + ("seq" if is_list else "map")):
            self.refuse(path, f"{_show(event.tag)} is a tag that no config needs; remove it", line)
        if len(path) >= MAX_DEPTH:
            raise ConfigError(f"{self.book.name}:{line}: nested deeper than {MAX_DEPTH} levels; make it flatter")
        return self.sequence(path) if is_list else self.mapping(path)

    def sequence(self, path: tuple[Step, ...]) -> list[object]:
        items: list[object] = []
        while not self.next_is(yaml.SequenceEndEvent):
            items.append(self.value((*path, len(items))))
        self.yaml.get_event()
        return items

    def mapping(self, path: tuple[Step, ...]) -> dict[str, object]:
        entries: dict[str, object] = {}
        while not self.next_is(yaml.MappingEndEvent):
            line = self.next_line()
            key = self.value((*path, "?"))
            if not isinstance(key, str):
                if key is not _REFUSED:
                    self.refuse((*path, "?"), f"{_show(key)} is no text; put the key in quotes", line)
                self.value((*path, "?"))
                continue
            if key in entries:
                first = self.book.lines[*path, key]
                self.refuse((*path, key), f"stands twice, first on line {first}; keep one of them", line)
                self.value((*path, "?"))
                continue
            self.book.lines[*path, key] = line
            entries[key] = self.value((*path, key))
        self.yaml.get_event()
        return entries

    def scalar(self, event: Any, path: tuple[Step, ...], line: int) -> object:
        explicit = event.tag not in (None, "!")
        tag = event.tag if explicit else self.yaml.resolve(yaml.ScalarNode, event.value, event.implicit)
        shown = _show(event.value)
        if tag == _TAG + "merge":
            return self.refuse(path, "<< is a merge key; write the keys out", line)
        if tag not in _SCALARS and explicit:
            return self.refuse(path, f"{_show(tag)} is a tag that no config needs; remove it", line)
        if tag not in _SCALARS:
            kind = str(tag).removeprefix(_TAG)
            return self.refuse(path, f"{shown} is a {kind} to YAML; put it in quotes if it is text", line)
        try:
            if tag != _TAG + "str" and len(event.value) > 64:  # 1:30:30:… takes PyYAML seconds to add up
                raise ValueError
            return self.yaml.construct_object(yaml.ScalarNode(tag, event.value))
        except (yaml.YAMLError, ValueError, LookupError, OverflowError):
            return self.refuse(path, f"{shown} is no {str(tag).removeprefix(_TAG)}; write one, or quote text", line)

    def refuse(self, path: tuple[Step, ...], why: str, line: int) -> object:
        """Note a problem of our block or of what it stands in. The rest of a bentofile is BentoML's."""
        ours = path[:1] == ("orchestration",) or path[:2] == ("args", "orchestration")
        if ours or path in ((), ("args",), ("?",), ("args", "?")):
            self.book.refuse(path, why, line)
        return _REFUSED


def _find_block(document: object, book: _Book) -> _At:
    """The block's place. Raises ``ConfigError`` when there is none, or one too many."""
    if not isinstance(document, dict):
        _At(book, (), document).refuse("is not a mapping; begin with orchestration:")
        document = {}
    args = document.get("args")
    places: list[_At] = []
    if isinstance(args, dict) and "orchestration" in args:
        places.append(_At(book, ("args", "orchestration"), args["orchestration"]))
    if "orchestration" in document:
        places.append(_At(book, ("orchestration",), document["orchestration"]))
    if len(places) == 2:
        book.refuse(("orchestration",), "stands here and under args; keep one of them")
    if not places and not book.problems:
        book.refuse(("args", "orchestration"), "is missing; add it with contract: and members:")
    if len(places) != 1:
        book.settle()
    return places[0]


# ---- Values to fields --------------------------------------------------------------------------------------


def _entries(at: _At, fix: str) -> dict[str, _At]:
    """A mapping's values by key, in the file's order; of anything else, none."""
    if not isinstance(at.value, Mapping):
        at.refuse(f"is not a mapping; {fix}")
        return {}
    for key in at.value:
        if not isinstance(key, str):
            at.book.refuse((*at.path, "?"), f"{_show(key)} is no text; put the key in quotes")
    return {key: at.child(key, value) for key, value in at.value.items() if isinstance(key, str)}


def _fields(at: _At | None, known: Sequence[str], required: Mapping[str, str] | None = None) -> dict[str, _At]:
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


def _items(at: _At | None, fix: str) -> list[_At]:
    """A list's values; of anything else, and of an empty list, none."""
    if at is None:
        return []
    if not isinstance(at.value, list | tuple) or not at.value:
        at.refuse(f"is not a list of at least one; {fix}")
        return []
    return [at.child(i, value) for i, value in enumerate(at.value)]


def _number(at: _At | None, default: float, low: float, high: float, *, above: bool = False) -> float:
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


def _integer(at: _At | None, default: int, low: int, high: int) -> int:
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


def _choice(at: _At | None, default: T, options: Sequence[T]) -> T:
    if at is None:
        return default
    for option in options:
        if at.value == option:
            return option
    at.refuse(f"is no choice here; write {' or '.join(options)}")
    return default


def _text(at: _At | None, pattern: str, fix: str) -> str | None:
    """A text that ``pattern`` matches as a whole."""
    if at is None:
        return None
    if isinstance(at.value, str) and re.fullmatch(pattern, at.value, re.ASCII):
        return at.value
    at.refuse(f"cannot be used; write {fix}")
    return None


def _quantity(at: _At, dimension: str, units: tuple[str, str]) -> float:
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


def _figure(at: _At | None, metric: str) -> float | None:
    """A metric's figure in the contract's unit: seconds, joules, a price, a share. NaN where refused."""
    if at is None:
        return None
    if metric == "latency":
        return _quantity(at, "time", ("ms", "s"))
    if metric == "energy":
        return _quantity(at, "energy", ("mJ", "J"))
    return _number(at, math.nan, 0.0, 1e12 if metric == "cost" else 1.0)


# ---- The block ---------------------------------------------------------------------------------------------


def _config(at: _At, source: Source) -> Config:
    known = ("service", "method", "returns", "contract", "members", "classes", "plans", "policy", "probes",
             "drift", "feedback", "journal", "seed")  # fmt: skip
    required = {"contract": "{accuracy: {weight: 1}}", "members": "{name: {onnx: name.onnx}}"}
    get = _fields(at, known, required).get
    root = source.root.resolve()
    metrics = _metrics(get("contract"))
    members = _members(get("members"), root)
    _check_declared(at, metrics, members)
    names = tuple(m.name for m in members)
    seed = get("seed")
    default = Config(contract=Contract(()), members=(), source=source, root=root)
    config = replace(
        default,
        members=members,
        service=_text(get("service"), r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", "module:Class, as in service:Digits"),
        method=_text(get("method"), r"[A-Za-z]\w*", "the name of a method, as in predict") or default.method,
        returns=_choice(get("returns"), default.returns, ("label", "scores")),
        classes=_classes(get("classes")),
        plans=_plans(get("plans"), names),
        policy=_policy(get("policy"), names),
        probes=ProbesConfig(_number(_fields(get("probes"), ("share",)).get("share"), default.probes.share, 0, 1)),
        drift=_drift(get("drift")),
        feedback=_feedback(get("feedback")),
        journal=_text(get("journal"), r"sqlite:///[^\s?#]+", "sqlite:///orchestration.db") or default.journal,
        seed=_integer(seed, 0, 0, 2**63 - 1) if seed else None,
    )
    at.book.settle()
    return replace(config, contract=Contract.of(*metrics))


def _metrics(at: _At | None) -> list[Metric]:
    """The contract's metrics, without those that were refused."""
    if at is None:
        return []
    entries = _fields(at, tuple(METRICS), {"accuracy": "{weight: 1}"} if at.value == {} else None)
    found = [_metric(name, entry) for name, entry in entries.items()]
    metrics = [metric for metric in found if metric]
    if metrics and len(metrics) == len(found) and not any(m.weight for m in metrics):
        at.refuse("has weights that sum to 0; give at least one metric a weight above 0")
    return metrics


def _metric(name: str, at: _At) -> Metric | None:
    spent = name in _RANGE
    required = {"weight": "0.5"} | ({"range": _RANGE[name]} if spent else {})
    known = ("weight", "goal", "range", "scale", *(("from",) if name in _PROFILE else ()))
    get = _fields(at, known, required).get
    weight = _number(get("weight"), math.nan, 0.0, 1e6)
    goal: Goal = _choice(get("goal"), "min" if spent else "max", ("max", "min"))
    scale: Scale = _choice(get("scale"), "linear", ("linear", "log"))
    figures: Literal["live", "profile"] = _choice(get("from"), "live", ("live", "profile"))
    span = get("range")
    if span is None and scale == "log" and not spent:
        at.book.refuse((*at.path, "range"), "is missing, and a log scale cannot begin at 0; add range: [0.01, 1]")
    ends = _range(span, name, scale) if span else None if spent or scale == "log" else (0.0, 1.0)
    if ends is None or math.isnan(weight):
        return None
    return Metric(name, weight, goal, *ends, scale, figures)


def _range(at: _At, metric: str, scale: str) -> tuple[float, float] | None:
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
    if scale == "log" and min(low, high) == 0.0:
        at.refuse("touches 0, which has no logarithm; begin above 0 or write scale: linear")
    elif low > high:
        at.refuse(f"goes down; write [{_show(ends[1].value)}, {_show(ends[0].value)}]")
    elif low == high or (scale == "log" and math.log(low) == math.log(high)):
        at.refuse(f"has no width; write two different figures, as in {example}")
    else:
        return low, high
    return None


def _members(at: _At | None, root: Path) -> tuple[MemberConfig, ...]:
    if at is None:
        return ()
    fix = "write {name: {onnx: name.onnx}}"
    entries = _entries(at, fix)
    if at.value == {}:
        at.refuse(f"has no member; {fix}")
    return tuple(_member(name, entry, root) for name, entry in entries.items())


def _member(name: str, at: _At, root: Path) -> MemberConfig:
    # Names become parts of plans' names, whose grammar uses + > @ ~ and the word "all".
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", name) or name == ALL:
        fix = f"write a letter, then up to 63 letters, digits, _ or -, and not {ALL}"
        at.book.refuse(at.path, f"{_show(name)} is no member name; {fix}")
    get = _fields(at, ("onnx", "bento_model", "profile")).get
    onnx, bento_model = get("onnx"), get("bento_model")
    if onnx and bento_model:
        at.book.refuse(at.path, "has both onnx and bento_model; keep one of them")
    tag = r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?(:[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?)?"
    return MemberConfig(
        name=name,
        onnx=_onnx(onnx, root) if onnx else None,
        bento_model=_text(bento_model, tag, "name:version, as in digits-linear:latest"),
        profile=_profile(get("profile")),
    )


def _profile(at: _At | None) -> Profile:
    get = _fields(at, tuple(_PROFILE)).get
    return Profile(**{field_: _figure(get(metric), metric) for metric, field_ in _PROFILE.items()})


def _onnx(at: _At, root: Path) -> Path | None:
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


def _check_declared(at: _At, metrics: Sequence[Metric], members: Sequence[MemberConfig]) -> None:
    """A term unknown for any member is off for the whole contract; better to hear so before serving."""
    for metric in metrics:
        only_declared = metric.name in ("explainability", "cost") and metric.weight > 0
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


def _classes(at: _At | None) -> tuple[int | str, ...] | None:
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


def _plans(at: _At | None, members: tuple[str, ...]) -> PlansConfig:
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


def _plan(at: _At | None, members: tuple[str, ...]) -> str | None:
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


def _policy(at: _At | None, members: tuple[str, ...]) -> PolicyConfig:
    get, default = _fields(at, ("use", "explore", "plan")).get, PolicyConfig()
    plan = get("plan")
    policy = PolicyConfig(
        use=_choice(get("use"), default.use, ("bandit", "constant", "random", "scoring")),
        epsilon=_number(_fields(get("explore"), ("epsilon",)).get("epsilon"), default.epsilon, 0, 1),
        plan=_plan(plan, members),
    )
    if plan and policy.use != "constant":
        plan.refuse("is for the constant policy only; remove it or write use: constant")
    return policy


def _drift(at: _At | None) -> DriftConfig:
    get, default = _fields(at, ("detector", "delta", "reaction")).get, DriftConfig()
    return DriftConfig(
        detector=_choice(get("detector"), default.detector, ("adwin",)),
        delta=_number(get("delta"), default.delta, 0, 1, above=True),
        reaction=_choice(get("reaction"), default.reaction, ("forget", "none")),
    )


def _feedback(at: _At | None) -> FeedbackConfig:
    get, default = _fields(at, ("window", "missing")).get, FeedbackConfig()
    window = get("window")
    seconds = _quantity(window, "time", ("s", "min")) if window else default.window_s
    if window and seconds == 0.0:
        window.refuse("leaves no time for feedback; write 10 min")
    return FeedbackConfig(seconds, _choice(get("missing"), default.missing, ("skip",)))
