"""``faults:``: when members go out of service, and what is answered where nobody can."""

from __future__ import annotations

from bandmaster.breaker import Breaking
from bandmaster.config.records import FaultsConfig
from bandmaster.config.values import duration_of, fields_of, integer_of, number_of
from bandmaster.core import Task
from bandmaster.yaml_reader import At


def read_faults(at: At | None, task: Task) -> FaultsConfig:
    get, default = fields_of(at, ("eject_after", "cooldown", "out_at_most", "fallback")).get, Breaking()
    breaking = Breaking(
        integer_of(get("eject_after"), default.after, 1, 10**6),
        duration_of(get("cooldown"), default.cooldown_s, "10 s"),
        number_of(get("out_at_most"), default.at_most, 0, 1),
    )
    return FaultsConfig(breaking, _fallback(get("fallback"), task))


def _fallback(at: At | None, task: Task) -> int | float | str | None:
    """A label, which only the models can tell to be one of theirs; in regression the value."""
    if at is None:
        return None
    if task == "regression":
        return number_of(at, 0.0, -1e300, 1e300)
    if isinstance(at.value, bool) or not isinstance(at.value, int | str):
        at.refuse("is no label; write one of the classes")
        return None
    return at.value
