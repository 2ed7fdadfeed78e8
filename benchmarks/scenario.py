"""Scenarios: one YAML each in ``scenarios/``, read into frozen records or refused with the file and the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import yaml

from bandmaster.config import POLICIES, Config, Source, parse
from bandmaster.core import BandmasterError
from bandmaster.references import REFERENCES
from bandmaster.replay import Mix, Order, Traffic
from benchmarks.checks import AnyCheck

ROOT = Path(__file__).parents[1]
SCENARIOS = Path(__file__).parent / "scenarios"

PEERS = "peers"
"""Stands, among policies, for every other one that the engine knows, and those that it lacks."""

UNAVAILABLE = {"meta-des": "META-DES is DESlib's, and DESlib 0.3.7 fails with today's scikit-learn"}
"""Peers that a comparison should have and this one has not, with the reason."""


# ---- Where a log comes from ----------------------------------------------------------------------------------


class Recording(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="from", tag="data"):
    """A recorded log or stream in the data folder; of a stream, ``target`` may name the feature that is to be foretold
    from the others in the place of ``y``.
    """

    file: str
    target: str | None = None


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many rows of a generator made with these options."""

    rows: int
    options: dict[str, Any] = {}


class Generated(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="from", tag="river-generator"):
    """A stream of one of River's synthetic generators, segment after segment, drawn with ``seed``."""

    generator: str
    segments: tuple[Segment, ...]
    seed: int = 1


class Bundled(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="from", tag="river-data"):
    """A stream that River's package brings along."""

    dataset: str


class Digits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="from", tag="digits"):
    """The demo's ten ONNX members on scikit-learn's digits: one redraw of its drifting traffic for every seed."""

    requests: int


class Made(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="from", tag="made"):
    """Answers of the config's members drawn from a model of ensembles; see ``sources.made``."""

    rows: int
    classes: int
    features: int = 0
    seed: int = 1


AnySource = Recording | Generated | Bundled | Digits | Made


class Grouping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows become requests of 1 to ``most`` rows each, all sizes alike likely: rows that follow each other, or, where
    ``mixed``, any. Drawn with ``seed``.
    """

    most: int
    mixed: bool = False
    seed: int = 1


# ---- Scenarios -----------------------------------------------------------------------------------------------


class MixSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A class mix that is redrawn; see ``bandmaster.replay.Mix``."""

    classes: int
    every: int
    requests: int


class TrafficSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the log becomes traffic, and the ``last`` share of it that figures are taken over."""

    order: Order = "kept"
    delay: int | None = None
    label_share: float = 1.0
    mix: MixSpec | None = None
    last: float = 1.0

    def traffic(self) -> Traffic:
        mix = None if self.mix is None else Mix(self.mix.classes, self.mix.every, self.mix.requests)
        return Traffic(self.order, self.delay, self.label_share, mix)


class Play(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One replay of a scenario, where it has several; what is absent is the scenario's own. ``at`` is what is swept.

    ``windows`` names the last shares of its requests that figures are taken over, each a play of its own in the record;
    without them there is one, the traffic's ``last`` under the play's own name.
    """

    traffic: TrafficSpec | None = None
    policies: tuple[str, ...] = ()
    settings: dict[str, Any] = {}
    at: float | None = None
    windows: dict[str, float] = {}


