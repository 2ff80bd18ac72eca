"""Paired comparison of two classifiers on the same images: accuracy difference, interval and exact tests.

The images are the random sample: intervals and tests are about these trained networks on other images of the same kind.
The variation between seeds is included only as far as seeds were run; they are averaged for each image.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr

from loupe.data.class_names import same_form
from loupe.errors import ConfigError, DataError, counted, enumerated
from loupe.evaluate.estimate import CONFIDENCE
from loupe.evaluate.predictions import UNKNOWN, Predictions

Ints = npt.NDArray[np.int64]
Hits = npt.NDArray[np.bool_]
Key = tuple[str, str, int]

_ROUNDING = 1e-15  # rounding error of a probability from the Fourier transform


@dataclass(frozen=True)
class Candidate:
    """Recipe to compare, with its predictions for the same labelled images from every seed.

    Attributes:
        name: unique name.
        predictions: predictions of each seed.
        seconds: cost: total time, mean over the seeds; None where unknown.
    """

    name: str
    predictions: tuple[Predictions, ...]
    seconds: float | None


@dataclass(frozen=True)
class Difference:
    """Accuracy of `second` minus accuracy of `first`, as a fraction.

    Attributes:
        first: name of one candidate.
        second: name of the other.
        value: difference.
        low: lower limit of the 95 % interval over images.
        high: upper limit.
        p: p-value of the test for equal accuracy.
        p_corrected: p-value after Holm's correction over the family of comparisons.
        images: number of images.
        only_first: number of images that only `first` classifies correctly, mean over all pairs of seeds.
        only_second: the same for `second`.
    """

    first: str
    second: str
    value: float
    low: float
    high: float
    p: float
    p_corrected: float
    images: int
    only_first: float
    only_second: float

    def mirrored(self) -> "Difference":
        """Same comparison with `first` and `second` exchanged."""
        return replace(
            self,
            first=self.second,
            second=self.first,
            value=0.0 - self.value,  # never -0.0
            low=0.0 - self.high,
            high=0.0 - self.low,
            only_first=self.only_second,
            only_second=self.only_first,
        )


def paired_difference(first: Candidate, second: Candidate, *, resamples: int = 2000, seed: int = 0) -> Difference:
    """Compare two candidates; without other comparisons `p_corrected` is `p`.

    Raises:
        LoupeError: the candidates cannot be compared.
    """
    return difference_of_hits(first.name, second.name, matched_hits([first, second]), resamples=resamples, seed=seed)


def difference_of_hits(
    first: str, second: str, hits: dict[str, Hits], *, resamples: int = 2000, seed: int = 0
) -> Difference:
    """Compare two candidates by their hits.

    Args:
        first: name of one candidate.
        second: name of the other.
        hits: for each name, bool [S, N], true where a seed classifies an image correctly.
        resamples: number of bootstrap resamples.
        seed: seed of the resamples.
    """
    if second < first:  # the same resamples in both directions, so that one is the mirror image of the other
        return difference_of_hits(second, first, hits, resamples=resamples, seed=seed).mirrored()
    one_SN, other_SN = hits[first], hits[second]
    one_N, other_N = one_SN.mean(axis=0), other_SN.mean(axis=0)
    # Integers in units of 1 / scale of an image, so that sums and signs are exact.
    scale = math.lcm(len(one_SN), len(other_SN))
    difference_N = other_SN.sum(axis=0) * (scale // len(other_SN)) - one_SN.sum(axis=0) * (scale // len(one_SN))
    low, high = bootstrap_interval(difference_N, scale, resamples=resamples, seed=seed)
    p = sign_flip(difference_N)
    return Difference(
        first=first,
        second=second,
        value=float(difference_N.sum() / (scale * len(difference_N))),
        low=low,
        high=high,
        p=p,
        p_corrected=p,
        images=len(difference_N),
        only_first=float((one_N * (1 - other_N)).sum()),
        only_second=float((other_N * (1 - one_N)).sum()),
    )


def bootstrap_interval(difference_N: Ints, scale: int, *, resamples: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean of `difference_N / scale`, by the paired bootstrap over images.

    Efron and Tibshirani (1993), chapter 13. Two pseudo-images are added, half an image in each cell of the paired
    2 x 2 table, as Agresti and Min (2005) propose for Wald's interval. Without them, the interval of two classifiers
    that never differ would be the single point 0, and the coverage would be too low where only one of them errs. The
    interval always contains the value.
    """
    images = len(difference_N)
    value = difference_N.sum() / (scale * images)
    values, position = np.unique(np.append(difference_N, [-scale, 0, scale]), return_inverse=True)
    weights = np.bincount(position, np.append(np.ones(images), [0.5, 1.0, 0.5]))
    drawn = np.random.default_rng([seed, 2]).multinomial(images + 2, weights / weights.sum(), size=resamples)
    means = drawn @ values / (scale * (images + 2))
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(min(low, value)), float(max(high, value))


def mcnemar(only_first: int, only_second: int) -> float:
    """P-value of the exact McNemar test (1947), two-sided.

    The images that only one classifier has right are binomial with probability 1/2; without any, p is 1. Dietterich
    (1998) recommends the test for two trained classifiers.
    """
    fewer, tosses = min(only_first, only_second), only_first + only_second
    return min(1.0, 2 * float(bdtr(fewer, tosses, 0.5)))


