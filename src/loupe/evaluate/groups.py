"""Accuracy by group, and missed images ranked by loss: where a network fails.

A group is a patient, camera, place, or whatever the images' `group` says. The loss of an image is −log of the
probability that the network gave its true class. A missed image of high loss deserves the first look: the network is
far from the label, and where it is right, the label is wrong.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from loupe.evaluate.metrics import proportion
from loupe.evaluate.predictions import UNKNOWN, Predictions

MOST_GROUPS = 50  # beyond, nobody looks at each
FEWEST_IMAGES = 5  # below, an interval spans nearly everything


def by_group(predictions: Predictions, groups: Sequence[str | None]) -> dict[str, Any]:
    """Accuracy, with Wilson's interval, of the labelled images of each group, in the order of the groups' names.

    `groups` names the group of each image, None where it has none. `rows` is null, with the reason, where there are no
    groups, or too many to be looked at one by one. Groups of too few images are left out, and counted.
    """
    members: dict[str, list[int]] = {}
    for row, (name, label) in enumerate(zip(groups, predictions.label, strict=True)):
        if name is not None and label != UNKNOWN:
            members.setdefault(name, []).append(row)
    if not members:
        return {"rows": None, "why": "the images have no groups"}
    if len(members) > MOST_GROUPS:
        return {
            "rows": None,
            "why": f"{len(members):,} groups are too many to look at each; {MOST_GROUPS} are the most",
        }
    right_N = predictions.predicted == predictions.label
    large = {name: rows for name, rows in sorted(members.items()) if len(rows) >= FEWEST_IMAGES}
    shown = [
        {"group": name, "images": len(rows), "accuracy": proportion(int(right_N[rows].sum()), len(rows), "")}
        for name, rows in large.items()
    ]
    images = sum(map(len, members.values())) - sum(map(len, large.values()))
    return {"rows": shown, "left_out": {"groups": len(members) - len(large), "images": images}}


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
