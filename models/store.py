"""The one place that talks to BentoML's model store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bentoml
import onnxruntime as ort
from bentoml._internal.models.model import ModelStore  # the only way to name a store other than the default
from bentoml.exceptions import NotFound

ONNX_FILE = "model.onnx"


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(content).hexdigest()


def tag_of(name: str, onnx: bytes) -> str:
    """`digits-<name>:<version>`; the version is the content's hash, so equal files are equal versions."""
    return f"digits-{name}:{sha256(onnx)[:16]}"


def _options(store: Path | None) -> dict[str, Any]:
    """Arguments that select the store: BentoML's own (None: $BENTOML_HOME or ~/bentoml), or a home directory."""
    if store is None:
        return {}
    directory = store / "models"
    directory.mkdir(parents=True, exist_ok=True)
    return {"_model_store": ModelStore(directory)}


def save(name: str, onnx: bytes, card: Mapping[str, Any], store: Path | None = None) -> str:
    """Put a member into the store, its card as metadata, as the latest version; returns its tag."""
    options = _options(store)
    tag = tag_of(name, onnx)
    if onnx_path(tag, store) is not None:
        bentoml.models.delete(tag, **options)  # the same file, perhaps with a newer card
    labels = {"ensemble": "digits", "member": name, "corruption": card["corruption"]}
    with bentoml.models.create(tag, labels=labels, metadata=dict(card), **options) as model:
        Path(model.path_of(ONNX_FILE)).write_bytes(onnx)
    return tag


def onnx_path(tag: str, store: Path | None = None) -> Path | None:
    """Where the store keeps a model's ONNX file; None if it has no such model or no such file."""
    try:
        path = Path(bentoml.models.get(tag, **_options(store)).path_of(ONNX_FILE))
    except NotFound:
        return None
    return path if path.is_file() else None


def load(name: str, store: Path | None = None) -> bytes:
    """The latest stored version of a member; FileNotFoundError, with the remedy, if there is none."""
    path = onnx_path(f"digits-{name}:latest", store)
    if path is None:
        raise FileNotFoundError(f"digits-{name} is not in the model store; run `python -m models.train` first")
    return path.read_bytes()


def session(onnx: bytes) -> ort.InferenceSession:
    """A session that stays on the calling thread, so that its CPU time is all of its cost."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
