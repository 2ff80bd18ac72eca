"""95 % confidence intervals over images, for a fixed network and other test images of the same kind.

A proportion has Wilson's score interval (Wilson 1927; recommended by Brown, Cai and DasGupta 2001). Other figures use
the jackknife: the changes of the figure when one image is left out give its variance and its bias (Efron and Tibshirani
1993, chapter 11). For the area under the ROC curve this is the variance of DeLong et al. 1988, up to its divisors.

- F1 counts images, as accuracy does. It has Wilson's interval with the effective number of images, at which an accuracy
  would have the same variance (Korn and Graubard 1998; Dean and Pagano 2015 for surveys), shifted by the bias.
- For an accurate network, an area or a mean loss depends on few images of very unequal weight. Its interval is
  computed on the scale of logits or logarithms, where a figure near the end of its range is less skewed (Qin and
  Hotilovac 2008 for the area) and no limit leaves the range. It is Student's t interval; the degrees of freedom follow
  from the fourth moment of the changes (Satterthwaite 1946; Pan and Wall 2002).

Percentile bootstrap intervals are too short near the end of the range: resamples repeat the few decisive images and
contain no unseen ones. results/statistics.md measures both.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loupe.evaluate.estimate import UPPER, Estimate, wilson

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_ROUNDING = 1e-24  # a smaller sum of squares is rounding: one pair of images among 10^10 gives more
_CHUNK = 2**24  # numbers held by one step of the bootstrap: 64 MiB of float32


@dataclass(frozen=True)
class Jackknife:
    """Jackknife estimates for a figure: variance, bias and degrees of freedom.

    A variance of 0 means that no single image changes the figure, so that its spread cannot be estimated.
    """

    variance: float
    bias: float
    freedom: float

    @classmethod
    def of(cls, change_C: Floats, count_C: Ints | None = None) -> "Jackknife":
        """Estimates from the changes of the figure.

        Args:
            change_C: figure minus its value without one image, for each image or each group of like images.
            count_C: number of images in each group; by default 1.
        """
        count_C = np.ones(len(change_C), np.int64) if count_C is None else count_C
        images = int(count_C.sum())
        mean = float(change_C @ count_C) / images
        squares_C = (change_C - mean) ** 2
        sum_of_squares = float(squares_C @ count_C)
        if images < 2 or sum_of_squares < _ROUNDING:
            return cls(0.0, 0.0, float(images - 1))
        # Degrees of freedom of the chi-square distribution with the same relative variance as the sum of squares.
        scatter = max(float(squares_C**2 @ count_C) - sum_of_squares**2 / images, _ROUNDING * sum_of_squares**2)
        freedom = min(images - 1.0, 2 * sum_of_squares**2 / scatter)
        return cls(sum_of_squares * (images - 1) / images, -(images - 1) * mean, freedom)

    @property
    def half_width(self) -> float:
        """Half the width of Student's t interval."""
        from scipy.special import stdtrit  # takes 0.2 s to import, which reading results need not wait for

        standard_error: float = self.variance**0.5
        return float(stdtrit(self.freedom, UPPER)) * standard_error


def of_counts(value: float, scatter: Jackknife, fewest: float) -> Estimate:
    """Wilson's interval of a figure between 0 and 1 that counts images, such as F1.

    Args:
        value: the figure.
        scatter: its jackknife estimates.
        fewest: effective number of images where no image changes the figure, as when all are classified correctly.
    """
    if not scatter.variance:
        low, high = wilson(value * fewest, fewest)
        return Estimate(value=value, low=low, high=high)
    images = value * (1 - value) / scatter.variance
    low, high = (end - scatter.bias for end in wilson(value * images, images))
    return Estimate(value=value, low=max(0.0, min(low, value)), high=min(1.0, max(high, value)))


def of_area(value: float, scatter: Jackknife, fewest: float) -> Estimate:
    """Student's t interval of an area between 0 and 1, on the scale of logits; arguments as for `of_counts`.

    At an area of 1 no image is out of order, and the interval is Wilson's for `fewest` images.
    """
    from scipy.special import expit, logit

    if not scatter.variance:
        return of_counts(value, scatter, fewest)
    centre, half = logit(value), scatter.half_width / (value * (1 - value))
    return Estimate(value=value, low=float(expit(centre - half)), high=float(expit(centre + half)))


def of_loss(value: float, scatter: Jackknife) -> Estimate:
    """Student's t interval of a mean loss above 0, on the scale of logarithms."""
    if not scatter.variance:
        why = "no interval: the loss of every image is the same"
        return Estimate(value=value, low=None, high=None, why=why)
    factor = float(np.exp(scatter.half_width / value))
    return Estimate(value=value, low=value / factor, high=value * factor)


def resampled(value: float, draws_R: Floats) -> Estimate:
    """Percentile bootstrap interval of a figure from 0 to 1, corrected for bias.

    Efron and Tibshirani 1993, chapters 10 and 13. The resamples [R] exceed the value by its own bias, so their centre
    is the true value plus twice the bias. The interval always contains the value.
    """
    if np.ptp(draws_R) == 0:
        why = "no interval: every resample of the images gives the same value"
        return Estimate(value=value, low=None, high=None, why=why)
    twice_bias = 2 * (draws_R.mean() - value)
    low, high = np.quantile(draws_R, [1 - UPPER, UPPER]) - twice_bias
    return Estimate(value=value, low=max(0.0, min(float(low), value)), high=min(1.0, max(float(high), value)))


def chunks(resamples: int, numbers_each: int) -> Iterator[int]:
    """Sizes of the steps in which resamples are drawn, so that memory stays bounded."""
    size = max(1, _CHUNK // max(1, numbers_each))
    for start in range(0, resamples, size):
        yield min(size, resamples - start)
