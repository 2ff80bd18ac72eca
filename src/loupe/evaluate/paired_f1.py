"""Paired comparison of two classifiers by macro-F1 on the same images: difference, interval and permutation test.

On unbalanced classes the accuracy is that of the frequent ones. The macro-F1 weighs all classes equally, but it is no
mean over images, so that the exact tests of `paired` do not apply. The permutation test exchanges the predictions of
both classifiers image by image (Yeh 2000, "More accurate tests for the statistical significance of result
differences"). If it makes no difference whose prediction is whose, its p-value has the right size on any number of
images. Where few images differ, all exchanges are counted, and the p-value is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from loupe.data.class_names import same_form
from loupe.errors import DataError
from loupe.evaluate.estimate import CONFIDENCE
from loupe.evaluate.paired import Candidate, matched_columns

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

RESAMPLES = 9999  # exchanges, so that with the observed one the smallest p-value is 0.0001
CHUNK_VALUES = 4_000_000  # of exchanges of images at a time
_TIE = 1e-12  # rounding error of a difference of two averages


@dataclass(frozen=True)
class MacroF1Difference:
    """Macro-F1 of `second` minus that of `first`, as a fraction.

    Attributes:
        first: name of one candidate.
        second: name of the other.
        value: difference.
        low: lower limit of the 95 % interval over images, by the paired bootstrap within each class.
        high: upper limit.
        p: p-value of the permutation test for no difference, two-sided.
        p_corrected: p-value after Holm's correction over the family of comparisons.
        images: number of images.
    """

    first: str
    second: str
    value: float
    low: float
    high: float
    p: float
    p_corrected: float
    images: int

    def mirrored(self) -> "MacroF1Difference":
        """Same comparison with `first` and `second` exchanged."""
        low, high = 0.0 - self.high, 0.0 - self.low  # never -0.0
        return replace(self, first=self.second, second=self.first, value=0.0 - self.value, low=low, high=high)


def matched_predictions(candidates: Sequence[Candidate]) -> tuple[Ints, dict[str, Ints]]:
    """True class of each image [N] and the predicted ones of each candidate [S, N], in one order and numbering.

    Raises:
        DataError: the candidates do not have predictions for the same labelled images.
    """
    reference = candidates[0].predictions[0]
    number = {same_form(name): label for label, name in enumerate(reference.classes)}
    columns = matched_columns(candidates)
    predicted = {}
    for candidate in candidates:
        rows = []
        for predictions, column_N in zip(candidate.predictions, columns[candidate.name], strict=True):
            label_K = np.array([number[same_form(name)] for name in predictions.classes], np.int64)
            row = np.empty(len(column_N), np.int64)
            row[column_N] = label_K[predictions.predicted]
            rows.append(row)
        predicted[candidate.name] = np.stack(rows)
    return np.asarray(reference.label, np.int64), predicted


def macro_f1_difference(
    first: str,
    second: str,
    label_N: Ints,
    predicted: dict[str, Ints],
    *,
    exchanges: int = RESAMPLES,
    resamples: int = 2000,
    seed: int = 0,
) -> MacroF1Difference:
    """Compare two candidates by macro-F1, averaged over the classes that have images.

    With several seeds, an image counts as the mean of their predictions.

    Args:
        first: name of one candidate.
        second: name of the other.
        label_N: class of each image.
        predicted: for each name, the predicted classes [S, N] of its seeds.
        exchanges: number of random exchanges of the permutation test.
        resamples: number of bootstrap resamples.
        seed: seed of both.

    Raises:
        DataError: there are no images.
    """
    if not len(label_N):
        raise DataError("no images to compare by macro-F1.")
    if second < first:  # the same resamples in both directions, so that one is the mirror image of the other
        return macro_f1_difference(
            second, first, label_N, predicted, exchanges=exchanges, resamples=resamples, seed=seed
        ).mirrored()
    classes = 1 + max(int(label_N.max()), *(int(one.max()) for one in predicted.values()))
    one_NK, other_NK = _shares(predicted[first], classes), _shares(predicted[second], classes)
    sums_2K, other_2K = _sums(one_NK, label_N, classes), _sums(other_NK, label_N, classes)
    value = float(_difference(sums_2K, other_2K, np.bincount(label_N, minlength=classes)))
    p = _permuted(one_NK, other_NK, label_N, value, exchanges, np.random.default_rng([seed, 3]))
    low, high = _interval(one_NK, other_NK, label_N, resamples, np.random.default_rng([seed, 4]))
    return MacroF1Difference(first, second, value, min(low, value), max(high, value), p, p, len(label_N))


def macro_f1(label_N: Ints, predicted_SN: Ints) -> float:
    """Macro-F1 of the mean of several seeds' predictions, over the classes that have images."""
    classes = 1 + max(int(label_N.max()), int(predicted_SN.max()))
    sums_2K = _sums(_shares(predicted_SN, classes), label_N, classes)
    return float(_average(sums_2K, np.bincount(label_N, minlength=classes)))


def difference_error(label_N: Ints, first_N: Ints, second_N: Ints) -> float:
    """Standard error of the difference in macro-F1 of two candidates on the same images, by the jackknife over images.

    Leaving an image out changes the F1 of two classes at most, so that this takes time in proportion to the images.
    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", equation 11.5.
    """
    changes_N = _changes(label_N, second_N) - _changes(label_N, first_N)
    images = len(label_N)
    return float(np.sqrt((images - 1) / images * ((changes_N - changes_N.mean()) ** 2).sum()))


