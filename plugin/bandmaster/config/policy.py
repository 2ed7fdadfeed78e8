"""``policy:``: who chooses, and how it explores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bandmaster.config.members import onnx_path
from bandmaster.config.plans import plan_name
from bandmaster.config.records import POLICIES, PolicyConfig
from bandmaster.config.values import OBJECT, choice_of, fields_of, flag_of, integer_of, items_of, number_of, text_of
from bandmaster.plans import ALL, ALL_DECLARED
from bandmaster.policies.exploration import STRENGTH, Algorithm, Exploration
from bandmaster.yaml_reader import At

OF_MODELS: tuple[Algorithm, ...] = ("bag", "rnd")
"""Ways to explore that need models of their own, which Vowpal Wabbit alone has."""

KEYS = ("use", "explore", "plan", "experts", "agent", "shadows", "promote", "gate")


def read_policy(at: At | None, members: tuple[str, ...], root: Path) -> PolicyConfig:
    """``root`` is the folder that the agent's path starts from and may not leave."""
    get, default = fields_of(at, KEYS).get, PolicyConfig()
    use, plan, experts = _use(get("use"), default.use), get("plan"), get("experts")
    if plan and use != "constant":
        plan.refuse("is for the constant policy only; remove it or write use: constant")
    if experts and use != "exp4":
        experts.refuse("is for exp4 only; remove it or write use: exp4")
    named = plan_name(plan, members)
    if plan and named not in (None, ALL, ALL_DECLARED) and get("agent"):
        plan.refuse(
            f"leaves the agent nobody to choose; write plan: {ALL}, and it decides who that is; {ALL_DECLARED}, where "
            "it decides what they count for"
        )
    agent = onnx_path(at, root) if (at := get("agent")) else None
    explore, weighed = _explore(get("explore"), use), _experts(experts, members)
    return PolicyConfig(use, explore, named, weighed, agent, *_compared(get, agent, root))


def _use(at: At | None, default: str) -> str:
    """A policy's name; or ``module:Class``, one of the user's own."""
    if at and isinstance(at.value, str) and ":" in at.value and at.value.partition(":")[0] not in POLICIES:
        return text_of(at, OBJECT, "module:Class, as in my_policy:Cautious") or default
    return choice_of(at, default, POLICIES)


def _compared(
    get: Callable[[str], At | None], agent: Path | None, root: Path
) -> tuple[tuple[Path, ...], bool, float | None]:
    """An agent's shadows, whether they are promoted, and its gate."""
    shadows, promote, gate = get("shadows"), get("promote"), get("gate")
    others, promotes, most = tuple[Path, ...](), flag_of(promote, False), None
    if shadows and not get("agent"):
        shadows.refuse("have nobody to be compared with; name the agent that conducts, as in agent: ppo.onnx")
    elif shadows:
        others = _shadows(shadows, agent, root)
    if promote and promotes and not shadows:
        promote.refuse("has nobody to promote; name agents under shadows:, or remove it")
    if gate and not get("agent"):
        gate.refuse("is for what an agent edits; name one, as in agent: ppo.onnx, or remove it")
    elif gate:
        most = number_of(gate, 0.0, 0, 1)
    return others, promotes, most


def _shadows(at: At, agent: Path | None, root: Path) -> tuple[Path, ...]:
    found = list[Path]()
    for item in items_of(at, "write a list of agents' files, as in [a2c.onnx, dqn.onnx]"):
        path = onnx_path(item, root)
        if path is not None and path in (agent, *found):
            item.refuse("stands twice; keep one of them")
        elif path is not None:
            found.append(path)
    return tuple(found)


def _explore(at: At | None, use: str) -> Exploration:
    entries = fields_of(at, tuple(STRENGTH))
    if at is None or not entries:
        return Exploration()
    if len(entries) > 1:
        at.refuse(f"names {len(entries)} ways; keep one of {', '.join(entries)}")
    by: Algorithm = next(way for way in STRENGTH if way in entries)
    own = entries[by]
    if by in OF_MODELS:
        if use == "bandit":
            own.refuse("is Vowpal Wabbit's own way; write use: vw, or explore by epsilon, squarecb or softmax")
        return Exploration(by, float(integer_of(own, int(STRENGTH[by]), 1, 64)))
    if by == "epsilon":
        return Exploration(by, number_of(own, STRENGTH[by], 0, 1))
    figure = "gamma" if by == "squarecb" else "lambda"
    return Exploration(by, number_of(fields_of(own, (figure,)).get(figure), STRENGTH[by], 0, 1e6))


def _experts(at: At | None, members: tuple[str, ...]) -> tuple[str, ...]:
    items = items_of(at, "write two policies or more, as in [scoring, constant:all]")
    if at and len(items) == 1:
        at.refuse("is a single expert; write two policies or more, as in [scoring, constant:all]")
    experts: dict[str, None] = {}
    for item in items:
        expert = item.value if isinstance(item.value, str) else ""
        name, _, plan = expert.partition(":")
        if name not in POLICIES or name == "exp4" or (plan and name != "constant"):
            item.refuse(f"is no expert; write one of {', '.join(p for p in POLICIES if p != 'exp4')}, or constant:PLAN")
        elif expert in experts:
            item.refuse("stands twice; keep one of them")
        elif not plan or plan_name(replace(item, value=plan), members):
            experts[expert] = None
    return tuple(experts)
