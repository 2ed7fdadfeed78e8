"""What a validated block becomes: frozen records, a field a key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bandmaster.breaker import Breaking
from bandmaster.contract import Contract
from bandmaster.core import CPU, Profile, Task
from bandmaster.guard import Guarding
from bandmaster.limits import Limits
from bandmaster.members.bento import Called
from bandmaster.members.open_inference import Endpoint
from bandmaster.policies.exploration import Exploration
from bandmaster.probes import Probing

KEYS = (
    "service", "method", "task", "returns", "contract", "profiles", "members", "classes", "plans", "policy", "limits",
    "probes", "drift", "guard", "faults", "feedback", "features", "journal", "durability", "retention", "replicas",
    "seed",
)  # fmt: skip
"""What the block may hold."""

POLICIES = (
    "bandit", "constant", "random", "scoring", "vw", "thompson", "ucb", "exp3", "exp4", "blast", "knora-e",
)  # fmt: skip
"""Every policy by name, the one that is used where none is named first."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a block stands: the file's or other source's ``name``, the block's dotted ``path`` in it, and
    ``root``, the folder that ``onnx`` paths start from and may not leave."""

    name: str
    path: str = "args.orchestration"
    root: Path = Path()


@dataclass(frozen=True, slots=True)
class MemberConfig:
    """One member: a model file, a model of BentoML's store, one on a server or another service of the bento; with none
    of them it exists only in logs. Nobody asks one that is not ``active``.

    A file or stored model is run by ``providers`` of ONNX Runtime, the preferred first. A call of it may take
    ``deadline_s``; where that is ``None``, what its speed at start allows (``build``). An ``isolated`` one has its own
    process.
    """

    name: str
    onnx: Path | None = None
    bento_model: str | None = None
    profile: Profile = field(default_factory=Profile)
    weight: float = 1.0
    active: bool = True
    providers: tuple[str, ...] = (CPU,)
    deadline_s: float | None = None
    isolated: bool = False
    endpoint: Endpoint | None = None
    bento: Called | None = None

    @property
    def modelled(self) -> bool:
        """Whether there is something that can be asked."""
        return self.onnx is not None or self.bento_model is not None or self.is_elsewhere

    @property
    def is_elsewhere(self) -> bool:
        """Whether it runs in none of our processes."""
        return self.endpoint is not None or self.bento is not None

    @property
    def declared_energy_j(self) -> float | None:
        """What a row takes, where that cannot be measured here and is declared."""
        return None if self.is_metered else self.profile.energy_j

    @property
    def is_metered(self) -> bool:
        """Whether its energy can be measured here: from the CPU time of its thread."""
        return not self.is_elsewhere and self.providers == (CPU,)


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
    """Who chooses, one of ``POLICIES`` or ``module:Class``.

    ``explore`` is for bandit and vw; ``plan`` names the constant policy's plan; ``experts`` are the
    policies that exp4 weighs, as ``--policies`` names them: none for every member alone. The ``agent`` in that file, if
    one is named, decides per window who is in the ensemble; its ``shadows`` decide as if they did, and with ``promote``
    one that is surely better takes its place. Where there is a ``gate``, no edit of an agent's comes into force that
    may cost more reward a request than that.
    """

    use: str = "bandit"
    explore: Exploration = field(default_factory=Exploration)
    plan: str | None = None
    experts: tuple[str, ...] = ()
    agent: Path | None = None
    shadows: tuple[Path, ...] = ()
    promote: bool = False
    gate: float | None = None

    @property
    def compares(self) -> bool:
        """Whether probes have to tell of members, too, who are out of the ensemble."""
        return bool(self.shadows) or self.gate is not None


@dataclass(frozen=True, slots=True)
class DriftConfig:
    """``delta`` in (0, 1] is the detector's tolerated rate of false alarms."""

    detector: Literal["adwin"] = "adwin"
    delta: float = 0.002
    reaction: Literal["forget", "none"] = "forget"


@dataclass(frozen=True, slots=True)
class FeedbackConfig:
    """``window_s`` seconds after a decision its outcome is late. One holder of a token may report ``rate`` a second."""

    window_s: float = 600.0
    missing: Literal["skip"] = "skip"
    rate: float = 1000.0


@dataclass(frozen=True, slots=True)
class FaultsConfig:
    """When members go out of service, and the class or the value that is answered where nobody can (``None``: an
    error).
    """

    breaking: Breaking = field(default_factory=Breaking)
    fallback: int | float | str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One validated block. ``root`` is the folder of the file it was read from.

    ``guard`` is the one that is written; what serves is guarded as ``guarding`` says. ``features`` are the columns
    that may be looked at and recorded (``None``: all), ``retention_s`` how long decisions are kept (``None``: always).
    ``replicas`` are so many services that share the journal, the budgets and the guard's room.
    """

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
    guard: Guarding | None = None
    unguarded: bool = False
    faults: FaultsConfig = field(default_factory=FaultsConfig)
    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
    features: tuple[int, ...] | None = None
    journal: str = "sqlite:///orchestration.db"
    durability: Literal["group", "full"] = "group"
    retention_s: float | None = None
    replicas: int = 1
    seed: int | None = None

    @property
    def benched(self) -> tuple[bool, ...]:
        """Whether each member is one that nobody asks; empty where none is."""
        return () if all(m.active for m in self.members) else tuple(not m.active for m in self.members)

    @property
    def guarding(self) -> Guarding | None:
        """How the service is guarded: in the shadow where nothing is written; ``None`` where that is wanted."""
        return None if self.unguarded else self.guard or Guarding(baseline=self.policy.plan or Guarding().baseline)

    @property
    def ignores_limits(self) -> str | None:
        """The baseline that answers every request whatever ``limits`` say; ``None`` where they are kept."""
        guarding = self.guarding
        if guarding is None or guarding.mode not in ("off", "shadow") or self.limits == Limits():
            return None
        return guarding.baseline