def _changes(label_N: Ints, predicted_N: Ints) -> Floats:
    """Change in macro-F1 where an image is left out [N]; a class of this image alone then has an F1 of 0."""
    classes = 1 + int(max(label_N.max(), predicted_N.max()))
    support_K, predicted_K = (np.bincount(one, minlength=classes) for one in (label_N, predicted_N))
    right_N = label_N == predicted_N
    hits_K = np.bincount(label_N[right_N], minlength=classes)
    counted_K = support_K > 0

    def f1(hits: Ints, total: Ints, counted: npt.NDArray[np.bool_]) -> Floats:
        return np.where(counted, 2 * hits / np.maximum(total, 1), 0.0)

    total_K = support_K + predicted_K
    before_K = f1(hits_K, total_K, counted_K)
    # A right image counts twice for its class, as an image and as a prediction; a wrong one for two classes.
    own_N = f1(hits_K[label_N] - right_N, total_K[label_N] - 1 - right_N, counted_K[label_N]) - before_K[label_N]
    other_N = f1(hits_K[predicted_N], total_K[predicted_N] - 1, counted_K[predicted_N]) - before_K[predicted_N]
    return np.asarray((own_N + np.where(right_N, 0.0, other_N)) / counted_K.sum())


def _shares(predicted_SN: Ints, classes: int) -> Floats:
    """Share of the seeds that predict each class [N, K]."""
    share_NK = np.zeros((predicted_SN.shape[1], classes))
    for predicted_N in predicted_SN:
        share_NK[np.arange(len(predicted_N)), predicted_N] += 1
    return share_NK / len(predicted_SN)


def _counts(share_NK: Floats, label_N: Ints) -> Floats:
    """Contribution of each image to the hits and to the predictions of each class [N, 2 K]."""
    hit_NK = np.zeros_like(share_NK)
    rows = np.arange(len(label_N))
    hit_NK[rows, label_N] = share_NK[rows, label_N]
    return np.concatenate([hit_NK, share_NK], axis=1)


def _sums(share_NK: Floats, label_N: Ints, classes: int) -> Floats:
    sums_2K: Floats = _counts(share_NK, label_N).sum(axis=0).reshape(2, classes)
    return sums_2K


def _average(sums_R2K: Floats, support_K: Ints) -> Floats:
    """Mean F1 over the classes that have images: 2 hits / (images + predictions)."""
    f1_RK = 2 * sums_R2K[..., 0, :] / np.maximum(support_K + sums_R2K[..., 1, :], 1)
    return np.asarray(f1_RK[..., support_K > 0].mean(axis=-1))


def _difference(first_R2K: Floats, second_R2K: Floats, support_K: Ints) -> Floats:
    return _average(second_R2K, support_K) - _average(first_R2K, support_K)


def _permuted(
    first_NK: Floats, second_NK: Floats, label_N: Ints, observed: float, exchanges: int, rng: np.random.Generator
) -> float:
    """Share of all exchanges, or of random ones and the observed one, that differ at least as much."""
    classes, support_K = first_NK.shape[1], np.bincount(label_N, minlength=first_NK.shape[1])
    one_NC, other_NC = _counts(first_NK, label_N), _counts(second_NK, label_N)
    differs_N = (one_NC != other_NC).any(axis=1)
    change_DC = (other_NC - one_NC)[differs_N]
    one_C, other_C = one_NC.sum(axis=0), other_NC.sum(axis=0)

    def extreme(swaps_RD: npt.NDArray[np.bool_]) -> int:
        moved_RC = swaps_RD.astype(np.float64) @ change_DC
        first, second = ((part_RC).reshape(-1, 2, classes) for part_RC in (one_C + moved_RC, other_C - moved_RC))
        return int((np.abs(_difference(first, second, support_K)) >= abs(observed) - _TIE).sum())

    images = len(change_DC)
    if 2**images <= exchanges + 1:
        every = np.arange(2**images)[:, None] >> np.arange(images)[None, :] & 1
        return float(extreme(every.astype(bool)) / 2**images)
    found, rows = 0, max(1, CHUNK_VALUES // images)
    for start in range(0, exchanges, rows):
        found += extreme(rng.random((min(rows, exchanges - start), images), np.float32) < 0.5)
    return (found + 1) / (exchanges + 1)


def _interval(
    first_NK: Floats, second_NK: Floats, label_N: Ints, resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """95 % percentile interval of the difference, by resampling the images of each class (Efron and Tibshirani 1993).

    The number of images of each class stays as it is, so that no class is without images.
    """
    classes, support_K = first_NK.shape[1], np.bincount(label_N, minlength=first_NK.shape[1])
    both_NC = np.concatenate([_counts(first_NK, label_N), _counts(second_NK, label_N)], axis=1)
    sums_RC = np.zeros((resamples, both_NC.shape[1]))
    for label in np.flatnonzero(support_K).tolist():
        cells_LC, count_L = np.unique(both_NC[label_N == label], axis=0, return_counts=True)
        images = int(count_L.sum())
        sums_RC += rng.multinomial(images, count_L / images, size=resamples) @ cells_LC
    first, second = (part_RC.reshape(-1, 2, classes) for part_RC in np.split(sums_RC, 2, axis=1))
    low, high = np.quantile(_difference(first, second, support_K), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
