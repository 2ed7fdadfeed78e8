"""The block as a JSON schema (draft 7), for editors: all that the readers beside it ask for and a schema can say.

What this refuses the readers refuse too; they say more, and say it better. Keys, bounds and choices stand in both: a
test has the readers read whole blocks, notes what each asks for at each place, and finds the same here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from bandmaster.config.contract import OF_METRIC, OWN_NAME, TAKEN
from bandmaster.config.guard import MODES, NONE
from bandmaster.config.members import ADDRESS, OF_A_SERVER, ONLY_FOR, PROVIDER, SOURCES, TAG
from bandmaster.config.policy import OF_MODELS
from bandmaster.config.records import POLICIES
from bandmaster.config.values import JOURNAL, METHOD, NAME, OBJECT, UNITS
from bandmaster.contract import METRICS
from bandmaster.core import DEFAULT_PROFILE, PROVIDERS
from bandmaster.plans import ALL

Schema = dict[str, Any]
"""JSON, which holds anything."""


def schema() -> Schema:
    """Of a whole file: a bentofile, one with ``orchestration:`` at the top, or the one that ``BENTOML_CONFIG`` names.
    ``definitions.block`` is the block alone.
    """
    block = {"$ref": "#/definitions/block"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Bandmaster's orchestration block, and the files that it stands in",
        "type": "object",
        "properties": {
            "args": {"type": "object", "properties": {"orchestration": block}},
            "orchestration": block,
            "services": {
                "type": "object",
                "additionalProperties": {"type": "object", "properties": {"orchestration": block}},
            },
        },
        "definitions": {"block": _block()},
    }


def _block() -> Schema:
    return _fields(
        {
            "service": _pattern(OBJECT, "module:Class, the BentoML service that is orchestrated"),
            "method": _pattern(METHOD, "the API method that is orchestrated; predict by default"),
            "task": _choice(("classification", "regression"), "what members answer: classes, or one value a row"),
            "returns": _choice(("label", "scores"), "what an array, list or number that the method returns holds"),
            "contract": _contract(),
            "profiles": _named(
                {**_named(_number(0, 1e6, "weight"), "weights by metric"), "minProperties": 1},
                "other weights over the contract's metrics, by name",
                but=(DEFAULT_PROFILE,),
            ),
            "members": {**_named(_member(), "the ensemble, by name", but=(ALL,)), "minProperties": 1},
            "classes": _list(
                {"anyOf": [_integer(), _filled()]}, "the labels in the models' order", least=2, unique=True
            ),
            "plans": _plans(),
            "policy": _policy(),
            "limits": _limits(),
            "probes": _fields(
                {
                    "share": _number(0, 1, "of the requests, this share is answered by everybody after the reply"),
                    "adapt": _flag("whether the share follows what probes still teach, and cost"),
                },
                "requests about which all members are asked",
            ),
            "drift": _fields(
                {
                    "detector": _choice(("adwin",), "who looks for changes"),
                    "delta": _number(0, 1, "smaller is more patient", above=True),
                    "reaction": _choice(("forget", "none"), "what is done about a member that has changed"),
                },
                "changes of members and of the world",
            ),
            "guard": _guard(),
            "faults": _faults(),
            "feedback": _fields(
                {
                    "window": _duration("an outcome that comes later is not learned from; 10 min"),
                    "missing": _choice(("skip",), "what outcomes that never come teach"),
                    "rate": _number(0, 1e9, "outcomes a second, of one holder of a token", above=True),
                },
                "outcomes that are reported",
            ),
            "features": {
                "anyOf": [_choice(("all", "none"), ""), _list({"type": "integer", "minimum": 0}, "", least=0)],
                "description": "the columns of a row that the policy may look at, and the journal may hold",
            },
            "journal": _pattern(
                JOURNAL, "sqlite:///file.db, from this file's folder, or postgresql://user@host/database"
            ),
            "durability": _choice(("group", "full"), "what survives a power cut: with full, every decision at once"),
            "retention": _duration("for how long decisions are kept; 90 d, always by default"),
            "replicas": _integer(1, 10_000, "so many share the journal, and with it the budgets and the guard's room"),
            "seed": _integer(0, 2**63 - 1, "for reproducible choices"),
        },
        "which members run for a request, in which order, with what weights; and how that is judged",
        required=("contract", "members"),
    )


def _contract() -> Schema:
    own = _metric({"use": _pattern(OBJECT, "module:function, of decision, answer and outcome")}, {}, ("use",))
    known = {name: _known_metric(name) for name in METRICS}
    return {
        **_fields(known, "Reward = Σ αᵢ·f(metricᵢ): what a request is judged by"),
        "additionalProperties": own,
        "propertyNames": {"pattern": _whole(f"(?!(?:{'|'.join(sorted(TAKEN))})$)(?!.*_term$){OWN_NAME}")},
        "minProperties": 1,
    }


def _known_metric(name: str) -> Schema:
    figures: Mapping[str, Schema] = {
        "latency": _duration("a figure with its unit, as in 200 ms"),
        "energy": _energy("a figure with its unit, as in 5 mJ"),
        "cost": _number(0, 1e12, "a price per row"),
    }
    further: Schema = {"from": _choice(OF_METRIC[name], "where the figure comes from")} if name in OF_METRIC else {}
    if name == "accuracy":
        further["error"] = _pair(_number(0, 1e30, ""), "in regression: the errors that are worth all and nothing")
    figure, required = figures.get(name, _number(0, 1, "")), ("range",) if name in figures else ()
    return {**_metric(further, figure, required), "description": METRICS[name]}


def _metric(further: Schema, figure: Schema, required: Sequence[str]) -> Schema:
    described = _fields(
        {
            "weight": _number(0, 1e6, "α: what it counts for beside the others"),
            "goal": _choice(("max", "min"), "whether more is better"),
            "range": _pair(figure or _number(-1e12, 1e12, ""), "the least and the greatest figure that tell anything"),
            "scale": _choice(("linear", "log"), "log prices ratios, linear differences"),
            **further,
        },
        "a metric of your own",
        required=("weight", *required),
    )
    needs_range = {"if": {"properties": {"scale": {"const": "log"}}, "required": ["scale"]}}
    return {**described, **needs_range, "then": {"required": ["range"]}}


def _member() -> Schema:
    path = "a file in this file's folder or below"
    return {
        **_fields(
            {
                "onnx": _path(path),
                "bento_model": _pattern(TAG, "name:version, of BentoML's model store"),
                "open_inference": _pattern(ADDRESS, "the address of a server that speaks the Open Inference Protocol"),
                **{key: _pattern(*form) for key, form in OF_A_SERVER.items() if key != "version"},
                "version": {"anyOf": [_pattern(*OF_A_SERVER["version"]), {"type": "integer", "minimum": 0}]},
                "bento": _pattern(OBJECT, "another service of the bento, as in service:Other"),
                "method": _pattern(METHOD, "its method that answers, as in predict"),
                "profile": _fields(
                    {
                        "latency": _duration("what one row takes, as in 34 ms"),
                        "energy": _energy("what one row takes, as in 124 mJ"),
                        "cost": _number(0, 1e12, "the price of a row"),
                        "explainability": _number(0, 1, ""),
                        "accuracy": _number(0, 1, "where its recent accuracy starts from"),
                        "calibration": _number(0, 1, "expected calibration error, for reading only"),
                    },
                    "what is declared of it",
                ),
                "weight": _number(0, 1e6, "what its say counts for in plans ending in ~declared", above=True),
                "active": _flag("nobody asks one that is not"),
                "providers": _list(
                    {"anyOf": [_choice(tuple(PROVIDERS), ""), _pattern(PROVIDER, "")]},
                    "ONNX Runtime's execution providers, the preferred one first",
                    unique=True,
                ),
                "deadline": _duration("a call that takes longer has failed"),
                "isolated": _flag("whether it runs in a process of its own"),
            },
            "one model",
        ),
        "not": {"anyOf": [{"required": list(two)} for two in combinations(SOURCES, 2)]},
        "dependencies": {
            "open_inference": ["model"],
            **{key: {"anyOf": [{"required": [source]} for source in sources]} for key, sources in ONLY_FOR.items()},
        },
    }


def _plans() -> Schema:
    return _fields(
        {
            "subsets": _integer(0, 64, "the most members that run together"),
            "cascades": _integer(0, 64, "the most members of a cascade"),
            "stop_at": _list(_number(0, 1, "", above=True), "confidences at which cascades stop", unique=True),
            "limit": _integer(2, 1024, "the most plans"),
            "include": _list({"type": "string"}, "plans that must be there, as in a>b@0.9", least=0),
        },
        "what can be chosen",
    )


def _policy() -> Schema:
    explore = _fields(
        {
            "epsilon": _number(0, 1, "the share of decisions that is spread evenly"),
            "squarecb": _fields({"gamma": _number(0, 1e6, "explores less the greater")}, "by the gap to the best"),
            "softmax": _fields({"lambda": _number(0, 1e6, "explores less the greater")}, "by the exponential"),
            "bag": _integer(1, 64, "so many bootstrapped learners vote"),
            "rnd": _integer(1, 64, "so many random predictors say how new a request is"),
        },
        "one way to explore",
    )
    experts = [f"{name}:?" for name in POLICIES if name != "exp4"]
    described = _fields(
        {
            "use": {
                "anyOf": [_choice(POLICIES, ""), _pattern(OBJECT, "module:Class, of your own")],
                "description": "who chooses",
            },
            "explore": {**explore, "maxProperties": 1},
            "plan": {"type": "string", "description": "the plan of the constant policy"},
            "experts": _list(
                {"type": "string", "pattern": _whole(f"{'|'.join(experts)}|constant:.+")},
                "the policies that exp4 weighs",
                least=2,
                unique=True,
            ),
            "agent": _path("an agent that bandmaster train exported"),
            "shadows": _list(_path("an agent"), "agents that are compared with it", unique=True),
            "promote": _flag("whether a shadow that is surely better takes its place"),
            "gate": _number(0, 1, "the most that an agent's edit may cost"),
        },
        "who chooses among plans",
    )
    by_models = {"required": ["explore"], "properties": {"explore": {"anyOf": [{"required": [w]} for w in OF_MODELS]}}}
    return {
        **described,
        "dependencies": {
            "plan": _used("constant"),
            "experts": _used("exp4"),
            "shadows": ["agent"],
            "gate": ["agent"],
            "promote": {"anyOf": [{"properties": {"promote": {"const": False}}}, {"required": ["shadows"]}]},
        },
        "if": by_models,
        "then": {"required": ["use"], "properties": {"use": {"not": {"const": "bandit"}}}},
    }


def _used(policy: str) -> Schema:
    return {"required": ["use"], "properties": {"use": {"const": policy}}}


def _limits() -> Schema:
    period = rf"\s*/\s*{_figure('time')}\s*"
    return _fields(
        {
            "deadline": _duration("no plan is chosen that is expected to take longer"),
            "energy": _pattern(rf"\s*{_figure('energy')}{period}", "an amount and a period, as in 5 J / 1 min"),
            "cost": _pattern(rf"[^/]+{period}", "an amount and a period, as in 0.02 / 1 h"),
        },
        "what no plan may break",
    )


def _guard() -> Schema:
    described = _fields(
        {
            # Editors read YAML 1.2, in which off is a text; PyYAML reads 1.1, in which it is false.
            "mode": {"enum": [*MODES, False], "description": "how far the policy is followed"},
            "baseline": {"type": "string", "description": "the plan to compare with; constant by default"},
            "loss_budget": _number(0, 1, "the reward that may be lost, for every request"),
            "burn": _number(0, 1e9, "the reward that may be lost once", above=True),
            "silence": _duration("after so long without an outcome the baseline answers alone"),
        },
        "",
    )
    return {"anyOf": [{"const": NONE}, described], "description": "how far the policy is followed; none: always"}


def _faults() -> Schema:
    return _fields(
        {
            "eject_after": _integer(1, 10**6, "failures in a row"),
            "cooldown": _duration("so long out of service at first"),
            "out_at_most": _number(0, 1, "no larger share of the members is out"),
            "fallback": {"type": ["string", "number"], "description": "the label or value where nobody answers"},
        },
        "members that fail",
    )


# ---- Kinds of values, as in values.py ----------------------------------------------------------------------------


def _fields(properties: Schema, description: str, required: Sequence[str] = ()) -> Schema:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "additionalProperties": False,
        **({"required": list(required)} if required else {}),
    }


def _named(value: Schema, description: str, but: Sequence[str] = ()) -> Schema:
    names = _whole(f"(?!(?:{'|'.join(but)})$){NAME}" if but else ".*")
    described = {"type": "object", "description": description, "additionalProperties": value}
    return {**described, "propertyNames": {"pattern": names}} if but else described


def _number(low: float, high: float, description: str, *, above: bool = False) -> Schema:
    return {
        "type": "number",
        "exclusiveMinimum" if above else "minimum": low,
        "maximum": high,
        "description": description,
    }


def _integer(low: int = -(2**63) + 1, high: int = 2**63 - 1, description: str = "") -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high, "description": description}


def _flag(description: str) -> Schema:
    return {"type": "boolean", "description": description}


def _choice(options: Sequence[str], description: str) -> Schema:
    return {"enum": list(options), "description": description}


def _filled() -> Schema:
    return {"type": "string", "minLength": 1}


def _list(item: Schema, description: str, least: int = 1, *, unique: bool = False) -> Schema:
    described: Schema = {"type": "array", "items": item, "minItems": least, "description": description}
    return {**described, "uniqueItems": True} if unique else described


def _pair(item: Schema, description: str) -> Schema:
    return {**_list(item, description, 2), "maxItems": 2}


def _path(description: str) -> Schema:
    """A path that stays in its folder, by Windows's grammar and by others'."""
    inside = r"^(?![/\\])(?![A-Za-z]:)(?!(?:[\s\S]*[/\\])?\.\.(?:[/\\]|$))"
    return {"type": "string", "minLength": 1, "pattern": inside, "description": description}


def _duration(description: str) -> Schema:
    return _pattern(rf"\s*{_figure('time')}\s*", description)


def _energy(description: str) -> Schema:
    return _pattern(rf"\s*{_figure('energy')}\s*", description)


def _figure(dimension: str) -> str:
    """A number and a unit, as ``values.quantity`` reads them, but that signs are not looked at."""
    return rf"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)? *(?:{'|'.join(UNITS[dimension])})"


def _pattern(pattern: str, description: str) -> Schema:
    return {"type": "string", "pattern": _whole(pattern), "description": description}


def _whole(pattern: str) -> str:
    """As a schema has it, where a pattern may match anywhere, and knows no other letters than ASCII's."""
    ascii_alone = pattern.replace(r"\w", "A-Za-z0-9_")
    return f"^(?:{ascii_alone})$"
