"""Two classifiers on the same images: the difference of their accuracies, its interval, and exact tests.

Images are what is drawn at random: an interval says what other images of the same kind would give these networks, and
a test asks whether they would be right equally often on all of them. What another seed would have trained shows only in
the seeds that were run, which are averaged for each image.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr

from loupe.errors import ConfigError, DataError, LoupeError
from loupe.evaluate.intervals import CONFIDENCE
from loupe.evaluate.predictions import UNKNOWN, Predictions

Ints = npt.NDArray[np.int64]
Hits = npt.NDArray[np.bool_]
Key = tuple[str, str, int]

_ROUNDING = 1e-15  # what a Fourier transform leaves of a chance that is 0


@dataclass(frozen=True)
class Candidate:
    """One recipe and what its networks said: `Predictions` for each seed, all of the same labelled images.

    seconds: what it costs, the time in all, a mean over seeds; None where that is not known.
    """

    name: str
    predictions: tuple[Predictions, ...]
    seconds: float | None


@dataclass(frozen=True)
class Difference:
    """The accuracy of `second` minus that of `first`, as fractions, on `images` images.

    low, high: 95 % interval over images. p: of the test that both are right equally often. p_corrected: Holm's, over
    the family of comparisons. only_first, only_second: how many images only that one has right, the mean over all
    pairings of their seeds.
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
        """The same comparison the other way round."""
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
    """Two candidates compared by themselves: p_corrected is p. LoupeError where they cannot be compared."""
    return difference_of_hits(first.name, second.name, matched_hits([first, second]), resamples=resamples, seed=seed)


