"""Summary of a run for trackers: the figures of results.json under flat names."""

from collections.abc import Iterator

from loupe.evaluate.metrics import METRICS
from loupe.evaluate.results import RunResults


def summary(results: RunResults) -> dict[str, float]:
    """Figures of a run: `test/accuracy`, `test/accuracy_low`, `test/accuracy_high`, sizes and times."""
    return dict(_figures(results))


def _figures(results: RunResults) -> Iterator[tuple[str, float]]:
    folds = {"folds": results.folds} if results.folds else {}
    for split, block in {**results.splits, **folds}.items():
        yield f"{split}/images", block.images
        for metric in METRICS:
            found = block.metric(metric.key)
            ends = {"": found.value, "_low": found.low, "_high": found.high}
            yield from ((f"{split}/{metric.key}{end}", value) for end, value in ends.items() if value is not None)
    if results.calibration:
        yield "temperature", results.calibration.temperature.value
    if results.best_epoch is not None:
        yield "best_epoch", results.best_epoch
    if results.images_per_second is not None:
        yield "images_per_second", results.images_per_second
    yield "test_looks", results.test_looks
    yield "parameters", results.parameters.total
    yield "seconds/train", results.seconds.train
    yield "seconds/total", results.seconds.total
