"""Labels that look wrong, by confident learning, and the effect of training a head without them.

Confident learning (Northcutt, Jiang and Chuang 2021) is that of cleanlab. It compares each label with the prediction of
a model that has not seen the image, and estimates how many labels of each class belong to another class.
"""

from importlib.util import find_spec
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from loupe.data.keyed_order import turns
from loupe.errors import LoupeError, counted
from loupe.evaluate.chance import LabelCounts, association
from loupe.evaluate.estimate import CONFIDENCE, wilson
from loupe.evaluate.label_results import AccuracyDifference, LabelEffect, PairedAccuracy, Share
from loupe.evaluate.metrics import confusion_matrix

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def check_installed() -> None:
    """Raise a LoupeError, with the fix, if cleanlab is not installed."""
    if find_spec("cleanlab") is None:
        raise LoupeError(
            "cleanlab is not installed, and is needed to find wrong labels. Install it: pip install cleanlab"
        )


def suspects(label_N: Ints, probability_NK: Floats) -> Bools:
    """Mask of the labels that look wrong: the least likely ones, as many as confident learning estimates.

    A label that is the most likely class is never a suspect. This order found more wrong labels in fewer suspects than
    cleanlab's default, which takes a number for each pair of classes (results/label_errors.md).

    Args:
        label_N: from 0 to K - 1, all of them present.
        probability_NK: from a model that has not learned from the label of the row.
    """
    check_installed()
    from cleanlab.filter import find_label_issues

    found_N: Bools = find_label_issues(label_N, probability_NK, filter_by="low_self_confidence", n_jobs=1)
    draw_equal(found_N, quality(label_N, probability_NK))
    found_N = found_N & (probability_NK.argmax(axis=1) != label_N)
    keep_one_of_each(found_N, label_N, quality(label_N, probability_NK))
    return found_N


def draw_equal(found_N: Bools, quality_N: Floats) -> None:
    """Draw among equal labels of which only some are found: the first rows are often of one class."""
    if not found_N.any():
        return
    equal = np.flatnonzero(quality_N == quality_N[found_N].max())
    count = int(found_N[equal].sum())
    found_N[equal] = turns("suspects", [*map(str, equal)]) < count


def keep_one_of_each(found_N: Bools, label_N: Ints, quality_N: Floats) -> None:
    """Keep the most likely label of a class whose labels all look wrong: without any it could not be learned."""
    for label in np.setdiff1d(label_N, label_N[~found_N]):
        mine = np.flatnonzero(label_N == label)
        found_N[mine[quality_N[mine].argmax()]] = False


def quality(label_N: Ints, probability_NK: Floats) -> Floats:
    """Probability of each label, from 0 to 1, which cleanlab calls self-confidence."""
    return np.asarray(probability_NK[np.arange(len(label_N)), label_N])


def effect(label_N: Ints, with_NK: Floats, without_NK: Floats, suspect_N: Bools) -> LabelEffect:
    """Accuracy of heads trained with and without the suspects, on the same held-out images and their given labels."""
    hit_N, hit_without_N = with_NK.argmax(axis=1) == label_N, without_NK.argmax(axis=1) == label_N
    return LabelEffect(
        all=paired_accuracy(hit_N, hit_without_N),
        unsuspected=paired_accuracy(hit_N[~suspect_N], hit_without_N[~suspect_N]),
    )


def unlearned(label_N: Ints, probability_NK: Floats) -> str | None:
    """Sentence if out-of-fold predictions are not clearly better than always predicting the most common class."""
    predicted_N = probability_NK.argmax(axis=1)
    table = confusion_matrix(label_N, predicted_N, probability_NK.shape[1]).tolist()
    counts = LabelCounts(len(label_N), int(np.bincount(label_N).max()), association(table))
    accuracy = float((predicted_N == label_N).mean())
    if counts.exceeded_by(accuracy):
        return None
    return (
        f"Which labels are wrong cannot be told: the out-of-fold accuracy is {accuracy:.3f} on "
        f"{counted(counts.images, 'image')}, and always predicting the most common class gives {counts.share:.3f}. "
        "Another --model, or more images, may tell."
    )


def paired_accuracy(hit_N: Bools, hit_without_N: Bools) -> PairedAccuracy:
    """Two accuracies on the same images and their difference, each with its interval."""
    images, gained, lost = len(hit_N), int((hit_without_N & ~hit_N).sum()), int((hit_N & ~hit_without_N).sum())
    low, high = paired_interval(gained, lost, images)
    return PairedAccuracy(
        images=images,
        with_suspects=_accuracy(int(hit_N.sum()), images),
        without=_accuracy(int(hit_without_N.sum()), images),
        difference=AccuracyDifference(value=(gained - lost) / images, low=low, high=high),
        gained=gained,
        lost=lost,
    )


def paired_interval(gained: int, lost: int, images: int) -> tuple[float, float]:
    """95 % interval of (gained - lost) / images, where both were counted on the same images.

    Wald's interval after adding one image to each of `gained` and `lost` (Bonett and Price 2012): its coverage is good
    for few images, and its width is not 0 if nothing differed.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    up, down = (gained + 1) / (images + 2), (lost + 1) / (images + 2)
    half = z * float(np.sqrt((up + down - (up - down) ** 2) / (images + 2)))
    return max(-1.0, up - down - half), min(1.0, up - down + half)


def _accuracy(hits: int, images: int) -> Share:
    low, high = wilson(hits, images)
    return Share(value=hits / images, low=low, high=high)
