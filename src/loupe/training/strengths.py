"""Series of L2 strengths of a solved head that goes on by itself until the log loss, or the macro-F1, gets worse."""

import math
from collections.abc import Sequence

from loupe.config.optimizer import STRONGEST, Logistic

STEPS_PER_DECADE = 2
STRONGEST_TRIED, WEAKEST_TRIED = 1e8, 1e-9  # beyond them, a penalty no longer changes a head in float32
RISE = 1.001  # ratio to the lowest log loss from which on a loss has risen; on a plateau the series goes on
PATIENCE = 2  # strengths whose log loss has risen, after which no weaker one is tried
PATIENCE_OF_F1 = 4  # the same of macro-F1, which jumps with each image of a small class
SAME = 1e-6  # relative difference below which two strengths are one
UNLIMITED = Logistic()  # neither end is named


def next_strength(
    tried: Sequence[tuple[float, float]], spec: Logistic = UNLIMITED, patience: int = PATIENCE
) -> float | None:
    """L2 strength to try next; None once the lowest log loss is inside the series, or at an end that is named.

    From 1e4, or the `strongest` that is named, each strength is 10^-0.5 times the one before, until the log loss of
    `patience` weaker strengths is above the lowest one. If the first strength is the best, stronger ones follow, each
    10^0.5 times the one before, until one is worse.

    Args:
        tried: strengths and log losses so far, in the order in which they were tried; or another measure that is to be
            low.
        spec: ends of the series; None for one that is not named.
        patience: strengths that are worse, after which no weaker one is tried.
    """
    if not tried:
        return first_strength(spec)
    best, least = min(tried, key=lambda one: one[1])
    risen = sum(loss > RISE * least for strength, loss in tried if strength < best)
    lowest, highest = min(tried)[0], max(tried)[0]
    weakest = WEAKEST_TRIED if spec.weakest is None else spec.weakest
    if risen < patience and lowest > weakest * (1 + SAME):
        return max(weakest, _moved(lowest, -1))
    if spec.strongest is None and best == highest < STRONGEST_TRIED / (1 + SAME):
        return min(STRONGEST_TRIED, _moved(highest, 1))
    return None


def first_strength(spec: Logistic) -> float:
    """First strength of a series: the strongest one that is named, else 1e4."""
    return max(STRONGEST, spec.weakest or 0.0) if spec.strongest is None else spec.strongest


def nearest_last(strengths_S: Sequence[float], strength: float) -> list[int]:
    """Positions of strengths in descending distance, on a logarithmic scale, from another one."""
    return sorted(range(len(strengths_S)), key=lambda number: -abs(math.log(strengths_S[number] / strength)))


def _moved(strength: float, steps: int) -> float:
    """Strength that many steps further, without the rounding errors of products on powers of ten."""
    moved = math.log10(strength) * STEPS_PER_DECADE + steps
    rounded = round(moved)
    return float(10.0 ** ((rounded if abs(moved - rounded) < SAME else moved) / STEPS_PER_DECADE))
