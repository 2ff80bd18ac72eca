"""Comparison of an exported model with the run that it comes from: the gate of every export, and `parity.json`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from loupe.data.pixels.decode import UInt8Array
from loupe.errors import ExportRefusedError, counted
from loupe.export.accuracy_loss import AccuracyLoss
from loupe.export.runners import Floats, Runner
from loupe.export.samples import Sample, Samples
from loupe.records import Fraction, Part, Quantity, Record, Whole

BATCHES = (1, 7)
Reference = Callable[[UInt8Array], Floats]
"""Calibrated probabilities [N, K] of the run, from its own pixels [N, h, w, channels]."""


class EngineParity(Part):
    """One engine beside the run.

    Attributes:
        engine: library and version.
        tolerance: largest difference of a probability that passes.
        images: number of images.
        same_top1: images with the same most probable class.
        largest_difference: largest difference of a probability, for single images from the file on.
        largest_difference_in_batches: the same for prepared images in batches of 7.
        pixel_values: number of values that the resized images have.
        differing_pixel_values: those that differ from the run's own.
        loss: accuracy lost, where the model has a lower precision; its probabilities and classes may differ then.
        largest_logit_difference: largest difference of a logit, as a fraction of the largest logit; None for an engine
            that gives probabilities alone.
    """

    engine: str
    tolerance: Fraction
    images: Whole
    same_top1: Whole
    largest_difference: Fraction
    largest_difference_in_batches: Fraction
    pixel_values: Whole
    differing_pixel_values: Whole
    loss: AccuracyLoss | None = None
    largest_logit_difference: Quantity | None = None


class ParityReport(Record):
    """Content of parity.json.

    Attributes:
        target: target of the export.
        compared_with: engine and precision of the run in the comparison.
        source: images.
    """

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "Export the run again."

    target: str
    compared_with: str
    source: str
    engines: tuple[EngineParity, ...]


@dataclass
class LogitComparison:
    """Running comparison of logits with those of the run.

    Attributes:
        tolerance: largest difference that passes, as a fraction of the largest logit.
    """

    tolerance: float
    _largest: float = 0.0
    _apart: float = 0.0

    def add(self, wanted_NK: Floats, found_NK: Floats) -> None:
        """Add the logits of some images: those of the run, and those of the engine."""
        self._largest = max(self._largest, float(np.abs(wanted_NK).max()))
        apart = float(np.abs(wanted_NK.astype(np.float64) - found_NK).max())
        self._apart = max(self._apart, apart if np.isfinite(apart) else float(np.finfo(np.float32).max))

    @property
    def difference(self) -> float:
        """Largest difference, as a fraction of the largest logit."""
        return self._apart / self._largest if self._largest else self._apart


@dataclass(frozen=True)
class Gate:
    """Bounds for one engine.

    Attributes:
        runner: engine with the exported model.
        tolerance: largest difference of a probability.
        max_loss: for a model of lower precision, the largest loss of accuracy, in place of equal classes.
        is_prepared: the engine takes images that the run's own preprocessing has resized, and no others.
        logits: comparison of its logits, made by the runner, which passes too.
    """

    runner: Runner
    tolerance: float
    max_loss: float | None = None
    is_prepared: bool = False
    logits: LogitComparison | None = None


@dataclass
class _Comparison:
    """Running comparison of one engine."""

    gate: Gate
    images: int = 0
    same_top1: int = 0
    largest: float = 0.0
    largest_in_batches: float = 0.0
    values: int = 0
    differing: int = 0
    others: list[str] = field(default_factory=list)
    run_hits: list[bool] = field(default_factory=list)
    export_hits: list[bool] = field(default_factory=list)

    def add(self, samples: Sequence[Sample], wanted_NK: Floats) -> None:
        run = self.gate.runner.run
        for sample, wanted_K in zip(samples, wanted_NK, strict=True):
            given_HWC = in_colour(sample.pixels_HWC) if self.gate.is_prepared else sample.image_HWC
            (found_K,), (pixels_HWC,) = run(given_HWC[None])
            self.images += 1
            if not self.gate.is_prepared:
                self.values += pixels_HWC.size
                self.differing += int((pixels_HWC != sample.pixels_HWC).sum())
            self.largest = max(self.largest, _difference(found_K, wanted_K))
            self.run_hits.append(int(wanted_K.argmax()) == sample.label)
            self.export_hits.append(int(found_K.argmax()) == sample.label)
            if found_K.argmax() == wanted_K.argmax():
                self.same_top1 += 1
            else:
                self.others.append(sample.path)
        for start in range(0, len(samples), BATCHES[1]):
            prepared = np.stack([in_colour(sample.pixels_HWC) for sample in samples[start : start + BATCHES[1]]])
            found_NK, _ = run(prepared)
            wanted = wanted_NK[start : start + BATCHES[1]]
            self.largest_in_batches = max(self.largest_in_batches, _difference(found_NK, wanted))

    def finished(self) -> EngineParity:
        return EngineParity(
            engine=self.gate.runner.name,
            tolerance=self.gate.tolerance,
            images=self.images,
            same_top1=self.same_top1,
            largest_difference=self.largest,
            largest_difference_in_batches=self.largest_in_batches,
            pixel_values=self.values,
            differing_pixel_values=self.differing,
            loss=self.loss(),
            largest_logit_difference=None if self.gate.logits is None else self.gate.logits.difference,
        )

    def loss(self) -> AccuracyLoss | None:
        """Loss of accuracy, where it is what counts."""
        most = self.gate.max_loss
        return None if most is None else AccuracyLoss.of(self.run_hits, self.export_hits, most)

    def check(self) -> None:
        """Raise an ExportRefusedError unless the engine keeps to its bounds."""
        name, largest = self.gate.runner.name, max(self.largest, self.largest_in_batches)
        if self.differing:
            raise ExportRefusedError(
                f"{name}: {self.differing:,} of {self.values:,} pixel values differ from those of the run. Runs with "
                "pixel definition 1 reduce large JPEGs while decoding, and Pillow 13 resizes tall images in another "
                "order: train again, or fine-tune from this run with --weights. With input.interpolation lanczos, "
                "about one value in 100,000 differs in ONNX: choose --to torch, or train with bicubic."
            )
        if loss := self.loss():
            loss.check(name)
        elif self.others:
            shown = ", ".join(self.others[:3])
            raise ExportRefusedError(
                f"{name}: another class for {counted(len(self.others), 'image')} of {self.images:,} (for example "
                f"{shown}; probabilities differ by up to {largest:.2g})."
            )
        if not largest <= self.gate.tolerance:
            raise ExportRefusedError(
                f"{name}: probabilities differ by up to {largest:.2g}, and at most {self.gate.tolerance:g} passes."
            )
        logits = self.gate.logits
        if logits is not None and not logits.difference <= logits.tolerance:
            raise ExportRefusedError(
                f"{name}: logits differ by up to {logits.difference:.2g} of the largest one, and at most "
                f"{logits.tolerance:g} passes."
            )


def compare(
    target: str,
    gates: Sequence[Gate],
    samples: Samples,
    reference: Reference,
    compared_with: str,
    advance: Callable[[int], None] = lambda _: None,
) -> ParityReport:
    """Compare every engine with the run, image by image from the files on.

    Args:
        target: target of the export.
        gates: engines with their bounds.
        samples: images.
        reference: the run's own probabilities.
        compared_with: engine and precision of the reference.
        advance: called with the number of images that are done.

    Raises:
        ExportRefusedError: an engine differs by more than its bounds.
    """
    comparisons = [_Comparison(gate) for gate in gates]
    for chunk in samples.chunks():
        wanted_NK = reference(np.stack([sample.pixels_HWC for sample in chunk]))
        for comparison in comparisons:
            comparison.add(chunk, wanted_NK)
        advance(len(chunk))
    for comparison in comparisons:
        comparison.check()
    return ParityReport(
        target=target,
        compared_with=compared_with,
        source=samples.source,
        engines=tuple(comparison.finished() for comparison in comparisons),
    )


def _difference(found: npt.NDArray[np.floating], wanted: npt.NDArray[np.floating]) -> float:
    """Largest difference of a probability; infinite if one is not a number."""
    largest = float(np.abs(found.astype(np.float64) - wanted).max())
    return largest if np.isfinite(largest) else np.inf


def in_colour(pixels_HWC: UInt8Array) -> UInt8Array:
    """Pixels with three channels; grey ones are repeated, and stay the same when they are made grey again."""
    return pixels_HWC if pixels_HWC.shape[-1] == 3 else np.repeat(pixels_HWC, 3, axis=-1)
