"""Confidence that means what it says: one temperature for all logits, fitted on validation images.

Temperature scaling (Guo et al. 2017, "On calibration of modern neural networks", section 4.2) divides the logits by the
temperature that minimises the log loss of validation images. The largest logit stays the largest, so that no prediction
changes. Above 1, the network was surer than it was right; below 1, less sure.

The log loss is convex in the inverse temperature, and its slope is known, so that the optimum is the root of the slope.
There is none where every validation image is right (any sharper distribution is better, down to a temperature of 0) or
where the logits say nothing of the class (infinity). Near the first, when few images are missed, it hangs on those few:
below `FEWEST_MISTAKES` of them the temperature stays 1. The interval is that of the estimate's sandwich variance
(White 1982), on the scale of logarithms. What it gives, and from how few images, is
measured in results/confidence.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import softmax

from loupe.evaluate import metrics
from loupe.evaluate.intervals import Floats, wilson
from loupe.evaluate.metrics import CALIBRATION_BINS
from loupe.evaluate.predictions import UNKNOWN, Predictions

FEWEST_MISTAKES = 20
WIDEST = 1000.0  # temperatures are sought from 1 / WIDEST to WIDEST
_Z = 1.959964  # of a 95 % interval


@dataclass(frozen=True)
class Temperature:
    """What logits are divided by. `why` says why it stays 1 where none was fitted; then there is no interval.

    images, mistakes: how many labelled images it was fitted on, and how many of them the network misses.
    """

    value: float = 1.0
    low: float | None = None
    high: float | None = None
    images: int = 0
    mistakes: int = 0
    why: str | None = "there are no validation images to fit it on"

    def to_json(self) -> dict[str, Any]:
        number = {"value": self.value, "low": self.low, "high": self.high}
        reason = {} if self.why is None else {"why": self.why}
        return {**number, **reason, "images": self.images, "mistakes": self.mistakes}


def fit_temperature(predictions: Predictions) -> Temperature:
    """The temperature at which the log loss of the labelled images is lowest; 1, with the reason, if there is none."""
    known = predictions.select(predictions.label != UNKNOWN)
    mistakes = int((known.predicted != known.label).sum())
    if not len(known):
        return Temperature()
    if mistakes < FEWEST_MISTAKES:
        missed = f"{mistakes or 'no'} validation image{' is' if mistakes < 2 else 's are'} missed"
        why = f"{missed}, and a temperature takes at least {FEWEST_MISTAKES} that are"
        return Temperature(images=len(known), mistakes=mistakes, why=why)
    slope = _Slope(known)
    low, high = -np.log(WIDEST), np.log(WIDEST)
    if not slope.mean(low) < 0 < slope.mean(high):
        why = "the log loss has no minimum at any temperature: the logits say nothing of the class"
        return Temperature(images=len(known), mistakes=mistakes, why=why)
    root = float(brentq(slope.mean, low, high, xtol=1e-12))
    spread = _Z * slope.standard_error(root)
    ends = (float(np.exp(-root - spread)), float(np.exp(-root + spread)))
    return Temperature(float(np.exp(-root)), *ends, images=len(known), mistakes=mistakes, why=None)


class _Slope:
    """The slope of the log loss of each image, by the inverse temperature; arguments are that one's logarithm."""

    def __init__(self, known: Predictions) -> None:
        logits_NK = known.logits_NK.astype(np.float64)
        self.below_NK = logits_NK - logits_NK.max(axis=1, keepdims=True)
        self.true_N = np.take_along_axis(self.below_NK, known.label[:, None], axis=1)[:, 0]

    def mean(self, log_inverse: float) -> float:
        return float(self._each(log_inverse)[0].mean())

    def standard_error(self, log_inverse: float) -> float:
        """Of the logarithm of the inverse temperature at which the mean slope is zero."""
        slope_N, curvature_N = self._each(log_inverse)
        error = np.sqrt((slope_N**2).mean() / len(slope_N)) / curvature_N.mean()
        return float(error / np.exp(log_inverse))

    def _each(self, log_inverse: float) -> tuple[Floats, Floats]:
        """Slope and curvature: the mean of the logits less that of the true class, and their variance."""
        p_NK = softmax(np.exp(log_inverse) * self.below_NK, axis=1)
        mean_N = (p_NK * self.below_NK).sum(axis=1)
        return mean_N - self.true_N, (p_NK * self.below_NK**2).sum(axis=1) - mean_N**2


