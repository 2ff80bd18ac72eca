"""Metrics of an evaluation, with a 95 % interval beside each.

To add a metric, add a function and a row to the table `METRICS`. It is then in results.json, in the terminal, on the
pages, and in the Markdown and CSV of comparisons. The module `intervals` describes each interval. Calibration error has
none: it is biased, and no correction is established.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from loupe.errors import counted, enumerated
from loupe.evaluate.estimate import Estimate, wilson
from loupe.evaluate.intervals import Floats, Ints, Jackknife, of_area, of_counts, of_loss
from loupe.evaluate.predictions import UNKNOWN, Predictions
from loupe.evaluate.results import Evaluation

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Labelled:
    """Input of a metric: N labelled images, at least one.

    Attributes:
        label: true class of each image, [N].
        p_NK: uncalibrated probability of each class; `log_p_NK` is its logarithm.
        confusion_KK: counts, a row for each true class, a column for each predicted one.
        support: images of each class, [K].
    """

    label: Ints
    p_NK: Floats
    log_p_NK: Floats
    confusion_KK: Ints
    support: Ints
    classes: tuple[str, ...]

    @classmethod
    def of(cls, known: Predictions) -> "Labelled":
        log_p_NK = known.log_probabilities_NK
        confusion_KK = confusion_matrix(known.label, known.predicted, len(known.classes))
        return cls(known.label, np.exp(log_p_NK), log_p_NK, confusion_KK, confusion_KK.sum(axis=1), known.classes)


@dataclass(frozen=True)
class Metric:
    """Metric of the table `METRICS`.

    Attributes:
        key: key in results.json and CSV.
        title: name, as in the middle of a sentence.
        meaning: short description for pages.
        compute: function that computes the metric with its interval.
        shown: format, a percentage or a number.
        better: direction of improvement.
        headline: true for metrics in tables that compare runs; the table of a run has every metric.
    """

    key: str
    title: str
    meaning: str
    compute: Callable[[Labelled], Estimate]
    shown: Literal["percent", "number"] = "number"
    better: Literal["higher", "lower"] = "higher"
    headline: bool = True

    @property
    def heading(self) -> str:
        return self.title[:1].upper() + self.title[1:]

    @property
    def as_percent(self) -> bool:
        return self.shown == "percent"


def evaluate(predictions: Predictions) -> Evaluation:
    """Compute every metric of the labelled images among `predictions`, as in results.json for a split."""
    known = predictions.select(predictions.label != UNKNOWN)
    labelled = Labelled.of(known)
    undefined = None if len(known) else _undefined("there are no labelled images")
    values = {
        "images": len(known),
        **{metric.key: undefined or metric.compute(labelled) for metric in METRICS},
        "per_class": _per_class(labelled.confusion_KK, known.classes),
        "confusion_matrix": labelled.confusion_KK.tolist(),
    }
    return Evaluation.model_validate(values)


def proportion(successes: int, trials: int, why: str) -> Estimate:
    """Proportion with Wilson's interval; undefined, with the reason `why`, without trials."""
    if not trials:
        return _undefined(why)
    low, high = wilson(successes, trials)
    return Estimate(value=successes / trials, low=low, high=high)


def confusion_matrix(label: Ints, predicted: Ints, classes: int) -> Ints:
    """Confusion matrix, counts [K, K]: a row for each true class, a column for each predicted class."""
    cells: Ints = np.bincount(label * classes + predicted, minlength=classes**2).reshape(classes, classes)
    return cells


def f1_scores(confusion_KK: Ints) -> Floats:
    """F1 of each class [K], 2 TP / (2 TP + FP + FN); NaN for a class without images that was never predicted."""
    total = confusion_KK.sum(axis=0) + confusion_KK.sum(axis=1)
    return _ratio(2 * np.diag(confusion_KK), total)


def roc_auc(label: Ints, scores_NK: Floats) -> tuple[Floats, Floats]:
    """Area under the ROC curve of each class against the rest, [K], and the mean area without each image, [N].

    The area is the probability that an image of the class scores higher than another image, with ties counted half
    (Hanley and McNeil 1982). It is NaN for a class with no images or with all images. The mean is over the defined
    areas; NaN without any.
    """
    areas_K = np.full(scores_NK.shape[1], np.nan)
    sum_N, defined_N = np.zeros(len(label)), np.zeros(len(label))
    for k, scores_N in enumerate(scores_NK.T):
        member_N = label == k
        if not 0 < member_N.sum() < len(label):
            continue
        placement_N = _placements(scores_N, member_N)
        areas_K[k] = placement_N[member_N].mean()
        # The area is the mean placement of the members, and of the others; without one image, the mean of the rest.
        side_N = np.where(member_N, member_N.sum(), (~member_N).sum())
        without_N = _ratio(side_N * areas_K[k] - placement_N, side_N - 1)
        sum_N += np.nan_to_num(without_N)
        defined_N += ~np.isnan(without_N)
    return areas_K, _ratio(sum_N, defined_N)


