"""The ensembles that are served: three small members, or three that take milliseconds; and the requests they meet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from models.digits import corrupt, split
from models.members import MEMBERS
from models.train import to_onnx, train_member

SMALL = ("linear", "mlp", "noise")
"""Of the example ensemble; they take some microseconds a row."""

CORRUPTIONS = ("clean", "noise", "blur")
"""What requests' images have suffered, as many of each; and what each large member has seen."""

COPIES = 5
"""Of every training image: among so many a search takes a large member 5 ms and more."""

REQUESTS = 3000


def small() -> dict[str, bytes]:
    """Three small ONNX models, by name."""
    return {name: train_member(MEMBERS[name], 0).onnx for name in SMALL}


def large() -> dict[str, bytes]:
    """Three that take milliseconds: nearest neighbours, each among images with a corruption of its own."""
    data, rng, models = split(), np.random.default_rng(0), dict[str, bytes]()
    for corruption in CORRUPTIONS:
        rows = np.concatenate([corrupt(data.train_rows, corruption, rng) for _ in range(COPIES)])
        rows += 0.02 * rng.standard_normal(rows.shape, dtype=np.float32)  # of a clean image all copies would be one
        near = KNeighborsClassifier(2 * COPIES).fit(rows, np.tile(data.train_labels, COPIES))
        models[f"near_{corruption}"] = to_onnx(near, corruption)
    return models


def write_requests(path: Path) -> None:
    """What is asked, as ``load`` reads it: images that no member has seen, with their labels."""
    data, rng = split(), np.random.default_rng(1)
    drawn = rng.integers(len(data.held_rows), size=REQUESTS)
    images, which = data.held_rows[drawn], rng.integers(len(CORRUPTIONS), size=REQUESTS)
    for k, corruption in enumerate(CORRUPTIONS):
        images[which == k] = corrupt(images[which == k], corruption, rng)
    np.savez(path, images=images.round(4), labels=data.held_labels[drawn])
