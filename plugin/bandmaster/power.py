"""What a busy second of a CPU takes in joules, by the machine's own counters, apart from what it draws idle."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil

POWERCAP = Path("/sys/class/powercap")


class Rapl:
    """The energy counters of a machine's CPU packages (RAPL, by the kernel's powercap; Intel's and AMD's).

    Since 2020 the kernel lets only the superuser read them (CVE-2020-8694): whoever runs the service needs the right.
    """

    def __init__(self, zones: Sequence[Path]) -> None:
        """``zones`` are folders of powercap, one a package."""
        self._zones = tuple(zones)
        self._ranges = [_microjoules(zone / "max_energy_range_uj") for zone in zones]
        self._last = [_microjoules(zone / "energy_uj") for zone in zones]
        self._total = 0

    @classmethod
    def found(cls, root: Path = POWERCAP) -> Rapl | None:
        """Those of this machine; ``None`` where there are none, or they may not be read."""
        try:
            zones = [z for z in sorted(root.glob("intel-rapl:*")) if (z / "name").read_text().startswith("package-")]
            return cls(zones) if zones else None
        except (OSError, ValueError):
            return None

    def joules(self) -> float:
        """What all packages have used since this was made. Raises ``OSError`` where a counter cannot be read."""
        for k, zone in enumerate(self._zones):
            now = _microjoules(zone / "energy_uj")
            # A counter begins anew at its range, after some minutes under load.
            self._total += now - self._last[k] + (self._ranges[k] if now < self._last[k] else 0)
            self._last[k] = now
        return self._total / 1e6


def _microjoules(file: Path) -> int:
    return int(file.read_text())


def busy_seconds() -> float:
    """CPU time that all processes of the machine have used."""
    spent = psutil.cpu_times()
    return float(spent.user + spent.system + getattr(spent, "nice", 0.0))


class Power:
    """Parts the machine's energy into what it draws always and what each busy second of a CPU takes more: the least
    squares of ``joules = idle W × seconds + W × busy seconds`` over the last samples, neither below 0.

    The idle share is charged to nobody. Where the load never varies the two cannot be told apart, and nothing is known.
    """

    EVERY_S = 1.0
    SAMPLES, LEAST = 300, 30
    VARIED = 0.05
    """By so much, in busy CPUs, the load must vary (its standard deviation)."""

    def __init__(
        self,
        counter: Rapl,
        clock: Callable[[], float] = time.monotonic,
        busy: Callable[[], float] = busy_seconds,
    ) -> None:
        """``clock`` gives seconds, ``busy`` those that CPUs have been busy."""
        from scipy.optimize import nnls  # not where there is no counter, nor with a request under way

        self._nnls = nnls
        self._counter, self._clock, self._busy = counter, clock, busy
        self._samples: deque[tuple[float, float, float]] = deque(maxlen=self.SAMPLES)
        self._last = (clock(), busy(), counter.joules())
        self.watts: float | None = None
        """Joules a busy second of a CPU; ``None`` while they are not known."""
        self.idle_watts = 0.0

    @classmethod
    def of_machine(cls) -> Power | None:
        """``None`` where the machine has no counters that may be read."""
        try:
            counter = Rapl.found()
            return None if counter is None else cls(counter)
        except (OSError, ValueError):  # it can be found, and not be read
            return None

    def sample(self) -> None:
        """Look at the counters, once a second at most; cheap enough to be asked at any time."""
        now = self._clock()
        if now - self._last[0] < self.EVERY_S:
            return
        try:
            seen = (now, self._busy(), self._counter.joules())
        except (OSError, ValueError):  # it cannot be read any more, or holds no number
            self.watts = None
            return
        seconds, busy, joules = (a - b for a, b in zip(seen, self._last, strict=True))
        self._samples.append((seconds, busy, joules))
        self._last = seen
        if len(self._samples) >= self.LEAST:
            self._fit()

    def _fit(self) -> None:
        seconds, busy, joules = np.array(self._samples).T
        if (busy / seconds).std() < self.VARIED:
            return  # what was known before still is
        (idle, watts), _ = self._nnls(np.stack([seconds, busy], axis=1), joules)
        self.idle_watts, self.watts = float(idle), float(watts) or None
