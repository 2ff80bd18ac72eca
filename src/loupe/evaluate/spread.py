"""One figure from several trainings: the mean over the seeds, and how far they lie apart."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from loupe.evaluate.intervals import wilson
from loupe.records import Fraction, Part


class Spread(Part):
    """A metric over several trainings; all None where it is undefined for one of them.

    Attributes:
        value: the mean.
        low, high: 95 % interval over the images; None for a mean of several trainings, which has none.
        lowest, highest: of the trainings.
    """

    value: float | None
    low: float | None
    high: float | None
    lowest: float | None
    highest: float | None


class AccuracySpread(Part):
    """The accuracy over several trainings, as fractions. `low` and `high` are Wilson's interval of the mean."""

    value: Fraction
    low: Fraction
    high: Fraction
    lowest: Fraction
    highest: Fraction


def over_seeds(estimates: Sequence[Mapping[str, Any]]) -> Spread:
    """Mean, lowest and highest over the seeds; a single seed has the interval of its own over the images."""
    values = [estimate["value"] for estimate in estimates if estimate["value"] is not None]
    if len(values) < len(estimates):
        return Spread(value=None, low=None, high=None, lowest=None, highest=None)
    own = estimates[0] if len(estimates) == 1 else {}
    return Spread(
        value=statistics.fmean(values),
        low=own.get("low"),
        high=own.get("high"),
        lowest=min(values),
        highest=max(values),
    )


def accuracy_over_seeds(blocks: Sequence[Mapping[str, Any]]) -> AccuracySpread:
    """The same of `accuracy` in blocks of metrics on equally many images; the mean has Wilson's interval over them."""
    values = [block["accuracy"]["value"] for block in blocks]
    mean, images = statistics.fmean(values), blocks[0]["images"]
    low, high = wilson(round(mean * images), images)
    return AccuracySpread(value=mean, low=low, high=high, lowest=min(values), highest=max(values))
