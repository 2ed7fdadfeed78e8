"""From a configuration to running parts. The only file that knows every policy."""

from __future__ import annotations

import hashlib
import itertools
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from bandmaster import lean
from bandmaster.agents import Agent
from bandmaster.belief import Belief
from bandmaster.breaker import Absence, Breaker
from bandmaster.calling import Caller, Faults
from bandmaster.conductor import ConductedPolicy, Conductor
from bandmaster.config import Config, MemberConfig
from bandmaster.contract import Contract
from bandmaster.core import BandmasterError, Ensemble, Plan, Policy, Recorder
from bandmaster.guard import Admission, Guarding
from bandmaster.hosting import Hosted, ensemble_of, host, is_own, model_path, place
from bandmaster.inputs import asked
from bandmaster.journal.memory import MemoryJournal
from bandmaster.learner import Learner, profile_figures
from bandmaster.members.deadline import Deadline
from bandmaster.meter import CpuTimeMeter
from bandmaster.metrics import imported
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

POLICIES = ("constant", "random", "scoring", "bandit")
"""Those that are compared where nobody says which; ``config.POLICIES`` are all."""

POLICY_PARTS = ("name", "probes", "aims", "version", "catalogue", "probabilities", "learn", "dump", "load")
"""What ``core.Policy`` asks for."""


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
                f"{place(config, member.name)}: is not simulated; describe it under simulation.members, which has "
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
    return hashlib.sha256(model_path(declared).read_bytes()).hexdigest()


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
