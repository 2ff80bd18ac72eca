"""Which images a network misses, ranked by loss.

The loss of an image is −log of the probability that the network gave its true class. Of all mistakes, those with the
highest loss deserve the first look: the network is far from the label, and where it is right, the label is wrong.
"""

import numpy as np
import numpy.typing as npt

from loupe.evaluate.predictions import UNKNOWN, Predictions


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
