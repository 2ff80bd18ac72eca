"""Selective classification: abstain on uncertain images so that the others reach a target precision.

Images are kept in the order of their confidence, the calibrated probability of the predicted class. Coverage is the
fraction of images kept and risk the error rate among them (Geifman and El-Yaniv 2017, "Selective classification for
deep neural networks"); precision is 1 - risk. Images of equal confidence are kept or rejected together.

The lowest threshold that reaches the target on validation images misses it on new images in about half of all cases.
So the threshold comes with a guarantee: with 95 % confidence over the draw of the validation images, the precision on
new images like them is at least the target. As in that paper, one threshold is tested by a binomial test of its
mistakes. The search over thresholds is corrected as in Angelopoulos et al. 2021, "Learn then test", section 3.1 (fixed
sequences with several starts). From each of a few coverages, fixed in advance, the threshold is lowered image by image
while it passes at the level 5 % / starts, and the lowest one reached is used. Fewer images allow fewer starts.
results/confidence.md: the guarantee failed in 13 of 1,320 draws, the point estimate in 748.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import betainc

from loupe.errors import ConfigError, counted
from loupe.evaluate import calibration, intervals, metrics
from loupe.evaluate.confidence_results import (
    CoveragePoint,
    PrecisionThreshold,
    RiskCoverage,
    Selective,
    ThresholdResult,
)
from loupe.evaluate.estimate import CONFIDENCE, Estimate, wilson
from loupe.evaluate.intervals import Floats, Ints
from loupe.evaluate.predictions import UNKNOWN, Predictions

TARGETS = (0.9, 0.95, 0.98, 0.99, 0.995)  # precisions of the table in results.json and in the report
MOST_STARTS = 8
CURVE_POINTS = 50
_RESAMPLES = 400


@dataclass(frozen=True)
class Threshold:
    """Lowest confidence that is kept for a target precision.

    Attributes:
        target: guaranteed precision.
        value: threshold on the calibrated confidence.
        kept: number of validation images that it keeps.
        correct: number of those that are classified correctly.
        images: number of validation images.
    """

    target: float
    value: float
    kept: int
    correct: int
    images: int

    @property
    def coverage(self) -> float:
        return self.kept / self.images

    @property
    def precision(self) -> float:
        return self.correct / self.kept

    def __str__(self) -> str:
        """Guarantee in words, with coverage and precision on the validation images."""
        return (
            f"threshold {self.value:.4f}: precision of at least {self.target:g} with {CONFIDENCE:.0%} confidence, for "
            f"images like those of validation. Of {counted(self.images, 'validation image')} it classifies "
            f"{self.kept:,} (coverage {self.coverage:.3f}), {self.correct:,} of them correctly "
            f"(precision {self.precision:.4f})."
        )


@dataclass(frozen=True)
class _Ranking:
    """Levels of confidence in falling order, with the number of images kept and of correct ones at each level."""

    confidence: Floats
    kept: Ints
    correct: Ints

    @property
    def images(self) -> int:
        return int(self.kept[-1]) if len(self.kept) else 0

    @property
    def wrong(self) -> Ints:
        return self.kept - self.correct


def _rank(predictions: Predictions, temperature: float) -> _Ranking:
    known = predictions.select(predictions.label != UNKNOWN)
    levels, level_N = np.unique(-calibration.confidence(known, temperature), return_inverse=True)
    kept = np.cumsum(np.bincount(level_N, minlength=len(levels)))
    correct_N = (known.predicted == known.label).astype(np.int64)
    correct = np.cumsum(np.bincount(level_N, correct_N, minlength=len(levels))).astype(np.int64)
    return _Ranking(-levels, kept, correct)


def threshold_for(predictions: Predictions, target: float, temperature: float = 1.0) -> Threshold | None:
    """Lowest threshold with a guaranteed precision of `target`; None if no threshold has it.

    Args:
        predictions: predictions for validation images, which were not used in training.
        target: precision, above 0 and below 1.
        temperature: temperature of the calibrated probabilities.

    Raises:
        ConfigError: `target` is not above 0 and below 1.
    """
    if not 0 < target < 1:
        raise ConfigError(f"precision must be above 0 and below 1, for example 0.95; got {target:g}.")
    return _lowest(_rank(predictions, temperature), target)


def highest_precision(predictions: Predictions, temperature: float = 1.0) -> float:
    """Highest precision that any threshold guarantees, rounded down to a tenth of a percent."""
    ranking = _rank(predictions, temperature)
    low, high = 0, 1000  # thousandths; the guarantee holds at `low`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _lowest(ranking, middle / 1000) else (low, middle)
    return low / 1000


def unreachable(images: int, target: float) -> str:
    """Reason why no threshold guarantees a precision: too few validation images, or errors among the most confident."""
    fewest = _fewest_to_pass(target, 1)
    if images < fewest:
        return f"needs {fewest:,} validation images without an error; there {'is' if images == 1 else 'are'} {images:,}"
    return "no threshold guarantees it: too many errors among the most confident validation images"


def _lowest(ranking: _Ranking, target: float) -> Threshold | None:
    begin, level = _starts(ranking.images, target)
    if not len(begin):
        return None
    # P-value: probability of at least as many correct images among those kept, at a precision equal to the target.
    p = betainc(np.maximum(ranking.correct, 1), ranking.wrong + 1, target)
    passes = (p <= level) & (ranking.correct > 0)
    at = np.searchsorted(ranking.kept, begin)
    fails = np.append(np.flatnonzero(~passes), len(passes))
    reached = (fails[np.searchsorted(fails, at)] - 1)[passes[at]]
    if not len(reached):
        return None
    last = int(reached.max())
    kept, correct = int(ranking.kept[last]), int(ranking.correct[last])
    value = 0.0 if kept == ranking.images else float(ranking.confidence[last])
    return Threshold(target, value, kept, correct, ranking.images)


def _starts(images: int, target: float) -> tuple[Ints, float]:
    """Numbers of kept images to start from, and the level of each test; no starts if there are too few images.

    The first start is the smallest number that passes without a mistake. It uses at most half of the images, unless it
    is the only start.
    """
    starts = MOST_STARTS
    while starts > 1 and _fewest_to_pass(target, starts) > images / 2:
        starts //= 2
    fewest = _fewest_to_pass(target, starts)
    if fewest > images:
        return np.empty(0, np.int64), 0.0
    return np.linspace(fewest, images, starts + 1)[:-1].astype(np.int64), (1 - CONFIDENCE) / starts


def _fewest_to_pass(target: float, starts: int) -> int:
    """Smallest number of images that passes the test without a mistake."""
    return ceil(log((1 - CONFIDENCE) / starts) / log(target))


def achieved(predictions: Predictions, threshold: float, temperature: float) -> ThresholdResult:
    """Coverage and precision of a threshold on labelled images, with Wilson's intervals."""
    known = predictions.select(predictions.label != UNKNOWN)
    kept_N = calibration.confidence(known, temperature) >= threshold
    correct = int((known.predicted == known.label)[kept_N].sum())
    kept = int(kept_N.sum())
    return ThresholdResult(
        coverage=metrics.proportion(kept, len(known), "there are no labelled images"),
        precision=metrics.proportion(correct, kept, "no image is above the threshold"),
    )