def log_probabilities(predictions: Predictions, temperature: float) -> Floats:
    """Logarithm of the calibrated probabilities, [N, K]: of the softmax of the logits divided by the temperature."""
    return predictions.calibrated(temperature).log_probabilities_NK


def probabilities(predictions: Predictions, temperature: float) -> Floats:
    """The calibrated probabilities, [N, K]."""
    return np.exp(log_probabilities(predictions, temperature))


def confidence(predictions: Predictions, temperature: float) -> Floats:
    """The calibrated probability of each image's predicted class, [N]."""
    log_p_NK = log_probabilities(predictions, temperature)
    result: Floats = np.exp(np.take_along_axis(log_p_NK, predictions.predicted[:, None], axis=1)[:, 0])
    return result


def reliability(predictions: Predictions, temperature: float) -> list[dict[str, Any]]:
    """The bins of the reliability diagram, those of `metrics.calibration_error`.

    A bin holds the labelled images whose confidence is above `from` and at most `to`: how many, their mean confidence,
    their accuracy and its Wilson interval; null in a bin that holds none.
    """
    known = predictions.select(predictions.label != UNKNOWN)
    sure_N, right_N = confidence(known, temperature), known.predicted == known.label
    bin_N = metrics.confidence_bins(sure_N)
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1).tolist()
    return [
        {"from": edges[b], "to": edges[b + 1], **_bin(sure_N[bin_N == b], right_N[bin_N == b])}
        for b in range(CALIBRATION_BINS)
    ]


def _bin(sure_N: Floats, right_N: npt.NDArray[np.bool_]) -> dict[str, Any]:
    if not len(sure_N):
        return {"images": 0, "confidence": None, "accuracy": None, "low": None, "high": None}
    low, high = wilson(int(right_N.sum()), len(right_N))
    means = {"confidence": float(sure_N.mean()), "accuracy": float(right_N.mean())}
    return {"images": len(sure_N), **means, "low": low, "high": high}


def compare(predictions: Predictions, temperature: float) -> dict[str, Any] | None:
    """Log loss, calibration error and reliability before and after the temperature; None without labelled images.

    `change` is the mean over the images of what the temperature does to the loss, with its normal interval.
    """
    known = predictions.select(predictions.label != UNKNOWN)
    if not len(known):
        return None
    rows = np.arange(len(known))
    log_p = {"before": log_probabilities(known, 1.0), "after": log_probabilities(known, temperature)}
    loss = {name: -log_p_NK[rows, known.label] for name, log_p_NK in log_p.items()}
    return {
        "images": len(known),
        "log_loss": {name: float(loss_N.mean()) for name, loss_N in loss.items()}
        | {"change": _mean(loss["after"] - loss["before"])},
        "ece": {name: metrics.calibration_error(np.exp(log_p_NK), known.label) for name, log_p_NK in log_p.items()},
        "bins": {"before": reliability(known, 1.0), "after": reliability(known, temperature)},
    }


def _mean(values_N: Floats) -> dict[str, float]:
    value = float(values_N.mean())
    half = _Z * float(values_N.std()) / np.sqrt(len(values_N))
    return {"value": value, "low": value - float(half), "high": value + float(half)}


def report(temperature: Temperature, parts: Mapping[str, Predictions]) -> dict[str, Any]:
    """The block `calibration` of results.json: the temperature, and what it does to each split of `parts`.

    `val` is what it was fitted on, so that it is bound to look good there; `test` shows what it is worth.
    """
    compared = {
        name: compare(parts[split], temperature.value) if split in parts else None
        for name, split in (("validation", "val"), ("test", "test"))
    }
    return {"temperature": temperature.to_json(), "fitted_on": "validation", **compared}