class Common(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What every scenario has: a permanent ``id``, ``why`` it is there, and what it ``must_show``."""

    id: str
    why: str
    must_show: tuple[AnyCheck, ...] = ()


class Hosted(Common, frozen=True, kw_only=True):
    """A scenario with an ensemble: the block of the ``config`` file, with ``settings`` in the place of its own.
    ``grouping`` makes requests of several rows out of the source's.
    """

    source: AnySource
    config: str
    grouping: Grouping | None = None
    settings: dict[str, Any] = {}
    seeds: int = 10

    def block(self, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The orchestration block, not yet validated."""
        try:
            document = yaml.safe_load((ROOT / self.config).read_text("utf-8"))
        except (OSError, yaml.YAMLError) as problem:
            raise BandmasterError(f"{self.id}: config {self.config}: cannot be read ({problem})") from None
        block = (document.get("args") or document)["orchestration"]
        return {**block, **self.settings, **(extra or {})}

    def read_config(self, extra: Mapping[str, Any] | None = None) -> Config:
        """Raises ``ConfigError`` where the block is refused."""
        return parse(
            self.block(extra), Source(f"{self.id}: {self.config}", "orchestration", (ROOT / self.config).parent)
        )


class Replayed(Hosted, frozen=True, kw_only=True, tag="replay"):
    """Policies on recorded traffic: once, or in several ``plays``, or once for each weight of accuracy in ``sweep``
    (the other weights share the rest as they did). ``over_time`` keeps the reward's course for a picture.

    A policy that ``between`` names plays the part of the sweep between two weights, ends included, others all of it.
    """

    traffic: TrafficSpec = TrafficSpec()
    policies: tuple[str, ...]
    plays: dict[str, Play] = {}
    sweep: tuple[float, ...] = ()
    between: dict[str, tuple[float, float]] = {}
    over_time: bool = False

    def all_plays(self) -> dict[str, Play]:
        """The plays by name, with the scenario's own traffic and policies where they have none, and their windows."""
        plays = self.plays or {"replay": Play()}
        if self.sweep:
            points = {f"accuracy {w:g}": self._point(w) for w in self.sweep}
            plays = {name: point for name, point in points.items() if point.policies}
        return {name: self._whole(name, play) for name, play in plays.items()}

    def _whole(self, name: str, play: Play) -> Play:
        traffic = play.traffic or self.traffic
        windows = play.windows or {name: traffic.last}
        return Play(traffic, expand(play.policies or self.policies), play.settings, play.at, windows)

    def _point(self, weight: float) -> Play:
        ends = {policy: self.between.get(policy, (0.0, 1.0)) for policy in expand(self.policies)}
        playing = tuple(policy for policy, (low, high) in ends.items() if low <= weight <= high)
        return Play(policies=playing, at=weight)

    def config_of(self, play: Play) -> Config:
        """The config that a play is by. Raises ``BandmasterError`` where it is refused."""
        config = self.read_config(play.settings)
        if play.at is None:
            return config
        return replace(config, contract=config.contract.weighing("accuracy", play.at))


class Degraded(Hosted, frozen=True, kw_only=True, tag="degraded"):
    """The member that ``policy`` uses most after ``healthy`` requests has its outputs shuffled among the next
    ``degraded``, and recovers for another ``recovered``. Requests are shuffled, their labels known at once.
    """

    policy: str
    healthy: int
    degraded: int
    recovered: int


class DecisionCost(Hosted, frozen=True, kw_only=True, tag="decision-cost"):
    """What a decision takes of the processor and the memory: ``warm_up`` requests that count for nothing, then
    ``requests`` without probes.
    """

    policy: str
    warm_up: int
    requests: int
    seeds: int = 1


class Stale(Hosted, frozen=True, kw_only=True, tag="stale"):
    """What a ``policy`` earns where workers have a snapshot every so many seconds, ``lags_s`` with 0 among them, of
    ``per_s`` requests each.
    """

    policy: str
    traffic: TrafficSpec = TrafficSpec()
    lags_s: tuple[float, ...]
    per_s: float


class AgentSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an agent is trained; see ``bandmaster.training.Training``."""

    algorithm: str
    changes: str
    steps: int
    every: int = 20_000
    settings: dict[str, Any] = {}


class Trained(Hosted, frozen=True, kw_only=True, tag="trained"):
    """RL agents, trained on all but a share ``held_out`` of the requests, and ``policies``, which never saw them, on
    what was held out. Every seed has an agent of its own. Those ``above`` also play with the bandit below them.
    """

    traffic: TrafficSpec
    agents: dict[str, AgentSpec]
    above: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    window: int = 100
    held_out: float = 0.5
    over_time: bool = False


class Fitted(Hosted, frozen=True, kw_only=True, tag="fitted"):
    """A simulation fitted to one half of the log, and the other half, played by the same ``policies``."""

    policies: tuple[str, ...]


class LogSpeed(Common, frozen=True, kw_only=True, tag="log-speed"):
    """How fast a made log of ``rows`` decisions is judged, and Vowpal Wabbit learns ``decisions``; and what memory a
    log ``times`` as large takes.
    """

    rows: int
    times: int
    decisions: int


class PageSpeed(Common, frozen=True, kw_only=True, tag="page-speed"):
    """How fast the dashboard shows a made journal of so many ``decisions`` in the last ``days``."""

    decisions: int
    days: float


class PageCost(Common, frozen=True, kw_only=True, tag="page-cost"):
    """What the dashboard in so many ``tabs`` takes of a service's throughput: by ``turns`` of ``turn_s`` seconds with
    and without them, where ``callers`` ask as fast as they are answered.
    """

    tabs: int
    callers: int
    turns: int
    turn_s: float


class ServingCost(Common, frozen=True, kw_only=True, tag="serving-cost"):
    """What a hand-written service takes, and what it takes orchestrated: by ``turns`` of ``turn_s`` seconds of each;
    where what is learned decides what it takes, at several ``starts``.
    """

    turns: int
    turn_s: float
    starts: int = 1


class ServingScale(Common, frozen=True, kw_only=True, tag="serving-scale"):
    """How throughput grows with ``workers``, by ``turns`` of ``turn_s`` seconds; how many ``rewards`` a second the
    learner takes; and how far behind its snapshots the most workers are.
    """

    workers: tuple[int, ...]
    turns: int
    turn_s: float
    rewards: int


class FleetSaturation(Common, frozen=True, kw_only=True, tag="fleet-saturation"):
    """What a replica's requests cost that shares its journal with others, in PostgreSQL and in the one that learns. So
    many ``replicas`` write ``decisions`` each at once, and follow one learner while ``load_per_s`` requests come to all
    of them together for ``turn_s`` seconds; and what that comes to for a ``fleet`` of so many, asked ``per_s`` each.
    """

    replicas: tuple[int, ...]
    decisions: int
    load_per_s: float
    turn_s: float
    fleet: int
    per_s: float


class Crossed(Common, frozen=True, kw_only=True, tag="crossed"):
    """Decisions of several policies on the same traffic, in the data folder: each judged by the log of each other one,
    as a table of its mean propensities in each ``context``, apart in every ``cell``. The model of rewards looks at
    ``features``. All but the ``file`` are names of its columns.
    """

    file: str
    policy: str
    cell: str
    action: str
    propensity: str
    reward: str
    context: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


class Summary(Common, frozen=True, kw_only=True, tag="summary"):
    """Runs nothing; its checks are about other scenarios."""


Scenario = (
    Replayed
    | Degraded
    | DecisionCost
    | Trained
    | Fitted
    | LogSpeed
    | PageSpeed
    | PageCost
    | ServingCost
    | ServingScale
    | FleetSaturation
    | Stale
    | Crossed
    | Summary
)


def expand(policies: Sequence[str]) -> tuple[str, ...]:
    """The policies by name, ``peers`` written out."""
    if PEERS not in policies:
        return tuple(policies)
    named = [p for p in policies if p != PEERS]
    return (*named, *(p for p in (*POLICIES, *REFERENCES, *UNAVAILABLE) if p not in named))


def load(path: Path) -> Scenario:
    """Read one scenario. Raises ``BandmasterError`` naming the file, the place and what is wrong."""
    try:
        scenario: Scenario = msgspec.convert(yaml.safe_load(path.read_text("utf-8")), type=Scenario)
    except (OSError, yaml.YAMLError, msgspec.ValidationError) as problem:
        raise BandmasterError(f"{path}: is no scenario: {problem}") from None
    if scenario.id != path.stem:
        raise BandmasterError(f"{path}: its id is {scenario.id!r}; an id is its file's name, and stays for good")
    names = [check.name for check in scenario.must_show]
    if len(set(names)) != len(names):
        raise BandmasterError(f"{path}: must_show has a name twice: {', '.join(names)}; name each check once")
    if isinstance(scenario, Replayed):
        _check_plays(path, scenario)
    return scenario


def _check_plays(path: Path, scenario: Replayed) -> None:
    if scenario.plays and scenario.sweep:
        raise BandmasterError(f"{path}: has plays and a sweep; keep one of them")
    for policy, (low, high) in scenario.between.items():
        if policy not in scenario.policies or not any(low <= w <= high for w in scenario.sweep):
            raise BandmasterError(
                f"{path}: between {policy}: there must be such a policy and a point of the sweep there"
            )
    windows = [window for play in scenario.all_plays().values() for window in play.windows]
    if len(set(windows)) != len(windows):
        raise BandmasterError(f"{path}: plays have a window twice: {', '.join(windows)}; name each once")
    for name, play in scenario.plays.items():
        if play.windows and (play.traffic or scenario.traffic).last != 1.0:
            raise BandmasterError(f"{path}: play {name} has windows and a last share; keep one of them")


def load_all(folder: Path = SCENARIOS) -> dict[str, Scenario]:
    """Every scenario of a folder by id, summaries last: they speak of the others."""
    scenarios = [load(path) for path in sorted(folder.glob("*.yaml"))]
    scenarios.sort(key=lambda s: isinstance(s, Summary))
    return {s.id: s for s in scenarios}
