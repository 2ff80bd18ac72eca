"""Models that are served: bundles of runs and exported models, as one value each."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

from loupe.config.recipe import Preprocessing
from loupe.data.pixels.decode import DecoderSettings, UInt8Array, in_colour, settings_of
from loupe.errors import ConfigError, RunStateError, counted
from loupe.evaluate.unclassified import check_threshold
from loupe.export.folder import is_export, open_manifest
from loupe.export.runner_choice import runner_of
from loupe.export.runners import Runner
from loupe.models.openvino_network import IN_FLIGHT, threads
from loupe.models.pixel_engine import Array, PixelEngine

BATCH_IMAGES = 32
PYTORCH = ".pt2"
SMALLEST = np.finfo(np.float32).tiny
Signature = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, eq=False)
class ServedModel:
    """Model that is served.

    Attributes:
        name: its name in requests.
        folder: bundle of a run, or folder of an export.
        classes: its classes, in order.
        preprocessing: from a decoded image to its input.
        temperature: divisor of the logits for calibrated probabilities; 1 for exports, which calibrate themselves.
        threshold: probability below which an image is `unclassified`, unless the request says another; 0 for none.
        weights: BLAKE2b hash of the weights.
        engine: computes the logits of decoded images.
        is_export: an exported model.
        signature: of its files, which tells whether they have been replaced.
    """

    name: str
    folder: Path
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    temperature: float
    threshold: float
    weights: str
    engine: PixelEngine
    is_export: bool
    signature: Signature = field(repr=False)

    @property
    def settings(self) -> DecoderSettings:
        """Settings of the decoder."""
        return settings_of(self.preprocessing)


def open_model(folder: Path, name: str, *, device: str = "auto", threshold: float | None = None) -> ServedModel:
    """Open a model and compute one image with it, so that the first request need not wait.

    Args:
        folder: bundle of a run, or folder of an export.
        name: its name in requests.
        device: device of a bundle's network, as for `loupe.train`; exports run on the CPU.
        threshold: probability below which an image is `unclassified`; None for that of the export, or none.

    Raises:
        LoupeError: the files are damaged or missing, or nothing here runs them.
    """
    files = signature(folder)
    opened = _of_export if is_export(folder) else _of_bundle
    model = opened(folder, name, device, threshold, files)
    check_threshold(model.threshold, model.classes)
    own = model.preprocessing
    (logits_BK,) = model.engine.run(iter([np.zeros((1, *own.load_size, own.channels), np.uint8)]))
    if logits_BK.shape != (1, len(model.classes)):
        raise RunStateError(
            f"{folder}: its network has {logits_BK.shape[-1]} outputs for {counted(len(model.classes), 'class')}. "
            "Restore the files."
        )
    return model


def _of_export(folder: Path, name: str, device: str, threshold: float | None, files: Signature) -> ServedModel:
    if device not in {"auto", "cpu"}:
        raise ConfigError(f"--device {device}: an export runs on the CPU. Leave it out, or give the run.")
    manifest = open_manifest(folder)
    assert manifest.model is not None  # as open_manifest has checked
    return ServedModel(
        name=name,
        folder=folder,
        classes=manifest.classes,
        preprocessing=manifest.preprocessing,
        temperature=1.0,
        threshold=threshold if threshold is not None else manifest.threshold or 0.0,
        weights=manifest.weights_blake2b,
        engine=_engine(folder / manifest.model),
        is_export=True,
        signature=files,
    )


def _of_bundle(folder: Path, name: str, device: str, threshold: float | None, files: Signature) -> ServedModel:
    from loupe.runs.predictor import Predictor  # imported lazily: exports need none of its libraries

    opened = Predictor(folder, device=device)
    return ServedModel(
        name=name,
        folder=folder,
        classes=opened.classes,
        preprocessing=opened.preprocessing,
        temperature=opened.temperature,
        threshold=threshold or 0.0,
        weights=opened.config.weights_blake2b,
        engine=opened.engine,
        is_export=False,
        signature=files,
    )


def _engine(model: Path) -> "ExportEngine":
    callers = 1 if model.suffix == PYTORCH else min(IN_FLIGHT, threads())
    return ExportEngine(runner_of(model, callers), callers)


class ExportEngine:
    """Exported model as an engine for images that have the size of its input, of which it keeps the pixels.

    Its logits are the logarithms of its calibrated probabilities.

    Args:
        runner: runs the exported model.
        in_flight: number of threads that may call it at a time.
    """

    def __init__(self, runner: Runner, in_flight: int = 1) -> None:
        self.runner = runner
        self.in_flight = in_flight
        self.name = runner.name
        self.batch_images = BATCH_IMAGES

    def run(self, pixels: Iterator[UInt8Array]) -> Iterator[Array]:
        for x_BHWC in pixels:
            probabilities_BK, _ = self.runner.run(in_colour(x_BHWC))
            yield np.log(np.maximum(probabilities_BK, SMALLEST))


def signature(folder: Path) -> Signature:
    """Identity of a model's files: those of a run replace each other whole."""
    try:
        return tuple(_identity(path) for path in sorted(folder.iterdir()) if path.is_file())
    except OSError:
        return ()


def _identity(path: Path) -> tuple[int, int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return (0, 0, 0)
    return found.st_ino, found.st_size, found.st_mtime_ns


def unique_names(names: Sequence[str]) -> list[str]:
    """The names in order, in which the second of two equal ones has the suffix -2."""
    unique: list[str] = []
    for name in names:
        others = (f"{name}-{number}" for number in count(2))
        unique.append(name if name not in unique else next(other for other in others if other not in unique))
    return unique
