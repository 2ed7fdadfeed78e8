"""Where the orchestration block stands, and the service that it names."""

from __future__ import annotations

import importlib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from _bentoml_sdk import Service
from bentoml._internal.bento.build_config import BentoBuildConfig, BentoPathSpec
from bentoml._internal.configuration.containers import BentoMLContainer

from bandmaster.config import Config, ConfigError, Source, parse, read_block
from bandmaster.config_manager import ConfigManager, ReadBlock, with_edits
from bandmaster.journal.opening import edits_of
from bandmaster.journal.places import anchored, journal_url


def find_block() -> tuple[Mapping[str, Any], Source]:
    """Read the block from the first of: ``services.<Name>.orchestration`` of the file that ``BENTOML_CONFIG`` names,
    ``bentofile.yaml`` or ``pyproject.toml`` in the working directory, the arguments of the bento being served.

    In that order, because ``bentoml serve --reload`` keeps the arguments it started with. Raises ``ConfigError``
    when none of them holds a block, or the one found cannot be used.
    """
    found = _from_bentoml_config() or _from_bentofile() or _from_pyproject() or _from_arguments()
    if found is None:
        raise ConfigError(
            f"no orchestration block: neither {Path.cwd() / 'bentofile.yaml'} (args: orchestration:) nor the bento's "
            "arguments hold one; add the block, or run bentoml in the folder whose bentofile.yaml does"
        )
    block, source = found
    if block.get("service") is None:
        raise ConfigError(
            f"{source.name}: {source.path}.service: is missing; bandmaster.auto:svc needs the service to "
            'orchestrate, as in service: "service:Digits"'
        )
    return block, source


Found = tuple[Mapping[str, Any], Source]


def staying(read: ReadBlock, source: Source) -> ReadBlock:
    """``read``, but that it raises ``ConfigError`` where the block it finds stands elsewhere than it did.

    A file that somebody is just writing is empty or not there for a moment; what is then found in its stead, as the
    arguments that BentoML keeps from its start, is not what a running service is to serve by.
    """

    def reading() -> Found:
        block, found = read()
        if found != source:
            raise ConfigError(
                f"{source.name}: {source.path}: holds no block any more, though {found.name} does ({found.path}); put "
                "it back, or start the service anew"
            )
        return block, source

    return reading


def _checked(block: Any, source: Source) -> Found:
    parse(block, source)
    return block, source


def _from_bentoml_config() -> Found | None:
    path = os.environ.get("BENTOML_CONFIG")
    if not path:
        return None
    try:
        services = (yaml.safe_load(Path(path).read_text()) or {}).get("services") or {}
    except (OSError, yaml.YAMLError, AttributeError) as problem:
        raise ConfigError(f"BENTOML_CONFIG={path}: cannot be read: {problem}") from None
    for name, settings in services.items():
        if isinstance(settings, Mapping) and "orchestration" in settings:
            return _checked(settings["orchestration"], Source(path, f"services.{name}.orchestration", Path.cwd()))
    return None


def _from_bentofile() -> Found | None:
    path = Path("bentofile.yaml")
    if not path.is_file():
        return None
    try:
        document = yaml.safe_load(path.read_text())
    except yaml.YAMLError:
        return read_block(path)  # which says where and what
    if document is None:
        return read_block(path)  # somebody is just writing it: arguments that BentoML keeps are older
    args = document.get("args") if isinstance(document, Mapping) else None
    return read_block(path) if isinstance(args, Mapping) and "orchestration" in args else None


def _from_pyproject() -> Found | None:
    path = Path("pyproject.toml")
    if not path.is_file():
        return None
    try:
        document: Any = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(f"{path}: {problem}") from None
    block = document.get("tool", {}).get("bentoml", {}).get("build", {}).get("args", {}).get("orchestration")
    source = Source(str(path), "tool.bentoml.build.args.orchestration", Path.cwd())
    return None if block is None else _checked(block, source)


def _from_arguments() -> Found | None:
    block = BentoMLContainer.bento_arguments.get().get("orchestration")
    return None if block is None else _checked(block, Source("the bento's arguments", "orchestration", Path.cwd()))


def load_service(block: Mapping[str, Any], source: Source) -> Service[Any]:
    """Import the service that the block names. Raises ``ConfigError`` when it is not there or is no service."""
    return import_service(block["service"], f"{source.name}: {source.path}.service")


def import_service(name: str, place: str) -> Service[Any]:
    """Import the service that is named ``module:Class`` at a ``place``. Raises ``ConfigError`` when there is none."""
    module, _, attribute = name.partition(":")
    place = f"{place}: {name!r}"
    try:
        service = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as problem:
        raise ConfigError(f"{place}: cannot be imported: {problem}; write module:Class as seen from here") from None
    except AttributeError:
        raise ConfigError(f"{place}: {module}.py has no {attribute!r}") from None
    if not isinstance(service, Service):
        raise ConfigError(f"{place}: is no BentoML service; put @bentoml.service over the class")
    return service


def in_force(read: ReadBlock) -> tuple[Config, ConfigManager]:
    """The block that is read with the edits over it, as it holds here, and the manager of those edits.

    Raises ``ConfigError`` where one of them cannot be used, or both together.
    """
    block, source = read()
    own = placed(parse(block, source))
    manager = ConfigManager(read, edits_of(own.journal, own.root))
    return placed(with_edits(block, source, manager.edits.overlay())), manager


def placed(config: Config) -> Config:
    """The block as it holds here: its journal's place, and in a built bento the very models that were built in.

    ``BANDMASTER_JOURNAL`` stands for ``journal:``. A relative URL starts at the block's folder; in a built bento,
    whose folder may be read-only and goes with the next version, at ``bandmaster/<bento's name>`` of BentoML's home.
    """
    bento = _built_bento()
    root = config.root if bento is None else Path(BentoMLContainer.bentoml_home.get()) / "bandmaster" / bento["name"]
    journal = anchored(journal_url(config.journal), root)
    built_in = [model for part in (bento or {}, *(bento or {}).get("services", ())) for model in part.get("models", ())]
    pinned = {model["tag"].partition(":")[0]: model["tag"] for model in built_in}
    members = tuple(
        replace(m, bento_model=pinned.get(m.bento_model.partition(":")[0], m.bento_model)) if m.bento_model else m
        for m in config.members
    )
    return replace(config, journal=journal, members=members)


def packed(path: Path) -> bool:
    """Whether ``bentoml build`` in the working directory packs a file there into the bento, and ``bentoml serve
    --reload`` starts the service anew whenever it is written.
    """
    here = Path.cwd().resolve()
    if _built_bento() is not None or not path.is_file() or not path.resolve().is_relative_to(here):
        return False
    try:
        described = BentoBuildConfig.from_bento_dir(str(here))
    except Exception:  # of any kind; it cannot be built so, which is for BentoML to say
        return False
    spec = BentoPathSpec(described.include, described.exclude, str(here))
    return bool(spec.includes(path.resolve().relative_to(here).as_posix()))


def _built_bento() -> dict[str, Any] | None:
    """What the built bento that is being served says of itself; BentoML imports services from its folder ``src``."""
    here = Path.cwd()
    description = here.parent / "bento.yaml"
    if here.name != "src" or not description.is_file():
        return None
    found: dict[str, Any] = yaml.safe_load(description.read_text())
    return found
