"""Shadows: agents that do not conduct, but decide as if they did; and what would have been gained by each."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bandmaster.conductor import Conductor
from bandmaster.contract import Contract
from bandmaster.core import BandmasterError, Ensemble, Experience
from bandmaster.counterfactual import evaluate
from bandmaster.ledger import Gain
from bandmaster.plans import compiled, side_by_side
from bandmaster.rehearsal import Counts, Rehearsal, known_p

if TYPE_CHECKING:  # it imports ONNX Runtime, which the request path does not need
    from bandmaster.agents import Agent

KEPT = 100
"""So many of a shadow's newest ensembles are kept: a request is judged by the one of when it was decided."""

RISK = 0.05
"""How probable it may be, ever, that some shadow is held to be better that is not."""


class Shadow:
    """One agent. It learns of requests of which every member's answer is known, as a probe makes it; a window is as
    many of those as it was trained with.
    """

    def __init__(self, agent: Agent, ensemble: Ensemble, contract: Contract) -> None:
        """Raises ``BandmasterError`` where the agent was trained for another ensemble."""
        self.conductor, self._ensemble = Conductor(agent, ensemble, contract), ensemble
        self.begin()

    def begin(self) -> None:
        """Gain nothing yet, with the ensemble that it has now."""
        self.gain = Gain()
        self._acted: deque[tuple[float, Counts]] = deque([(-math.inf, self.counts)], maxlen=KEPT)

    @property
    def counts(self) -> Counts:
        """What members count for in its ensemble."""
        return tuple(self.conductor.weights.tolist())

    def counts_at(self, at: float) -> Counts:
        """What they counted for at a time (Unix s)."""
        return next((counts for since, counts in reversed(self._acted) if since <= at), self._acted[0][1])

    def learn(self, experience: Experience, earned: float) -> None:
        """Learn of a request whose members' answers are all known, on which its ensemble would have ``earned`` that."""
        weights, windows = self.conductor.weights, self.conductor.windows
        plan = compiled((side_by_side(self._ensemble, weights),), self._ensemble)
        scores, known = experience.scores, experience.known
        labels = evaluate(plan, scores, known, np.ones(len(weights)), experience.evidence).labels[:, 0]
        self.conductor.count(experience, np.broadcast_to(weights > 0.0, known.shape), labels, earned)
        if self.conductor.windows > windows:
            self._acted.append((experience.joined.outcome.at, self.counts))

    def dump(self) -> dict[str, Any]:
        return {"conductor": self.conductor.dump(), "gain": self.gain.dump(), "acted": list(self._acted)}

    def load(self, dumped: Mapping[str, Any]) -> None:
        """Restore what ``dump`` gave, but for what the agent saw. Raises ``KeyError``, ``TypeError`` or ``ValueError``
        on anything else.
        """
        self.gain.load(dumped["gain"])
        acted = ((float(since), tuple(map(float, counts))) for since, counts in dumped["acted"])
        self._acted = deque(acted, maxlen=KEPT)


class Shadows:
    """The shadows of an agent that conducts. What each would have gained against it is known from labelled requests
    that were probed, each weighed by how improbable that was.
    """

    def __init__(self, agents: Sequence[Agent], ensemble: Ensemble, contract: Contract, against: str) -> None:
        """One agent at least; ``against`` is the version of the one that conducts."""
        self.each = tuple(Shadow(agent, ensemble, contract) for agent in agents)
        self._against = against

    def learn(self, experience: Experience, rehearsal: Rehearsal) -> None:
        """Learn of one request, before the policy does; of one without labels there is nothing to learn."""
        if experience.joined.outcome.labels is None or not (p := known_p(experience)):
            return
        if not experience.known.all():  # it was not probed, or a member was out of service
            for shadow in self.each:
                shadow.gain.add(math.nan, p)
            return

        @cache
        def earned(counts: Counts) -> float:
            return rehearsal.earned(experience, counts)

        decision = experience.joined.decision
        answered = earned(rehearsal.in_force(decision.state))
        for shadow in self.each:
            gained, own = earned(shadow.counts_at(decision.at)) - answered, earned(shadow.counts)
            if not math.isnan(gained + own):
                shadow.gain.add(gained, p)
                shadow.learn(experience, own)

    def better(self) -> Shadow | None:
        """The one that surely would have earned more, by most; ``None`` where none surely would."""
        best = max(self.each, key=self.least)
        return best if self.least(best) > 0.0 else None

    def least(self, shadow: Shadow) -> float:
        """What it would have gained at least, a request; minus infinity while too little is known."""
        return shadow.gain.mean - self.margin(shadow)

    def margin(self, shadow: Shadow) -> float:
        """What its mean gain may be off by, but with probability ``RISK`` for all shadows together."""
        return shadow.gain.margin(RISK / len(self.each))

    def dump(self) -> bytes:
        return msgspec.msgpack.encode((self._against, {s.conductor.agent.version: s.dump() for s in self.each}))

    def load(self, snapshot: bytes | None, conducted: bytes | None, conductor: Conductor) -> None:
        """Restore what ``dump`` gave, and what the agent saw that ``conducted`` then; both may have changed places
        since, or be others. Where another conducts now, gains begin anew.

        Raises ``BandmasterError`` for what cannot be read.
        """
        try:
            against, dumped = "", dict[str, Any]()
            if snapshot is not None:
                against, dumped = msgspec.msgpack.decode(snapshot, type=tuple[str, dict[str, Any]])
            saw = [own["conductor"] for own in dumped.values()] + ([] if conducted is None else [conducted])
            for agent in (conductor, *(shadow.conductor for shadow in self.each)):
                for bytes_ in saw:
                    agent.load(bytes_)  # nothing, where they are another's
            for shadow in self.each:
                own = dumped.get(shadow.conductor.agent.version)
                if own is not None and against == self._against:
                    shadow.load(own)
                else:
                    shadow.begin()
        except (msgspec.DecodeError, KeyError, TypeError, ValueError) as problem:
            raise BandmasterError(f"a snapshot of shadows cannot be used: {problem}") from None
