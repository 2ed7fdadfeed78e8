"""From a configuration to what it names beyond itself: the members that it hosts, and functions of the user's own."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bandmaster.config import POLICIES, Config, ConfigError, MemberConfig
from bandmaster.core import VALUE, BandmasterError, Ensemble
from bandmaster.files import Stamp, stamp
from bandmaster.members.bento import BentoMember, Called
from bandmaster.members.deadline import Deadline
from bandmaster.members.isolated import IsolatedMember
from bandmaster.members.onnx import OnnxMember
from bandmaster.members.open_inference import Endpoint
from bandmaster.members.remote import RemoteMember
from bandmaster.metrics import ImportedFunction, imported

_log = logging.getLogger("bandmaster.hosting")

SLOW_S = 0.002
"""Members slower than this (seconds) run in threads: they would hold up every other request on the event loop."""

Elsewhere = RemoteMember | BentoMember
HostedMember = OnnxMember | IsolatedMember | Elsewhere


@dataclass(frozen=True, slots=True)
class Origin:
    """What a member was made of: its ``file``, as it was when it was ``written`` last, and whether BentoML ``stored``
    that; or its place ``elsewhere``. How it runs, and what energy is declared where none can be measured.
    """

    file: Path | None
    written: Stamp | None
    stored: bool
    elsewhere: Endpoint | Called | None
    providers: tuple[str, ...]
    isolated: bool
    deadline_s: float | None
    energy_j: float | None

    @property
    def watched(self) -> Path | None:
        """The file that changes when there is another model: in BentoML's store the one that names the latest."""
        return self.file.parent.parent / "latest" if self.file is not None and self.stored else self.file

    @property
    def model(self) -> tuple[Path | None, Stamp | None, Endpoint | Called | None]:
        """What differs between two models, however they run."""
        return self.file, self.written, self.elsewhere

    def __str__(self) -> str:
        """The model's tag, the file and when it was written, or the place."""
        if self.elsewhere is not None:
            return self.elsewhere.address
        assert self.file is not None  # it is the one or the other
        if self.stored:
            return f"{self.file.parent.parent.name}:{self.file.parent.name}"
        written_s = self.written[0] / 1e9 if self.written else 0.0
        return f"{self.file.name} of {datetime.fromtimestamp(written_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True, slots=True)
class Hosted:
    """The ensemble as it can be served: its members loaded and found to fit each other."""

    ensemble: Ensemble
    members: Mapping[str, HostedMember]
    input_shape: tuple[int | None, ...]
    origins: Mapping[str, Origin] = field(default_factory=dict)

    @property
    def slow(self) -> frozenset[str]:
        """Who is called in threads: who takes long, and who may take as long as it likes to fail."""
        return frozenset(
            name
            for name, member in self.members.items()
            if member.latency_s >= SLOW_S or isinstance(member, IsolatedMember | Elsewhere)
        )

    @property
    def watched(self) -> tuple[Path, ...]:
        """The files that change when there are other models than these."""
        return tuple(origin.watched for origin in self.origins.values() if origin.watched is not None)

    @property
    def isolated(self) -> tuple[IsolatedMember, ...]:
        return tuple(member for member in self.members.values() if isinstance(member, IsolatedMember))

    def stop(self, spared: Collection[HostedMember] = ()) -> None:
        """End the processes and connections of all members but those who are ``spared``. A call connects anew."""
        for member in self.members.values():
            if isinstance(member, IsolatedMember | RemoteMember) and member not in spared:
                member.stop()


def host(config: Config, now: Hosted | None = None) -> Hosted:
    """Load every member, and try it on a row; of those that are hosted ``now``, only who is declared otherwise since.

    Raises ``ConfigError`` naming the members that cannot be served or do not fit the first.
    """
    require_functions(config)
    problems: list[str] = []
    origins: dict[str, Origin] = {}
    members: dict[str, HostedMember] = {}
    for declared in config.members:
        try:
            origin = origins[declared.name] = _origin(declared)  # before it is read: what is written then comes later
            stays = now is not None and now.origins.get(declared.name) == origin
            members[declared.name] = now.members[declared.name] if now and stays else _member(declared, origin, config)
        except BandmasterError as problem:
            problems.append(f"{place(config, declared.name)}: {problem}")
    first, unknown = _first_known(config, members)
    problems += unknown
    problems += _misfits(config, members, first) if first is not None else []
    if problems or first is None:
        raise ConfigError(*(problems or [f"{config.source.name}: no member to serve"]))
    assert first.input_shape is not None  # it is known
    assert first.width is not None
    if config.task == "regression":
        return Hosted(ensemble_of(config, (VALUE,)), members, first.input_shape, origins)
    classes = config.classes or first.classes or tuple(range(first.width))
    if len(classes) != first.width:
        raise ConfigError(
            f"{config.source.name}: {config.source.path}.classes: {len(classes)} classes are named, but the members "
            f"answer with {first.width}; name each once, in the models' order"
        )
    known = now.members.values() if now and now.ensemble.classes == classes else ()
    for member in members.values():
        if member not in known and (why := member.misnamed(classes)) is not None:
            problems.append(f"{place(config, member.name)}: {why}")
    ensemble = ensemble_of(config, classes)
    if config.faults.fallback is not None:
        try:
            ensemble.class_index(config.faults.fallback)
        except BandmasterError as problem:
            problems.append(f"{config.source.name}: {config.source.path}.faults.fallback: {problem}")
    if problems:
        raise ConfigError(*problems)
    return Hosted(ensemble, members, first.input_shape, origins)


