"""95 % intervals over images: what other test images of the same kind would give the same network.

A proportion has Wilson's score interval (Wilson 1927; recommended by Brown, Cai and DasGupta 2001). Other figures are
measured by the jackknife: how much the figure changes when an image is left out gives its variance and its bias (Efron
and Tibshirani 1993, chapter 11); for an area under the ROC curve that is the variance of DeLong et al. 1988, but for
its divisors. From there:

- F1 counts images, as accuracy does. It has Wilson's interval for as many images as would give an accuracy that
  variance (Korn and Graubard 1998 and Dean and Pagano 2015 for surveys), moved by the bias.
- An area or a mean loss of a network that is nearly always right comes from few images, of very unequal weight. Its
  interval is made on the scale of logits, or of logarithms, where a figure near its end has less skew (Qin and
  Hotilovac 2008 for the area) and where no end can leave the range; and it is one of Student's t, whose degrees of
  freedom say how well so few images can tell a variance, by the fourth moment of their changes (Satterthwaite 1946; Pan
  and Wall 2002).

Percentiles of the bootstrap are too short at that end: resamples repeat the few images that decide, and draw none that
the test set has not shown. results/statistics.md measures both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit, stdtrit

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Ends = tuple[float, float]
Estimate = dict[str, Any]

CONFIDENCE = 0.95
_UPPER = (1 + CONFIDENCE) / 2
_ROUNDING = 1e-24  # a variance that is none: one pair of images among 10^10 gives more
_CHUNK = 2**24  # numbers that a step of the bootstrap holds at once: 64 MiB of float32


def wilson(successes: float, trials: float) -> Ends:
    """Wilson's score interval of a proportion; the trials are more than 0, and need not be whole."""
    z = NormalDist().inv_cdf(_UPPER)
    p, spread = successes / trials, z * z / trials
    centre = (p + spread / 2) / (1 + spread)
    half = z / (1 + spread) * np.sqrt(p * (1 - p) / trials + spread / (4 * trials))
    # At p = 0 and 1 an end of the interval is p itself; rounding must not put it on the other side.
    return max(0.0, min(p, float(centre - half))), min(1.0, max(p, float(centre + half)))


@dataclass(frozen=True)
class Jackknife:
    """What leaving out one image at a time says about a figure: its variance, its bias, and the degrees of freedom.

    variance: 0 where no image, left out, changes the figure; then nothing is known of how it scatters.
    """

    variance: float
    bias: float
    freedom: float

    @classmethod
    def of(cls, change_C: Floats, count_C: Ints | None = None) -> "Jackknife":
        """From the figure less its value without an image, for each image, or for each of `count_C` that are alike."""
        count_C = np.ones(len(change_C), np.int64) if count_C is None else count_C
        images = int(count_C.sum())
        mean = float(change_C @ count_C) / images
        squares_C = (change_C - mean) ** 2
        sum_of_squares = float(squares_C @ count_C)
        if images < 2 or sum_of_squares < _ROUNDING:
            return cls(0.0, 0.0, float(images - 1))
        # A sum of squares scatters by their own squares; a chi-square that scatters as much has these degrees.
        scatter = max(float(squares_C**2 @ count_C) - sum_of_squares**2 / images, _ROUNDING * sum_of_squares**2)
        freedom = min(images - 1.0, 2 * sum_of_squares**2 / scatter)
        return cls(sum_of_squares * (images - 1) / images, -(images - 1) * mean, freedom)

    @property
    def half_width(self) -> float:
        """Of Student's interval."""
        standard_error: float = self.variance**0.5
        return float(stdtrit(self.freedom, _UPPER)) * standard_error


def of_counts(value: float, scatter: Jackknife, fewest: float) -> Estimate:
    """A figure between 0 and 1 that counts images, as F1 does, with Wilson's interval.

    fewest: the images that stand for the whole where no image changes the figure, as when none is missed.
    """
    if not scatter.variance:
        low, high = wilson(value * fewest, fewest)
        return {"value": value, "low": low, "high": high}
    images = value * (1 - value) / scatter.variance
    low, high = (end - scatter.bias for end in wilson(value * images, images))
    return {"value": value, "low": max(0.0, min(low, value)), "high": min(1.0, max(high, value))}


def of_area(value: float, scatter: Jackknife, fewest: float) -> Estimate:
    """An area between 0 and 1 with Student's interval on the scale of logits; `fewest` as for `of_counts`.

    An area of 1 says that no image was out of order. Wilson's interval then says how often the images of one class
    could be so without any having shown.
    """
    if not scatter.variance:
        return of_counts(value, scatter, fewest)
    centre, half = logit(value), scatter.half_width / (value * (1 - value))
    return {"value": value, "low": float(expit(centre - half)), "high": float(expit(centre + half))}


def of_loss(value: float, scatter: Jackknife) -> Estimate:
    """A mean above 0, without an upper end, with Student's interval on the scale of logarithms."""
    if not scatter.variance:
        why = "no interval: the loss of every image is the same"
        return {"value": value, "low": None, "high": None, "why": why}
    factor = float(np.exp(scatter.half_width / value))
    return {"value": value, "low": value / factor, "high": value * factor}


def resampled(value: float, draws_R: Floats) -> Estimate:
    """A figure from 0 to 1 with the percentile interval of its resamples, moved by their estimate of bias.

    Efron and Tibshirani 1993, chapters 10 and 13. The resamples exceed the value by the bias that the value itself has,
    so they lie about the truth plus twice the bias. The interval always holds the value.
    """
    estimate: Estimate = {"value": value, "low": None, "high": None}
    if np.ptp(draws_R) == 0:
        return estimate | {"why": "no interval: every resample of the images gives the same value"}
    twice_bias = 2 * (draws_R.mean() - value)
    low, high = np.quantile(draws_R, [1 - _UPPER, _UPPER]) - twice_bias
    return estimate | {"low": max(0.0, min(float(low), value)), "high": min(1.0, max(float(high), value))}


def chunks(resamples: int, numbers_each: int) -> Iterator[int]:
    """Sizes of the steps in which that many resamples are drawn, so that memory stays bounded."""
    size = max(1, _CHUNK // max(1, numbers_each))
    for start in range(0, resamples, size):
        yield min(size, resamples - start)
