"""``members:`` and ``classes:``."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from bandmaster.config.records import MemberConfig
from bandmaster.config.values import (
    NAME,
    PROFILE_FIELDS,
    choice_of,
    duration_of,
    entries_of,
    fields_of,
    figure_of,
    flag_of,
    items_of,
    number_of,
    text_of,
)
from bandmaster.core import HOSTS, Profile
from bandmaster.plans import ALL
from bandmaster.yaml_reader import At, show

TAG = r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?(:[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?)?"
"""``name`` or ``name:version`` of BentoML's model store."""


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
    known = ("onnx", "bento_model", "profile", "weight", "active", "host", "deadline", "isolated")
    get = fields_of(at, known).get
    onnx, bento_model = get("onnx"), get("bento_model")
    if onnx and bento_model:
        at.book.refuse(at.path, "has both onnx and bento_model; keep one of them")
    return MemberConfig(
        name=name,
        onnx=onnx_path(onnx, root) if onnx else None,
        bento_model=text_of(bento_model, TAG, "name:version, as in digits-linear:latest"),
        profile=_profile(get("profile")),
        weight=number_of(get("weight"), 1.0, 0.0, 1e6, above=True),
        active=flag_of(get("active"), True),
        host=choice_of(get("host"), "cpu", HOSTS),
        deadline_s=duration_of(get("deadline"), None, "200 ms"),
        isolated=flag_of(get("isolated"), False),
    )


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
