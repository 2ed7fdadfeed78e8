"""Inputs that nobody would send: no 5xx, no death of a worker, no growing memory; and of files, none is read wrongly.

    pip install 'bandmaster[fuzz]'
    python -m tests.faults.fuzzing --inputs 100000

A fifth each goes to the routes as the OpenAPI page describes them and then not (Schemathesis), to the routes as any
bytes (Hypothesis), to the configuration as YAML, to the readers of logs as damaged files, and to the parsers guided by
which of their lines it reaches (Atheris).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import psutil
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from bandmaster.core import BandmasterError, Profile
from bandmaster.offpolicy.dsjson import read_dsjson
from bandmaster.offpolicy.log import read as read_decisions
from bandmaster.recorded import read_log
from tests.config import test_any_text as texts
from tests.end_to_end.servers import Server, environment, served
from tests.faults.command import parser
from tests.serving.tiny import IRIS, ROWS, project

GROWTH_MB = 30.0
"""By so much at most may a process have grown since a quarter was sent."""

QUIET: dict[str, Any] = {
    "deadline": None, "database": None, "suppress_health_check": list(HealthCheck), "phases": [Phase.generate],
}  # fmt: skip


@dataclass
class Found:
    """Inputs by where they went, what was answered, and what must not be: what follows is 0 or empty."""

    inputs: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    deaths: int = 0
    growth_mb: dict[str, float] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        return not self.failures and not self.deaths and all(g <= GROWTH_MB for g in self.growth_mb.values())

    def answered(self, kind: str, status: int, sent: object) -> None:
        self.inputs[kind] += 1
        self.statuses[status] += 1
        if status >= 500:
            self.failures.append(f"{kind}: {status} to {str(sent)[:300]}")


# ---- HTTP --------------------------------------------------------------------------------------------------------


def by_schema(server: Server, count: int, found: Found, seed_: int) -> None:
    """What the OpenAPI page allows, and what it does not."""
    schema = schemathesis.openapi.from_url(f"{server.url}/docs.json")
    operations = [result.ok() for result in schema.get_all_operations() if result.ok().method != "get"]
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    each = count // (len(operations) * len(modes)) + 1
    for operation in operations:
        for mode in modes:

            @seed(seed_)
            @settings(max_examples=each, **QUIET)
            @given(operation.as_strategy(generation_mode=mode))
            def one(case: Any) -> None:
                found.answered("schema", case.call().status_code, case.as_curl_command())

            _all(one, f"{operation.method} {operation.path}", found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from([1e308, -0.0, 2**63, "setosa", "", "\u0000", "NaN"]),
    lambda inner: st.lists(inner, max_size=5)
    | st.dictionaries(st.sampled_from(["input_series", "decision_id", "label", "reward", "why", "rows"]), inner),
    max_leaves=20,
)  # fmt: skip
BODIES = (
    st.binary(max_size=400)
    | JSON.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))
    | st.integers(1, 3000).map(lambda depth: b"[" * depth + b"]" * depth)
    | st.lists(st.lists(st.floats(), min_size=3, max_size=5), max_size=4).map(
        lambda rows: json.dumps({"input_series": rows}).encode()
    )
)
PATHS = st.sampled_from(  # those of ours; to another method of the user's, BentoML answers some bodies with 500
    ["/classify", "/feedback", "/orchestration/state", "/orchestration/pin", "/orchestration/decisions/x"]
) | st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=20).map(lambda text: f"/{text}")
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "x-orchestration-profile",
            "x-orchestration-deadline-ms",
            "authorization",
            "host",
            "content-length-x",
            "accept",
        ]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30).map(str.strip),
    max_size=3,
)
TYPES = st.sampled_from(
    ["application/json", "application/json; charset=utf-16", "text/plain", "multipart/form-data; boundary=x", "",
     "application/vnd.bentoml+pickle", "application/octet-stream", "application/x-www-form-urlencoded"]
)  # fmt: skip
METHODS = st.sampled_from(["POST", "POST", "POST", "GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])


def by_bytes(server: Server, count: int, found: Found, seed_: int) -> None:
    """Any method, route, headers and body; one in twenty is not even HTTP."""
    host, port = server.url.removeprefix("http://").split(":")

    @seed(seed_)
    @settings(max_examples=count, **QUIET)
    @given(METHODS, PATHS, HEADERS, TYPES, BODIES, st.integers(0, 19))
    def one(method: str, path: str, headers: dict[str, str], content_type: str, body: bytes, lot: int) -> None:
        if lot == 0:
            with socket.create_connection((host, int(port)), timeout=20) as raw:
                raw.sendall(method.encode() + b" " + body + b"\r\n\r\n")
                raw.shutdown(socket.SHUT_WR)
                said = raw.recv(65536).split(b" ", 2)
            found.answered("bytes", int(said[1]) if len(said) > 1 else 0, body)
            return
        headers = headers | ({"content-type": content_type} if content_type else {})
        try:
            response = server.client.request(method, path, content=body, headers=headers)
        except httpx.InvalidURL:
            return
        found.answered("bytes", response.status_code, (method, path, headers, body))

    _all(one, "bytes", found)


def _all(test: Callable[[], None], what: str, found: Found) -> None:
    try:
        test()
    except Exception as problem:
        found.failures.append(f"{what}: {type(problem).__name__}: {str(problem)[:300]}")


TIMEOUT_S = 3
"""BentoML holds some kilobytes of each request until its timeout has passed, answered or not."""


def memory_mb(server: Server) -> dict[str, float]:
    """Of the worker and of the learner, once no request is held any more."""
    time.sleep(TIMEOUT_S + 1.0)
    workers, learner = server.worker_and_learner()
    assert workers, server.log
    assert learner, server.log
    named = {"worker": workers, "learner": learner}
    return {name: sum(p.memory_info().rss for p in found) / 1e6 for name, found in named.items()}


def over_http(count: int, folder: Path, found: Found, seed_: int) -> None:
    """Both kinds, in four rounds; memory is compared between the first and the last."""
    # BentoML's metrics keep every path that was ever asked for.
    served_as = f'@bentoml.service(traffic={{"timeout": {TIMEOUT_S}}}, metrics={{"enabled": False}})'
    source = IRIS.replace("@bentoml.service", served_as)
    project(folder, source, seed=1, feedback={"rate": 1e9}, guard={"mode": "live", "baseline": "linear"})
    with served(".", folder=folder, env=environment(folder / "home")) as server:
        before = {p.pid for p in psutil.Process(server.process.pid).children(recursive=True)}
        for part in range(4):
            by_schema(server, count // 8, found, seed_ + part)
            by_bytes(server, count // 8, found, seed_ + part)
            if part == 0:
                first = memory_mb(server)
        last = memory_mb(server)
        found.growth_mb = {name: last[name] - first[name] for name in last}
        alive = {p.pid for p in psutil.Process(server.process.pid).children(recursive=True)}
        found.deaths = len(before - alive)
        body = {"input_series": [ROWS[0].tolist()]}
        found.answered("after all of it", server.client.post("/classify", json=body).status_code, body)


# ---- Files -------------------------------------------------------------------------------------------------------


def as_yaml(count: int, found: Found, seed_: int) -> None:
    """Any text and any values in the block's place load or are refused."""
    words = st.lists(st.sampled_from(texts.WORDS + texts.SYNTAX)).map("".join)

    @seed(seed_)
    @settings(max_examples=count, **QUIET)
    @given(words | texts.BLOCK.map(lambda block: json.dumps({"orchestration": block}, default=str)))
    def one(text: str) -> None:
        found.inputs["yaml"] += 1
        texts.refused_or_loaded(text)

    _all(one, "yaml", found)


