"""Parts of the results of a run that are about confidence: calibration, selective classification, their curves."""

from typing import Annotated

from pydantic import Field

from loupe.evaluate.estimate import Estimate
from loupe.records import Part, Whole

Probability = Annotated[float, Field(ge=0, le=1)]

WIDEST = 1000.0
"""Highest temperature that is searched; the lowest is 1 / WIDEST."""


class FittedTemperature(Part):
    """Temperature of the calibrated probabilities; `why` says why it stays 1 where none was fitted."""

    value: Annotated[float, Field(gt=0)]
    low: float | None = None
    high: float | None = None
    why: str | None = None
    images: Whole
    mistakes: Whole


class ReliabilityBin(Part):
    """One bin of the reliability diagram; None where it holds no images."""

    above: float = Field(alias="from")
    to: float
    images: Whole
    confidence: float | None
    accuracy: float | None
    low: float | None
    high: float | None


class ReliabilityBins(Part):
    """Bins of the reliability diagram, before and after the temperature."""

    before: tuple[ReliabilityBin, ...]
    after: tuple[ReliabilityBin, ...]


class CalibrationChange(Part):
    """A figure before and after the temperature; `change` is the mean difference by image, of the log loss alone."""

    before: float
    after: float
    change: Estimate | None = None


class CalibrationOfSplit(Part):
    """Effect of the temperature on one split."""

    images: Annotated[int, Field(ge=1)]
    log_loss: CalibrationChange
    ece: CalibrationChange
    bins: ReliabilityBins


class Calibration(Part):
    """Temperature scaling: the temperature, and its effect on each split; None for a split without images."""

    temperature: FittedTemperature
    fitted_on: str
    validation: CalibrationOfSplit | None
    test: CalibrationOfSplit | None


class CoveragePoint(Part):
    """Point of the risk–coverage curve."""

    threshold: float
    coverage: Probability
    risk: Probability
    low: Probability
    high: Probability


class RiskCoverage(Part):
    """Risk–coverage curve of one split, from the surest images to all of them, and the area under it."""

    images: Annotated[int, Field(ge=1)]
    area: Estimate
    points: Annotated[tuple[CoveragePoint, ...], Field(min_length=1)]


class ThresholdResult(Part):
    """Coverage and precision of a threshold on one split."""

    coverage: Estimate
    precision: Estimate


class PrecisionThreshold(Part):
    """Threshold that promises a precision; None, with the reason, where none does."""

    precision: Probability
    threshold: float | None
    validation: ThresholdResult | None
    test: ThresholdResult | None
    why: str | None = None


class Selective(Part):
    """Selective classification: risk–coverage curves, and thresholds for some precisions.

    Attributes:
        confidence: of the promise.
        highest_precision: the highest that can be promised.
    """

    confidence: Probability
    validation: RiskCoverage | None
    test: RiskCoverage | None
    highest_precision: Probability | None
    thresholds: tuple[PrecisionThreshold, ...] | None
    why: str | None = None
