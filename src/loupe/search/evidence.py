"""Evidence about candidates: their figures on images that they did not learn from, and which of two is the better one.

Few validation images rank candidates mostly by luck. So a difference in accuracy decides only where it exceeds its own
standard error; else the log loss decides, which tells more from as many images. On unbalanced classes a difference in
macro-F1 comes first, in the same way. All of this is a choice, and no test:
the best of many is partly the luckiest, and its validation accuracy too high (`evaluate/selection.py`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from loupe.evaluate.estimate import Estimate, wilson
from loupe.evaluate.paired import Difference, difference_of_hits
from loupe.evaluate.paired_f1 import difference_error, macro_f1
from loupe.evaluate.search_results import Judged

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

WIDEST = 20.0  # range of temperatures, from 1 / WIDEST to WIDEST


@dataclass(frozen=True, eq=False)
class Evidence:
    """Logits of a candidate for some images that it did not learn from.

    Attributes:
        of_folds: True if several networks predicted them, each those of its own fold.
        by_f1: macro-F1 decides first, as the classes are unbalanced.
    """

    name: str
    logits_NK: Floats
    label_N: Ints
    of_folds: bool
    by_f1: bool = False

    @property
    def predicted(self) -> Ints:
        """Predicted class of each image, [N]."""
        return np.asarray(self.logits_NK.argmax(axis=1), np.int64)

    @property
    def hits(self) -> npt.NDArray[np.bool_]:
        """True where the class is right, [N]."""
        return np.asarray(self.predicted == self.label_N)

    @property
    def accuracy(self) -> float:
        return float(self.hits.mean())

    @property
    def log_loss(self) -> float:
        """Log loss at the temperature that is best on these images."""
        from scipy.optimize import minimize_scalar

        def loss(log_scale: float) -> float:
            return _log_loss(np.exp(log_scale) * self.logits_NK.astype(np.float64), self.label_N)

        edge = math.log(WIDEST)
        return float(minimize_scalar(loss, bounds=(-edge, edge), method="bounded", options={"xatol": 1e-4}).fun)

    @property
    def judged(self) -> Judged:
        """Figures, as search.json holds them."""
        right, images = int(self.hits.sum()), len(self.label_N)
        low, high = wilson(right, images)
        return Judged(
            evidence="out-of-fold" if self.of_folds else "validation",
            images=images,
            accuracy=Estimate(value=right / images, low=low, high=high),
            log_loss=self.log_loss,
            macro_f1=macro_f1(self.label_N, self.predicted[None]) if self.by_f1 else None,
        )


def _log_loss(logits_NK: Floats, label_N: Ints) -> float:
    shifted_NK = logits_NK - logits_NK.max(axis=1, keepdims=True)
    true_N = shifted_NK[np.arange(len(label_N)), label_N]
    return float((np.log(np.exp(shifted_NK).sum(axis=1)) - true_N).mean())


def compare(best: Evidence, other: Evidence) -> tuple[bool, Difference]:
    """True if `other` is the better one, and the difference of the accuracies with its interval.

    Raises:
        ValueError: they are of different images.
    """
    if not np.array_equal(best.label_N, other.label_N):
        raise ValueError(f"{best.name} and {other.name} were judged on different images")
    both = {best.name: best.hits[None], other.name: other.hits[None]}
    difference = difference_of_hits(best.name, other.name, both)
    if (best.by_f1 or other.by_f1) and (better := _better_by_f1(best, other)) is not None:
        return better, difference
    if abs(difference.value) > _error(difference):
        return difference.value > 0, difference
    return other.log_loss < best.log_loss, difference


def is_ahead(best: Evidence, other: Evidence) -> bool:
    """True if `other` is better on the same images by more than the standard error of the difference.

    That is in accuracy, or in macro-F1 where that decides.
    """
    if best.by_f1 or other.by_f1:
        return _better_by_f1(best, other) is True
    both = {"best": best.hits[None], "other": other.hits[None]}
    difference = difference_of_hits("best", "other", both)
    return difference.value > _error(difference)


def _error(difference: Difference) -> float:
    """Standard deviation of a difference under equal accuracy: the root of the images that differ, per image."""
    return math.sqrt(difference.only_first + difference.only_second) / difference.images


def _better_by_f1(best: Evidence, other: Evidence) -> bool | None:
    """True if `other` has the higher macro-F1; None if they differ by less than the standard error."""
    one, two = (macro_f1(best.label_N, evidence.predicted[None]) for evidence in (best, other))
    if abs(two - one) <= difference_error(best.label_N, best.predicted, other.predicted):
        return None
    return two > one


def ranked(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Candidates from the best on; each has beaten the one that was best before it, in the given order, or is behind.

    The comparison of two is not transitive, so that only the first place follows from it; the others are sorted by
    their log loss.
    """
    if not evidence:
        return []
    best = evidence[0]
    for one in evidence[1:]:
        if compare(best, one)[0]:
            best = one
    return [best, *sorted((one for one in evidence if one is not best), key=lambda one: one.log_loss)]
