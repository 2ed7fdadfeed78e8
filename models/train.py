"""Train the example ensemble, export it to ONNX, profile it, and put it into BentoML's model store.

Examples:
  python -m models.train                        train, or do nothing if the store is already as it should be
  python -m models.train --force                train again
  python -m models.train --store build/bentoml  use another BentoML home than $BENTOML_HOME or ~/bentoml
  python -m models.train --reprofile            renew the frozen reference profiles; on a quiet machine only
"""

from __future__ import annotations

import argparse
import json
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from models import profiling, store
from models.digits import CLASSES, CORRUPTIONS, PIXELS, FloatArray, corrupt, split
from models.members import MEMBERS, MemberSpec, training_set

OPSET = 17  # the newest a file may ask for; skl2onnx asks for no more than its operators need
TOLERANCE = 1e-5
OUT = Path("build/models")

_PHASE_SEED = 20  # the corrupted held-out images behind a card's accuracies are the same for every training seed


@dataclass(frozen=True)
class Trained:
    """A fitted classifier, its ONNX file, and the number of images it trained on."""

    classifier: Any
    onnx: bytes
    train_images: int


def train_member(spec: MemberSpec, seed: int) -> Trained:
    """Fit one member and convert it; the same seed gives the same bytes on the same machine and library versions."""
    data = split()
    member_seed = zlib.crc32(f"{seed}/{spec.name}".encode())  # independent of the order of members
    rows, labels = training_set(spec, data.train_rows, data.train_labels, member_seed)
    classifier = spec.factory(member_seed)
    # One thread: sums would otherwise depend on the number of cores.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # networks stop early on purpose
        warnings.simplefilter("ignore", FutureWarning)  # skl2onnx reads attributes that scikit-learn will retire
        classifier.fit(rows, labels)
        return Trained(classifier, to_onnx(classifier, spec.name), len(rows))


def to_onnx(classifier: Any, name: str) -> bytes:
    """`input` float32 (None, 64) → `label` int64 (None,), `probabilities` float32 (None, 10)."""
    model = convert_sklearn(
        classifier,
        name=f"digits-{name}",  # the default is a random name: the bytes would differ each time
        initial_types=[("input", FloatTensorType([None, PIXELS]))],
        options={id(classifier): {"zipmap": False}},
        target_opset=OPSET,
    )
    opsets = sorted(model.opset_import, key=lambda opset: opset.domain)  # skl2onnx keeps them in a set
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    helper.set_model_props(model, {"classes": json.dumps(CLASSES)})
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def difference(trained: Trained, rows: FloatArray) -> float:
    """The largest absolute difference between ONNX's and scikit-learn's probabilities on `rows` (n, 64)."""
    (exported,) = store.session(trained.onnx).run(["probabilities"], {"input": rows})
    return float(np.abs(exported - trained.classifier.predict_proba(rows)).max())


def accuracy_per_phase(onnx: bytes) -> dict[str, float]:
    """Share of the held-out images recognised, in [0, 1], clean and under every corruption."""
    data, predict = split(), store.session(onnx).run
    accuracies = {}
    for kind in CORRUPTIONS:
        rows = corrupt(data.held_rows, kind, np.random.default_rng(_PHASE_SEED))
        (labels,) = predict(["label"], {"input": rows})
        accuracies[kind] = round(float((labels == data.held_labels).mean()), 4)
    return accuracies


def card(
    spec: MemberSpec, trained: Trained, seed: int, measured: profiling.Profile, reference: dict[str, Any]
) -> dict[str, Any]:
    """Everything a reader should know about a member, ready for JSON."""
    return {
        "name": spec.name,
        "kind": spec.kind,
        "scikit_learn": version("scikit-learn"),
        "seed": seed,
        "training_data": spec.training_data,
        "corruption": spec.corruption or "none",  # BentoML's metadata has no null
        "train_images": trained.train_images,
        "classes": list(CLASSES),
        "accuracy": accuracy_per_phase(trained.onnx),
        "accuracy_data": f"{len(split().held_rows)} held-out images, clean and corrupted",
        "profile": reference,
        "measured": asdict(measured) | {"cpu": profiling.cpu_name()},
        "explainability": {
            "value": spec.explainability,
            "provenance": "declared",
            "reason": spec.explainability_reason,
        },
        "onnx": {"sha256": store.sha256(trained.onnx), "bytes": len(trained.onnx)},
    }


