"""Mean and range of a figure over several seeds."""

import statistics
from collections.abc import Sequence

from loupe.evaluate.estimate import Estimate, wilson
from loupe.evaluate.results import Evaluation
from loupe.records import Fraction, Part


class Spread(Part):
    """Mean and range of a metric over several trainings; all None if it is undefined for one of them.

    Attributes:
        value: mean.
        low: lower limit of the 95 % interval over images; None for a mean of several trainings.
        high: upper limit.
        lowest: lowest value.
        highest: highest value.
    """

    value: float | None
    low: float | None
    high: float | None
    lowest: float | None
    highest: float | None


class AccuracySpread(Part):
    """Mean and range of the accuracy over several trainings; `low` and `high` are Wilson's interval of the mean."""

    value: Fraction
    low: Fraction
    high: Fraction
    lowest: Fraction
    highest: Fraction


def over_seeds(estimates: Sequence[Estimate]) -> Spread:
    """Mean, lowest and highest value over the seeds; a single seed keeps its own interval over the images."""
    values = [estimate.value for estimate in estimates if estimate.value is not None]
    if len(values) < len(estimates):
        return Spread(value=None, low=None, high=None, lowest=None, highest=None)
    own = estimates[0] if len(estimates) == 1 else None
    return Spread(
        value=statistics.fmean(values),
        low=own.low if own else None,
        high=own.high if own else None,
        lowest=min(values),
        highest=max(values),
    )


def accuracy_over_seeds(blocks: Sequence[Evaluation]) -> AccuracySpread:
    """Mean and range of accuracy over blocks of metrics on equally many images; Wilson's interval of the mean."""
    values = [block.accuracy.value for block in blocks if block.accuracy.value is not None]
    mean, images = statistics.fmean(values), blocks[0].images
    low, high = wilson(round(mean * images), images)
    return AccuracySpread(value=mean, low=low, high=high, lowest=min(values), highest=max(values))
