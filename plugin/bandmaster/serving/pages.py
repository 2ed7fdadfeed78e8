"""What goes between workers and the learner, and what the state page shows."""

from __future__ import annotations

import math

import pydantic

from bandmaster.core import Ensemble, FloatArray, MemberStatistics
from bandmaster.guard import Guard
from bandmaster.reporters import Standing
from bandmaster.rl_manager import RLManager
from bandmaster.shadows import Shadow


class Report(pydantic.BaseModel):
    """One outcome on its way from a worker to the learner; its id's signature has been verified."""

    decision_id: str
    at: float
    labels: tuple[int | float, ...] | None = None
    reward: float | None = None
    consensus: bool = False
    source: str = ""
    decided_at: float | None = None


class Receipt(pydantic.BaseModel):
    """What became of one report: ``joined``, ``early``, ``late`` or ``duplicate``; or ``refused``, and ``why``."""

    decision_id: str
    status: str
    reward: float | None = None
    why: str | None = None


class MemberPage(pydantic.BaseModel):
    name: str
    accuracy: float
    confidence: float
    agreement: float
    latency_s: float
    energy_j: float
    labelled: float


class EventPage(pydantic.BaseModel):
    name: str
    at: float
    cause: str


class GuardPage(pydantic.BaseModel):
    """How far the policy is followed: its ``share`` of the requests that there is ``room`` for, what was ``lost`` at
    most (in reward, since counting began), and by how much more its choices would have earned a request than the
    baseline: the ``gain``, give or take a ``margin`` (99 %, at every moment; ``None`` before it is known), of so many
    ``requests``. ``enough`` says whether that rules out a greater loss than the budget allows, ``pinned`` why somebody
    has the baseline answer alone.
    """

    mode: str
    baseline: str
    share: float
    breached: bool
    pinned: str | None
    room: float
    lost: float
    requests: int
    gain: float
    margin: float | None
    enough: bool


class ShadowPage(pydantic.BaseModel):
    """An agent that does not conduct, after so many ``windows``: by how much more its ensembles would have earned a
    request than those in force, give or take a ``margin`` (95 % for all shadows together, at every moment; ``None``
    before it is known), of so many ``requests``; and the ``members`` that it would have now.
    """

    agent: str
    windows: int
    requests: int
    gain: float
    margin: float | None
    members: list[str]


class AgentPage(pydantic.BaseModel):
    """The agent that conducts, after so many ``windows``; how many of its edits the gate has ``refused`` since the
    learner started; and its shadows.
    """

    agent: str
    windows: int
    refused: int
    shadows: list[ShadowPage]


class ConfigPage(pydantic.BaseModel):
    """Which ``version`` of the overlay a process serves by, a ``digest`` of the whole configuration, which model each
    member is, and why nothing newer is served, where that cannot be used.
    """

    version: int
    digest: str
    models: dict[str, str]
    error: str | None


class StatePage(pydantic.BaseModel):
    """What ``GET /orchestration/state`` shows: the learner's view, as of its last outcome. The newest decision that it
    had taken over was ``lag_s`` old then, and so many more were ``waiting``. Of replicas that share a journal one
    ``leads``, and learns; the others show what it published last.
    """

    leads: bool

    policy: str
    policy_version: str
    snapshot_version: int
    plans: int
    reward: float
    label_mix: dict[str, float]
    repeats: float
    members: list[MemberPage]
    contract: dict[str, dict[str, object]]
    counts: dict[str, int]
    lag_s: float
    waiting: int
    without_reward: int
    sources: list[Standing]
    drift: list[EventPage]
    guard: GuardPage | None
    agent: AgentPage | None
    config: ConfigPage


def label_mix(ensemble: Ensemble, mix: FloatArray) -> dict[str, float]:
    """Each class's recent share; in regression there are none."""
    return {} if ensemble.regression else dict(zip(map(str, ensemble.classes), mix.tolist(), strict=True))


def guard_page(guard: Guard, pinned: str | None) -> GuardPage:
    allowance, gain = guard.guarding.allowance, guard.gain
    margin = gain.margin(allowance.risk)
    return GuardPage(
        mode=guard.guarding.mode,
        baseline=guard.guarding.baseline,
        share=guard.share,
        breached=guard.breached,
        pinned=pinned,
        room=guard.ledger.room,
        lost=guard.ledger.lost,
        requests=gain.requests,
        gain=gain.mean,
        margin=margin if math.isfinite(margin) else None,
        enough=gain.mean - margin > -allowance.per_request,
    )


def agent_page(manager: RLManager, refused: int) -> AgentPage | None:
    """``None`` where no agent conducts."""
    conductor, shadows = manager.conductor, manager.shadows
    if conductor is None:
        return None
    pages = [shadow_page(shadow, shadows.margin(shadow)) for shadow in shadows.each] if shadows else []
    return AgentPage(agent=conductor.agent.version, windows=conductor.windows, refused=refused, shadows=pages)


def shadow_page(shadow: Shadow, margin: float) -> ShadowPage:
    conductor, gain = shadow.conductor, shadow.gain
    return ShadowPage(
        agent=conductor.agent.version,
        windows=conductor.windows,
        requests=gain.requests,
        gain=gain.mean,
        margin=margin if math.isfinite(margin) else None,
        members=[n for n, on in zip(conductor.agent.about.members, conductor.active, strict=True) if on],
    )


def member_pages(ensemble: Ensemble, statistics: MemberStatistics) -> list[MemberPage]:
    return [
        MemberPage(name=name, **{f: getattr(statistics, f)[m] for f in statistics.__slots__})
        for m, name in enumerate(ensemble.names)
    ]
