"""``members:`` and ``classes:``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from bandmaster.config.records import MemberConfig
from bandmaster.config.values import (
    METHOD,
    NAME,
    OBJECT,
    PROFILE_FIELDS,
    duration_of,
    entries_of,
    fields_of,
    figure_of,
    flag_of,
    items_of,
    number_of,
    text_of,
)
from bandmaster.core import CPU, PROVIDERS, Profile
from bandmaster.members.bento import Called
from bandmaster.members.open_inference import Endpoint
from bandmaster.plans import ALL
from bandmaster.yaml_reader import At, show

TAG = r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?(:[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?)?"
"""``name`` or ``name:version`` of BentoML's model store."""

SOURCES = ("onnx", "bento_model", "open_inference", "bento")
"""What a member's model may be named by."""

_HOST = r"[A-Za-z0-9\[][^ \t\n\r\f\v/?#@]*"
ADDRESS = rf"(https?://{_HOST}(/[^ \t\n\r\f\v?#]*)?|grpcs?://{_HOST}:[0-9]{{1,5}})"
PROVIDER = r"[A-Za-z0-9]{1,64}ExecutionProvider"

OF_A_SERVER = {
    "model": (r"[A-Za-z0-9][\w.-]{0,255}", "the model's name on the server, as in resnet50"),
    "version": (r"[A-Za-z0-9][\w.-]{0,63}", 'a version that the server has, in quotes, as in "3"'),
    "input": (r"[^ \t\n\r\f\v\"\\]{1,256}", "the name of a tensor, as in input-0"),
    "output": (r"[^ \t\n\r\f\v\"\\]{1,256}", "the name of a tensor, as in probabilities"),
    "token": (r"[A-Za-z_][\w]*", "the name of the environment variable that holds it, as in TRITON_TOKEN"),
}
"""What else tells where a server's model is, how each is written, and an example."""

ONLY_FOR = {
    **dict.fromkeys(OF_A_SERVER, ("open_inference",)),
    "method": ("bento",),
    **dict.fromkeys(("providers", "isolated"), ("onnx", "bento_model")),
}
"""What is said of some models only, by what names them."""


def read_members(at: At | None, root: Path) -> tuple[MemberConfig, ...]:
    if at is None:
        return ()
    fix = "write {name: {onnx: name.onnx}}"
    entries = entries_of(at, fix)
    if at.value == {}:
        at.refuse(f"has no member; {fix}")
    members = tuple(_member(name, entry, root) for name, entry in entries.items())
    if members and not any(member.active for member in members):
        at.refuse("has no member that is active; take active: false from one of them")
    return members


def _member(name: str, at: At, root: Path) -> MemberConfig:
    if not re.fullmatch(NAME, name) or name == ALL:
        fix = f"write a letter, then up to 63 letters, digits, _ or -, and not {ALL}"
        at.book.refuse(at.path, f"{show(name)} is no member name; {fix}")
    known = (*SOURCES, *ONLY_FOR, "profile", "weight", "active", "deadline")
    get = fields_of(at, known).get
    onnx, bento_model = get("onnx"), get("bento_model")
    if len(named := [source for source in SOURCES if get(source)]) > 1:
        at.book.refuse(at.path, f"has both {named[0]} and {named[1]}; keep one of them")
    for key, sources in ONLY_FOR.items():
        if (written := get(key)) and not any(get(source) for source in sources):
            written.refuse(f"is for {' and '.join(sources)}; leave it out")
    endpoint, bento = get("open_inference"), get("bento")
    return MemberConfig(
        name=name,
        onnx=onnx_path(onnx, root) if onnx else None,
        bento_model=text_of(bento_model, TAG, "name:version, as in digits-linear:latest"),
        endpoint=_endpoint(endpoint, get) if endpoint else None,
        bento=_called(bento, get("method")) if bento else None,
        profile=_profile(get("profile")),
        weight=number_of(get("weight"), 1.0, 0.0, 1e6, above=True),
        active=flag_of(get("active"), True),
        providers=_providers(get("providers")),
        deadline_s=duration_of(get("deadline"), None, "200 ms"),
        isolated=flag_of(get("isolated"), False),
    )


