"""What replicas cost that share a journal in PostgreSQL: in the database, in the one that learns, in each of them."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import psycopg

from bandmaster.serving.learning import SNAPSHOT_EVERY_S
from bandmaster.visualizer.keeper import PAGE
from benchmarks.scenario import FleetSaturation
from benchmarks.serving import members
from benchmarks.serving.replica import Order, Replica, replica
from benchmarks.serving.servers import project
from benchmarks.sources import UnavailableError
from tests.postgres.servers import Postgres, postgres

US = 1e6
MB = 1e6

Figures = dict[str, float | None]


@dataclass(slots=True)
class _Spent:
    """What was spent on so much: time (s), CPU (s) of the replicas and of the database, WAL (bytes)."""

    count: int = 0
    seconds: float = 0.0
    replicas_s: float = 0.0
    database_s: float = 0.0
    wal: float = 0.0


class _Fleet:
    """Replicas of one project over a database of their own."""

    def __init__(self, server: Postgres, project: Path, name: str, stack: ExitStack) -> None:
        self.url = server.database(name)
        self._server, self._project, self._name, self._stack = psutil.Process(server.pid), project, name, stack
        self._key, self._made = secrets.token_hex(32), 0
        self._connection = stack.enter_context(psycopg.connect(self.url, autocommit=True))

    def add(self) -> Replica:
        self._made += 1
        name = f"{self._name}-{self._made}"
        return self._stack.enter_context(replica(self._project, name, self.url, self._key))

    def one(self, query: str) -> float:
        ((value,),) = self._connection.execute(query).fetchall()
        return float(value or 0)

    @contextmanager
    def spending(self, replicas: Sequence[Replica]) -> Iterator[_Spent]:
        """What is spent while the block runs, which says on how much."""
        spent, began = _Spent(), time.perf_counter()
        wal, cpu, database = self._wal(), [each.cpu_s() for each in replicas], self._database_s()
        yield spent
        spent.seconds = time.perf_counter() - began
        spent.replicas_s = sum(each.cpu_s() for each in replicas) - sum(cpu)
        spent.database_s, spent.wal = self._database_s() - database, self._wal() - wal

    def _wal(self) -> float:
        return self.one("SELECT pg_current_wal_insert_lsn() - '0/0'")

    def _database_s(self) -> float:
        """CPU seconds of all of the server's processes so far, those that are gone included."""
        own = self._server.cpu_times()
        there = [child.cpu_times() for child in self._server.children()]
        return own.children_user + own.children_system + sum(t.user + t.system for t in (own, *there))


