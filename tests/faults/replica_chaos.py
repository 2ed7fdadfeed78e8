"""Two replicas on PostgreSQL: one is killed, then the learner, then the database, then the network between them.

    python -m tests.faults.replica_chaos --requests 500 --after 6000

So many requests are asked, and their labels reported, before, between and after the faults, at either replica. Nothing
that was acknowledged may be lost or count twice; after each fault learning must go on, and what is learned reach a
worker, within five seconds.

What is decided after all of it is compared, request by request, with what one process decides, without replicas and
without faults, on the same requests in the same order, whose labels come as late. Members take what their profiles
declare, so that a reward tells what was decided, and not what else the machine did.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg

from bandmaster.core import Reward
from bandmaster.intervals import Interval, block_interval
from bandmaster.journal.codec import decode
from bandmaster.journal.reading import JournalReader
from tests.end_to_end.servers import Server, eventually
from tests.faults.command import parser
from tests.postgres.replicas import ask, cable, following, kill, leads, replica, tell_all
from tests.postgres.servers import postgres
from tests.serving.tiny import LABELS

AGAIN_S = 0.05
TOGETHER = 20
"""So many of the last requests are asked before their labels are reported, in one post."""

PATIENCE_S = 60.0
RESUMED_S = 5.0
BEHIND = 0.01
"""By no more of what one process earns may the last requests earn less."""

TAKEN = (200, 202)
PRICED: dict[str, Any] = {
    "contract": {
        "accuracy": {"weight": 0.8},
        "latency": {"weight": 0.2, "range": ["1 us", "100 ms"], "from": "profile"},
    },
    "members": {
        name: {"onnx": f"{name}.onnx", "profile": {"latency": latency}}
        for name, latency in (("linear", "20 us"), ("tree", "10 us"), ("bayes", "60 us"), ("fragile", "5 us"))
    },
}
"""As the tiny ensemble is served elsewhere, but for what members take."""


@dataclass
class Found:
    """What was seen: which rows were asked together, before their labels were reported; the decisions whose outcome was
    acknowledged, how often feedback had to be sent again, how long (s) each fault kept learning, and what was not as it
    must be. ``rewards`` are of the last requests, ``alone`` what one process earned on each of them.
    """

    asked: list[tuple[int, ...]] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    again: int = 0
    resumed_s: dict[str, float] = field(default_factory=dict)
    amiss: list[str] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)

    @property
    def behind(self) -> Interval:
        """By how much less was earned than by one process, in shares of what that earned, on average: 95 %. Request by
        request, and over blocks of them, as what was learned holds for many.
        """
        alone, rewards = (np.array(earned) for earned in (self.alone, self.rewards))
        low, high = block_interval(alone - rewards)
        return low / float(alone.mean()), high / float(alone.mean())


class Traffic:
    """Rows in an order of their own, each asked of one server, and told to another."""

    def __init__(self, seed: int, found: Found) -> None:
        self._rng, self._found = np.random.default_rng(seed), found

    def send(self, servers: Sequence[Server], requests: int, together: int = 1) -> list[str]:
        """Ask so many, and report their labels once so many have been asked ``together``. Returns the decisions."""
        rows = self._rng.integers(len(LABELS), size=requests).tolist()
        return self.repeat(servers, [tuple(rows[k : k + together]) for k in range(0, requests, together)])

    def repeat(self, servers: Sequence[Server], asked: Iterable[tuple[int, ...]]) -> list[str]:
        """As ``send``, for rows that are given."""
        decisions = []
        for rows in asked:
            ids = self.ask(servers, rows)
            self.report(servers[self._rng.integers(len(servers))], ids, rows)
            decisions += ids
        return decisions

    def ask(self, servers: Sequence[Server], rows: tuple[int, ...]) -> list[str]:
        self._found.asked.append(rows)
        return [ask(servers[k], n) for n, k in zip(rows, self._rng.integers(len(servers), size=len(rows)), strict=True)]

    def report(self, server: Server, ids: Sequence[str], rows: tuple[int, ...]) -> None:
        """Report labels until they are acknowledged."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            with suppress(httpx.TransportError):  # nobody acknowledged it
                if tell_all(server, ids, rows).status_code in TAKEN:
                    self._found.acknowledged += ids
                    return
            self._found.again += 1
            time.sleep(AGAIN_S)
        self._found.amiss += [f"{id_}: is not taken within {PATIENCE_S:.0f} s" for id_ in ids]