def _placements(scores_N: Floats, member_N: npt.NDArray[np.bool_]) -> Floats:
    """Fraction of others with a lower score, for each member; of members with a higher score, for each other."""
    placement_N = np.empty(len(scores_N))
    members, others = np.sort(scores_N[member_N]), np.sort(scores_N[~member_N])
    placement_N[member_N] = _share_below(scores_N[member_N], others)
    placement_N[~member_N] = 1 - _share_below(scores_N[~member_N], members)
    return placement_N


def _share_below(scores: Floats, ordered: Floats) -> Floats:
    """Fraction of `ordered` below each score; ties count half."""
    twice = np.searchsorted(ordered, scores, side="left") + np.searchsorted(ordered, scores, side="right")
    shares: Floats = twice / (2 * len(ordered))
    return shares


def calibration_error(probabilities_NK: Floats, label: Ints) -> float:
    """Expected calibration error of the predicted class, with 15 bins of equal width, closed on the right.

    Guo et al. 2017, section 2.
    """
    confidence = probabilities_NK.max(axis=1)
    correct = probabilities_NK.argmax(axis=1) == label
    gaps = np.bincount(confidence_bins(confidence), correct - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(label))


def confidence_bins(confidence: Floats) -> Ints:
    """Bin of each confidence: 15 bins of equal width from 0 to 1, closed on the right."""
    bins: Ints = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    return bins


def accuracy(labelled: Labelled) -> Estimate:
    """Accuracy, with Wilson's interval."""
    return proportion(int(np.trace(labelled.confusion_KK)), len(labelled.label), "there are no labelled images")


def macro_f1(labelled: Labelled) -> Estimate:
    """Mean F1 of the classes, each with equal weight; undefined where a class has no images."""
    confusion_KK, support_K = labelled.confusion_KK, labelled.support
    if why := _missing(support_K, labelled.classes):
        return _undefined(why)
    (value, change_C), _ = _averages_and_changes(confusion_KK)
    return of_counts(value, Jackknife.of(change_C, confusion_KK[confusion_KK > 0]), _as_the_rarest(support_K))


def weighted_f1(labelled: Labelled) -> Estimate:
    """Mean F1 of the classes, weighted by their images."""
    confusion_KK = labelled.confusion_KK
    _, (value, change_C) = _averages_and_changes(confusion_KK)
    return of_counts(value, Jackknife.of(change_C, confusion_KK[confusion_KK > 0]), len(labelled.label))


def _averages_and_changes(confusion_KK: Ints) -> list[tuple[float, Floats]]:
    """Macro and weighted average of F1 over the classes with images, each with its jackknife changes [C].

    A change is the average minus its value without one image of a cell of the confusion matrix, for the C nonempty
    cells in their order. An image affects the F1 of two classes, the true and the predicted. The F1 of a class with a
    single image is kept without that image: the jackknife would take the loss of a class for bias.
    """
    true, predicted = np.nonzero(confusion_KK)
    hit = true == predicted
    hits_K, support_K = np.diag(confusion_KK), confusion_KK.sum(axis=1)
    total_K, f1_K = support_K + confusion_KK.sum(axis=0), np.nan_to_num(f1_scores(confusion_KK))
    true_f1 = _ratio(2 * (hits_K[true] - hit), total_K[true] - 1 - hit)
    true_f1 = np.where(support_K[true] > 1, true_f1, f1_K[true])
    predicted_f1 = np.nan_to_num(_ratio(2 * hits_K[predicted], total_K[predicted] - 1))
    averages = []
    for weight_K, weight_left in (((support_K > 0) * 1, 1), (support_K, support_K[true] - 1)):
        sum_C = weight_K @ f1_K - (weight_K * f1_K)[true] + weight_left * true_f1
        sum_C -= ~hit * weight_K[predicted] * (f1_K[predicted] - predicted_f1)
        average = float(weight_K @ f1_K / weight_K.sum())
        averages.append((average, average - _ratio(sum_C, weight_K.sum() - weight_K[true] + weight_left)))
    return averages


