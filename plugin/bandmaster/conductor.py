"""Conductor: lets an agent decide, window by window, who is in the ensemble and what each one's say counts for.

Whoever is not in it runs for nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bandmaster.contract import Contract
from bandmaster.core import NO_ANSWER, BandmasterError, BoolArray, Ensemble, Experience, FloatArray, IntArray, State
from bandmaster.plans import Catalogue, compiled, relative, side_by_side
from bandmaster.policies.traditional import Memoryless
from bandmaster.seen import Answered, Watch

if TYPE_CHECKING:  # it imports ONNX Runtime, which the request path does not need
    from bandmaster.agents import Agent


class _Conducted(msgspec.Struct, frozen=True):
    agent: str
    weights: list[float]
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
        self.weights = np.ones(len(ensemble.names))
        """What members count for (M,), in [0, 1]; 0: they are not in the ensemble."""
        self.windows = 0
        self._act()

    @property
    def active(self) -> BoolArray:
        """Who is in the ensemble, (M,)."""
        return self.weights > 0.0

    @property
    def out(self) -> tuple[bool, ...]:
        """Who is not in the ensemble, (M,); empty where all are."""
        return () if self.active.all() else tuple((~self.active).tolist())

    def adopt(self, weights: FloatArray) -> None:
        """Take over what members count for (M,), on whatever scale, where others decided on that, too."""
        self.weights = self.scaled(weights)

    def scaled(self, weights: FloatArray) -> FloatArray:
        """Weights (M,) as the agent has them: the greatest is 1, and so is every other above 0 where it weighs none."""
        return relative(weights if self.agent.changes.weighs else np.where(weights > 0.0, 1.0, 0.0))

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
            self._watch.close(self.weights)
            self.windows += 1
            self._act()

    def _act(self) -> None:
        self.weights = self.agent.changes.after(self.weights, self.agent.act(self._watch.seen().vector()))

    def dump(self) -> bytes:
        return msgspec.msgpack.encode(
            _Conducted(self.agent.version, self.weights.tolist(), self.windows, self._watch.dump())
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
        self.weights, self.windows = np.array(conducted.weights), conducted.windows


class ConductedPolicy(Memoryless):
    """Plays all members that a conductor has in the ensemble at once, pooled by what it has them count for."""

    name = "constant"
    reads_state = False

    def __init__(self, conductor: Conductor, ensemble: Ensemble) -> None:
        self._conductor, self._ensemble = conductor, ensemble

    @property
    def version(self) -> str:
        return str(self._conductor.windows)

    @property
    def catalogue(self) -> Catalogue:
        """The one plan; another where the conductor has acted."""
        return compiled((side_by_side(self._ensemble, self._conductor.weights),), self._ensemble)

    def probabilities(self, state: State) -> FloatArray:
        return np.ones(1)