def chaos(folder: Path, requests: int, after: int, seed: int = 0) -> Found:
    """Break one thing after the other, ``requests`` between two of them and ``after`` all."""
    found = Found()
    with ExitStack() as stack:
        database = stack.enter_context(postgres(folder / "database"))
        url = database.database("journal")
        cables = [stack.enter_context(cable(database.port)) for _ in range(2)]
        urls = [url.replace(f":{database.port}", f":{network.port}") for network in cables]
        servers = [stack.enter_context(replica(each, folder / str(k), **PRICED)) for k, each in enumerate(urls)]
        traffic = Traffic(seed, found)
        traffic.send(servers, requests)

        k = _leader(servers)
        kill(servers[1 - k])
        _resumes(found, "a replica", traffic, [servers[k]], requests)
        servers[1 - k] = stack.enter_context(replica(urls[1 - k], folder / str(1 - k), **PRICED))

        k = _leader(servers)
        (learner,) = servers[k].worker_and_learner()[1]
        learner.kill()
        _resumes(found, "the learner", traffic, [servers[1 - k]], requests)

        database.kill()
        ids = traffic.ask(servers, rows := tuple(range(TOGETHER)))  # answered all the same
        database.start()
        traffic.report(servers[0], ids, rows)
        _resumes(found, "the database", traffic, servers, requests)

        k = _leader(servers)
        cables[k].cut()
        _resumes(found, "the network", traffic, [servers[1 - k]], requests)
        cables[k].mend()

        eventually(lambda: _leader(servers) == 1 - k, "the other still learns")
        last = traffic.send(servers, after, TOGETHER)
        _settle(found, servers, url, last)
    found.alone = _alone(folder / "alone", found.asked, after)
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
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute("SELECT id, seq FROM bandmaster.outcomes WHERE status = 'joined'").fetchall()
        rewards = _rewards(connection, last)
    found.amiss += [
        f"{id_}: was acknowledged and is lost" for id_ in set(found.acknowledged) - {id_ for id_, _ in rows}
    ]
    if sorted(seq for _, seq in rows) != list(range(1, len(rows) + 1)):
        found.amiss.append("the numbers of settlements have a gap or a double")
    earned = {id_: decode(raw, Reward).value for id_, raw in rewards.items()}
    found.amiss += [f"{id_}: has no reward within {PATIENCE_S:.0f} s" for id_ in last if id_ not in earned]
    found.rewards = [earned.get(id_, np.nan) for id_ in last]


def _rewards(connection: psycopg.Connection[tuple[Any, ...]], ids: Sequence[str]) -> dict[str, bytes]:
    """Those of these decisions, once all have theirs, or when they have had their time: what was told to the replica
    that does not learn is joined when that is acknowledged, and learned, elsewhere, a moment later.
    """
    end = time.monotonic() + PATIENCE_S
    while True:
        found = connection.execute("SELECT id, reward FROM bandmaster.rewards WHERE id = ANY(%s)", [list(ids)])
        rewards: dict[str, bytes] = dict(found.fetchall())
        if len(rewards) == len(ids) or time.monotonic() > end:
            return rewards
        time.sleep(AGAIN_S)


def _alone(folder: Path, asked: Sequence[tuple[int, ...]], after: int) -> list[float]:
    """What one process earns on the last of the same requests, with a journal in a file."""
    with replica("sqlite:///orchestration.db", folder, **PRICED) as server:
        last = Traffic(0, Found()).repeat([server], asked)[-after:]
        eventually(lambda: server.counts()["early"] == 0, "all is joined")
    with JournalReader(folder / "orchestration.db") as journal:
        found = [journal.find(id_) for id_ in last]
    return [np.nan if one is None or one.reward is None else one.reward.value for one in found]


def main() -> int:
    asking = parser(__doc__, "requests", 1000)
    asking.add_argument("--after", type=int, default=6000)
    asked = asking.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = chaos(Path(folder), asked.requests, asked.after, asked.seed)
    for what, seconds in found.resumed_s.items():
        print(f"{what} away: learning went on after {seconds:.1f} s")
        if seconds > RESUMED_S:
            found.amiss.append(f"{what}: that is more than {RESUMED_S:g} s")
    low, high = found.behind
    print(
        f"{len(found.acknowledged)} outcomes acknowledged, {found.again} times sent again; of the last {asked.after} "
        f"{np.mean(found.rewards):.4f} earned a request, by one process alone {np.mean(found.alone):.4f}: "
        f"{low:+.2%} to {high:+.2%} behind"
    )
    if not high <= BEHIND:
        found.amiss.append(f"it may be more than {BEHIND:.0%} behind")
    for line in found.amiss[:20]:
        print(f"  {line}")
    return 1 if found.amiss else 0


if __name__ == "__main__":
    sys.exit(main())
