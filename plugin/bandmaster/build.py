"""From a configuration to running parts. The only file that knows every class."""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from bandmaster import lean
from bandmaster.agents import Agent
from bandmaster.belief import Belief
from bandmaster.breaker import Absence, Breaker
from bandmaster.calling import Caller, Faults
from bandmaster.conductor import ConductedPolicy, Conductor
from bandmaster.config import POLICIES as KNOWN_POLICIES
from bandmaster.config import Config, ConfigError, MemberConfig
from bandmaster.contract import Contract
from bandmaster.core import VALUE, BandmasterError, Ensemble, Plan, Policy, Recorder
from bandmaster.files import Stamp, stamp
from bandmaster.guard import Admission, Guarding
from bandmaster.inputs import asked
from bandmaster.journal.memory import MemoryJournal
from bandmaster.learner import Learner, profile_figures
from bandmaster.members.bento import BentoMember, Called
from bandmaster.members.deadline import Deadline
from bandmaster.members.isolated import IsolatedMember
from bandmaster.members.onnx import OnnxMember
from bandmaster.members.open_inference import Endpoint
from bandmaster.members.remote import RemoteMember
from bandmaster.meter import CpuTimeMeter
from bandmaster.metrics import ImportedFunction, imported
from bandmaster.orchestrator import Orchestrator
from bandmaster.plans import ALL, ALL_DECLARED, Catalogue, generate, parse_plan
from bandmaster.policies.bandit import BanditPolicy
from bandmaster.policies.context_free import Exp3Policy, ThompsonPolicy, UcbPolicy
from bandmaster.policies.exp4 import Exp4Policy
from bandmaster.policies.exploration import STRENGTH, Exploration
from bandmaster.policies.peers import BlastPolicy, KnoraPolicy
from bandmaster.policies.profiled import ProfiledPolicy
from bandmaster.policies.traditional import ConstantPolicy, RandomPolicy, ScoringPolicy
from bandmaster.policies.vw_alone import VowpalWabbitPolicy
from bandmaster.recorded import RecordedLog, RecordedMember, RecordedMeter, read_logs
from bandmaster.rehearsal import Rehearsal
from bandmaster.replay import Bench, Parts, Traffic
from bandmaster.rl_manager import RLManager
from bandmaster.shadows import Shadows
from bandmaster.simulator import ModelRL, Simulation
from bandmaster.state import StateManager, Tracking
from bandmaster.table import Table

_log = logging.getLogger("bandmaster.build")

SLOW_S = 0.002
"""Members slower than this (seconds) run in threads: they would hold up every other request on the event loop."""

POLICIES = ("constant", "random", "scoring", "bandit")
"""Those that are compared where nobody says which; ``config.POLICIES`` are all."""

POLICY_PARTS = ("name", "probes", "aims", "version", "catalogue", "probabilities", "learn", "dump", "load")
"""What ``core.Policy`` asks for."""


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
            problems.append(f"{_place(config, declared.name)}: {problem}")
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
            problems.append(f"{_place(config, member.name)}: {why}")
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
        place = _place(config, member.name)
        if known:
            shape, width = known[0].input_shape, known[0].width
            assert shape is not None  # it is known
            assert width is not None
            try:
                member.suppose(shape, width)
            except BandmasterError as problem:
                problems.append(f"{place}: {problem}")
                continue
        if isinstance(member, RemoteMember) and member.unmet is not None and known:
            _log.warning("%s: %s; the others serve without it until it answers", place, member.unmet)
        elif not known:
            why = member.unmet or "does not tell the shape of its rows"
            problems.append(
                f"{place}: {why}; no other member tells what rows and answers look like, so that nothing can be served"
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
                    f"{_place(config, member.name)}: has {what} {own}, but {first.name!r} {wanted}; "
                    "an ensemble's members must agree: export them alike, or leave one out"
                )
    return problems


def _origin(declared: MemberConfig) -> Origin:
    file = None if declared.is_elsewhere else _model_path(declared)
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
                place = f"{config.source.name}: {config.source.path}.contract.{metric.name}.use"
                problems.append(f"{place}: {problem}")
    if problems:
        raise ConfigError(*problems)


