"""Selective classification: which images to leave unclassified so that the others reach a wanted precision.

Images are kept in the order of their confidence, the calibrated probability of the predicted class. Coverage is the
share that is kept, risk the share of mistakes among those (Geifman and El-Yaniv 2017, "Selective classification for
deep neural networks"), and precision its complement. Images of equal confidence are kept or left together.

The lowest threshold at which the precision of validation images *is* the wanted one misses it on new images in about
every second case. So the precision is promised: with 95 % confidence over the draw of the validation images, that of
new images like them is at least the wanted one. As in that paper, the proof of one threshold is a binomial test of its
mistakes; many are tried, and the search pays for that as in Angelopoulos et al. 2021, "Learn then test", section 3.1
(fixed sequences from several starts): from each of a few coverages that are decided on beforehand, thresholds are
lowered image by image while they pass at the level 5 % / starts, and the lowest that is reached counts. Fewer images
leave room for fewer starts. Measured in results/confidence.md: the promise was broken in 13 of 1,320 draws, the point
estimate in 748.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import betainc

from loupe.errors import ConfigError
from loupe.evaluate import calibration, intervals, metrics
from loupe.evaluate.intervals import CONFIDENCE, Estimate, Floats, Ints
from loupe.evaluate.predictions import UNKNOWN, Predictions

WANTED = (0.9, 0.95, 0.98, 0.99, 0.995)  # the precisions of the table in results.json and on the page
MOST_STARTS = 8
CURVE_POINTS = 50
_RESAMPLES = 400


@dataclass(frozen=True)
class Threshold:
    """The least confidence that is kept, and what it gives on the images that it was chosen by: kept, right, of all."""

    wanted: float
    value: float
    kept: int
    right: int
    images: int

    @property
    def coverage(self) -> float:
        return self.kept / self.images

    @property
    def precision(self) -> float:
        return self.right / self.kept

    def __str__(self) -> str:
        """What it promises, as a person is told."""
        return (
            f"threshold {self.value:.4f}: at least {self.wanted:g} of what is classified is right, with "
            f"{CONFIDENCE:.0%} confidence for images like those of validation. Of these {self.images:,} it classifies "
            f"{self.kept:,} (coverage {self.coverage:.3f}); {self.right:,} of them are right ({self.precision:.4f})."
        )


@dataclass(frozen=True)
class _Ranking:
    """Labelled images by falling confidence, those that tie together: its levels, and the images kept and right."""

    confidence: Floats
    kept: Ints
    right: Ints

    @property
    def images(self) -> int:
        return int(self.kept[-1]) if len(self.kept) else 0

    @property
    def wrong(self) -> Ints:
        return self.kept - self.right


def _rank(predictions: Predictions, temperature: float) -> _Ranking:
    known = predictions.select(predictions.label != UNKNOWN)
    levels, level_N = np.unique(-calibration.confidence(known, temperature), return_inverse=True)
    kept = np.cumsum(np.bincount(level_N, minlength=len(levels)))
    right_N = (known.predicted == known.label).astype(np.int64)
    right = np.cumsum(np.bincount(level_N, right_N, minlength=len(levels))).astype(np.int64)
    return _Ranking(-levels, kept, right)


def threshold_for(predictions: Predictions, wanted: float, temperature: float = 1.0) -> Threshold | None:
    """The lowest threshold at which a precision of `wanted` can be promised; None where at none.

    Args:
        predictions: of validation images, which were not trained on.
        temperature: what the probabilities are calibrated by that the threshold is for.

    Raises:
        LoupeError: `wanted` is not between 0 and 1.
    """
    if not 0 < wanted < 1:
        raise ConfigError(f"a wanted precision is above 0 and below 1, such as 0.95; got {wanted:g}.")
    return _lowest(_rank(predictions, temperature), wanted)


def highest_precision(predictions: Predictions, temperature: float = 1.0) -> float:
    """The highest precision that can be promised at any threshold, rounded down to a tenth of a percent."""
    ranking = _rank(predictions, temperature)
    low, high = 0, 1000  # thousandths; what is promised at `low` was found to be so
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _lowest(ranking, middle / 1000) else (low, middle)
    return low / 1000


def _lowest(ranking: _Ranking, wanted: float) -> Threshold | None:
    begin, level = _starts(ranking.images, wanted)
    if not len(begin):
        return None
    # The chance of as many right of those kept, or more, if the precision were only just the wanted one.
    chance = betainc(np.maximum(ranking.right, 1), ranking.wrong + 1, wanted)
    passes = (chance <= level) & (ranking.right > 0)
    at = np.searchsorted(ranking.kept, begin)
    fails = np.append(np.flatnonzero(~passes), len(passes))
    reached = (fails[np.searchsorted(fails, at)] - 1)[passes[at]]
    if not len(reached):
        return None
    last = int(reached.max())
    kept, right = int(ranking.kept[last]), int(ranking.right[last])
    value = 0.0 if kept == ranking.images else float(ranking.confidence[last])
    return Threshold(wanted, value, kept, right, ranking.images)


def _starts(images: int, wanted: float) -> tuple[Ints, float]:
    """The numbers of kept images to start from, and the level of each test; none where there are too few images.

    The first start is the least number that passes without a mistake. It takes no more than half of the images, unless
    there is no other start.
    """
    starts = MOST_STARTS
    while starts > 1 and _least(wanted, starts) > images / 2:
        starts //= 2
    least = _least(wanted, starts)
    if least > images:
        return np.empty(0, np.int64), 0.0
    return np.linspace(least, images, starts + 1)[:-1].astype(np.int64), (1 - CONFIDENCE) / starts


def _least(wanted: float, starts: int) -> int:
    return ceil(log((1 - CONFIDENCE) / starts) / log(wanted))


def achieved(predictions: Predictions, threshold: float, temperature: float) -> dict[str, Estimate]:
    """Coverage and precision of a threshold on labelled images, with Wilson's intervals."""
    known = predictions.select(predictions.label != UNKNOWN)
    kept_N = calibration.confidence(known, temperature) >= threshold
    right = int((known.predicted == known.label)[kept_N].sum())
    kept = int(kept_N.sum())
    return {
        "coverage": metrics.proportion(kept, len(known), "there are no labelled images"),
        "precision": metrics.proportion(right, kept, "no image is kept"),
    }