GOOD = pl.DataFrame(
    {
        "label": ["cat", "dog", None, "cat"],
        "label_delay": [0, 2, 0, 1],
        "ts": [1.0, 2.0, 3.0, 4.0],
        "x0": [0.5, 1.5, 2.5, 3.5],
        "a__pred": ["cat", "cat", None, "dog"],
        "a__latency_s": [0.1, 0.2, 0.3, 0.4],
        "action": ["a", "b", "a", "a"],
        "propensity": [0.5, 0.5, 0.25, 1.0],
        "reward": [1.0, 0.0, 0.5, 1.0],
    }
)
DSJSON = (
    '{"_label_cost":-1,"_label_probability":0.5,"_label_Action":1,"_labelIndex":0,"a":[1,2],"c":{"x":{"f":1.5},'
    '"_multi":[{"b":{"n":"a"}},{"b":{"n":"b"}}]},"p":[0.5,0.5],"EventId":"e1","Timestamp":"2024-01-01T00:00:00Z"}\n'
)


def samples(folder: Path) -> Iterator[tuple[str, bytes]]:
    GOOD.write_parquet(folder / "good.parquet")
    GOOD.write_csv(folder / "good.csv")
    GOOD.write_ipc(folder / "good.arrow")
    for suffix in ("parquet", "csv", "arrow"):
        yield suffix, (folder / f"good.{suffix}").read_bytes()
    yield "dsjson", DSJSON.encode() * 3


