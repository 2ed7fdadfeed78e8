"""Members on a model server, whichever way it is asked, and what holds of them both ways."""

from __future__ import annotations

import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bandmaster.members.open_inference import Endpoint
from bandmaster.members.remote import RemoteMember
from bandmaster.meter import CpuTimeMeter
from tests.members.servers import CLASSES, ROWS, Model, softmax

WITHIN_S = 0.3
PATIENT_S = 60.0

MADE: list[RemoteMember] = []
"""Whose connections are closed when a test ends."""


class Served(Protocol):
    """What a server serves, and how it misbehaves."""

    models: dict[str, Model]
    fault: Any
    url: str


def member_of(
    served: Served, task: Any = "classification", energy_j: float | None = None, **other: Any
) -> RemoteMember:
    MADE.append(RemoteMember("far", Endpoint(served.url, other.pop("model", "m"), **other), task, energy_j))
    return MADE[-1]


def failure(member: RemoteMember, seconds: float = PATIENT_S) -> str:
    """What a call says that fails, as the request path has it."""
    reply = CpuTimeMeter(CLASSES).run(member, ROWS[:1], np.arange(1), seconds)
    assert reply.scores is None
    return str(reply.error)


def key_and_certificate(folder: Path) -> tuple[Path, Path]:
    """The files of a server's at 127.0.0.1, which nobody trusts yet."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return key, certificate


def check_fault(served: Served, fault: Any, error: str) -> None:
    """It is a failure that says what came, fit to be shown, and the next call is answered."""
    member = member_of(served)
    served.fault = fault
    said = failure(member)
    assert error in said
    assert said.isprintable()
    assert len(said) < 300
    served.fault = None
    np.testing.assert_array_equal(member.predict(ROWS), softmax(ROWS))


def check_giving_up(served: Served) -> None:
    """A call that is given up takes no other along."""
    member, held = member_of(served), threading.Event()

    def some_hang(rows: np.ndarray) -> np.ndarray:
        if rows[0, 0] > 100.0:
            held.wait()
        return softmax(rows)

    served.models["m"] = some_hang
    slow = np.full((1, 4), 200.0, np.float32)
    with ThreadPoolExecutor(6) as threads:
        given_up = [threads.submit(member.predict_within, slow, WITHIN_S) for _ in range(2)]
        answered = [threads.submit(member.predict_within, ROWS, PATIENT_S) for _ in range(200)]
        assert all("did not answer" in str(g.exception()) for g in given_up)
        assert all(np.array_equal(a.result()[0], softmax(ROWS)) for a in answered)
    held.set()
