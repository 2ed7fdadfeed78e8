"""``guard:``: how far the policy is followed, and against what."""

from __future__ import annotations

from dataclasses import replace

from bandmaster.config.plans import plan_name
from bandmaster.config.values import choice_of, duration_of, fields_of, number_of
from bandmaster.guard import Guarding, Mode
from bandmaster.ledger import Allowance
from bandmaster.yaml_reader import At

MODES: tuple[Mode, ...] = ("off", "shadow", "canary", "live")


NONE = "none"
"""What stands for no guard at all."""


def read_guard(at: At | None, members: tuple[str, ...], constant: str | None, by_consensus: bool) -> Guarding | None:
    """The block, if there is one. ``constant`` is the plan of the constant policy, if the user names one."""
    if at is None or at.value == NONE:
        return None
    if not isinstance(at.value, dict):
        at.refuse("is no guard; write {mode: shadow}, or none to have the policy answer every request")
        return None
    get, default = fields_of(at, ("mode", "baseline", "loss_budget", "burn", "silence")).get, Guarding()
    baseline, written = get("baseline"), get("mode")
    if written is not None and written.value is False:
        written = replace(written, value="off")  # YAML 1.1 takes off for false
    mode = choice_of(written, default.mode, MODES)
    if by_consensus and mode in ("canary", "live"):
        at.refuse("judges by outcomes, and where consensus judges most requests have none; write mode: shadow")
    named = None if baseline is None or baseline.value == "constant" else plan_name(baseline, members)
    allowance = Allowance(
        number_of(get("loss_budget"), default.allowance.per_request, 0, 1),
        number_of(get("burn"), default.allowance.burn, 0, 1e9, above=True),
    )
    silence_s = duration_of(get("silence"), None, "10 min")
    return Guarding(mode, named or constant or default.baseline, allowance, silence_s)
