"""The gate: does a policy beat a baseline by enough, for sure, before anybody is served by it?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from bandmaster.core import BandmasterError
from bandmaster.files import write_text
from bandmaster.results import BEST_PLAN, Difference, Results


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether ``policy`` earns more than ``against`` by ``margin``, a mean reward a request: ``passed`` where the lower
    end of the 95 % interval of the paired difference is above it.

    ``contract`` is that by which rewards were judged, as normalised, and ``log`` the sha256 of what was replayed: a
    verdict says nothing of others.
    """

    policy: str
    against: str
    margin: float
    difference: float
    interval: tuple[float, float]
    passed: bool
    rewards: Mapping[str, float]
    requests: int
    seeds: int
    log: str
    contract: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all. Raises ``BandmasterError`` when that cannot be done."""
        write_text(path, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    def sentence(self) -> str:
        """What it says, plainly."""
        low, high = self.interval
        found = f"{self.policy} earns {self.difference:+.4f} [{low:.4f}, {high:.4f}] a request against {self.against}"
        if self.passed:
            return f"{found}: more than {self.margin:g}, for sure enough."
        if high <= self.margin:
            return f"{found}: not more than {self.margin:g}."
        return f"{found}: that it is more than {self.margin:g} is not sure; replay more traffic, or more seeds."


def judge(results: Results, policy: str, against: str, margin: float) -> Verdict:
    """The verdict on one policy of a comparison against another one, or the best constant plan in hindsight.

    Raises ``BandmasterError`` where it was not played, or is not another.
    """
    if policy not in results.policies:
        raise BandmasterError(f"{policy}: was not played; {', '.join(results.policies)} were")
    advantage: Mapping[str, Difference] = results.policies[policy].advantage
    if against not in advantage:
        raise BandmasterError(
            f"against {against}: nothing to compare {policy} with; {', '.join(advantage)} were played"
        )
    found = advantage[against]
    rest = results.best_constant_plan if against == BEST_PLAN else results.policies[against]
    return Verdict(
        policy=policy,
        against=against,
        margin=margin,
        difference=found.mean,
        interval=found.interval,
        passed=found.interval[0] > margin,
        rewards={policy: results.policies[policy].measures.reward, against: rest.measures.reward},
        requests=results.setting.rows - results.setting.unlabelled,
        seeds=results.setting.seeds,
        log=results.setting.sha256,
        contract=results.setting.contract,
    )


def read_verdict(path: Path) -> Verdict:
    """Read what ``Verdict.write`` wrote. Raises ``BandmasterError`` when the file is not that."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Verdict)
    except (OSError, msgspec.MsgspecError) as problem:
        raise BandmasterError(f"{path}: is no verdict of `bandmaster gate` ({problem}); write one with --out") from None