def _providers(at: At | None) -> tuple[str, ...]:
    """What is to run a model, by its full names."""
    fix = f"write a list of {', '.join(PROVIDERS)}, as in [tensorrt, cuda], or of full names as CUDAExecutionProvider"
    found: dict[str, None] = {}
    for item in items_of(at, fix):
        name = item.value if isinstance(item.value, str) else ""
        name = PROVIDERS.get(name, name)
        if not re.fullmatch(PROVIDER, name):
            item.refuse(f"is no execution provider; {fix}")
        elif name in found:
            item.refuse("is named twice; keep one of them")
        found[name] = None
    return tuple(found) or (CPU,)


def _endpoint(at: At, get: Callable[[str], At | None]) -> Endpoint | None:
    """Where a server's model is; ``None`` where that was refused."""
    url = text_of(at, ADDRESS, "its address, as in http://triton.internal:8000 or grpc://triton.internal:8001")
    if get("model") is None:
        at.book.refuse((*at.path[:-1], "model"), "is missing; add model: resnet50, by its name on the server")
    version = get("version")
    if version and type(version.value) is int:  # as is natural where versions are numbers
        version = replace(version, value=str(version.value))
    texts = {key: text_of(version if key == "version" else get(key), *form) for key, form in OF_A_SERVER.items()}
    model = texts.pop("model")
    return None if url is None or model is None else Endpoint(url, model, **texts)


def _called(at: At, method: At | None) -> Called | None:
    """Which method of which service; ``None`` where that was refused."""
    service = text_of(at, OBJECT, "module:Class, as in service:Other")
    name = text_of(method, METHOD, "the name of a method, as in predict") if method else "predict"
    return None if service is None or name is None else Called(service, name)


def _profile(at: At | None) -> Profile:
    get = fields_of(at, tuple(PROFILE_FIELDS)).get
    return Profile(**{field_: figure_of(get(metric), metric) for metric, field_ in PROFILE_FIELDS.items()})


def onnx_path(at: At, root: Path) -> Path | None:
    """The model's resolved path: a file inside ``root``, also after every link has been followed."""
    text = at.value
    if not isinstance(text, str) or not text:
        at.refuse("is no path; write one from this file's folder, as in forest.onnx")
        return None
    # Both systems' grammars, since a config moves between machines.
    if any(p.anchor or ".." in p.parts for p in (PurePosixPath(text), PureWindowsPath(text))):
        at.refuse("leads out of this file's folder; put the model inside and write its path from here")
        return None
    try:
        path = (root / text).resolve()
        inside, there = path.is_relative_to(root), path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, a loop of links
        at.refuse(f"cannot be looked up ({type(error).__name__}); write the path of a file in this folder")
        return None
    if not inside:
        at.refuse("is a link that leads out of this file's folder; put the model itself inside")
    elif not there:
        at.refuse("is no file; put the model there or correct the path")
    return path


def read_classes(at: At | None) -> tuple[int | str, ...] | None:
    if at is None:
        return None
    fix = "write at least two different labels, as in [0, 1] or [cat, dog]"
    items = items_of(at, fix)
    labels: dict[int | str, None] = {}
    for item in items:
        label = item.value
        if isinstance(label, bool) or not isinstance(label, int | str) or not _fits(label):
            item.refuse("is no label; write a whole number, or a text in quotes")
        elif label in labels:
            item.refuse(f"stands twice; {fix}")
        else:
            labels[label] = None
    if len(items) == 1:
        at.refuse(f"is a single class; {fix}")
    return tuple(labels)


def _fits(label: int | str) -> bool:
    return bool(label) if isinstance(label, str) else abs(label) < 2**63