def ensemble_of(config: Config, classes: tuple[int | str, ...]) -> Ensemble:
    weights = {m.name: m.weight for m in config.members}
    profiles = {m.name: m.profile for m in config.members}
    classes = (VALUE,) if config.task == "regression" else classes
    return Ensemble(tuple(profiles), classes, profiles, config.task, weights)


def _place(config: Config, member: str) -> str:
    return f"{config.source.name}: {config.source.path}.members.{member}"


def _model_path(declared: MemberConfig) -> Path:
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


def catalogue(config: Config, ensemble: Ensemble) -> Catalogue:
    plans = config.plans
    return Catalogue.of(
        ensemble,
        generate(
            ensemble,
            subsets=plans.subsets,
            cascades=0 if ensemble.regression else plans.cascades,
            stop_at=plans.stop_at,
            limit=plans.limit,
            include=_included(config, ensemble),
        ),
    )


def _included(config: Config, ensemble: Ensemble) -> list[Plan]:
    """The plans that the user names."""
    named = [*config.plans.include, *([config.policy.plan] if config.policy.plan is not None else [])]
    named += [config.guard.baseline] if config.guard is not None else []
    return list(dict.fromkeys(parse_plan(text, ensemble) for text in named))


def tracking(config: Config) -> Tracking:
    return Tracking(delta=config.drift.delta, forget=config.drift.reaction == "forget")


def policy(spec: str, config: Config, plans: Catalogue, belief: Belief) -> Policy:
    """A policy by its name. ``constant:PLAN`` names the plan, ``constant`` alone takes the config's or all members;
    ``bandit:squarecb`` and ``vw:bag`` name how to explore, without that they take the config's way. Where the contract
    has profiles, there is one such policy for each.
    """
    if config.contract.profiles:
        return ProfiledPolicy(
            config.contract, lambda contract: _of_profile(spec, config, contract, plans, belief), plans.ensemble
        )
    if is_own(spec):
        return own_policy(spec, config.root, plans, config.contract, belief)
    name, _, detail = spec.partition(":")
    contract, seed, ensemble = config.contract, config.seed or 0, plans.ensemble
    figures = profile_figures(ensemble)
    makers: Mapping[str, Callable[[], Policy]] = {
        "constant": lambda: ConstantPolicy(plans, parse_plan(detail or config.policy.plan or "all", ensemble).name),
        "random": lambda: RandomPolicy(plans),
        "scoring": lambda: ScoringPolicy(plans, contract, figures),
        "bandit": lambda: _bandit(detail, config, plans, belief),
        "vw": lambda: VowpalWabbitPolicy(plans, contract, figures, explore=_exploration(detail, config), seed=seed),
        "thompson": lambda: ThompsonPolicy(plans, seed=seed),
        "ucb": lambda: UcbPolicy(plans),
        "exp3": lambda: Exp3Policy(plans),
        "exp4": lambda: Exp4Policy(
            [policy(expert, config, plans, belief) for expert in _experts(config, ensemble)], plans
        ),
        "blast": lambda: BlastPolicy(plans, contract),
        "knora-e": lambda: KnoraPolicy(plans),
    }
    if name not in makers:
        raise BandmasterError(f"no policy {name!r}; there are {', '.join(makers)}")
    if ensemble.regression and name == "knora-e":
        raise BandmasterError(f"{name}: asks who was right, and values are more or less so; choose another policy")
    if detail and name not in ("constant", "bandit", "vw"):
        raise BandmasterError(f"policy {spec!r}: only constant takes a plan, as in constant:all")
    return makers[name]()


def is_own(spec: str) -> bool:
    """Whether a policy's name is ``module:Class``, one of the user's own."""
    name, colon, _ = spec.partition(":")
    return bool(colon) and name not in KNOWN_POLICIES


def own_policy(spec: str, root: Path, plans: Catalogue, contract: Contract, belief: Belief) -> Policy:
    """A policy of the user's own, made as ``testing.check_policy`` has it made. Raises ``BandmasterError`` where it
    cannot be.
    """
    make = imported(spec, root)
    try:
        policy: Policy = make(plans, contract, belief)
    except Exception as problem:  # the user's code may raise anything
        raise BandmasterError(
            f"policy {spec}: called with plans, contract and belief it raised {type(problem).__name__}: {problem}"
        ) from problem
    if missing := [part for part in POLICY_PARTS if not hasattr(policy, part)]:
        raise BandmasterError(f"policy {spec}: has no {', '.join(missing)}; bandmaster.core.Policy says what they are")
    return policy