def measure(scenario: FleetSaturation, told: Callable[[str], None]) -> Figures:
    """The figures of ``scenario``, CPU in µs a decision; and under ``fleet_…`` what follows from them for so many
    replicas of so many requests a second each, all of them labelled. Raises ``UnavailableError`` without PostgreSQL.
    """
    if shutil.which("initdb") is None and not any(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        raise UnavailableError("needs PostgreSQL's programs; `make debian` installs them")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bandmaster-")))
        server = stack.enter_context(postgres(folder / "database"))
        at = project(folder / "project", members.small(), "Inline")
        members.write_requests(at / "requests.npz")
        figures: Figures = {}
        for many in scenario.replicas:
            told(f"{scenario.id}: {many} relays write {scenario.decisions} decisions each")
            with ExitStack() as ending:
                figures |= _written(_Fleet(server, at, f"written{many}", ending), many, scenario, told)
        for many in scenario.replicas:
            told(f"{scenario.id}: {many} replicas follow one learner")
            with ExitStack() as ending:
                figures |= _followed(_Fleet(server, at, f"followed{many}", ending), many, scenario)
        return figures | _fleet(figures, scenario)


def _written(fleet: _Fleet, many: int, scenario: FleetSaturation, told: Callable[[str], None]) -> Figures:
    """So many relays write at once; where they are the fewest, what they wrote is settled and learned from, too."""
    relays = [fleet.add() for _ in range(many)]
    _all(relays, Order("answer", scenario.decisions))
    with fleet.spending(relays) as spent:
        spent.count = sum(_all(relays, Order("drain")))
    found = _prices(spent, "write", many) | {f"written_per_s_{many}": spent.count / spent.seconds}
    if many > min(scenario.replicas):
        return found
    stored = round(fleet.one("SELECT count(*) FROM bandmaster.decisions"))
    found["table_bytes"] = fleet.one("SELECT pg_total_relation_size('bandmaster.decisions')") / stored
    told(f"{scenario.id}: one learner notices {stored} decisions, and learns from their outcomes")
    learner = fleet.add()
    found |= _ticked(fleet, learner, stored, "notice", "SELECT NOT EXISTS (SELECT FROM bandmaster.completed)")
    _all([learner, *relays], Order("follow", seconds=1.0))
    with fleet.spending(relays) as spent:
        spent.count = sum(_all(relays, Order("settle")))
    assert spent.count == stored, "not all labels have joined"
    found |= _prices(spent, "settle") | {"settled_per_s": spent.count / spent.seconds}
    found |= _ticked(fleet, learner, stored, "learn", f"SELECT count(*) = {stored} FROM bandmaster.rewards")
    with fleet.spending(relays) as spent:
        spent.count = stored
        for _ in range(-(-stored // (many * PAGE)) + 1):
            learner(Order("tick", 1))
            _all(relays, Order("tick", 1))
    found |= _prices(spent, "chronicle")
    with fleet.spending([learner]) as spent:
        spent.count = learner(Order("expire")).count
    assert spent.count == stored, "not all have been removed"
    return found | _prices(spent, "expire") | {"expired_per_s": spent.count / spent.seconds}


def _ticked(fleet: _Fleet, learner: Replica, stored: int, what: str, done: str) -> Figures:
    """Let the learner tick until a query says that it is done with all decisions."""
    longest_s, version = 0.0, "SELECT max(version) FROM bandmaster.snapshots"
    before = fleet.one(version)
    with fleet.spending([learner]) as spent:
        spent.count = stored
        while not fleet.one(done):
            longest_s = max(longest_s, learner(Order("tick", 1)).seconds)
    return _prices(spent, what) | {
        f"{what}_per_s": spent.count / spent.seconds,
        f"{what}_longest_tick_s": longest_s,
        f"{what}_snapshots_per_s": (fleet.one(version) - before) / spent.seconds,
    }


def _followed(fleet: _Fleet, many: int, scenario: FleetSaturation) -> Figures:
    """One learns, as many follow: idle, and under a load that is the same in all."""
    everyone = [fleet.add() for _ in range(many + 1)]
    everyone[0](Order("tick", 1))  # it leads
    queries = fleet.one(_QUERIES)
    with fleet.spending(everyone) as spent:
        _all(everyone, Order("follow", seconds=scenario.turn_s))
        held = fleet.one("SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()")
    time.sleep(1.0)  # until the database has counted them
    found: Figures = {
        f"connections_{many}": held / len(everyone),
        f"idle_queries_per_s_{many}": (fleet.one(_QUERIES) - queries) / scenario.turn_s,
        f"idle_database_share_{many}": spent.database_s / spent.seconds,
    }
    with fleet.spending(everyone) as spent:
        each = Order("serve", round(scenario.load_per_s / len(everyone)), scenario.turn_s)
        reports = [one.end() for one in [one.begin(each) for one in everyone]]
        spent.count = sum(report.count for report in reports)
    ages = np.concatenate([report.ages_s for report in reports[1:]])
    cpu = np.array([report.cpu_s - report.answering_s for report in reports])
    return found | {
        f"age_p50_s_{many}": float(np.quantile(ages, 0.5)),
        f"age_p99_s_{many}": float(np.quantile(ages, 0.99)),
        "snapshot_bytes": fleet.one("SELECT max(length(sealed)) FROM bandmaster.snapshots"),
        f"load_per_s_{many}": spent.count / spent.seconds,
        f"load_failed_{many}": float(sum(report.failed for report in reports)),
        f"load_left_{many}": fleet.one(_LEFT) / spent.count,
        f"load_answer_us_{many}": US * sum(report.answering_s for report in reports) / spent.count,
        f"load_learner_us_{many}": US * float(cpu[0]) / spent.count,
        f"load_follower_us_{many}": US * float(cpu[1:].sum()) / sum(report.count for report in reports[1:]),
        f"load_database_us_{many}": US * spent.database_s / spent.count,
        f"load_wal_bytes_{many}": spent.wal / spent.count,
    }


_LEFT = (
    "SELECT (SELECT n FROM bandmaster.tally WHERE name = 'joined') - (SELECT count(*) FROM bandmaster.rewards)"
    " + (SELECT count(*) FROM bandmaster.completed)"
)
"""How many outcomes are not learned from yet, and decisions not noticed."""

_QUERIES = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"


def _all(replicas: Sequence[Replica], order: Order) -> list[int]:
    """Have all of them carry out an order at once."""
    return [each.end().count for each in [each.begin(order) for each in replicas]]


def _prices(spent: _Spent, what: str, many: int | None = None) -> Figures:
    with_many = "" if many is None else f"_{many}"
    return {
        f"{what}_us{with_many}": US * spent.replicas_s / spent.count,
        f"{what}_database_us{with_many}": US * spent.database_s / spent.count,
        f"{what}_wal_bytes{with_many}": spent.wal / spent.count,
    }


def _fleet(found: Figures, scenario: FleetSaturation) -> Figures:
    """The arithmetic: each price times all requests a second, as cores of this machine, and bytes."""
    few, per_s = min(scenario.replicas), scenario.fleet * scenario.per_s

    def price(*names: str) -> float:
        return sum(found[name] or 0.0 for name in names)

    learner_us = price("notice_us", "learn_us")
    database_us = price(f"write_database_us_{few}", "notice_database_us", "settle_database_us", "learn_database_us")
    wal = price(f"write_wal_bytes_{few}", "notice_wal_bytes", "settle_wal_bytes", "learn_wal_bytes")
    return {
        "fleet_per_s": per_s,
        "fleet_written_per_s": max(found[f"written_per_s_{many}"] or 0.0 for many in scenario.replicas),
        "fleet_replica_cores": price(f"write_us_{few}", "settle_us") * scenario.per_s / US,
        "fleet_learner_cores": learner_us * per_s / US,
        "fleet_noticed_per_s": US / price("notice_us"),
        "fleet_learned_per_s": US / learner_us,
        "fleet_database_cores": database_us * per_s / US,
        "fleet_wal_mb_per_s": wal * per_s / MB,
        "fleet_table_gb_per_day": price("table_bytes") * per_s * 86400.0 / 1e9,
        "fleet_snapshots_mb_per_s": price("snapshot_bytes") * (scenario.fleet - 1) / SNAPSHOT_EVERY_S / MB,
    }