def damaged(raw: bytes, rng: random.Random) -> bytes:
    data = bytearray(raw)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = rng.randrange(len(data) + 1) if data else 0
        kind = rng.randrange(5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.choice([0, 255, 34, 44, 10, 123, rng.randrange(256)])
        elif kind == 2:
            del data[at : at + rng.choice([1, 4, 64, 10_000])]
        elif kind == 3:
            data[at:at] = rng.choice([rng.randbytes(4), b"nan", b"1e999", b"\n", b'"', b"__pred", b"-1"])
        else:
            data[at:at] = data[: rng.randrange(64)]
    return bytes(data)


def read_damaged(count: int, seed_: int, told: Any) -> None:
    """Read so many damaged logs with every reader, in a process of its own; tell what goes wrong."""
    rng = random.Random(seed_)
    with tempfile.TemporaryDirectory() as folder:
        goods = list(samples(Path(folder)))
        for i in range(count):
            suffix, raw = goods[i % len(goods)]
            path = Path(folder) / f"any.{suffix}"
            path.write_bytes(damaged(raw, rng))
            readers: tuple[Callable[[], Any], ...] = (
                (lambda path=path: read_dsjson(path),)
                if suffix == "dsjson"
                else (
                    lambda path=path: read_log(path, None, {"a": Profile(latency_s=9.0)}, None),
                    lambda path=path: read_decisions(path),
                )
            )
            for reader in readers:
                try:
                    reader()
                except BandmasterError as refused:
                    str(refused).encode()
                except BaseException as problem:
                    kept = Path(tempfile.gettempdir()) / f"fuzz-{seed_}-{i}.{suffix}"
                    kept.write_bytes(path.read_bytes())
                    told.put(f"log {kept}: {type(problem).__name__}: {str(problem)[:200]}")
    told.put(count)


def as_logs(count: int, found: Found, seed_: int) -> None:
    """In another process: what crashes natively would take this one along."""
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    process = context.Process(target=read_damaged, args=(count, seed_, told))
    process.start()
    while isinstance(line := _next(told, process), str):
        found.failures.append(line)
    process.join()
    found.inputs["log"] += line or 0
    if process.exitcode != 0 or line is None:
        found.failures.append(f"log: the process that read them ended with {process.exitcode}")


def _next(told: Any, process: Any) -> str | int | None:
    """What it tells next: a failure, or at its end how many it has read; ``None`` where it died."""
    while True:
        alive = process.is_alive()  # looked at first: what it told before it ended is heard
        try:
            line: str | int = told.get(timeout=1.0)
            return line
        except queue.Empty:
            if not alive:
                return None


def guided(count: int, found: Found, seed_: int) -> None:
    """What Atheris finds by following the lines that are reached."""
    command = [sys.executable, "-m", "tests.faults.guided", f"-runs={count}", f"-seed={seed_ + 1}", "-max_len=600"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    ran = re.search(r"Done (\d+) runs", done.stdout + done.stderr)
    found.inputs["guided"] += int(ran[1]) if ran else 0
    if done.returncode != 0:
        found.failures.append(f"guided: ended with {done.returncode}: {(done.stdout + done.stderr)[-1500:]}")


def fuzzed(inputs: int, folder: Path, seed_: int = 0, told: bool = False) -> Found:
    """All of it."""
    found, fifth = Found(), inputs // 5
    for what in (
        lambda: over_http(2 * fifth, folder, found, seed_),
        lambda: as_yaml(fifth, found, seed_),
        lambda: as_logs(fifth, found, seed_),
        lambda: guided(fifth, found, seed_),
    ):
        what()
        if told:
            print(f"  {dict(found.inputs)}: {len(found.failures)} failures, {found.growth_mb}", flush=True)
    return found


def main() -> int:
    asked = parser(__doc__, "inputs", 100_000).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = fuzzed(asked.inputs, Path(folder), asked.seed, told=True)
    print(f"statuses: {dict(sorted(found.statuses.items()))}, growth in MB: {found.growth_mb}, deaths: {found.deaths}")
    for failure in found.failures[:50]:
        print(failure)
    print("holds" if found.holds else f"FAILS: {len(found.failures)} failures")
    return 0 if found.holds else 1


if __name__ == "__main__":
    sys.exit(main())
