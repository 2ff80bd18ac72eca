"""One figure from several trainings: the mean over the seeds, and how far they lie apart."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from loupe.evaluate.intervals import wilson


def over_seeds(estimates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean, lowest and highest over the seeds; a single seed has the interval of its own over the images."""
    values = [estimate["value"] for estimate in estimates if estimate["value"] is not None]
    if len(values) < len(estimates):
        return dict.fromkeys(("value", "low", "high", "lowest", "highest"))
    own = estimates[0] if len(estimates) == 1 else {}
    return {
        "value": statistics.fmean(values),
        "low": own.get("low"),
        "high": own.get("high"),
        "lowest": min(values),
        "highest": max(values),
    }


def accuracy_over_seeds(blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same of `accuracy` in blocks of metrics on equally many images; the mean has Wilson's interval over them."""
    spread = over_seeds([block["accuracy"] for block in blocks])
    images = blocks[0]["images"]
    low, high = wilson(round(spread["value"] * images), images)
    return {**spread, "low": low, "high": high}
