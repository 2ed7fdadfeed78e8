"""``simulation:``: an ensemble and its traffic, described for the simulator. A file of its own, or beside a block."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from bandmaster.config.members import read_classes
from bandmaster.config.values import (
    duration_of,
    entries_of,
    fields_of,
    figure_of,
    flag_of,
    integer_of,
    items_of,
    number_of,
    quantity_of,
    text_of,
)
from bandmaster.core import BandmasterError, FloatArray
from bandmaster.recorded import read_times
from bandmaster.simulator import ALL, Phase, SimulatedMember, Simulation, Timing
from bandmaster.table import read_table
from bandmaster.yaml_reader import At, Book, read_text, read_yaml, show

HOSTS = ("cpu", "cuda", "tpu")
"""The kinds of host that a member can run on."""

MOST = 10_000_000


def load_simulation(path: Path) -> Simulation:
    """Read a file's ``simulation:``. Raises ``ConfigError`` listing every problem as ``file:line: path: …``."""
    book = Book(str(path))
    document = read_yaml(read_text(path, book), book)
    described = document.get("simulation") if isinstance(document, dict) else None
    if described is None:
        book.refuse(("simulation",), "is missing; add it with classes: and members:")
        book.settle()
    simulation = _simulation(At(book, ("simulation",), described), path.parent)
    book.settle()
    return simulation


def _simulation(at: At, root: Path) -> Simulation:
    """``root`` is the folder that a trace's path starts from."""
    known = ("requests", "classes", "regions", "overlap", "arrivals", "labels", "phases", "members")
    required = {"classes": "[cat, dog]", "members": "{a: {accuracy: 0.9, latency: 20 ms}}"}
    get, default = fields_of(at, known, required).get, Simulation((), (), (), ())
    classes = read_classes(get("classes")) or (0, 1)
    regions = _names(get("regions")) or (ALL,)
    arrivals = fields_of(get("arrivals"), ("rate", "trace", "queues")).get
    trace, gaps = _trace(arrivals("trace"), arrivals("rate"), root)
    labels = fields_of(get("labels"), ("delay", "share")).get
    members = get("members")
    entries = entries_of(members, "write {a: {accuracy: 0.9, latency: 20 ms}}") if members else {}
    if members and members.value == {}:
        members.refuse("has no member; write {a: {accuracy: 0.9, latency: 20 ms}}")
    return replace(
        default,
        classes=classes,
        regions=regions,
        members=_members(entries, classes, regions),
        phases=_phases(get("phases"), classes, regions),
        requests=integer_of(get("requests"), default.requests, 1, MOST),
        overlap=number_of(get("overlap"), default.overlap, 0.0, 0.99),
        rate=_rate(arrivals("rate"), default.rate),
        trace=trace,
        gaps=gaps,
        queues=flag_of(arrivals("queues"), default.queues),
        delay=integer_of(labels("delay"), default.delay, 0, MOST),
        labelled=number_of(labels("share"), default.labelled, 0.0, 1.0),
    )


def _names(at: At | None) -> tuple[str, ...]:
    found = items_of(at, "write names, as in [day, night]")
    for item in found:
        if not isinstance(item.value, str) or item.value == ALL:
            item.refuse(f"is no region's name; write a text other than {ALL}")
    return tuple(dict.fromkeys(str(item.value) for item in found))


def _rate(at: At | None, default: float) -> float:
    """Requests a second, from ``100 / 1 s``."""
    if at is None:
        return default
    count, slash, period = (part.strip() for part in (at.value if isinstance(at.value, str) else "").partition("/"))
    try:
        requests = float(count) if slash else 0.0
    except ValueError:
        requests = 0.0
    if not 0.0 < requests < math.inf:
        at.refuse("is no rate; write a number of requests and a period, as in 100 / 1 s")
        return default
    per_s = quantity_of(replace(at, value=period), "time", ("s", "min"))
    if per_s == 0.0:
        at.refuse("is endless; write a period above 0, as in 100 / 1 s")
    return requests / per_s if per_s > 0.0 else default