def difference_of_hits(
    first: str, second: str, hits: dict[str, Hits], *, resamples: int = 2000, seed: int = 0
) -> Difference:
    """The comparison of two of the candidates in `hits`, each [S, N]: whether a seed has an image right."""
    if second < first:  # the same resamples either way, so that the one is the mirror of the other
        return difference_of_hits(second, first, hits, resamples=resamples, seed=seed).mirrored()
    one_SN, other_SN = hits[first], hits[second]
    one_N, other_N = one_SN.mean(axis=0), other_SN.mean(axis=0)
    # In whole parts of an image: sums and signs are then exact.
    parts = math.lcm(len(one_SN), len(other_SN))
    difference_N = other_SN.sum(axis=0) * (parts // len(other_SN)) - one_SN.sum(axis=0) * (parts // len(one_SN))
    low, high = bootstrap_interval(difference_N, parts, resamples=resamples, seed=seed)
    p = sign_flip(difference_N)
    return Difference(
        first=first,
        second=second,
        value=float(difference_N.sum() / (parts * len(difference_N))),
        low=low,
        high=high,
        p=p,
        p_corrected=p,
        images=len(difference_N),
        only_first=float((one_N * (1 - other_N)).sum()),
        only_second=float((other_N * (1 - one_N)).sum()),
    )


def bootstrap_interval(difference_N: Ints, parts: int, *, resamples: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean difference, `difference_N / parts`, by the paired bootstrap over images.

    Efron and Tibshirani (1993), chapter 13. To the images come two that stand for those not seen: half a one in each
    cell of the paired 2 x 2 table, as Agresti and Min (2005) have it for Wald's interval. Without them the interval
    of two classifiers that differ on no image would be the single point 0, and where only one of them errs it covers
    too little. It always holds the value itself.
    """
    images = len(difference_N)
    value = difference_N.sum() / (parts * images)
    values, place = np.unique(np.append(difference_N, [-parts, 0, parts]), return_inverse=True)
    weights = np.bincount(place, np.append(np.ones(images), [0.5, 1.0, 0.5]))
    drawn = np.random.default_rng([seed, 2]).multinomial(images + 2, weights / weights.sum(), size=resamples)
    means = drawn @ values / (parts * (images + 2))
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(min(low, value)), float(max(high, value))


def mcnemar(only_first: int, only_second: int) -> float:
    """P-value of the exact McNemar test (1947), two-sided: images that only one has right are tosses of a fair coin.

    1 where there are none. Recommended for two trained classifiers by Dietterich (1998).
    """
    fewer, tosses = min(only_first, only_second), only_first + only_second
    return min(1.0, 2 * float(bdtr(fewer, tosses, 0.5)))


def sign_flip(difference_N: Ints) -> float:
    """P-value of the exact sign-flip test of paired differences (Fisher 1935, Pitman 1937), two-sided.

    difference_N: whole numbers. The p-value is the share of all assignments of signs whose sum is as far from 0 as the
    one at hand. With one seed each the differences are -1, 0 and 1, and it is the exact McNemar test. With several it
    tests a mean of 0: exactly where the differences are symmetric, otherwise as the images grow in number (Romano
    1990); none of its p-values is then below 1e-15.
    """
    sizes, counts = np.unique(np.abs(difference_N[difference_N != 0]), return_counts=True)
    if len(sizes) <= 1:
        return mcnemar(int((difference_N < 0).sum()), int((difference_N > 0).sum()))
    unit = np.gcd.reduce(sizes)
    sizes, at_hand = sizes // unit, abs(int(difference_N.sum() // unit))
    # A sum of sizes with random signs has a product of cosines as its characteristic function. Its inverse Fourier
    # transform is the chance of every sum, over all assignments: none is drawn.
    length = 2 ** math.ceil(math.log2(2 * int(sizes @ counts) + 1))
    angles = 2 * np.pi / length * np.arange(length // 2 + 1)
    transform = np.ones(len(angles))
    for size, count in zip(sizes, counts, strict=True):
        transform *= np.cos(size * angles) ** count
    chances = np.fft.irfft(transform, length)[: length // 2]  # of the sums 0, 1, 2, ...; -1, -2, ... are as likely
    p = 2 * float(chances[at_hand:].sum()) if at_hand else 1.0
    return min(1.0, max(p, _ROUNDING))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's step-down procedure (1979), in the order given.

    Rejecting what is at most 0.05 then rejects any true hypothesis with a chance of at most 0.05, however the tests
    depend on each other.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def matched_hits(candidates: Sequence[Candidate]) -> dict[str, Hits]:
    """For each candidate, [S, N]: whether the network of a seed has an image right; the images in one order for all.

    An image is found again by its content, the name of its class, and the how-manieth it is of these: neither the order
    of the rows nor that of the classes matters. LoupeError where the candidates are not about the same images.
    """
    _check(candidates)
    reference = candidates[0].predictions[0]
    places = {key: place for place, key in enumerate(_keys(reference))}
    hits = {}
    for candidate in candidates:
        rows = []
        for part in candidate.predictions:
            keys = _keys(part)
            if places.keys() != set(keys) or set(part.classes) != set(reference.classes):
                raise _not_the_same(candidates[0].name, reference, candidate.name, part)
            row = np.empty(len(keys), np.bool_)
            row[[places[key] for key in keys]] = part.predicted == part.label
            rows.append(row)
        hits[candidate.name] = np.stack(rows)
    return hits


def _keys(part: Predictions) -> list[Key]:
    seen: Counter[tuple[str, str]] = Counter()
    keys = []
    for content, label in zip(part.content, part.label, strict=True):
        image = (content, part.classes[label])
        keys.append((*image, seen[image]))
        seen[image] += 1
    return keys


def _check(candidates: Sequence[Candidate]) -> None:
    """LoupeError where a candidate says nothing that could be compared."""
    if not candidates:
        raise ConfigError("there is nothing to compare: give at least one candidate.")
    twice = [name for name, count in Counter(one.name for one in candidates).items() if count > 1]
    if twice:
        raise ConfigError(f"candidates are told apart by their names; given twice: {', '.join(twice)}.")
    for one in candidates:
        if one.seconds is not None and not (math.isfinite(one.seconds) and one.seconds >= 0):
            raise ConfigError(f"{one.name}: its cost is {one.seconds} seconds; it has to be a number from 0 up.")
        if not one.predictions or not all(len(part) for part in one.predictions):
            raise DataError(f"{one.name}: has no predictions; give those of at least one seed, on at least one image.")
        unknown = sum(int((part.label == UNKNOWN).sum()) for part in one.predictions)
        if unknown:
            raise DataError(
                f"{one.name}: {unknown:,} of its predictions are of images without a label, which are neither right "
                "nor wrong; leave these images out."
            )


def _not_the_same(first: str, reference: Predictions, second: str, part: Predictions) -> LoupeError:
    """Why two candidates cannot be compared, and what to do."""
    who = f"{first} and {second} cannot be compared" if first != second else f"the seeds of {first} differ"
    if set(reference.classes) != set(part.classes):
        other = sorted(set(reference.classes) ^ set(part.classes))
        shown = ", ".join(other[:5]) + (f" and {len(other) - 5} more" if len(other) > 5 else "")
        return DataError(f"{who}: only one of them has the classes {shown}. Train both on the same classes.")
    ours, theirs = Counter(reference.content), Counter(part.content)
    if ours == theirs:
        return DataError(f"{who}: they have the same {len(part):,} images, but other labels. Use one set of labels.")
    shared = (ours & theirs).total()
    return DataError(
        f"{who}: they predict other images. Of {len(reference):,} and {len(part):,} images {shared:,} are the same. "
        "Compare runs on one split of one data set: the same data, split seed and fractions."
    )