def curve(predictions: Predictions, temperature: float) -> RiskCoverage | None:
    """Risk–coverage curve of labelled images and the area under it; None without any.

    At most fifty points, from the most confident images to all of them: `threshold`, `coverage`, `risk` and Wilson's
    pointwise interval, `low` to `high`.
    """
    ranking = _rank(predictions, temperature)
    if not ranking.images:
        return None
    kept = np.arange(1, CURVE_POINTS + 1) * ranking.images / CURVE_POINTS
    levels = np.unique(np.searchsorted(ranking.kept, kept))
    return RiskCoverage(
        images=ranking.images,
        area=_area_with_interval(ranking),
        points=tuple(_point(ranking, int(level)) for level in levels),
    )


def _point(ranking: _Ranking, level: int) -> CoveragePoint:
    kept, wrong = int(ranking.kept[level]), int(ranking.wrong[level])
    low, high = wilson(wrong, kept)
    threshold, coverage = float(ranking.confidence[level]), kept / ranking.images
    return CoveragePoint(threshold=threshold, coverage=coverage, risk=wrong / kept, low=low, high=high)


def area(predictions: Predictions, temperature: float = 1.0) -> float:
    """Area under the risk–coverage curve, the mean risk over all numbers of kept images; NaN without any.

    For tied confidences it is the mean over all orders of the tied images.
    """
    wrong_N = _wrong(_rank(predictions, temperature))
    return float(_areas(wrong_N, np.ones((1, len(wrong_N))))[0]) if len(wrong_N) else float("nan")