def curve(predictions: Predictions, temperature: float) -> dict[str, Any] | None:
    """The risk–coverage curve of labelled images, and the area under it; None without any.

    About fifty points, from the surest images to all of them: `threshold`, `coverage`, `risk` and its interval
    from `low` to `high` (Wilson's, of each point by itself).
    """
    ranking = _rank(predictions, temperature)
    if not ranking.images:
        return None
    wanted = np.arange(1, CURVE_POINTS + 1) * ranking.images / CURVE_POINTS
    places = np.unique(np.searchsorted(ranking.kept, wanted))
    return {
        "images": ranking.images,
        "area": _area_with_interval(ranking),
        "points": [_point(ranking, int(place)) for place in places],
    }


def _point(ranking: _Ranking, place: int) -> dict[str, float]:
    kept, wrong = int(ranking.kept[place]), int(ranking.wrong[place])
    low, high = intervals.wilson(wrong, kept)
    at = {"threshold": float(ranking.confidence[place]), "coverage": kept / ranking.images}
    return {**at, "risk": wrong / kept, "low": low, "high": high}


def area(predictions: Predictions, temperature: float = 1.0) -> float:
    """The area under the risk–coverage curve: the mean risk over all numbers of kept images; nan without any.

    Where confidences tie, the mean over all orders of the tied images.
    """
    wrong_N = _wrong(_rank(predictions, temperature))
    return float(_areas(wrong_N, np.ones((1, len(wrong_N))))[0]) if len(wrong_N) else float("nan")


def _wrong(ranking: _Ranking) -> Floats:
    """The mistakes by falling confidence, [N], shared out evenly among images that tie."""
    sizes, mistakes = np.diff(ranking.kept, prepend=0), np.diff(ranking.wrong, prepend=0)
    shares: Floats = np.repeat(mistakes / sizes, sizes)
    return shares


def _areas(wrong_N: Floats, weights_RN: npt.NDArray[Any]) -> Floats:
    """The area for each of R weightings of the images, [R]."""
    kept_RN = np.cumsum(weights_RN, axis=1)
    wrong_RN = np.cumsum(weights_RN * wrong_N, axis=1)
    areas: Floats = (weights_RN * wrong_RN / np.maximum(kept_RN, 1)).sum(axis=1) / kept_RN[:, -1]
    return areas


def _area_with_interval(ranking: _Ranking) -> Estimate:
    """The area with the bootstrap interval over images."""
    wrong_N, random = _wrong(ranking), np.random.default_rng([0, 2])
    images = len(wrong_N)
    draws = []
    for some in intervals.chunks(_RESAMPLES, 4 * images):
        drawn = [np.bincount(random.integers(images, size=images), minlength=images) for _ in range(some)]
        draws.append(_areas(wrong_N, np.stack(drawn)))
    return intervals.resampled(float(_areas(wrong_N, np.ones((1, images)))[0]), np.concatenate(draws))


def report(temperature: float, parts: Mapping[str, Predictions]) -> dict[str, Any]:
    """The block `selective` of results.json: the curves of both splits, and thresholds for a few wanted precisions.

    Thresholds are chosen by validation images (`val` of `parts`), and are null, with the reason, where there are none;
    what they give on test images stands beside.
    """
    curves = {
        name: curve(parts[split], temperature) if split in parts else None
        for name, split in (("validation", "val"), ("test", "test"))
    }
    block: dict[str, Any] = {"confidence": CONFIDENCE, **curves}
    if curves["validation"] is None:
        why = "there are no validation images to choose a threshold by"
        return block | {"highest_precision": None, "thresholds": None, "why": why}
    rows = [_row(wanted, temperature, parts) for wanted in WANTED]
    return block | {"highest_precision": highest_precision(parts["val"], temperature), "thresholds": rows}


def _row(wanted: float, temperature: float, parts: Mapping[str, Predictions]) -> dict[str, Any]:
    chosen = threshold_for(parts["val"], wanted, temperature)
    if chosen is None:
        why = "it cannot be promised at any threshold, from these validation images"
        return {"precision": wanted, "threshold": None, "validation": None, "test": None, "why": why}
    given = {name: achieved(part, chosen.value, temperature) for name, part in parts.items()}
    return {
        "precision": wanted,
        "threshold": chosen.value,
        "validation": given["val"],
        "test": given.get("test"),
    }
