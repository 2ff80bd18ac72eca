"""Content of the page of a run, from the files of its directory; empty or None without a file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loupe.data.keyed_order import turns
from loupe.evaluate import metrics
from loupe.evaluate.estimate import Estimate
from loupe.evaluate.results import Evaluation, RunResults
from loupe.report import figures, texts
from loupe.report.pictures import Pile, Piles

MOST_CELLS_WITH_NUMBERS = 20  # classes; with more, cells have no room for numbers
MOST_CLASSES_IN_MATRIX = 100
WIDE_PX, NARROW_PX = 540, 330  # widths at which the figures are drawn: half a desk page, a phone


@dataclass(frozen=True)
class Drawing:
    """One figure at two widths; the page shows the one that fits."""

    title: str
    wide: str
    narrow: str


@dataclass(frozen=True)
class Cell:
    """Cell of the confusion matrix: number of images, their share of the row, and its pictures."""

    count: int
    share: float
    hit: bool
    title: str
    pile: Pile | None

    @property
    def strength(self) -> float:
        """Colour strength: for errors the square root of their share, so that rare ones are visible."""
        return round(self.share if self.hit else math.sqrt(self.share), 3)


@dataclass(frozen=True)
class Matrix:
    classes: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    numbers: bool


def bar_drawing(title: str, values: Mapping[str, float], shown: Sequence[str], color: str) -> Drawing:
    words = f"{title}: " + ", ".join(f"{name} {text}" for name, text in zip(values, shown, strict=True)) + "."
    wide, narrow = (
        figures.bars(values, shown, label=words, width_px=width_px, color=color) for width_px in (WIDE_PX, NARROW_PX)
    )
    return Drawing(title, wide, narrow)


def matrix(block: Evaluation, classes: Sequence[str], piles: Piles) -> Matrix | None:
    """Confusion matrix as rows of cells; None with too many classes for a page."""
    if len(classes) > MOST_CLASSES_IN_MATRIX:
        return None
    rows = []
    for true, (name, counts) in enumerate(zip(classes, block.confusion_matrix, strict=True)):
        total = sum(counts) or 1
        cells = [
            Cell(
                count,
                count / total,
                true == guess,
                f"{name} → {classes[guess]}: {count:,} of {sum(counts):,}",
                piles.get((true, guess)),
            )
            for guess, count in enumerate(counts)
        ]
        rows.append((name, cells))
    return Matrix(classes, rows, len(classes) <= MOST_CELLS_WITH_NUMBERS)


@dataclass(frozen=True)
class Confusion:
    """Frequent error; `share` is the share of the images of the true class."""

    truth: str
    guess: str
    count: int
    share: float
    pile: Pile | None


def confusions(
    block: Evaluation, classes: Sequence[str], piles: Piles, most: int = 10, *, seed: int = 0
) -> list[Confusion]:
    """Most frequent errors. Equal ones are drawn with the seed, and listed in the order of the classes."""
    found = [
        Confusion(classes[true], classes[guess], count, count / sum(counts), piles.get((true, guess)))
        for true, counts in enumerate(block.confusion_matrix)
        for guess, count in enumerate(counts)
        if count and true != guess
    ]
    turn = turns(f"confusions {seed}", [f"{item.truth}\0{item.guess}" for item in found])
    drawn = sorted(np.lexsort((turn, np.array([-item.count for item in found])))[:most].tolist())
    return sorted((found[i] for i in drawn), key=lambda item: -item.count)


@dataclass(frozen=True)
class MetricCell:
    """A metric of one split: the value, its interval, and why either is missing."""

    split: str
    value: str
    interval: str | None
    why: str | None


@dataclass(frozen=True)
class MetricRow:
    """A metric with its meaning, and a cell for each split."""

    name: str
    meaning: str
    cells: Sequence[MetricCell]


def metric_rows(results: RunResults) -> list[MetricRow]:
    """All metrics of the splits that were evaluated, and of the folds."""
    return [
        MetricRow(
            metric.heading,
            metric.meaning + ("; lower is better" if metric.better == "lower" else ""),
            [_cell(split, block.metric(metric.key), metric) for split, block in results.judged.items()],
        )
        for metric in metrics.METRICS
    ]


def _cell(split: str, found: Estimate, metric: metrics.Metric) -> MetricCell:
    value = texts.estimate(found, as_percent=metric.as_percent)
    return MetricCell(split, value, texts.interval(found, as_percent=metric.as_percent), found.why)