def _trace(at: At | None, rate: At | None, root: Path) -> tuple[Path | None, FloatArray]:
    """The log whose requests came as these are to come, and the gaps between them, in s; none where none is named."""
    nothing = np.zeros(0)
    if at is None:
        return None, nothing
    if rate is not None:
        at.refuse("says when requests come, and so does rate; keep one of them")
    name = text_of(at, r"\S.*", "a log's file, as in traffic.parquet")
    if name is None:
        return None, nothing
    path = root / name
    try:
        table = read_table(path)
        gaps = np.diff(read_times(table)) if "ts" in table else nothing
    except BandmasterError as problem:
        at.refuse(f"cannot be read: {problem}")
        return None, nothing
    if not gaps.any():
        at.refuse("tells no times; name a log of several requests with a column ts, when each came in Unix s")
        return None, nothing
    return path.resolve(), gaps


def _phases(at: At | None, classes: tuple[int | str, ...], regions: tuple[str, ...]) -> tuple[Phase, ...]:
    """The phases in order; one of all alike where none is written."""
    names = tuple(map(str, classes))
    found: list[Phase] = []
    for k, item in enumerate(items_of(at, "write a list of {start: 5000, classes: {cat: 3}}")):
        get = fields_of(item, ("name", "start", "over", "classes", "regions")).get
        name, start = get("name"), get("start")
        if k == 0 and start is not None and start.value != 0:
            start.refuse("is where the first phase starts; leave it out: it starts with the first request")
        begins = integer_of(start, 0, 0, MOST) if k else 0
        if k and begins <= (before := found[-1].start):
            (start or item).refuse(f"is not after the phase before, which starts at {before}; write a later one")
        found.append(
            Phase(
                name=f"phase {k}" if name is None else show(name.value),
                start=begins,
                classes=_shares(get("classes"), names),
                regions=_shares(get("regions"), regions),
                over=integer_of(get("over"), 0, 0, MOST),
            )
        )
    return tuple(found) or (Phase("phase 0", 0, np.ones(len(names)), np.ones(len(regions))),)


def _shares(at: At | None, names: tuple[str, ...]) -> FloatArray:
    """The proportions of all ``names``: those that are written, 0 for others; alike where nothing is."""
    if at is None:
        return np.ones(len(names))
    shares = np.zeros(len(names))
    for key, value in _keyed(at, names).items():
        shares[names.index(key)] = number_of(value, 0.0, 0.0, 1e9)
    if not shares.any():
        at.refuse(f"leaves nothing; write a proportion above 0 for one of {', '.join(names[:8])}")
        shares[:] = 1.0
    return shares


def _keyed(at: At, names: tuple[str, ...]) -> dict[str, At]:
    """A mapping's values by those of its keys that are ``names``; numbers may name classes."""
    if not isinstance(at.value, dict):
        at.refuse(f"is not a mapping; write {{{names[0]}: …}}")
        return {}
    found = {}
    for key, value in at.value.items():
        if str(key) in names:
            found[str(key)] = at.child(str(key), value)
        else:
            at.book.refuse((*at.path, str(key)), f"is none of {', '.join(names[:8])}; write one of them")
    return found


ANSWERS = ("accuracy", "confidence", "abstains", "fails")
"""What is said of a member's answers."""


def _members(
    entries: Mapping[str, At], classes: tuple[int | str, ...], regions: tuple[str, ...]
) -> tuple[SimulatedMember, ...]:
    """The members; whoever is like another answers as that one does."""
    own = {name: _member(name, entry, classes, regions) for name, entry in entries.items()}
    models = {name: member for name, member in own.items() if member.like is None}
    for name, member in own.items():
        if member.like is not None and member.like not in models:
            at, known = entries[name], ", ".join(models)
            at.book.refuse((*at.path, "like"), f"is no member with answers of its own; write one of {known}")
    return tuple(_like(member, models.get(member.like or "", member)) for member in own.values())


def _like(member: SimulatedMember, model: SimulatedMember) -> SimulatedMember:
    answers = {key: getattr(model, key) for key in ("accuracy", "right", "wrong", "spread", "abstains", "fails")}
    return replace(member, **answers)


