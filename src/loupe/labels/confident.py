"""Which labels look wrong, by confident learning, and what a head is worth that does not learn from them.

Confident learning (Northcutt, Jiang and Chuang 2021) is cleanlab's. It compares each label with what was said of the
image by a model that has not seen it, and counts how many labels of each class are likely to be another's.
"""

from importlib.util import find_spec
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from loupe.errors import LoupeError
from loupe.evaluate.intervals import CONFIDENCE, wilson

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def check_installed() -> None:
    """LoupeError, with the remedy, where cleanlab is not installed."""
    if find_spec("cleanlab") is None:
        raise LoupeError("label errors are found with cleanlab, which is not installed: pip install cleanlab")


def suspects(label_N: Ints, probability_NK: Floats) -> Bools:
    """Which labels look wrong: as many of the least likely as confident learning counts, and none that is likeliest.

    Taking the least likely found more of the wrong labels in fewer suspects than cleanlab's default, which takes so
    many of each pair of classes (results/label_errors.md).

    Args:
        label_N: from 0 to K - 1, all of them present.
        probability_NK: from a model that has not learned from the label of the row.
    """
    check_installed()
    from cleanlab.filter import find_label_issues

    found_N: Bools = find_label_issues(label_N, probability_NK, filter_by="low_self_confidence", n_jobs=1)
    found_N = found_N & (probability_NK.argmax(axis=1) != label_N)
    keep_one_of_each(found_N, label_N, quality(label_N, probability_NK))
    return found_N


def keep_one_of_each(found_N: Bools, label_N: Ints, quality_N: Floats) -> None:
    """A class all of whose labels look wrong keeps the likeliest: without any it could not be learned."""
    for label in np.setdiff1d(label_N, label_N[~found_N]):
        mine = np.flatnonzero(label_N == label)
        found_N[mine[quality_N[mine].argmax()]] = False


def quality(label_N: Ints, probability_NK: Floats) -> Floats:
    """How well each label fits, from 0 to 1: its probability, which cleanlab calls self-confidence."""
    return np.asarray(probability_NK[np.arange(len(label_N)), label_N])


def effect(label_N: Ints, with_NK: Floats, without_NK: Floats, suspect_N: Bools) -> dict[str, Any]:
    """Accuracy of heads with and without the suspects among what they learned from, on the same unseen images.

    `all` judges by every image with the label that it has; `unsuspected` leaves the suspects out of the judged ones.
    """
    hit_N, hit_without_N = with_NK.argmax(axis=1) == label_N, without_NK.argmax(axis=1) == label_N
    return {
        name: compared(hit_N[judged_N], hit_without_N[judged_N])
        for name, judged_N in (("all", np.ones(len(label_N), np.bool_)), ("unsuspected", ~suspect_N))
    }


def compared(hit_N: Bools, hit_without_N: Bools) -> dict[str, Any]:
    """Two accuracies on the same images, their difference (`without` minus `with`), and the intervals of all three."""
    images, gained, lost = len(hit_N), int((hit_without_N & ~hit_N).sum()), int((hit_N & ~hit_without_N).sum())
    low, high = paired_interval(gained, lost, images)
    return {
        "images": images,
        "with": _accuracy(int(hit_N.sum()), images),
        "without": _accuracy(int(hit_without_N.sum()), images),
        "difference": {"value": (gained - lost) / images, "low": low, "high": high},
        "gained": gained,
        "lost": lost,
    }


def paired_interval(gained: int, lost: int, images: int) -> tuple[float, float]:
    """95 % interval of (gained - lost) / images, where both were counted on the same images.

    Wald's interval after adding one image to each of `gained` and `lost` (Bonett and Price 2012): it
    covers well for few images, and has a width where nothing differed.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    up, down = (gained + 1) / (images + 2), (lost + 1) / (images + 2)
    half = z * float(np.sqrt((up + down - (up - down) ** 2) / (images + 2)))
    return max(-1.0, up - down - half), min(1.0, up - down + half)


def _accuracy(hits: int, images: int) -> dict[str, float]:
    low, high = wilson(hits, images)
    return {"value": hits / images, "low": low, "high": high}
