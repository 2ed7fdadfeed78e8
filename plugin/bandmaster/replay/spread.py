"""Where the parts of a replay are played: in processes here, or on a Ray cluster. What comes back is the same."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import joblib

from bandmaster.core import BandmasterError

T = TypeVar("T")
Spread = Callable[[Callable[[Any, Any], T], Any, Sequence[Any]], Iterator[T]]
"""Calls a function on what all tasks share and on each task; gives what they return, in the order in which they end."""


def processes(jobs: int | None = None) -> Spread[Any]:
    """So many at once, in processes (``None``: as many as there are cores; 1: in this one).

    Large arrays of what is shared are mapped into their memory, not copied.
    """

    def spread(do: Callable[[Any, Any], T], shared: Any, tasks: Sequence[Any]) -> Iterator[T]:
        parallel = joblib.Parallel(n_jobs=jobs or joblib.cpu_count(), return_as="generator_unordered")
        yield from parallel(joblib.delayed(do)(shared, task) for task in tasks)

    return spread


def ray_cluster(address: str | None = None) -> Spread[Any]:
    """As many at once as the cluster at ``address`` has cores (``None``: a cluster of this machine's own, for as long).

    What is shared is sent to each node once. Files that tasks write go to a folder that all nodes see.

    Raises ``BandmasterError`` where Ray is missing or does not answer.
    """
    try:
        import ray
    except ImportError:
        raise BandmasterError("--backend ray: Ray is not installed; run pip install 'bandmaster[ray]'") from None

    def spread(do: Callable[[Any, Any], T], shared: Any, tasks: Sequence[Any]) -> Iterator[T]:
        _require_answer(address)
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False, configure_logging=False)
        except (ConnectionError, ValueError, RuntimeError) as problem:
            raise BandmasterError(f"--address {address}: no Ray cluster answers there ({problem})") from None
        try:
            remote, sent = ray.remote(do), ray.put(shared)
            waiting = [remote.remote(sent, task) for task in tasks]
            while waiting:
                done, waiting = ray.wait(waiting)
                yield from ray.get(done)
        finally:
            ray.shutdown()

    return spread


def _require_answer(address: str | None) -> None:
    """Ray itself would go on trying for minutes where nobody listens."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except (OSError, ValueError) as problem:
        raise BandmasterError(f"--address {address}: no Ray cluster answers there ({problem})") from None
