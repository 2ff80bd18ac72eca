"""Populations whose truth is known, test sets drawn from them, and the intervals of textbooks to compare with."""

import numpy as np
from scipy import stats

from loupe.evaluate import estimate
from loupe.evaluate.predictions import Predictions

SHARED = 0.8  # the part of the variance between images that all candidates share
LONG_TAIL = 0.7 ** np.arange(10) / (0.7 ** np.arange(10)).sum()  # the rarest of 10 classes has 1.2 % of the images

Generator = np.random.Generator


def normal_logits(
    random: Generator,
    classes: int,
    skill: float,
    frequency: np.ndarray | None = None,
    *,
    degrees: float = np.inf,
    mislabelled: float = 0.0,
) -> Predictions:
    """200,000 images whose logits are normal, that of the true class higher by `skill`.

    degrees: of freedom; with few, Student's t with its long tails stands for the normal. mislabelled: the share of
    images that bear another class's label.
    """
    images = 200_000
    label = random.choice(classes, size=images, p=frequency)
    noise_NK = (
        random.normal(size=(images, classes)) if degrees == np.inf else random.standard_t(degrees, (images, classes))
    )
    logits_NK = noise_NK.astype(np.float32)
    logits_NK[np.arange(images), label] += skill
    if mislabelled:
        other = (label + random.integers(1, classes, size=images)) % classes
        label = np.where(random.random(images) < mislabelled, other, label)
    names = ("",) * images
    return Predictions(names, names, label, logits_NK, tuple(f"class {k}" for k in range(classes)))


def populations(random: Generator) -> list[tuple[str, Predictions, int]]:
    """Name, images to draw from, and how many a test set has."""
    two, ten = "2 classes", "10 classes"
    return [
        (two, normal_logits(random, 2, 1.5), 1000),
        (ten, normal_logits(random, 10, 3.0), 1000),
        (f"{ten} of 1.2 to 31 %", (tailed := normal_logits(random, 10, 3.0, LONG_TAIL)), 1000),
        (f"{ten} of 1.2 to 31 %", tailed, 400),
        (f"{two}, nearly all right", (easy := normal_logits(random, 2, 3.3)), 1000),
        (f"{two}, nearly all right", easy, 180),
        (f"{ten}, nearly all right", (easy_ten := normal_logits(random, 10, 4.5)), 1000),
        (f"{ten}, nearly all right", easy_ten, 180),
        (ten, normal_logits(random, 10, 3.0), 180),
        (f"{two} of 10 and 90 %", normal_logits(random, 2, 2.0, np.array([0.9, 0.1])), 180),
        (f"{ten}, 1 % mislabelled", normal_logits(random, 10, 8.0, mislabelled=0.01), 1000),
        (f"{two}, long-tailed logits", normal_logits(random, 2, 5.0, degrees=3), 1000),
    ]


def simulated_hits(
    random: Generator, accuracy: dict[str, float], images: int, seeds: int, spread: float = 0.0
) -> dict[str, np.ndarray]:
    """For each candidate [S, N]: right where skill, the ease of the image and chance come to more than 0.

    spread: the standard deviation of a seed's own accuracy about that of its candidate.
    """
    ease_N = np.sqrt(SHARED) * random.normal(size=images)
    hits = {}
    for name, level in accuracy.items():
        skill_S1 = stats.norm.ppf(np.clip(level + spread * random.normal(size=(seeds, 1)), 0.001, 0.999))
        hits[name] = skill_S1 + ease_N + np.sqrt(1 - SHARED) * random.normal(size=(seeds, images)) > 0
    return hits


def wilson(images: int) -> np.ndarray:
    """The ends of the interval for every number of hits, [2, images + 1]; so the next two."""
    return np.array([estimate.wilson(hits, images) for hits in range(images + 1)]).T


def jeffreys(images: int) -> np.ndarray:
    hits = np.arange(images + 1)
    low, high = (stats.beta.ppf(level, hits + 0.5, images - hits + 0.5) for level in (0.025, 0.975))
    return np.array([np.where(hits == 0, 0, low), np.where(hits == images, 1, high)])


def clopper_pearson(images: int) -> np.ndarray:
    hits = np.arange(images + 1)
    low, high = stats.beta.ppf(0.025, hits, images - hits + 1), stats.beta.ppf(0.975, hits + 1, images - hits)
    return np.array([np.where(hits == 0, 0, low), np.where(hits == images, 1, high)])


def holding(ends: np.ndarray, truth: float) -> np.ndarray:
    return (ends[0] <= truth) & (truth <= ends[1])


def chance(holds: np.ndarray, images: int, truth: float) -> float:
    """That a number of hits comes out whose interval holds the truth."""
    return float(stats.binom.pmf(np.arange(images + 1), images, truth)[holds].sum())


def plain_interval(first_N: np.ndarray, second_N: np.ndarray, seed: int) -> tuple[float, float]:
    """The percentile interval of the paired bootstrap as it stands in textbooks."""
    values, counts = np.unique((second_N - first_N).round(9), return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(first_N), counts / len(first_N), size=2000)
    low, high = np.quantile(drawn @ values / len(first_N), [0.025, 0.975])
    return low, high
