"""Exact tests of an accuracy against the most common class, and the interval of a gap between two accuracies.

Always predicting the most common class has an accuracy without learning anything. An accuracy is judged against it by
the number of images that it was measured on, with binomial tests: on few images, or where nearly all images are of one
class, neither learning nor its absence can be shown.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, bdtrc, gammaln

from loupe.evaluate.estimate import wilson

ALPHA = 0.01
LEAST_GAIN = 0.05  # of the share, or of what is missing to 1: on many images the slightest gain is significant
_MOST_IMAGES = 10_000_000


@dataclass(frozen=True)
class LabelCounts:
    """Labels of one split.

    Attributes:
        images: number of labelled images.
        commonest: number of images of the most common class.
        association: p-value of `association` on this split; 1 where it was not measured.
        rarest: number of images of the rarest class; None where unknown.
    """

    images: int
    commonest: int
    association: float = 1.0
    rarest: int | None = None

    @property
    def share(self) -> float:
        """Accuracy of always predicting the most common class."""
        return self.commonest / self.images

    def exceeded_by(self, accuracy: float) -> bool:
        """True if the accuracy is above the share of the most common class, significantly and by LEAST_GAIN."""
        gain = LEAST_GAIN * min(self.share, 1 - self.share)
        above = accuracy > self.share + gain and self._above(accuracy, self.share) <= ALPHA
        return above or self.association <= ALPHA

    def excludes_learning(self, accuracy: float) -> bool:
        """True if the accuracy is significantly below the middle between that share and 1."""
        return float(bdtr(self._hits(accuracy), self.images, self._middle)) <= ALPHA

    @property
    def decides(self) -> bool:
        """True if an accuracy in the middle between the share and 1 would be significantly above the share."""
        return self._above(self._middle, self.share) <= ALPHA

    @property
    def _middle(self) -> float:
        return (1 + self.share) / 2

    def _hits(self, accuracy: float) -> int:
        return round(accuracy * self.images)

    def _above(self, accuracy: float, share: float) -> float:
        """P-value of at least as many correct images."""
        hits = self._hits(accuracy)
        if hits == 0 or share >= 1:
            return 1.0
        return float(bdtrc(hits - 1, self.images, share))

    def images_to_decide(self) -> int | None:
        """Number of images from which learning can be told from its absence, roughly; None with a single class."""
        images = self.images
        while images < _MOST_IMAGES and self.share < 1:
            if LabelCounts(images, round(self.share * images)).decides:
                return _rounded_up(images)
            images = math.ceil(images * 1.1)
        return None


def _rounded_up(number: int) -> int:
    """Number rounded up to two significant digits."""
    unit: int = 10 ** max(0, len(str(number)) - 2)
    return math.ceil(number / unit) * unit


def association(confusion: Sequence[Sequence[int]]) -> float:
    """P-value of Fisher's exact test, one-sided, that predictions tell the most common class from the others.

    With classes of very unequal size or balanced class weights, the accuracy may be below the share of the most common
    class although the network tells the classes apart.

    Args:
        confusion: counts, a row for each true class, a column for each predicted one.
    """
    counts: npt.NDArray[np.int64] = np.asarray(confusion, np.int64)
    if counts.size == 0 or not counts.sum():
        return 1.0
    common = int(counts.sum(axis=1).argmax())
    both, true, predicted, images = (
        int(counts[common, common]),
        int(counts[common].sum()),
        int(counts[:, common].sum()),
        int(counts.sum()),
    )
    more = np.arange(both, min(true, predicted) + 1)
    log_p = _log_choose(true, more) + _log_choose(images - true, predicted - more) - _log_choose(images, predicted)
    return min(1.0, float(np.exp(log_p).sum()))


def _log_choose(total: int, chosen: npt.NDArray[np.int64] | int) -> npt.NDArray[np.float64]:
    result: npt.NDArray[np.float64] = gammaln(total + 1) - gammaln(np.add(chosen, 1)) - gammaln(total - chosen + 1)
    return result


def gap_interval(first: float, first_images: int, second: float, second_images: int) -> tuple[float, float]:
    """95 % interval of the difference of two accuracies on different images (Newcombe 1998, method 10)."""
    (low, high), (other_low, other_high) = (
        wilson(first * first_images, first_images),
        wilson(second * second_images, second_images),
    )
    gap = first - second
    return (
        max(-1.0, gap - math.hypot(first - low, other_high - second)),
        min(1.0, gap + math.hypot(high - first, second - other_low)),
    )


def lowest_accuracy(images: int, choices: int = 1) -> float:
    """Lower 95 % limit of the accuracy if all of so many images are correct (Clopper and Pearson 1934, one-sided).

    Args:
        images: number of images.
        choices: number of networks of which these images chose the best; the level is divided by it (Bonferroni).
    """
    return float((0.05 / choices) ** (1 / images))
