"""Where scenarios' logs come from: the data folder, River, scikit-learn's digits, or a model of ensembles."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from bandmaster import build, demo
from bandmaster.config import Config
from bandmaster.core import BandmasterError, FloatArray, Profile, Task
from bandmaster.files import replacing
from bandmaster.recorded import RecordedLog
from bandmaster.table import is_input
from benchmarks.scenario import ROOT, AnySource, Bundled, Digits, Generated, Grouping, Hosted, Made, Recording


class UnavailableError(BandmasterError):
    """A scenario cannot run here, and why; the others go on."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where data are: the folder of recordings, ``None`` where there is none; and where made ones are kept."""

    data: Path | None
    cache: Path

    def recording(self, file: str) -> Path:
        """A file of the data folder. Raises ``UnavailableError`` where it is absent."""
        if self.data is None or not (self.data / file).is_file():
            raise UnavailableError(f"{file} is absent ({self.data or 'no data folder; name one with --data'})")
        return self.data / file


def logs_of(
    scenario: Hosted, config: Config, place: Place, seeds: int, told: Callable[[str], None]
) -> list[RecordedLog]:
    """The scenario's log, or several that are redraws of one traffic. Raises ``UnavailableError``."""
    paths = _paths(scenario.source, config, place, seeds, told)
    if scenario.grouping is not None:
        paths = [_grouped(path, scenario.grouping, place) for path in paths]
    logs = build.recorded_logs(config, paths, place.cache / "answers", told)
    for log in logs:
        build.require_known_terms(config.contract, log)
    return logs


def _paths(source: AnySource, config: Config, place: Place, seeds: int, told: Callable[[str], None]) -> list[Path]:
    if isinstance(source, Recording):
        path = place.recording(source.file)
        return [path if source.target is None else _with_target(path, source.target, place)]
    if isinstance(source, Digits):
        return _digits(source, place, seeds, told)
    if isinstance(source, Made):
        members = [(m.name, m.profile) for m in config.members]
        return [_kept(place, lambda: made(source, members), source, repr(members))]
    return [_kept(place, lambda: _stream(source, config.task), source, config.task)]


def _kept(place: Place, make: Callable[[], pl.DataFrame], *depends_on: object) -> Path:
    """The file of a made log, named by everything that it depends on; made where it is not there yet."""
    parts = [part if isinstance(part, str) else msgspec.json.encode(part).decode() for part in depends_on]
    key = hashlib.sha256("\n".join([*parts, Path(__file__).read_text("utf-8")]).encode()).hexdigest()[:32]
    path = place.cache / "logs" / f"{key}.parquet"
    if not path.is_file():
        with replacing(path) as temporary:
            make().write_parquet(temporary)
    return path


# ---- Other targets, several rows a request -----------------------------------------------------------------------


def _with_target(path: Path, target: str, place: Place) -> Path:
    """The stream with the feature ``target`` in the place of ``y``, which nobody is told: it may follow from it."""

    def make() -> pl.DataFrame:
        frame = pl.read_parquet(path)
        inputs = [c for c in frame.columns if is_input(c) and c != target]
        if target not in frame.columns or not inputs:
            raise BandmasterError(f"{path}: has no feature {target!r} to be foretold from others")
        renamed = [pl.col(c).alias(f"x{i}") for i, c in enumerate(inputs)]
        return frame.select(*renamed, pl.col(target).cast(pl.Float64).alias("y"))

    return _kept(place, make, _sha256(path), target)


def _grouped(path: Path, grouping: Grouping, place: Place) -> Path:
    """The log or stream in requests of several rows."""

    def make() -> pl.DataFrame:
        frame = pl.read_parquet(path)
        rng = np.random.default_rng(grouping.seed)
        if grouping.mixed:
            frame = frame[rng.permutation(len(frame))]
        sizes = rng.integers(1, grouping.most + 1, size=len(frame))
        return frame.with_columns(request=np.repeat(np.arange(len(frame)), sizes)[: len(frame)])

    return _kept(place, make, _sha256(path), grouping)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- Digits ----------------------------------------------------------------------------------------------------


def _digits(source: Digits, place: Place, seeds: int, told: Callable[[str], None]) -> list[Path]:
    for package in ("skl2onnx", "onnx"):
        if importlib.util.find_spec(package) is None:
            raise UnavailableError(f"{package} is not installed; the digits ensemble needs bandmaster[models]")
    plan = demo.Demo(ROOT, place.cache / "digits", source.requests, 0, seeds)
    told(f"digits: ten members are trained, and answer {seeds} redraws of {source.requests} requests")
    plan.out.mkdir(parents=True, exist_ok=True)
    demo.train(plan)
    return demo.record(plan, lambda: None)


