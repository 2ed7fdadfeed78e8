"""The block as a whole: found in a file, or given as BentoML has parsed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from bandmaster.config.checks import check_consensus, check_declared, check_prices, check_task, check_unmetered
from bandmaster.config.contract import read_metrics, read_profiles
from bandmaster.config.faults import read_faults
from bandmaster.config.guard import NONE, read_guard
from bandmaster.config.limits import read_limits
from bandmaster.config.members import read_classes, read_members
from bandmaster.config.plans import read_plans
from bandmaster.config.policy import read_policy
from bandmaster.config.records import KEYS, Config, DriftConfig, FeedbackConfig, Source
from bandmaster.config.values import (
    JOURNAL,
    METHOD,
    OBJECT,
    choice_of,
    duration_of,
    fields_of,
    flag_of,
    integer_of,
    number_of,
    text_of,
)
from bandmaster.contract import Contract
from bandmaster.core import Task
from bandmaster.probes import Probing
from bandmaster.yaml_reader import At, Book, dotted, read_text, read_yaml


def load(path: Path) -> Config:
    """Read a bentofile with ``args: orchestration:``, or a file with ``orchestration:`` at the top.

    Raises ``ConfigError`` listing every problem as ``file:line: path: value is wrong so; do this``.
    """
    return _config(*_found(path))


def read_block(path: Path) -> tuple[Mapping[str, object], Source]:
    """A file's block as it stands there, once it has been found to be one, for ``parse`` to read with edits over it.

    Raises ``ConfigError`` as ``load`` does.
    """
    at, source = _found(path)
    _config(at, source)
    return cast(Mapping[str, object], at.value), source


def parse(block: Mapping[str, object], source: Source) -> Config:
    """Read a block that has been parsed already; problems then name ``source`` and the path, but no line.

    What only the text shows (duplicated keys, anchors) cannot be seen here. Raises ``ConfigError``.
    """
    at = At(Book(source.name), tuple(filter(None, source.path.split("."))), block)
    return _config(at, source)


def _found(path: Path) -> tuple[At, Source]:
    book = Book(str(path))
    at = _find_block(read_yaml(read_text(path, book), book), book)
    return at, Source(str(path), dotted(at.path), path.parent)


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


def _config(at: At, source: Source) -> Config:
    required = {"contract": "{accuracy: {weight: 1}}", "members": "{name: {onnx: name.onnx}}"}
    get = fields_of(at, KEYS, required).get
    root = source.root.resolve()
    metrics = read_metrics(get("contract"), root)
    profiles = read_profiles(get("profiles"), metrics)
    members = read_members(get("members"), root)
    check_declared(at, metrics, profiles, members)
    probes = _probes(get("probes"))
    check_consensus(at, metrics, members, probes)
    limits = read_limits(get("limits"))
    check_prices(at, limits, members)
    check_unmetered(at, metrics, profiles, limits, members)
    names = tuple(m.name for m in members)
    task: Task = choice_of(get("task"), "classification", ("classification", "regression"))
    check_task(at, task, metrics, names)
    policy = read_policy(get("policy"), names, root)
    by_consensus = any(m.name == "accuracy" and m.source == "consensus" for m in metrics)
    seed, guard = get("seed"), get("guard")
    default = Config(contract=Contract(()), members=(), source=source, root=root)
    config = replace(
        default,
        members=members,
        service=text_of(get("service"), OBJECT, "module:Class, as in service:Digits"),
        method=text_of(get("method"), METHOD, "the name of a method, as in predict") or default.method,
        task=task,
        returns=choice_of(get("returns"), default.returns, ("label", "scores")),
        classes=read_classes(get("classes")),
        plans=read_plans(get("plans"), names),
        policy=policy,
        limits=limits,
        probes=probes,
        drift=_drift(get("drift")),
        guard=read_guard(guard, names, policy.plan, by_consensus),
        unguarded=guard is not None and guard.value == NONE,
        faults=read_faults(get("faults"), task),
        feedback=(feedback := _feedback(get("feedback"))),
        features=_features(get("features")),
        journal=text_of(get("journal"), JOURNAL, "sqlite:///orchestration.db, or postgresql://user@host/database")
        or default.journal,
        durability=choice_of(get("durability"), default.durability, ("group", "full")),
        retention_s=_retention(get("retention"), feedback.window_s),
        replicas=integer_of(get("replicas"), default.replicas, 1, 10_000),
        seed=integer_of(seed, 0, 0, 2**63 - 1) if seed else None,
    )
    at.book.settle()
    return replace(config, contract=Contract.of(*metrics, profiles=profiles))


def _probes(at: At | None) -> Probing:
    get, default = fields_of(at, ("share", "adapt")).get, Probing()
    return Probing(number_of(get("share"), default.share, 0, 1), flag_of(get("adapt"), default.adapt))


def _drift(at: At | None) -> DriftConfig:
    get, default = fields_of(at, ("detector", "delta", "reaction")).get, DriftConfig()
    return DriftConfig(
        detector=choice_of(get("detector"), default.detector, ("adwin",)),
        delta=number_of(get("delta"), default.delta, 0, 1, above=True),
        reaction=choice_of(get("reaction"), default.reaction, ("forget", "none")),
    )


def _feedback(at: At | None) -> FeedbackConfig:
    get, default = fields_of(at, ("window", "rate", "missing")).get, FeedbackConfig()
    return FeedbackConfig(
        duration_of(get("window"), default.window_s, "10 min"),
        choice_of(get("missing"), default.missing, ("skip",)),
        number_of(get("rate"), default.rate, 0, 1e9, above=True),
    )


def _features(at: At | None) -> tuple[int, ...] | None:
    """The columns that may be looked at, in order; ``None`` for all."""
    if at is None or at.value == "all":
        return None
    if at.value == "none":
        return ()
    columns = at.value if isinstance(at.value, list) else [None]
    if not all(type(column) is int and column >= 0 for column in columns):
        at.refuse("is no choice of columns; write all, none, or their numbers from 0, as in [0, 3]")
        return None
    return tuple(sorted(set(columns)))


def _retention(at: At | None, window_s: float) -> float | None:
    kept_s = duration_of(at, None, "90 d")
    if at is not None and kept_s is not None and kept_s < window_s:
        at.refuse(f"is less than the feedback window of {window_s:g} s, in which outcomes still come; write 90 d")
    return kept_s