def _first_known(config: Config, members: Mapping[str, HostedMember]) -> tuple[HostedMember | None, list[str]]:
    """The member whose rows and classes all are to have, the first that runs here if one does; and why the ensemble
    cannot be served as it is. Those that are elsewhere, and down, are taken to be like it until they are met.
    """
    known = [m for m in members.values() if m.input_shape is not None and m.width is not None]
    known.sort(key=lambda member: isinstance(member, Elsewhere))
    problems: list[str] = []
    for member in members.values():
        if not isinstance(member, Elsewhere) or member in known:
            continue
        where = place(config, member.name)
        if known:
            shape, width = known[0].input_shape, known[0].width
            assert shape is not None  # it is known
            assert width is not None
            try:
                member.suppose(shape, width)
            except BandmasterError as problem:
                problems.append(f"{where}: {problem}")
                continue
        if isinstance(member, RemoteMember) and member.unmet is not None and known:
            _log.warning("%s: %s; the others serve without it until it answers", where, member.unmet)
        elif not known:
            why = member.unmet or "does not tell the shape of its rows"
            problems.append(
                f"{where}: {why}; no other member tells what rows and answers look like, so that nothing can be served"
            )
    return next(iter(known), None), problems


def _misfits(config: Config, members: Mapping[str, HostedMember], first: HostedMember) -> list[str]:
    """Who takes other rows than the first, or answers with other classes."""
    problems = []
    for member in members.values():
        here = not isinstance(member, Elsewhere)  # a server tells of no labels, only of how many there are
        for what, own, wanted in (
            ("rows of shape", member.input_shape, first.input_shape),
            ("classes", (here and member.classes) or member.width, (here and first.classes) or first.width),
        ):
            if own != wanted:
                problems.append(
                    f"{place(config, member.name)}: has {what} {own}, but {first.name!r} {wanted}; "
                    "an ensemble's members must agree: export them alike, or leave one out"
                )
    return problems


def _origin(declared: MemberConfig) -> Origin:
    file = None if declared.is_elsewhere else model_path(declared)
    return Origin(
        file=file,
        written=None if file is None else stamp(file),
        stored=declared.bento_model is not None,
        elsewhere=declared.endpoint or declared.bento,
        providers=declared.providers,
        isolated=declared.isolated,
        deadline_s=declared.deadline_s,
        energy_j=declared.declared_energy_j,
    )


def _member(declared: MemberConfig, origin: Origin, config: Config) -> HostedMember:
    name, task, energy_j = declared.name, config.task, origin.energy_j
    if declared.endpoint is not None:
        return RemoteMember(name, declared.endpoint, task, energy_j)
    if declared.bento is not None:
        return BentoMember(name, declared.bento, task, energy_j)
    assert origin.file is not None  # only what is elsewhere has none
    if not declared.isolated:
        return OnnxMember(name, origin.file, task, declared.providers, energy_j)
    deadline = None if declared.deadline_s is None else Deadline(declared.deadline_s)
    return IsolatedMember(name, origin.file, task, declared.providers, deadline, energy_j)


def ensemble_of(config: Config, classes: tuple[int | str, ...]) -> Ensemble:
    weights = {m.name: m.weight for m in config.members}
    profiles = {m.name: m.profile for m in config.members}
    classes = (VALUE,) if config.task == "regression" else classes
    return Ensemble(tuple(profiles), classes, profiles, config.task, weights)


def place(config: Config, member: str) -> str:
    return f"{config.source.name}: {config.source.path}.members.{member}"


def model_path(declared: MemberConfig) -> Path:
    if declared.onnx is not None:
        return declared.onnx
    if declared.bento_model is None:
        raise BandmasterError(
            "has no model, so it can be replayed but not served; give it one, as in onnx: forest.onnx"
        )
    import bentoml  # here, so that replay does not pay for importing it

    try:
        folder = Path(bentoml.models.get(declared.bento_model).path)
    except bentoml.exceptions.BentoMLException as problem:
        raise BandmasterError(
            f"{declared.bento_model!r} is not in BentoML's model store ({problem}); see `bentoml models list`"
        ) from None
    found = sorted(folder.glob("*.onnx"))
    if len(found) != 1:
        raise BandmasterError(f"{declared.bento_model!r} holds {len(found)} .onnx files; it must hold exactly one")
    return found[0]


def require_functions(config: Config) -> None:
    """Import the contract's own metrics and a policy of the user's own. Raises ``ConfigError`` naming those that cannot
    be had.
    """
    problems = []
    if is_own(config.policy.use):
        try:
            imported(config.policy.use, config.root)
        except BandmasterError as problem:
            problems.append(f"{config.source.name}: {config.source.path}.policy.use: {problem}")
    for metric in config.contract.metrics:
        if isinstance(metric.use, ImportedFunction):
            try:
                metric.use.load()
            except BandmasterError as problem:
                where = f"{config.source.name}: {config.source.path}.contract.{metric.name}.use"
                problems.append(f"{where}: {problem}")
    if problems:
        raise ConfigError(*problems)


def is_own(spec: str) -> bool:
    """Whether a policy's name is ``module:Class``, one of the user's own."""
    name, colon, _ = spec.partition(":")
    return bool(colon) and name not in POLICIES