# ---- River -----------------------------------------------------------------------------------------------------


def _stream(source: Generated | Bundled, task: Task) -> pl.DataFrame:
    """A stream as a table: x0 … xn and y; classes as numbers in order of their names, in regression the values."""
    rows = list(_bundled(source) if isinstance(source, Bundled) else _generated(source))
    names = list(rows[0][0])
    if strange := [n for n in names if not isinstance(rows[0][0][n], (int, float))]:
        raise UnavailableError(f"{source}: feature {strange[0]!r} is no number, and members take numbers only")
    labels = [y for _, y in rows]
    if task == "classification":
        classes = {c: i for i, c in enumerate(sorted(set(labels)))}
        labels = [classes[y] for y in labels]
    columns = {f"x{i}": np.array([x[name] for x, _ in rows], dtype=np.float64) for i, name in enumerate(names)}
    return pl.DataFrame({**columns, "y": labels})


def _generated(source: Generated) -> Iterable[tuple[Mapping[Any, Any], Any]]:
    from river.datasets import synth  # here, so that nobody else pays for importing it

    kind = getattr(synth, source.generator, None)
    if kind is None:
        raise UnavailableError(f"River has no generator {source.generator!r}")
    for number, segment in enumerate(source.segments):
        # Another seed for every segment: a generator begins with the same rows otherwise.
        yield from kind(**{"seed": source.seed + number, **segment.options}).take(segment.rows)


def _bundled(source: Bundled) -> Iterable[tuple[Mapping[Any, Any], Any]]:
    from river import datasets

    kind: Any = getattr(datasets, source.dataset, None)
    bases = inspect.getmro(kind) if inspect.isclass(kind) else ()
    if datasets.base.FileDataset not in bases:
        raise UnavailableError(f"River's package has no data set {source.dataset!r}")
    if datasets.base.RemoteDataset in bases:
        raise UnavailableError(f"River downloads {source.dataset!r}; benchmarks use no network")
    rows: Iterable[tuple[Mapping[Any, Any], Any]] = iter(kind())
    return rows


# ---- A model of ensembles --------------------------------------------------------------------------------------


def made(source: Made, members: Sequence[tuple[str, Profile]]) -> pl.DataFrame:
    """Answers drawn from a model of ensembles: (rows, label, x0 …, and every member's __pred and __conf).

    Every request is as hard as a standard normal deviate says, for all members alike, so that their errors are
    correlated; dearer members (by latency) have more skill, each some more with some classes and some less with
    others, and luck of its own. Who fails says half of the time what others who fail say. Confidence follows how
    clear the case was to the member, and noise. The first feature tells of the hardness, the others nothing.
    """
    rng = np.random.default_rng(source.seed)
    n, size, classes = source.rows, len(members), source.classes
    truth, hardness = rng.integers(classes, size=n), rng.normal(size=n)
    by_price = np.argsort(np.argsort([p.latency_s or 0.0 for _, p in members])) / max(size - 1, 1)
    skill = 1.0 + 1.5 * by_price[:, None] + rng.normal(0.0, 0.5, (size, classes))
    margin = skill[:, truth].T - 1.2 * hardness[:, None] + rng.normal(0.0, 0.8, (n, size))
    common = (truth + rng.integers(1, classes, size=n)) % classes
    own = (truth[:, None] + rng.integers(1, classes, size=(n, size))) % classes
    wrong = np.where(rng.random((n, size)) < 0.5, common[:, None], own)
    said = np.where(margin > 0.0, truth[:, None], wrong)
    clear = 1.0 / (
        1.0 + np.exp(-(0.5 + np.abs(margin) * np.where(margin > 0.0, 1.0, 0.4) + rng.normal(0, 0.5, (n, size))))
    )
    confidence = np.clip(clear, 1.0 / classes + 0.01, 0.999)
    return pl.DataFrame(
        {
            "label": truth,
            **_features(source.features, hardness, rng),
            **{f"{name}__pred": said[:, m] for m, (name, _) in enumerate(members)},
            **{f"{name}__conf": confidence[:, m] for m, (name, _) in enumerate(members)},
        }
    )


def _features(count: int, hardness: FloatArray, rng: np.random.Generator) -> dict[str, FloatArray]:
    noise = rng.normal(size=(count, len(hardness)))
    return {f"x{i}": column + (hardness if i == 0 else 0.0) for i, column in enumerate(noise)}
