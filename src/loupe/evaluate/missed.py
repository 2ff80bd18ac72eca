"""Which images a network misses: ranked by loss, and grouped by what was taken for what.

The loss of an image is −log of the probability that the network gave its true class. Of all mistakes, those with the
highest loss deserve the first look: the network is far from the label, and where it is right, the label is wrong.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loupe.evaluate.predictions import UNKNOWN, Predictions


@dataclass(frozen=True, eq=False)
class Pair:
    """The images of one class that were taken for another: positions among the predictions, highest loss first.

    true, predicted: indices of the two classes. share: of the labelled images of the true class.
    """

    true: int
    predicted: int
    indices: npt.NDArray[np.int64]
    share: float

    @property
    def count(self) -> int:
        return len(self.indices)


def losses(predictions: Predictions) -> npt.NDArray[np.float64]:
    """The loss of each image, [N]; nan where it has no label."""
    log_p_NK = predictions.log_probabilities_NK
    known = predictions.label != UNKNOWN
    loss_N = np.full(len(predictions), np.nan)
    loss_N[known] = -log_p_NK[known, predictions.label[known]]
    return loss_N


def ranked(predictions: Predictions) -> npt.NDArray[np.int64]:
    """Positions of the mistakes, highest loss first; equal ones in their own order."""
    wrong_M = np.flatnonzero((predictions.predicted != predictions.label) & (predictions.label != UNKNOWN))
    order_M: npt.NDArray[np.int64] = wrong_M[np.argsort(-losses(predictions)[wrong_M], kind="stable")]
    return order_M


def pairs(predictions: Predictions) -> list[Pair]:
    """Every pair of classes that was confused, most frequent first; of equally frequent ones, highest loss first."""
    order_M, classes = ranked(predictions), len(predictions.classes)
    label, predicted = predictions.label, predictions.predicted
    support_K = np.bincount(label[label != UNKNOWN], minlength=classes)
    cell_M = label[order_M] * classes + predicted[order_M]
    by_cell = np.argsort(cell_M, kind="stable")  # within a cell the order of the losses stays
    ends = np.flatnonzero(np.diff(cell_M[by_cell])) + 1
    groups = [group for group in np.split(by_cell, ends) if len(group)]
    groups.sort(key=lambda group: (-len(group), group[0]))
    return [_pair(predictions, order_M[group], support_K) for group in groups]


def _pair(predictions: Predictions, indices: npt.NDArray[np.int64], support_K: npt.NDArray[np.int64]) -> Pair:
    true, predicted = int(predictions.label[indices[0]]), int(predictions.predicted[indices[0]])
    return Pair(true, predicted, indices, share=len(indices) / int(support_K[true]))