def _member(name: str, at: At, classes: tuple[int | str, ...], regions: tuple[str, ...]) -> SimulatedMember:
    known = (*ANSWERS, "latency", "energy", "host", "cost", "explainability", "like")
    alike = isinstance(at.value, dict) and "like" in at.value
    get = fields_of(at, known, {"latency": "20 ms"} if alike else {"accuracy": "0.9", "latency": "20 ms"}).get
    for key in ANSWERS if alike else ():
        if (answers := get(key)) is not None:
            answers.refuse("is that of the member it is like; take it out")
    sure = fields_of(get("confidence"), ("right", "wrong", "spread")).get
    chance, names = 1.0 / len(classes), tuple(map(str, classes))
    energy = _energy(get("energy"))
    host = get("host")
    on = next(iter(energy)) if host is None else str(host.value)
    if host is not None and on not in energy:
        host.refuse(f"has no energy; write one of {', '.join(energy)}, or its energy too")
        on = next(iter(energy))
    return SimulatedMember(
        name=name,
        accuracy=_by_kind(get("accuracy"), 0.5, 0.0, names, regions),
        right=_by_kind(sure("right"), 0.9, chance, names, regions),
        wrong=_by_kind(sure("wrong"), 0.6, chance, names, regions),
        spread=number_of(sure("spread"), 0.1, 0.0, 0.5),
        timing=_timing(get("latency")),
        energy_j=energy,
        host=on,
        cost=number_of(get("cost"), 0.0, 0.0, 1e12),
        explainability=number_of(get("explainability"), 0.0, 0.0, 1.0),
        abstains=number_of(get("abstains"), 0.0, 0.0, 1.0),
        fails=number_of(get("fails"), 0.0, 0.0, 1.0),
        like=text_of(get("like"), ".+", "the name of a member that is the same model on another host"),
    )


def _by_kind(
    at: At | None, default: float, low: float, classes: tuple[str, ...], regions: tuple[str, ...]
) -> FloatArray:
    """A share in [low, 1], (R, C): one figure, or ``all`` and others for classes and regions. Where both a class and a
    region have one, their odds against ``all`` multiply.
    """
    size = len(regions), len(classes)
    if at is None or not isinstance(at.value, dict):
        return np.full(size, number_of(at, default, low, 1.0))
    entries = _keyed(at, (ALL, *classes, *regions))
    base = _logit(number_of(entries.get(ALL), default, low, 1.0))
    if ALL not in entries:
        at.book.refuse((*at.path, ALL), f"is missing; add {ALL}: 0.9, for what is not named")
    by = {key: _logit(number_of(value, default, low, 1.0)) - base for key, value in entries.items() if key != ALL}
    of_class = np.array([by.get(name, 0.0) for name in classes])
    of_region = np.array([by.get(name, 0.0) if name != ALL else 0.0 for name in regions])
    return np.asarray(np.maximum(low, 1.0 / (1.0 + np.exp(-(base + of_class[None] + of_region[:, None])))))


def _logit(share: float) -> float:
    share = min(max(share, 1e-9), 1.0 - 1e-9)
    return math.log(share / (1.0 - share))


def _timing(at: At | None) -> Timing:
    """``20 ms``, or a mean with what makes it vary."""
    if at is None or not isinstance(at.value, dict):
        return Timing(duration_of(at, 0.01, "20 ms"))
    get = fields_of(at, ("mean", "range", "noise", "spikes", "spike"), {"mean": "20 ms"}).get
    default = Timing(duration_of(get("mean"), 0.01, "20 ms"))
    low, high = _range(get("range")) or (default.low_s, default.high_s)
    return replace(
        default,
        low_s=low,
        high_s=high,
        noise=number_of(get("noise"), default.noise, 0.0, 3.0),
        spikes=number_of(get("spikes"), default.spikes, 0.0, 1.0),
        spike=number_of(get("spike"), default.spike, 1.0, 1e6),
    )


def _range(at: At | None) -> tuple[float, float] | None:
    """A least and a longest time; ``None`` where there are none or they were refused."""
    bounds = [quantity_of(item, "time", ("ms", "s")) for item in items_of(at, "write [1 ms, 200 ms]")]
    if at is None or not bounds or any(map(math.isnan, bounds)):
        return None
    if len(bounds) != 2 or bounds[0] >= bounds[1]:
        at.refuse("is not a least and a longest time; write [1 ms, 200 ms]")
        return None
    return bounds[0], bounds[1]