def _wrong(ranking: _Ranking) -> Floats:
    """Mistakes in order of falling confidence, [N]; tied images share theirs evenly."""
    sizes, mistakes = np.diff(ranking.kept, prepend=0), np.diff(ranking.wrong, prepend=0)
    shares: Floats = np.repeat(mistakes / sizes, sizes)
    return shares


def _areas(wrong_N: Floats, weights_RN: npt.NDArray[Any]) -> Floats:
    """Area for each of R weightings of the images, [R]."""
    kept_RN = np.cumsum(weights_RN, axis=1)
    wrong_RN = np.cumsum(weights_RN * wrong_N, axis=1)
    areas: Floats = (weights_RN * wrong_RN / np.maximum(kept_RN, 1)).sum(axis=1) / kept_RN[:, -1]
    return areas


def _area_with_interval(ranking: _Ranking) -> Estimate:
    """Area with its bootstrap interval over images."""
    wrong_N, random = _wrong(ranking), np.random.default_rng([0, 2])
    images = len(wrong_N)
    draws = []
    for chunk in intervals.chunks(_RESAMPLES, 4 * images):
        drawn = [np.bincount(random.integers(images, size=images), minlength=images) for _ in range(chunk)]
        draws.append(_areas(wrong_N, np.stack(drawn)))
    return intervals.resampled(float(_areas(wrong_N, np.ones((1, images)))[0]), np.concatenate(draws))


def report(temperature: float, by_split: Mapping[str, Predictions]) -> Selective:
    """Block `selective` of results.json: risk–coverage curves of `val` and `test`, and thresholds for `TARGETS`.

    Thresholds are chosen on validation images and evaluated on both splits. Without validation images they are None,
    with a reason in `why`.
    """
    validation, test = (curve(by_split[split], temperature) if split in by_split else None for split in ("val", "test"))
    block = Selective(confidence=CONFIDENCE, validation=validation, test=test, highest_precision=None, thresholds=None)
    if validation is None:
        return block.model_copy(update={"why": "there are no validation images to choose a threshold on"})
    rows = tuple(_row(target, temperature, by_split) for target in TARGETS)
    highest = highest_precision(by_split["val"], temperature)
    return block.model_copy(update={"highest_precision": highest, "thresholds": rows})


def _row(target: float, temperature: float, by_split: Mapping[str, Predictions]) -> PrecisionThreshold:
    chosen = threshold_for(by_split["val"], target, temperature)
    if chosen is None:
        why = unreachable(int((by_split["val"].label != UNKNOWN).sum()), target)
        return PrecisionThreshold(precision=target, threshold=None, validation=None, test=None, why=why)
    results = {split: achieved(predictions, chosen.value, temperature) for split, predictions in by_split.items()}
    return PrecisionThreshold(
        precision=target, threshold=chosen.value, validation=results["val"], test=results.get("test")
    )
