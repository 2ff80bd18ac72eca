"""Accuracy by group, and misclassified images ranked by loss.

A group is the value of the images' `group` column: a patient, a camera or a site, for example. The loss of an image is
-log of the probability of its true class. Misclassified images with a high loss are worth checking first: either the
network or the label is wrong.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from loupe.data.keyed_order import turns
from loupe.errors import counted
from loupe.evaluate.metrics import proportion
from loupe.evaluate.predictions import UNKNOWN, Predictions
from loupe.evaluate.results import GroupAccuracies, GroupAccuracy, GroupsLeftOut

MOST_GROUPS = 50  # more rows are not readable
FEWEST_IMAGES = 5  # below, an interval covers almost the whole range


def by_group(predictions: Predictions, groups: Sequence[str | None]) -> GroupAccuracies:
    """Accuracy of the labelled images of each group, with Wilson's interval, in the order of the group names.

    Args:
        predictions: predictions.
        groups: group of each image; None where it has none.

    Returns:
        `rows`, one for each group; None with a reason in `why` without groups or with more than `MOST_GROUPS`.
        `left_out` counts the groups with fewer than `FEWEST_IMAGES` images and their images.
    """
    members: dict[str, list[int]] = {}
    for row, (name, label) in enumerate(zip(groups, predictions.label, strict=True)):
        if name is not None and label != UNKNOWN:
            members.setdefault(name, []).append(row)
    if not members:
        return GroupAccuracies(rows=None, why="the images have no groups")
    if len(members) > MOST_GROUPS:
        why = f"{counted(len(members), 'group')}; accuracy by group is reported for at most {MOST_GROUPS}"
        return GroupAccuracies(rows=None, why=why)
    correct_N = predictions.predicted == predictions.label
    large = {name: rows for name, rows in sorted(members.items()) if len(rows) >= FEWEST_IMAGES}
    blocks = tuple(
        GroupAccuracy(group=name, images=len(rows), accuracy=proportion(int(correct_N[rows].sum()), len(rows), ""))
        for name, rows in large.items()
    )
    images = sum(map(len, members.values())) - sum(map(len, large.values()))
    return GroupAccuracies(rows=blocks, left_out=GroupsLeftOut(groups=len(members) - len(large), images=images))


def losses(predictions: Predictions) -> npt.NDArray[np.float64]:
    """Loss of each image, [N]; NaN without a label."""
    log_p_NK = predictions.log_probabilities_NK
    known = predictions.label != UNKNOWN
    loss_N = np.full(len(predictions), np.nan)
    loss_N[known] = -log_p_NK[known, predictions.label[known]]
    return loss_N


def ranked(predictions: Predictions, seed: int = 0) -> npt.NDArray[np.int64]:
    """Positions of the misclassified images, highest loss first; equal ones in an order that the seed gives."""
    wrong_M = np.flatnonzero((predictions.predicted != predictions.label) & (predictions.label != UNKNOWN))
    turn_M = turns(f"ranked {seed}", [predictions.content[i] for i in wrong_M])
    order_M: npt.NDArray[np.int64] = wrong_M[np.lexsort((turn_M, -losses(predictions)[wrong_M]))]
    return order_M