def train_all(
    store_home: Path | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda done: None,
    *,
    out: Path = OUT,
    members: Sequence[str] = tuple(MEMBERS),
    reprofile: bool = False,
) -> dict[str, Any]:
    """Train `members` into BentoML's store and write their cards and manifest under `out`; returns the manifest.

    `store_home` is a BentoML home (None: $BENTOML_HOME or ~/bentoml). `progress` is called with each member's name
    once it is trained. Raises ValueError, before anything is stored, if an ONNX file disagrees with scikit-learn.
    """
    held_rows = split().held_rows
    trained, measured = {}, {}
    for name in members:
        trained[name] = train_member(MEMBERS[name], seed)
        if (worst := difference(trained[name], held_rows)) > TOLERANCE:
            raise ValueError(f"{name}: ONNX differs from scikit-learn by {worst:.1e}, more than {TOLERANCE:.0e}")
        blocks = 1000 if reprofile else 50
        measured[name] = profiling.measure(trained[name].onnx, held_rows, blocks)
        progress(name)
    if reprofile:
        profiling.write_reference(measured)
    reference = profiling.read_reference()
    if missing := [name for name in members if name not in reference]:
        raise ValueError(f"no reference profile of {', '.join(missing)}; run `python -m models.train --reprofile`")
    cards = {name: card(MEMBERS[name], trained[name], seed, measured[name], reference[name]) for name in members}
    tags = {name: store.save(name, trained[name].onnx, cards[name], store_home) for name in members}
    return write_manifest(out, seed, cards, tags)


def write_manifest(
    out: Path, seed: int, cards: Mapping[str, Mapping[str, Any]], tags: Mapping[str, str]
) -> dict[str, Any]:
    """Write the cards, and beside them the manifest: every file's SHA-256 and size, and what they were made from."""
    files = {}
    (out / "cards").mkdir(parents=True, exist_ok=True)
    for name, content in cards.items():
        text = (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
        (out / "cards" / f"{name}.json").write_bytes(text)
        files[f"cards/{name}.json"] = {"sha256": store.sha256(text), "bytes": len(text)}
    manifest = {
        "seed": seed,
        "recipe": recipe(),
        "models": {tags[name]: {k: cards[name]["onnx"][k] for k in ("sha256", "bytes")} for name in cards},
        "files": files,
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def recipe() -> dict[str, str]:
    """What decides the content of the models besides the seed: sources, frozen profiles, library versions."""
    here = Path(__file__).parent
    sources = [here / name for name in ("digits.py", "members.py", "profiling.py", "profiles.json", "train.py")]
    libraries = ("numpy", "scipy", "scikit-learn", "skl2onnx", "onnx", "onnxruntime")
    digest = store.sha256(b"".join(path.read_bytes() for path in sources if path.exists()))
    return {"sources": digest} | {name: version(name) for name in libraries}


def up_to_date(store_home: Path | None, seed: int, out: Path = OUT) -> bool:
    """Whether the manifest under `out` was made from this seed and recipe, and every file still has its hash."""
    path = out / "manifest.json"
    if not path.exists():
        return False
    manifest = json.loads(path.read_text())
    if (manifest["seed"], manifest["recipe"]) != (seed, recipe()) or len(manifest["models"]) != len(MEMBERS):
        return False
    cards = {out / name: facts["sha256"] for name, facts in manifest["files"].items()}
    stored = {  # the latest version, which is what a service loads: another run may have replaced ours
        store.onnx_path(f"{tag.split(':')[0]}:latest", store_home): facts["sha256"]
        for tag, facts in manifest["models"].items()
    }
    return all(
        file is not None and file.exists() and store.sha256(file.read_bytes()) == expected
        for file, expected in (cards | stored).items()
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m models.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="decides every random choice (default 0)")
    parser.add_argument("--store", type=Path, help="BentoML home (default $BENTOML_HOME or ~/bentoml)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"for cards and manifest (default {OUT})")
    parser.add_argument("--force", action="store_true", help="train even if everything is up to date")
    parser.add_argument("--reprofile", action="store_true", help="also renew the frozen reference profiles")
    chosen = parser.parse_args(arguments)
    if not (chosen.force or chosen.reprofile) and up_to_date(chosen.store, chosen.seed, chosen.out):
        print(f"Up to date: {chosen.out / 'manifest.json'} matches the model store (--force trains again).")
        return
    columns = TextColumn("{task.description:>20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns) as bar:
        task = bar.add_task("training", total=len(MEMBERS))
        train_all(
            chosen.store,
            chosen.seed,
            lambda name: bar.update(task, advance=1, description=f"trained {name}"),
            out=chosen.out,
            reprofile=chosen.reprofile,
        )
    print(f"{len(MEMBERS)} models stored as digits-*:latest; cards and manifest in {chosen.out}.")


if __name__ == "__main__":
    main()