def sign_flip(difference_N: Ints) -> float:
    """P-value of the exact sign-flip test of paired differences (Fisher 1935, Pitman 1937), two-sided.

    The p-value is the fraction of all sign assignments whose sum is at least as far from 0 as the observed one. With
    one seed each, the differences are -1, 0 and 1, and the test is the exact McNemar test. With several seeds it tests
    a mean of 0: exactly if the differences are symmetric, otherwise asymptotically (Romano 1990). Its smallest p-value
    is then 1e-15.

    Args:
        difference_N: integer differences.
    """
    sizes, counts = np.unique(np.abs(difference_N[difference_N != 0]), return_counts=True)
    if len(sizes) <= 1:
        return mcnemar(int((difference_N < 0).sum()), int((difference_N > 0).sum()))
    unit = np.gcd.reduce(sizes)
    sizes, observed = sizes // unit, abs(int(difference_N.sum() // unit))
    # The characteristic function of a sum with random signs is a product of cosines. Its inverse Fourier transform
    # gives the probability of every sum over all assignments, without sampling.
    length = 2 ** math.ceil(math.log2(2 * int(sizes @ counts) + 1))
    angles = 2 * np.pi / length * np.arange(length // 2 + 1)
    transform = np.ones(len(angles))
    for size, count in zip(sizes, counts, strict=True):
        transform *= np.cos(size * angles) ** count
    probabilities = np.fft.irfft(transform, length)[: length // 2]  # of the sums 0, 1, 2, ...; symmetric about 0
    p = 2 * float(probabilities[observed:].sum()) if observed else 1.0
    return min(1.0, max(p, _ROUNDING))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected by Holm's step-down procedure (1979), in the order given.

    Controls the family-wise error rate under any dependence of the tests.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[position]))
        corrected[position] = largest
    return corrected


def matched_hits(candidates: Sequence[Candidate]) -> dict[str, Hits]:
    """Hits of each candidate, bool [S, N], with the images in one order for all.

    Images are matched by content, class name and a running number among equal ones, so that the order of rows and of
    classes does not matter.

    Raises:
        DataError: the candidates do not have predictions for the same labelled images.
    """
    columns = matched_columns(candidates)
    hits = {}
    for candidate in candidates:
        rows = []
        for predictions, column_N in zip(candidate.predictions, columns[candidate.name], strict=True):
            row = np.empty(len(column_N), np.bool_)
            row[column_N] = predictions.predicted == predictions.label
            rows.append(row)
        hits[candidate.name] = np.stack(rows)
    return hits


def matched_columns(candidates: Sequence[Candidate]) -> dict[str, list[Ints]]:
    """Place of each image in the order of the first candidate's first seed, [N] for each seed of each candidate.

    Raises:
        DataError: the candidates do not have predictions for the same labelled images.
    """
    _check(candidates)
    reference = candidates[0].predictions[0]
    place = {key: column for column, key in enumerate(_keys(reference))}
    columns: dict[str, list[Ints]] = {}
    for candidate in candidates:
        for predictions in candidate.predictions:
            keys = _keys(predictions)
            if place.keys() != set(keys) or _forms(predictions) != _forms(reference):
                raise _mismatch(candidates[0].name, reference, candidate.name, predictions)
            columns.setdefault(candidate.name, []).append(np.array([place[key] for key in keys], np.int64))
    return columns


def _keys(predictions: Predictions) -> list[Key]:
    """Key of each image: content, class name, and number among the images with the same two."""
    seen: Counter[tuple[str, str]] = Counter()
    keys = []
    for content, label in zip(predictions.content, predictions.label, strict=True):
        image = (content, same_form(predictions.classes[label]))
        keys.append((*image, seen[image]))
        seen[image] += 1
    return keys


def _forms(predictions: Predictions) -> set[str]:
    """Class names in the form in which names are compared."""
    return {same_form(name) for name in predictions.classes}


def _check(candidates: Sequence[Candidate]) -> None:
    """Check that each candidate has a unique name, a valid cost and predictions for labelled images."""
    if not candidates:
        raise ConfigError("nothing to compare: no candidates. Give at least one.")
    repeated = [name for name, count in Counter(one.name for one in candidates).items() if count > 1]
    if repeated:
        raise ConfigError(f"candidates need unique names; repeated: {enumerated(repeated)}.")
    for one in candidates:
        if one.seconds is not None and not (math.isfinite(one.seconds) and one.seconds >= 0):
            raise ConfigError(f"{one.name}: its cost must be a finite number of seconds from 0; got {one.seconds}.")
        if not one.predictions or not all(len(seed) for seed in one.predictions):
            raise DataError(f"{one.name}: no predictions. Give those of at least one seed, for at least one image.")
        unknown = sum(int((seed.label == UNKNOWN).sum()) for seed in one.predictions)
        if unknown:
            raise DataError(
                f"{one.name}: {counted(unknown, 'prediction')} for images without a label. Only labelled images can "
                "be compared; leave the others out."
            )


def _mismatch(first: str, reference: Predictions, second: str, other: Predictions) -> DataError:
    """Error for two candidates with different images, labels or classes, with the remedy."""
    subject = f"{first} and {second} cannot be compared" if first != second else f"the seeds of {first} differ"
    unshared = sorted(_forms(reference) ^ _forms(other))
    if unshared:
        noun = "class" if len(unshared) == 1 else "classes"
        return DataError(
            f"{subject}: only one of them has the {noun} {enumerated(unshared, most=5)}. Train both on the same "
            "classes."
        )
    contents, other_contents = Counter(reference.content), Counter(other.content)
    if contents == other_contents:
        return DataError(
            f"{subject}: they have the same {counted(len(other), 'image')} with different labels. Use one set of "
            "labels."
        )
    shared = (contents & other_contents).total()
    return DataError(
        f"{subject}: their images differ. Of {len(reference):,} and {counted(len(other), 'image')}, {shared:,} are in "
        "both. Compare runs on one split of one data set: the same data, split seed and fractions."
    )
