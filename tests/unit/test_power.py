"""Energy by the machine's counters, on files as the kernel's powercap has them: this machine may have none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bandmaster.core import Array, FloatArray
from bandmaster.meter import CpuTimeMeter
from bandmaster.power import Power, Rapl, busy_seconds

RANGE_UJ = 262_143_328_850


class Machine:
    """Packages that draw ``idle`` watts, and ``watts`` more for each CPU that is busy."""

    def __init__(self, root: Path, idle: float = 40.0, watts: float = 12.5, packages: int = 2) -> None:
        self.zones = [root / f"intel-rapl:{k}" for k in range(packages)]
        self.idle, self.watts = idle, watts
        self.now, self.busy, self.joules = 0.0, 1e6, 0.0
        for k, zone in enumerate(self.zones):
            zone.mkdir(parents=True)
            (zone / "name").write_text(f"package-{k}\n")
            (zone / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
        core = root / "intel-rapl:0:0"  # a part of the first package: counted with it
        core.mkdir()
        (core / "name").write_text("core\n")
        self.write()

    def write(self) -> None:
        for zone in self.zones:
            share = int(self.joules * 1e6 / len(self.zones)) + RANGE_UJ - 50_000_000  # soon to begin anew
            (zone / "energy_uj").write_text(f"{share % RANGE_UJ}\n")

    def runs(self, seconds: float, load: float, noise: float = 1.0) -> None:
        self.now += seconds
        self.busy += seconds * load
        self.joules += noise * seconds * (self.idle + self.watts * load)
        self.write()


def watched(machine: Machine, root: Path) -> Power:
    counter = Rapl.found(root)
    assert counter is not None
    return Power(counter, clock=lambda: machine.now, busy=lambda: machine.busy)


def test_counters_are_summed_over_packages_and_followed_when_they_begin_anew(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    counter = Rapl.found(tmp_path)
    assert counter is not None
    for load in (0.0, 1.0, 2.0):
        machine.runs(10.0, load)
        assert counter.joules() == pytest.approx(machine.joules, abs=1e-5)


def test_what_the_machine_draws_idle_is_told_from_what_work_takes(tmp_path: Path) -> None:
    rng, machine = np.random.default_rng(0), Machine(tmp_path)
    power = watched(machine, tmp_path)
    for _ in range(120):
        machine.runs(1.0, rng.uniform(0.1, 1.6), noise=rng.normal(1.0, 0.02))
        power.sample()
    assert power.watts == pytest.approx(12.5, rel=0.1)
    assert power.idle_watts == pytest.approx(40.0, rel=0.05)


def test_while_the_load_does_not_vary_or_little_was_seen_nothing_is_known(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    power = watched(machine, tmp_path)
    for k in range(Power.LEAST - 1):
        machine.runs(1.0, k % 2)
        power.sample()
    assert power.watts is None
    steady = watched(machine, tmp_path)
    for _ in range(60):
        machine.runs(1.0, 0.5)
        steady.sample()
    assert steady.watts is None


def test_it_looks_once_a_second_at_most_and_gives_up_where_a_counter_goes(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    power = watched(machine, tmp_path)
    for k in range(400):
        machine.runs(0.1, k // 10 % 2)
        power.sample()
    assert power.watts == pytest.approx(12.5, rel=0.01)
    for broken in ("", None):
        power.watts = 1.0
        (machine.zones[0] / "energy_uj").write_text(broken) if broken is not None else (
            machine.zones[0] / "energy_uj"
        ).unlink()
        machine.now += 2.0
        power.sample()
        assert power.watts is None


def test_where_there_are_no_counters_or_they_may_not_be_read_there_is_none(tmp_path: Path) -> None:
    assert Rapl.found(tmp_path) is None
    Machine(tmp_path)
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert Rapl.found(tmp_path) is None


class Busy:
    name = "busy"

    def predict(self, rows: Array) -> FloatArray:
        sum(range(200_000))
        return np.full((len(rows), 2), 0.5)


def test_the_meter_says_whether_energy_is_measured_and_charges_no_idle_share(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    power = watched(machine, tmp_path)
    meter = CpuTimeMeter(2, watts=10.0, power=power)
    rows, index = np.zeros((1, 1)), np.arange(1)
    assert meter.run(Busy(), rows, index).energy_from == "estimated"
    assert meter.energy_from.startswith("estimated: CPU time of a member's thread × 10 W")
    power.watts, power.idle_watts = 1e6, 40.0
    said = meter.run(Busy(), rows, index)
    assert said.energy_from == "measured"
    assert 0.0 < said.energy_j <= 1.01 * said.latency_s * 1e6
    assert meter.energy_from.startswith(
        "measured (RAPL): CPU time of a member's thread × 1000000.0 W; the machine's 40.0 W"
    )


def test_cpus_are_busy() -> None:
    before = busy_seconds()
    assert before > 0.0
    assert busy_seconds() >= before
