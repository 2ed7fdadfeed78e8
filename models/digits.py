"""Data for the example ensemble: real 8×8 digits, ways to corrupt them, and traffic whose phases come back.

Every array of images has shape (n, 64), dtype float32, values in [0, 1]; 1 is full ink.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
Corruption = Callable[[FloatArray, np.random.Generator], FloatArray]

SIDE = 8
PIXELS = SIDE * SIDE
CLASSES = tuple(range(10))

# The split never follows the caller's seed: a held-out image must stay held out whichever seed trained.
_SPLIT_SEED = 1797


@dataclass(frozen=True)
class Split:
    """Images and labels for training, and as many that no member has seen."""

    train_rows: FloatArray
    train_labels: IntArray
    held_rows: FloatArray
    held_labels: IntArray


@dataclass(frozen=True)
class Traffic:
    """A stream of requests in arrival order: rows (n, 64), labels (n,), and phase (n,), an index into phase_names."""

    rows: FloatArray
    labels: IntArray
    phase: IntArray
    phase_names: tuple[str, ...]


@cache
def split() -> Split:
    """The 1,797 real images, halved at random with every class equally represented; the same on every call."""
    images, labels = load_digits(return_X_y=True)
    rows = (images / 16).astype(np.float32)
    parts = train_test_split(rows, labels.astype(np.int64), test_size=0.5, stratify=labels, random_state=_SPLIT_SEED)
    for part in parts:
        part.setflags(write=False)  # the result is shared by every caller
    train_rows, held_rows, train_labels, held_labels = parts
    return Split(train_rows, train_labels, held_rows, held_labels)


def _images(rows: FloatArray) -> FloatArray:
    return rows.reshape(-1, SIDE, SIDE)


def _rows(images: NDArray[np.floating]) -> FloatArray:
    rows: FloatArray = np.clip(images, 0, 1).reshape(-1, PIXELS).astype(np.float32)
    return rows


def clean(rows: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The images as they are."""
    return rows.copy()


def blur(rows: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Out of focus: strokes spread over their neighbours and fade, over the grain of a dim sensor."""
    soft = ndimage.gaussian_filter(_images(rows), sigma=(0, 1.3, 1.3))
    return _rows(soft + rng.normal(0, 0.04, soft.shape))


def noise(rows: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Specks that only ever add ink: the size of a normal deviate of 0.65, so as strong as the strokes."""
    return _rows(rows + np.abs(rng.normal(0, 0.65, rows.shape)))


def rotation(rows: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Turned counter-clockwise by 50° to 100°, as from a scanner fed sideways."""
    angle = np.deg2rad(rng.uniform(50, 100, len(rows)))[:, None, None]
    centre = (SIDE - 1) / 2
    down, right = np.meshgrid(*[np.arange(SIDE) - centre] * 2, indexing="ij")
    source_down = np.cos(angle) * down + np.sin(angle) * right + centre
    source_right = -np.sin(angle) * down + np.cos(angle) * right + centre
    image = np.broadcast_to(np.arange(len(rows))[:, None, None], source_down.shape)
    return _rows(ndimage.map_coordinates(_images(rows), [image, source_down, source_right], order=1))


def inversion(rows: FloatArray, rng: np.random.Generator) -> FloatArray:
    """White ink on a dark page, its contrast reduced by a random factor between 0.25 and 1."""
    contrast = rng.uniform(0.25, 1, (len(rows), 1))
    return _rows(1 - contrast * rows + rng.normal(0, 0.08, rows.shape))


def occlusion(rows: FloatArray, rng: np.random.Generator) -> FloatArray:
    """A fully inked 4×4 square, somewhere on the image, hides a quarter of it."""
    size = 4
    top, left = rng.integers(0, SIDE - size + 1, (2, len(rows), 1, 1))
    down, right = np.mgrid[:SIDE, :SIDE]
    hidden = (down >= top) & (down < top + size) & (right >= left) & (right < left + size)
    return _rows(np.where(hidden, 1, _images(rows)))


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "clean": clean,
        "blur": blur,
        "noise": noise,
        "rotation": rotation,
        "inversion": inversion,
        "occlusion": occlusion,
    }
)

# Each kind returns after others have intervened, so that remembering pays as well as adapting.
_SCHEDULE = (
    "clean", "blur", "inversion", "noise", "clean", "rotation", "occlusion",
    "inversion", "noise", "blur", "clean", "occlusion", "rotation",
)  # fmt: skip


def corrupt(rows: FloatArray, kind: str, rng: np.random.Generator) -> FloatArray:
    """A corrupted copy of `rows`, same shape; `kind` is a key of CORRUPTIONS, otherwise ValueError."""
    if kind not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {kind!r}; choose one of {', '.join(CORRUPTIONS)}")
    return CORRUPTIONS[kind](rows, rng)


def traffic(requests: int, seed: int) -> Traffic:
    """`requests` held-out images, drawn with replacement and corrupted in phases that come back.

    Phase lengths scale with `requests` and vary with `seed` by up to a fifth; the order of phases is fixed.
    Raises ValueError when `requests` is not positive.
    """
    if requests < 1:
        raise ValueError(f"requests must be at least 1, not {requests}")
    rng = np.random.default_rng(seed)
    names = tuple(CORRUPTIONS)
    ends = np.cumsum(rng.uniform(0.8, 1.2, len(_SCHEDULE)))
    bounds = np.rint(np.concatenate([[0], ends / ends[-1]]) * requests).astype(np.int64)
    phase = np.repeat([names.index(kind) for kind in _SCHEDULE], np.diff(bounds)).astype(np.int64)
    data = split()
    drawn = rng.integers(0, len(data.held_rows), requests)
    rows = np.empty((requests, PIXELS), np.float32)
    for kind, start, stop in zip(_SCHEDULE, bounds[:-1], bounds[1:], strict=True):
        rows[start:stop] = corrupt(data.held_rows[drawn[start:stop]], kind, rng)
    return Traffic(rows, data.held_labels[drawn], phase, names)