def _as_the_rarest(support_K: Ints) -> int:
    """Number of images if all classes were as rare as the rarest: worst case for an average over classes."""
    return int(support_K.min()) * len(support_K)


def log_loss(labelled: Labelled) -> Estimate:
    """Mean of the negative log probability of the true class."""
    images = len(labelled.label)
    loss_N = -labelled.log_p_NK[np.arange(images), labelled.label]
    loss = float(loss_N.mean())
    return of_loss(loss, Jackknife.of((loss_N - loss) / max(1, images - 1)))


def mean_area(labelled: Labelled) -> Estimate:
    """Area under the ROC curve.

    With two classes that of the second, as scikit-learn has it (that of the first is the same). With more, the mean
    over the classes, each against the rest.
    """
    label, scores_NK, classes = labelled.label, labelled.p_NK, labelled.classes
    support_K = labelled.support
    why = "it needs at least two classes" if len(classes) < 2 else _missing(support_K, classes)
    if why:
        return _undefined(why)
    fewest = _as_the_rarest(support_K)
    if len(classes) == 2:
        scores_NK, label, fewest = scores_NK[:, 1:], label - 1, int(support_K.min())
    areas_K, without_N = roc_auc(label, scores_NK)
    value = float(areas_K.mean())
    if np.isnan(without_N).any():
        return Estimate(value=value, low=None, high=None, why="no interval: a class has a single image")
    return of_area(value, Jackknife.of(value - without_N), fewest)


def ece(labelled: Labelled) -> Estimate:
    """Expected calibration error, without an interval."""
    return Estimate(value=calibration_error(labelled.p_NK, labelled.label))


def _per_class(confusion_KK: Ints, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1 and support of each class; None, with a reason, where a denominator is 0.

    Recall is the accuracy on the images of the class; `recall_low` to `recall_high` is its Wilson interval.
    """
    hits, support, predicted = np.diag(confusion_KK), confusion_KK.sum(axis=1), confusion_KK.sum(axis=0)
    columns = (_ratio(hits, predicted), _ratio(hits, support), f1_scores(confusion_KK))
    rows = []
    for k, name in enumerate(classes):
        numbers = (None if np.isnan(column[k]) else float(column[k]) for column in columns)
        row = dict(zip(("precision", "recall", "f1"), numbers, strict=True))
        ends = wilson(int(hits[k]), int(support[k])) if support[k] else (None, None)
        row |= dict(zip(("recall_low", "recall_high"), ends, strict=True))
        reasons = {"it has no images here": support[k] == 0, "it was never predicted": predicted[k] == 0}
        why = " and ".join(reason for reason, holds in reasons.items() if holds)
        rows.append({"class": name, **row, "support": int(support[k]), **({"why": why} if why else {})})
    return rows


def _undefined(why: str) -> Estimate:
    return Estimate(value=None, why=why)


def _missing(support: Ints, classes: Sequence[str]) -> str | None:
    """Reason for an undefined average over classes: the classes without images; None if all have some."""
    names = [name for name, count in zip(classes, support, strict=True) if count == 0]
    if not names:
        return None
    classes_text = "the class" if len(names) == 1 else f"{counted(len(names), 'class')}:"
    return f"there are no images of {classes_text} {enumerated(names, most=5)}"


def _ratio(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> Floats:
    """Quotient; NaN where the denominator is 0."""
    result = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result


METRICS: tuple[Metric, ...] = (
    Metric("accuracy", "accuracy", "share of images whose most probable class is the true one", accuracy, "percent"),
    Metric("macro_f1", "macro F1", "F1 of each class, averaged with equal weight", macro_f1),
    Metric("micro_f1", "micro F1", "equal to accuracy, where each image has one class", accuracy, headline=False),
    Metric(
        "weighted_f1", "weighted F1", "F1 of each class, averaged by its number of images", weighted_f1, headline=False
    ),
    Metric("roc_auc", "ROC AUC", "each class against the rest, averaged", mean_area),
    Metric("log_loss", "log loss", "mean of −log of the true class's probability", log_loss, better="lower"),
    Metric("ece", "calibration error", "expected gap between confidence and accuracy, 15 bins", ece, better="lower"),
)


def headlines() -> tuple[Metric, ...]:
    """Metrics of tables that compare runs."""
    return tuple(metric for metric in METRICS if metric.headline)
