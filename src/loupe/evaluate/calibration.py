"""Calibration: temperature scaling of the logits, fitted on validation images.

Temperature scaling (Guo et al. 2017, "On calibration of modern neural networks", section 4.2) divides the logits by the
temperature that minimises the log loss of the validation images. The order of the logits is unchanged, and so are the
predictions. A temperature above 1 corrects an overconfident network, below 1 an underconfident one.

The log loss is convex in the inverse temperature and its slope is known, so the optimum is the root of the slope. No
optimum exists if every validation image is classified correctly (the temperature tends to 0), or if the logits carry no
information about the class (it tends to infinity). With few misclassified images the optimum depends on those few, so
below `FEWEST_MISTAKES` the temperature stays 1. The interval uses the sandwich variance (White 1982) on the scale of
logarithms. results/confidence.md measures the gain and the number of images needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from loupe.errors import counted
from loupe.evaluate import metrics
from loupe.evaluate.confidence_results import (
    WIDEST,
    Calibration,
    CalibrationChange,
    CalibrationOfSplit,
    FittedTemperature,
    ReliabilityBin,
    ReliabilityBins,
)
from loupe.evaluate.estimate import Estimate, wilson
from loupe.evaluate.intervals import Floats
from loupe.evaluate.metrics import CALIBRATION_BINS
from loupe.evaluate.predictions import UNKNOWN, Predictions

FEWEST_MISTAKES = 20
_Z = 1.959964  # of a 95 % interval
_RESAMPLES = 2000


@dataclass(frozen=True)
class Temperature:
    """Divisor of the logits, with its 95 % interval.

    Attributes:
        value: temperature; 1 where none was fitted.
        low: lower limit; None where none was fitted.
        high: upper limit; None where none was fitted.
        images: number of labelled images in the fit.
        mistakes: number of them that the network misclassifies.
        why: reason for a temperature that was not fitted; else None.
    """

    value: float = 1.0
    low: float | None = None
    high: float | None = None
    images: int = 0
    mistakes: int = 0
    why: str | None = "there are no validation images to fit the temperature on"

    @property
    def fitted(self) -> FittedTemperature:
        """The temperature as results.json holds it."""
        reason = {} if self.why is None else {"why": self.why}
        return FittedTemperature(
            value=self.value, low=self.low, high=self.high, images=self.images, mistakes=self.mistakes, **reason
        )


def fit_temperature(predictions: Predictions, kind: str = "validation image") -> Temperature:
    """Temperature with the lowest log loss on the labelled images; 1, with the reason, if it cannot be fitted.

    Args:
        kind: name of one of the images, for the reason.
    """
    known = predictions.select(predictions.label != UNKNOWN)
    mistakes = int((known.predicted != known.label).sum())
    if not len(known):
        return Temperature()
    if mistakes < FEWEST_MISTAKES:
        missed = counted(mistakes, kind) if mistakes else f"no {kind}"
        verb = "are" if mistakes > 1 else "is"
        why = f"{missed} {verb} misclassified; fitting a temperature needs at least {FEWEST_MISTAKES}"
        return Temperature(images=len(known), mistakes=mistakes, why=why)
    slope = _Slope(known)
    low, high = -np.log(WIDEST), np.log(WIDEST)
    if not slope.mean(low) < 0 < slope.mean(high):
        why = "the log loss has no minimum at any temperature: higher logits do not go with the true class"
        return Temperature(images=len(known), mistakes=mistakes, why=why)
    from scipy.optimize import brentq  # takes 0.2 s to import, which reading a stored temperature need not wait for

    root = float(brentq(slope.mean, low, high, xtol=1e-12))
    spread = _Z * slope.standard_error(root)
    ends = (float(np.exp(-root - spread)), float(np.exp(-root + spread)))
    return Temperature(float(np.exp(-root)), *ends, images=len(known), mistakes=mistakes, why=None)


class _Slope:
    """Derivative of the log loss of each image by the inverse temperature, at the logarithm of that."""

    def __init__(self, known: Predictions) -> None:
        logits_NK = known.logits_NK.astype(np.float64)
        self.below_NK = logits_NK - logits_NK.max(axis=1, keepdims=True)  # against overflow
        self.true_N = np.take_along_axis(self.below_NK, known.label[:, None], axis=1)[:, 0]

    def mean(self, log_inverse: float) -> float:
        return float(self._each(log_inverse)[0].mean())

    def standard_error(self, log_inverse: float) -> float:
        """Standard error of the logarithm of the inverse temperature at the root of the mean slope."""
        slope_N, curvature_N = self._each(log_inverse)
        error = np.sqrt((slope_N**2).mean() / len(slope_N)) / curvature_N.mean()
        return float(error / np.exp(log_inverse))

    def _each(self, log_inverse: float) -> tuple[Floats, Floats]:
        """Slope and curvature of each image: mean logit minus that of the true class, and variance of the logits."""
        from scipy.special import softmax  # takes 0.2 s to import, which reading results need not wait for

        p_NK = softmax(np.exp(log_inverse) * self.below_NK, axis=1)
        mean_N = (p_NK * self.below_NK).sum(axis=1)
        return mean_N - self.true_N, (p_NK * self.below_NK**2).sum(axis=1) - mean_N**2


def log_probabilities(predictions: Predictions, temperature: float) -> Floats:
    """Logarithm of the calibrated probabilities, the softmax of the logits divided by the temperature, [N, K]."""
    return predictions.calibrated(temperature).log_probabilities_NK


def probabilities(predictions: Predictions, temperature: float) -> Floats:
    """Calibrated probabilities, [N, K]."""
    return np.exp(log_probabilities(predictions, temperature))


def confidence(predictions: Predictions, temperature: float) -> Floats:
    """Calibrated probability of the predicted class of each image, [N]."""
    log_p_NK = log_probabilities(predictions, temperature)
    result: Floats = np.exp(np.take_along_axis(log_p_NK, predictions.predicted[:, None], axis=1)[:, 0])
    return result


def reliability(predictions: Predictions, temperature: float) -> tuple[ReliabilityBin, ...]:
    """Bins of the reliability diagram, the same as in `metrics.calibration_error`.

    A bin holds the labelled images with a confidence above `above` and at most `to`: their number, mean confidence,
    accuracy and Wilson's interval of the accuracy. Values of an empty bin are None.
    """
    known = predictions.select(predictions.label != UNKNOWN)
    confidence_N, correct_N = confidence(known, temperature), known.predicted == known.label
    bin_N = metrics.confidence_bins(confidence_N)
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1).tolist()
    return tuple(
        _bin(edges[b], edges[b + 1], confidence_N[bin_N == b], correct_N[bin_N == b]) for b in range(CALIBRATION_BINS)
    )


def _bin(above: float, to: float, confidence_N: Floats, correct_N: npt.NDArray[np.bool_]) -> ReliabilityBin:
    if not len(confidence_N):
        return ReliabilityBin(above=above, to=to, images=0, confidence=None, accuracy=None, low=None, high=None)
    low, high = wilson(int(correct_N.sum()), len(correct_N))
    mean, share = float(confidence_N.mean()), float(correct_N.mean())
    return ReliabilityBin(
        above=above, to=to, images=len(confidence_N), confidence=mean, accuracy=share, low=low, high=high
    )


def compare(predictions: Predictions, temperature: float) -> CalibrationOfSplit | None:
    """Log loss, calibration error and reliability before and after scaling; None without labelled images.

    `change` is the mean change of the loss of an image, with its normal interval.
    """
    known = predictions.select(predictions.label != UNKNOWN)
    if not len(known):
        return None
    rows = np.arange(len(known))
    log_p = {"before": log_probabilities(known, 1.0), "after": log_probabilities(known, temperature)}
    loss = {name: -log_p_NK[rows, known.label] for name, log_p_NK in log_p.items()}
    means = {name: float(loss_N.mean()) for name, loss_N in loss.items()}
    errors = {name: metrics.calibration_error(np.exp(log_p_NK), known.label) for name, log_p_NK in log_p.items()}
    return CalibrationOfSplit(
        images=len(known),
        log_loss=CalibrationChange(**means, change=_mean(loss["after"] - loss["before"])),
        ece=CalibrationChange(**errors),
        bins=ReliabilityBins(before=reliability(known, 1.0), after=reliability(known, temperature)),
    )


def _mean(values_N: Floats) -> Estimate:
    value = float(values_N.mean())
    half = _Z * float(values_N.std()) / np.sqrt(len(values_N))
    return Estimate(value=value, low=value - float(half), high=value + float(half))


def chance_error(bins: Sequence[ReliabilityBin]) -> float:
    """Calibration error that a perfectly calibrated network exceeds on so few images in 5 % of all draws.

    Consistency resampling (Bröcker and Smith 2007): in each bin the number of correct images is drawn from the binomial
    distribution with the mean confidence of the bin.
    """
    filled = [one for one in bins if one.images and one.confidence is not None]
    images = np.array([one.images for one in filled])
    confidence = np.clip([one.confidence or 0.0 for one in filled], 0.0, 1.0)
    correct_RB = np.random.default_rng([0, 3]).binomial(images, confidence, size=(_RESAMPLES, len(filled)))
    error_R = np.abs(correct_RB - images * confidence).sum(axis=1) / images.sum()
    return float(np.quantile(error_R, 0.95))


def change_interval(change: Estimate, images: int) -> tuple[float, float] | None:
    """Student's t interval of a mean change, from its normal one; None for a single image, which has no spread."""
    from scipy.special import stdtrit

    if change.value is None or change.high is None or images < 2:
        return None
    standard_error = (change.high - change.value) / _Z * np.sqrt(images / (images - 1))
    half = float(stdtrit(images - 1, 0.975) * standard_error)
    return change.value - half, change.value + half


def report(
    temperature: Temperature,
    by_split: Mapping[str, Predictions],
    fitted_on: Literal["validation", "folds"] = "validation",
) -> Calibration:
    """Block `calibration` of results.json: the temperature and its effect on the splits `val` and `test`.

    The temperature was fitted on `val`, or on folds that it is a part of, so only `test` gives an unbiased estimate of
    its effect.
    """
    validation, test = (
        compare(by_split[split], temperature.value) if split in by_split else None for split in ("val", "test")
    )
    return Calibration(temperature=temperature.fitted, fitted_on=fitted_on, validation=validation, test=test)