def _energy(at: At | None) -> dict[str, float]:
    """The energy of a row by kind of host; of one figure, that on the CPU."""
    if at is None:
        return {"cpu": 0.0}
    if not isinstance(at.value, dict):
        return {"cpu": figure_of(at, "energy") or 0.0}
    found = {key: figure_of(value, "energy") or 0.0 for key, value in fields_of(at, HOSTS).items()}
    if not found:
        at.refuse("names no host; write {cpu: 0.5 J}")
    return found or {"cpu": 0.0}


# ---- Writing -------------------------------------------------------------------------------------------------


def simulation_text(simulation: Simulation) -> str:
    """The YAML that ``load_simulation`` reads back as this."""
    of, names = simulation, tuple(map(str, simulation.classes))
    described = {
        "requests": of.requests,
        "classes": list(of.classes),
        **({} if of.regions == (ALL,) else {"regions": list(of.regions)}),
        "overlap": _short(of.overlap),
        "arrivals": {
            **({"rate": f"{_short(of.rate)} / 1 s"} if of.trace is None else {"trace": str(of.trace)}),
            "queues": of.queues,
        },
        "labels": {"delay": of.delay, "share": _short(of.labelled)},
        "phases": [_phase_dict(k, phase, names, of.regions) for k, phase in enumerate(of.phases)],
        "members": {member.name: _member_dict(member, names, of.regions) for member in of.members},
    }
    return yaml.safe_dump({"simulation": described}, sort_keys=False, allow_unicode=True, width=120)


def _phase_dict(k: int, phase: Phase, classes: tuple[str, ...], regions: tuple[str, ...]) -> dict[str, object]:
    shares = {key: _short(share) for key, share in zip(classes, phase.classes.tolist(), strict=True) if share}
    of_regions = {key: _short(share) for key, share in zip(regions, phase.regions.tolist(), strict=True) if share}
    return {
        "name": phase.name,
        **({"start": phase.start} if k else {}),
        **({"over": phase.over} if phase.over else {}),
        "classes": shares,
        **({} if regions == (ALL,) else {"regions": of_regions}),
    }


def _member_dict(member: SimulatedMember, classes: tuple[str, ...], regions: tuple[str, ...]) -> dict[str, object]:
    timing = member.timing
    latency: dict[str, object] = {"mean": f"{_short(timing.mean_s)} s"}
    if timing.high_s < math.inf:
        latency["range"] = [f"{_short(timing.low_s)} s", f"{_short(timing.high_s)} s"]
    varying = {"noise": timing.noise, "spikes": timing.spikes, "spike": timing.spike if timing.spikes else 0.0}
    latency |= {key: _short(value) for key, value in varying.items() if value}
    answers: dict[str, object] = {
        "accuracy": _kinds(member.accuracy, classes, regions),
        "confidence": {
            "right": _kinds(member.right, classes, regions),
            "wrong": _kinds(member.wrong, classes, regions),
            "spread": _short(member.spread),
        },
        **{key: _short(getattr(member, key)) for key in ("abstains", "fails") if getattr(member, key)},
    }
    return {
        **(answers if member.like is None else {"like": member.like}),
        "latency": latency,
        "energy": {host: f"{_short(joules)} J" for host, joules in member.energy_j.items()},
        "host": member.host,
        **{key: _short(getattr(member, key)) for key in ("cost", "explainability") if getattr(member, key)},
    }


def _kinds(shares: FloatArray, classes: tuple[str, ...], regions: tuple[str, ...]) -> float | dict[str, float]:
    """Where all are alike, that. Else by class in the first region, and by region as odds against that: what
    ``_by_kind`` multiplies out again.
    """
    if np.ptp(shares) == 0.0:
        return _short(float(shares.flat[0]))
    odds = np.log(np.clip(shares, 1e-9, 1.0 - 1e-9) / np.clip(1.0 - shares, 1e-9, 1.0))
    base = float(odds[0].mean())
    by_region = odds.mean(axis=1) - odds[0].mean()
    found = {ALL: base} | dict(zip(classes, odds[0].tolist(), strict=True))
    if regions != (ALL,):
        found |= dict(zip(regions, (base + by_region).tolist(), strict=True))
    return {key: _short(1.0 / (1.0 + math.exp(-value))) for key, value in found.items()}


def _short(value: float) -> float:
    """To six digits: the rest is noise."""
    return float(f"{value:.6g}")
