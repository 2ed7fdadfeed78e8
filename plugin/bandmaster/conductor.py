"""Conductor: lets an agent decide, window by window, who is in the ensemble. Whoever is not runs for nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bandmaster.contract import Contract
from bandmaster.core import NO_ANSWER, BandmasterError, BoolArray, Ensemble, Experience, IntArray
from bandmaster.seen import Answered, Watch

if TYPE_CHECKING:  # it imports ONNX Runtime, which the request path does not need
    from bandmaster.agents import Agent


class _Conducted(msgspec.Struct, frozen=True):
    agent: str
    active: list[bool]
    windows: int
    watch: dict[str, Any]


class Conductor:
    """A window is so many requests with a reward, as the agent was trained. It begins with all members, and acts once
    before the first window.
    """

    def __init__(self, agent: Agent, ensemble: Ensemble, contract: Contract) -> None:
        """Raises ``BandmasterError`` where the agent was trained for another ensemble."""
        agent.require(ensemble)
        self.agent, self._watch = agent, Watch(ensemble, contract)
        self.active = np.ones(len(ensemble.names), dtype=np.bool_)
        self.windows = 0
        self._act()

    @property
    def out(self) -> tuple[bool, ...]:
        """Who is not in the ensemble, (M,); empty where all are."""
        return () if self.active.all() else tuple((~self.active).tolist())

    def adopt(self, active: BoolArray) -> None:
        """Take over who is in the ensemble (M,) where others decided on that, too."""
        self.active = active.copy()

    def learn(self, experience: Experience) -> None:
        """Count what came of a request; act where that ends a window. What a probe told of others does not count: in
        training there was none.
        """
        out, known = experience.joined.decision.state.out, experience.known
        known = known & ~np.array(out) if out else known
        self.count(experience, known, experience.joined.answer.labels, experience.own)

    def count(self, experience: Experience, known: BoolArray, labels: IntArray, earned: float) -> None:
        """Count a request that was answered by these ``labels`` (n,) and has ``earned`` so much; of members, what is
        to be ``known`` (n, M).
        """
        self._watch.add(
            Answered(
                said=experience.said.label,
                sure=experience.scores.max(axis=2),
                known=known,
                labels=labels,
                truth=np.full_like(labels, NO_ANSWER) if experience.truth is None else experience.truth,
                latency_s=experience.figures.latency_s[None],
                energy_j=experience.figures.energy_j[None],
            ),
            earned,
            1,
        )
        if self._watch.rewarded == self.agent.about.window:
            self._watch.close(self.active)
            self.windows += 1
            self._act()

    def _act(self) -> None:
        self.active = self.agent.changes.after(self.active, self.agent.act(self._watch.seen().vector()))

    def dump(self) -> bytes:
        return msgspec.msgpack.encode(
            _Conducted(self.agent.version, self.active.tolist(), self.windows, self._watch.dump())
        )

    def load(self, snapshot: bytes) -> None:
        """Restore what ``dump`` gave; nothing, where that is another agent's. Raises ``BandmasterError`` on anything
        else.
        """
        try:
            conducted = msgspec.msgpack.decode(snapshot, type=_Conducted)
            if conducted.agent != self.agent.version:
                return
            self._watch.load(conducted.watch)
        except (msgspec.DecodeError, KeyError, TypeError, ValueError) as problem:
            raise BandmasterError(f"a conductor's snapshot cannot be used: {problem}") from None
        self.active, self.windows = np.array(conducted.active, dtype=np.bool_), conducted.windows
