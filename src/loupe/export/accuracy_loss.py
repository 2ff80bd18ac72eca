"""Accuracy that an exported model of lower precision loses, by the paired comparison on the same labelled images."""

import math
from collections.abc import Sequence

import numpy as np

from loupe.errors import ExportRefusedError, counted
from loupe.evaluate.paired import difference_of_hits
from loupe.records import Fraction, Part, Whole


class AccuracyLoss(Part):
    """Accuracy of the run minus that of the exported model, as a fraction.

    Attributes:
        value: loss.
        low: lower limit of its 95 % interval over images.
        high: upper limit, which must not exceed `most`.
        most: loss that passes.
        images: number of images.
        run_correct: images that the run classifies correctly.
        export_correct: images that the exported model classifies correctly.
    """

    value: float
    low: float
    high: float
    most: Fraction
    images: Whole
    run_correct: Whole
    export_correct: Whole

    @classmethod
    def of(cls, run_hits: Sequence[bool], export_hits: Sequence[bool], most: float) -> "AccuracyLoss":
        """Loss from the hits of both on the same images."""
        run_N, export_N = np.array(run_hits, np.bool_), np.array(export_hits, np.bool_)
        difference = difference_of_hits("export", "run", {"export": export_N[None], "run": run_N[None]})
        return cls(
            value=difference.value,
            low=difference.low,
            high=difference.high,
            most=most,
            images=len(run_N),
            run_correct=int(run_N.sum()),
            export_correct=int(export_N.sum()),
        )

    def __str__(self) -> str:
        return (
            f"{100 * self.value:.2f} points of accuracy lost (95 % interval {100 * self.low:.2f} to "
            f"{100 * self.high:.2f}, {counted(self.images, 'image')})"
        )

    @property
    def images_to_decide(self) -> int | None:
        """Number of images whose interval would be narrow enough for the same loss; None if no number would."""
        if self.value >= self.most:
            return None
        factor = (self.high - self.value) / (self.most - self.value)
        return math.ceil(self.images * factor**2 / 100) * 100

    def check(self, name: str) -> None:
        """Raise an ExportRefusedError unless at most `most` is lost for sure."""
        if self.high <= self.most:
            return
        if self.low > self.most:
            remedy = "Choose another --precision, or a larger --max-loss."
        elif needed := self.images_to_decide:
            remedy = (
                f"These images cannot decide it; about {needed:,} could. Give more labelled images with --images, or a "
                "larger --max-loss."
            )
        else:
            remedy = "Choose another --precision or a larger --max-loss, or give more labelled images with --images."
        raise ExportRefusedError(f"{name}: {self}, and at most {100 * self.most:g} may be lost. {remedy}")