def _of_profile(spec: str, config: Config, contract: Contract, plans: Catalogue, belief: Belief) -> Policy:
    """One profile's policy. A bandit, which finds plans of its own, starts with its share of the limit."""
    alone = replace(config, contract=contract)
    if spec.partition(":")[0] == "bandit":
        must = len(plans.ensemble.names) + len(_included(config, plans.ensemble)) + 3
        limit = max(config.plans.limit // (1 + len(config.contract.profiles)), must)
        plans = catalogue(replace(alone, plans=replace(config.plans, limit=limit)), plans.ensemble)
    return policy(spec, alone, plans, belief)


def _bandit(by: str, config: Config, plans: Catalogue, belief: Belief) -> BanditPolicy:
    return BanditPolicy(
        plans,
        config.contract,
        profile_figures(plans.ensemble),
        belief,
        keep=len(_included(config, plans.ensemble)),
        explore=_exploration(by, config),
        seed=config.seed or 0,
    )


def _exploration(by: str, config: Config) -> Exploration:
    if by in ("", config.policy.explore.by):
        return config.policy.explore
    for known, strength in STRENGTH.items():
        if by == known:
            return Exploration(known, strength)
    raise BandmasterError(f"nothing explores by {by!r}; there are {', '.join(STRENGTH)}")


def _experts(config: Config, ensemble: Ensemble) -> tuple[str, ...]:
    return config.policy.experts or tuple(f"constant:{name}" for name in ensemble.names)


def learner(
    config: Config,
    plans: Catalogue,
    rng: np.random.Generator,
    spec: str | None = None,
    guarding: Guarding | None = None,
    *,
    conducts: bool = True,
) -> Learner:
    """The learning half: state, contract, the config's policy or that of ``spec``, a guard where there is to be one;
    nothing that others share. One that only follows another does not conduct: what the agent has decided is edited
    into the configuration.
    """
    aim = not (config.contract.by_consensus or plans.ensemble.regression)
    state = StateManager(plans.ensemble, tracking(config), replace(config.probes, aim=aim))
    file, use = conducted(spec, config.seed or 0) if spec else (config.policy.agent, config.policy.use)
    conductor = _conductor(file, use, config, plans, in_replay=spec is not None) if conducts else None
    compares = spec is None and config.policy.compares
    shadows = _shadows(conductor, config, plans) if conductor and compares and config.policy.shadows else None
    if conductor and conductor.agent.changes.weighs and spec is not None:
        chooses: Policy = ConductedPolicy(conductor, plans.ensemble)
    else:
        chooses = policy(use, config, plans, state.belief)
    manager = RLManager(chooses, rng, conductor, config.benched, shadows, compares)
    if conductor and compares:
        weighs = conductor.agent.changes.weighs
        manager.rehearsal = Rehearsal(plans.ensemble, config.contract, chooses, manager.distribution, weighs=weighs)
    return Learner(plans.ensemble, config.contract, state, manager, guarding)


def unlearned(config: Config) -> Learner:
    """A learner that has learned nothing, to tell what recorded outcomes are worth. Models are loaded only where the
    config does not name the classes.
    """
    ensemble = ensemble_of(config, config.classes) if config.classes else host(config).ensemble
    return learner(config, catalogue(config, ensemble), np.random.default_rng(0), guarding=config.guarding)


AGENT = "agent:"
"""``agent:ppo.onnx`` names the agent that decides who is in the ensemble, or weighs it; all of it answer each request.
``agent:ppo.onnx+bandit`` names the policy, too, that chooses among plans of theirs. ``{seed}`` in a path stands for the
seed.
"""


def conducted(spec: str, seed: int) -> tuple[Path | None, str]:
    """The agent's file and the policy that a policy's name means; no file where it names none."""
    if not spec.startswith(AGENT):
        return None, spec
    file, mark, policy = spec.removeprefix(AGENT).rpartition(".onnx")
    if not mark or (policy and not policy.startswith("+")):
        raise BandmasterError(f"policy {spec!r}: names no agent; write agent:ppo.onnx, or agent:ppo.onnx+bandit")
    return Path((file + mark).replace("{seed}", str(seed))), policy.removeprefix("+") or "constant:all"


def _conductor(file: Path | None, use: str, config: Config, plans: Catalogue, *, in_replay: bool) -> Conductor | None:
    if file is None:
        return None
    agent = Agent(file)
    weighs, (name, _, plan) = agent.changes.weighs, use.partition(":")
    plays = ALL_DECLARED if weighs and not in_replay else ALL
    fix = f"write {AGENT}{file}" if in_replay else f"write use: constant, plan: {plays}"
    if weighs and name != "constant":
        raise BandmasterError(
            f"policy {use!r}: the agent decides what members count for, and other policies go by weights of their own; "
            f"{fix}"
        )
    if name == "constant" and (plan or config.policy.plan or ALL) != plays:
        what = "what members count for" if weighs else "who is in the ensemble"
        raise BandmasterError(f"policy {use!r}: the agent decides {what}, and all of them are to answer; {fix}")
    return Conductor(agent, plans.ensemble, config.contract)


def _shadows(conductor: Conductor, config: Config, plans: Catalogue) -> Shadows:
    agents, own = [Agent(file) for file in config.policy.shadows], conductor.agent.about
    for agent in agents:
        if agent.changes.weighs != conductor.agent.changes.weighs:
            raise BandmasterError(
                f"policy.shadows: {agent.version} was trained with --changes {agent.about.changes}, and policy.agent "
                f"with {own.changes}; who decides what members count for is compared with others that do"
            )
    return Shadows(agents, plans.ensemble, config.contract, conductor.agent.version)


def faults(config: Config, hosted: Hosted, told: Callable[[str, Absence | None], None]) -> Faults:
    """What a worker does about members that fail; ``told`` hears of those that go out of service, and come back."""
    most_s = math.inf if config.limits.deadline_s is None else config.limits.deadline_s
    deadlines = {m.name: Deadline.of(m.deadline_s, hosted.members[m.name].latency_s, most_s) for m in config.members}
    return Faults(Breaker(hosted.ensemble.names, config.faults.breaking, told=told), deadlines)


def orchestrator(
    config: Config,
    learning: Learner,
    *,
    caller: Caller,
    recorder: Recorder,
    new_id: Callable[[float], str],
    workers: int = 1,
    clock: Callable[[], float] | None = None,
    pinned: Callable[[], bool] = lambda: False,
) -> Orchestrator:
    """The answering half, reading the state and policy that ``learning`` holds; one of so many ``workers``. A ``clock``
    is needed where ``learning`` only follows a learner in another process; while it is ``pinned`` the guard's baseline
    answers.
    """
    return Orchestrator(
        ensemble=learning.ensemble,
        state=learning.state,
        manager=learning.manager,
        caller=caller,
        recorder=recorder,
        new_id=new_id,
        limits=config.limits.shared(workers),
        admission=Admission(learning.guard, workers, clock, pinned) if learning.guard else None,
    )


@dataclass(frozen=True, slots=True)
class ReplayFactory:
    """Builds the parts of one replay run; picklable, so that runs can go to other processes."""

    config: Config

    def __call__(self, spec: str, log: RecordedLog, seed: int) -> Parts:
        plans = catalogue(self.config, log.ensemble)
        learning = learner(replace(self.config, seed=seed), plans, np.random.default_rng([seed, 2]), spec)
        lean_enough = lean.suffices(learning.manager.policy, self.config.contract, self.config.limits)
        if lean_enough and learning.manager.conductor is None:
            learning = lean.LeanLearner(log.ensemble, self.config.contract, tracking(self.config), learning.manager)
        journal = MemoryJournal(log.window_s, keep=False)
        count = itertools.count()
        members = {n: RecordedMember(n, log.scores[:, m]) for m, n in enumerate(log.ensemble.names)}
        answering = orchestrator(
            self.config,
            learning,
            caller=Caller(members, RecordedMeter(log)),
            recorder=journal,
            new_id=lambda at: str(next(count)),
        )
        return Parts(answering, learning, journal)


def bench(config: Config, logs: Sequence[RecordedLog], traffic: Traffic | None = None) -> Bench:
    """What policies are compared on, as the config has it."""
    plans = catalogue(config, logs[0].ensemble)
    return Bench(tuple(logs), ReplayFactory(config), plans, config.contract, tracking(config), traffic or Traffic())


def simulated_logs(
    config: Config, simulation: Simulation, seeds: Sequence[int], requests: int | None = None
) -> list[RecordedLog]:
    """A log for each seed, answered by the members of ``config``, as ``simulation`` describes them. Raises
    ``BandmasterError`` for one that it does not, and where a ``contract`` weighs what it does not say.
    """
    described = {member.name: member for member in simulation.members}
    for member in config.members:
        if member.name not in described:
            raise BandmasterError(
                f"{_place(config, member.name)}: is not simulated; describe it under simulation.members, which has "
                f"{', '.join(described)}"
            )
    model = ModelRL(replace(simulation, members=tuple(described[m.name] for m in config.members)))
    logs = [model.log(seed, requests) for seed in seeds]
    require_known_terms(config.contract, logs[0])
    return logs


def recorded_log(config: Config, path: Path) -> RecordedLog:
    """Read one log, as ``recorded_logs`` does."""
    return recorded_logs(config, [path])[0]


def recorded_logs(
    config: Config, paths: Sequence[Path], cache: Path | None = None, told: Callable[[str], None] | None = None
) -> list[RecordedLog]:
    """Read recorded ensembles, streams and raw inputs with the members, profiles and classes of ``config``; see
    ``read_logs``. Members are asked about raw inputs where they have models.
    """
    profiles = {m.name: m.profile for m in config.members}
    weights = {m.name: m.weight for m in config.members}
    modelled = any(m.modelled for m in config.members)
    ask = partial(_asked, config, cache, told) if modelled else None
    logs = read_logs(paths, tuple(profiles), profiles, config.classes, cache, told, config.task, weights, ask)
    return [_with_known_profiles(config, path, log) for path, log in zip(paths, logs, strict=True)]


def _asked(config: Config, cache: Path | None, told: Callable[[str], None] | None, table: Table) -> Table:
    """Raw inputs as a recorded ensemble of the configured models."""
    hosted = host(config)
    models = ",".join(map(_content, config.members))
    meter = CpuTimeMeter(len(hosted.ensemble.classes), task=config.task)
    try:
        return asked(table, hosted.ensemble, hosted.members, hosted.input_shape, meter, models, cache, told)
    finally:
        hosted.stop()


def _content(declared: MemberConfig) -> str:
    """Tells one model from another. What a server says today it may not say tomorrow."""
    if declared.is_elsewhere:
        return secrets.token_hex(16)
    return hashlib.sha256(_model_path(declared).read_bytes()).hexdigest()


def _with_known_profiles(config: Config, path: Path, log: RecordedLog) -> RecordedLog:
    """The log; without its profiles where the config has none, so that the column may mean anything."""
    if log.profiles is None or not config.contract.profiles:
        return log if log.profiles is None else replace(log, profiles=None, unused=(*log.unused, "profile"))
    for name in dict.fromkeys(log.profiles):
        try:
            config.contract.under(name)
        except BandmasterError as problem:
            row = log.profiles.index(name)
            raise BandmasterError(f"{path}: row {row}, column 'profile': {problem}, or add it to profiles:") from None
    return log


def require_known_terms(contract: Contract, log: RecordedLog) -> None:
    """Raise ``BandmasterError`` if the contract weighs a figure that the log does not know for every member."""
    for metric, column in (("latency", "latency_s"), ("energy", "energy_j"), ("cost", "cost"),
                           ("explainability", "explainability")):  # fmt: skip
        missing = np.isnan(getattr(log, column)).any(axis=0)
        if contract.counts(metric) and missing.any():
            name = log.ensemble.names[int(missing.argmax())]
            raise BandmasterError(
                f"the contract weighs {metric}, but the log has no full column {name}__{column} and the config no "
                f"members.{name}.profile.{metric}; give one of them, or set the weight to 0"
            )
