"""A figure with its interval, as results store it, and Wilson's interval of a proportion (see intervals.py)."""

import math
from statistics import NormalDist

from loupe.records import Part

Interval = tuple[float, float]

CONFIDENCE = 0.95
UPPER = (1 + CONFIDENCE) / 2


class Estimate(Part):
    """A figure with its 95 % interval.

    An undefined figure has no value, and a figure from too few images no interval; `why` then says so.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    why: str | None = None


def wilson(successes: float, trials: float) -> Interval:
    """Wilson's score interval of a proportion; `trials` is above 0 and may be fractional."""
    z = NormalDist().inv_cdf(UPPER)
    p, spread = successes / trials, z * z / trials
    centre = (p + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(p * (1 - p) / trials + spread / (4 * trials))
    # At p = 0 and 1 a limit equals p; rounding must not move it beyond.
    return max(0.0, min(p, float(centre - half))), min(1.0, max(p, float(centre + half)))
