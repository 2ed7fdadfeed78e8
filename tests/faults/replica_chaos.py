"""Two replicas on PostgreSQL: one is killed, then the learner, then the database, then the network between them.

    python -m tests.faults.replica_chaos --requests 1000

So many requests are asked, and their labels reported, before, between and after the faults, at either replica. Nothing
that was acknowledged may be lost or count twice; after each fault learning must go on, and what is learned reach a
worker, within five seconds. What is earned after all of it is compared with what one process earns, without replicas
and without faults, on the same requests.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psycopg

from bandmaster.core import Reward
from bandmaster.intervals import Interval
from bandmaster.journal.codec import decode
from bandmaster.journal.reading import JournalReader
from tests.end_to_end.servers import Server, eventually
from tests.faults.command import parser
from tests.postgres.replicas import ask, cable, following, kill, leads, replica, tell
from tests.postgres.servers import postgres
from tests.serving.tiny import LABELS

AGAIN_S = 0.05
PATIENCE_S = 60.0
RESUMED_S = 5.0


@dataclass
class Found:
    """What was seen: the decisions whose outcome was acknowledged, how often feedback had to be sent again, how long
    (s) each fault kept learning, and what was not as it must be.
    """

    acknowledged: list[str] = field(default_factory=list)
    again: int = 0
    resumed_s: dict[str, float] = field(default_factory=dict)
    amiss: list[str] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)

    @property
    def behind(self) -> Interval:
        """By how much less was earned than by one process, in shares of what that earned, on average: 95 %."""
        alone, rewards = (np.array(earned) for earned in (self.alone, self.rewards))
        half = 1.96 * np.sqrt(alone.var() / len(alone) + rewards.var() / len(rewards))
        gap = alone.mean() - rewards.mean()
        return (gap - half) / alone.mean(), (gap + half) / alone.mean()


class Traffic:
    """Rows in an order of their own, each asked of one server and told to another."""

    def __init__(self, seed: int, found: Found) -> None:
        self._rng, self._found = np.random.default_rng(seed), found

    def send(self, servers: Sequence[Server], requests: int) -> list[str]:
        """Ask and report so many, sending again what was not acknowledged. Returns the decisions."""
        decisions = []
        for _ in range(requests):
            n = int(self._rng.integers(len(LABELS)))
            first, second = self._rng.integers(len(servers), size=2)
            decisions.append(ask(servers[first], n))
            self.report(servers[second], decisions[-1], n)
        return decisions

    def report(self, server: Server, id_: str, n: int) -> None:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            with suppress(httpx.TransportError):  # nobody acknowledged it
                if tell(server, id_, n).status_code in (200, 202):
                    self._found.acknowledged.append(id_)
                    return
            self._found.again += 1
            time.sleep(AGAIN_S)
        self._found.amiss.append(f"{id_}: is not taken within {PATIENCE_S:.0f} s")


def chaos(folder: Path, requests: int, seed: int = 0) -> Found:
    """Break one thing after the other."""
    found = Found()
    with ExitStack() as stack:
        database = stack.enter_context(postgres(folder / "database"))
        url = database.database("journal")
        cables = [stack.enter_context(cable(database.port)) for _ in range(2)]
        urls = [url.replace(f":{database.port}", f":{network.port}") for network in cables]
        servers = [stack.enter_context(replica(each, folder / str(k))) for k, each in enumerate(urls)]
        traffic = Traffic(seed, found)
        traffic.send(servers, requests)

        k = _leader(servers)
        kill(servers[1 - k])
        _resumes(found, "a replica", traffic, [servers[k]], requests)
        servers[1 - k] = stack.enter_context(replica(urls[1 - k], folder / str(1 - k)))

        k = _leader(servers)
        (learner,) = servers[k].worker_and_learner()[1]
        learner.kill()
        _resumes(found, "the learner", traffic, [servers[1 - k]], requests)

        database.kill()
        asked = [(ask(servers[n % 2], n), n) for n in range(20)]  # answered all the same
        database.start()
        for id_, n in asked:
            traffic.report(servers[n % 2], id_, n)
        _resumes(found, "the database", traffic, servers, requests)

        k = _leader(servers)
        cables[k].cut()
        _resumes(found, "the network", traffic, [servers[1 - k]], requests)
        cables[k].mend()

        eventually(lambda: _leader(servers) == 1 - k, "the other still learns")
        last = Traffic(seed + 1, found).send(servers, requests)
        _settle(found, servers, url, last)
    found.alone = _alone(folder / "alone", before=5 * requests, requests=requests, seed=seed)
    return found


def _leader(servers: Sequence[Server]) -> int:
    """Which of them learns, once one does."""
    return eventually(lambda: [(k,) for k, server in enumerate(servers) if leads(server)], "one learns")[0][0]


def _resumes(found: Found, what: str, traffic: Traffic, servers: Sequence[Server], requests: int) -> None:
    """How long it takes until something is learned that was told after the fault, and a worker follows."""
    began, before = time.monotonic(), following(servers[0])
    while following(servers[0]) <= before + 1:  # one that was on its way may still come
        traffic.send(servers, 1)
        if time.monotonic() - began > PATIENCE_S:
            found.amiss.append(f"{what}: nothing is learned within {PATIENCE_S:.0f} s")
            return
    found.resumed_s[what] = time.monotonic() - began
    traffic.send(servers, requests)


def _settle(found: Found, servers: Sequence[Server], url: str, last: Sequence[str]) -> None:
    """Whether the journal holds what was acknowledged, once each; and what was earned at last."""
    eventually(lambda: servers[0].counts()["early"] == 0, "all is joined")
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT id, seq FROM bandmaster.outcomes WHERE status = 'joined'").fetchall()
        rewards = dict(connection.execute("SELECT id, reward FROM bandmaster.rewards").fetchall())
    found.amiss += [
        f"{id_}: was acknowledged and is lost" for id_ in set(found.acknowledged) - {id_ for id_, _ in rows}
    ]
    if sorted(seq for _, seq in rows) != list(range(1, len(rows) + 1)):
        found.amiss.append("the numbers of settlements have a gap or a double")
    found.rewards = [decode(rewards[id_], Reward).value for id_ in last if id_ in rewards]
    if len(found.rewards) < len(last):
        found.amiss.append(f"{len(last) - len(found.rewards)} of the last outcomes have no reward")


def _alone(folder: Path, before: int, requests: int, seed: int) -> list[float]:
    """What one process earns, with a journal in a file, after as many requests, on the last of them."""
    found = Found()
    with replica("sqlite:///orchestration.db", folder) as server:
        Traffic(seed, found).send([server], before)
        last = set(Traffic(seed + 1, found).send([server], requests))
        eventually(lambda: server.counts()["early"] == 0, "all is joined")
    with JournalReader(folder / "orchestration.db") as journal:
        return [
            recorded.reward.value
            for recorded in journal.newest(requests)
            if recorded.reward is not None and recorded.decision.id in last
        ]


def main() -> int:
    asked = parser(__doc__, "requests", 1000).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = chaos(Path(folder), asked.requests, asked.seed)
    for what, seconds in found.resumed_s.items():
        print(f"{what} away: learning went on after {seconds:.1f} s")
        if seconds > RESUMED_S:
            found.amiss.append(f"{what}: that is more than {RESUMED_S:g} s")
    low, high = found.behind
    print(
        f"{len(found.acknowledged)} outcomes acknowledged, {found.again} times sent again; at last "
        f"{np.mean(found.rewards):.4f} earned a request, by one process alone {np.mean(found.alone):.4f}: "
        f"{low:+.2%} to {high:+.2%} behind"
    )
    for line in found.amiss[:20]:
        print(f"  {line}")
    return 1 if found.amiss else 0


if __name__ == "__main__":
    sys.exit(main())
