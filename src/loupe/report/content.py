"""Content of the page of a run, from the files of its directory; empty or None without a file."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loupe.data.keyed_order import turns
from loupe.errors import RunStateError
from loupe.evaluate import metrics
from loupe.evaluate.intervals import Estimate
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


def read_history(path: Path) -> list[dict[str, float | None]]:
    """The rows of metrics.csv; None stands for what was not measured or is not finite.

    LoupeError where a cell is no number.
    """
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [{name: _finite(text) for name, text in row.items()} for row in csv.DictReader(file)]
    except (ValueError, TypeError, csv.Error) as error:
        raise RunStateError(f"{path}: cannot be read as the history of a run: {error}.") from None


def _finite(text: str | None) -> float | None:
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None


def curves(history: Sequence[Mapping[str, float | None]], kept_epoch: int | None) -> list[Drawing]:
    """Figures of loss and accuracy over the epochs, for training and validation, as far as they were measured."""
    epochs = [int(row["epoch"] or 0) for row in history]
    stages = [row.get("stage") for row in history]
    starts = [epoch for epoch, before, stage in zip(epochs[1:], stages, stages[1:], strict=False) if stage != before]
    drawings = []
    for quantity in ("loss", "accuracy"):
        measured = [
            figures.Curve(name, [row.get(f"{column}_{quantity}") for row in history], color)
            for name, column, color in (("training", "train", figures.FIRST), ("validation", "val", figures.SECOND))
        ]
        measured = [curve for curve in measured if any(value is not None for value in curve.values)]
        if not measured:
            continue
        words = f"{quantity.capitalize()} by epoch. " + " ".join(_last(curve, epochs, kept_epoch) for curve in measured)
        wide, narrow = (
            figures.learning_curve(
                epochs,
                measured,
                label=words,
                width_px=width_px,
                kept_epoch=kept_epoch,
                stage_starts=starts,
                percent=quantity == "accuracy",
            )
            for width_px in (WIDE_PX, NARROW_PX)
        )
        drawings.append(Drawing(quantity.capitalize(), wide, narrow))
    return drawings


def _last(curve: figures.Curve, epochs: Sequence[int], kept_epoch: int | None) -> str:
    """Alt text of one curve."""
    points = [(epoch, value) for epoch, value in zip(epochs, curve.values, strict=True) if value is not None]
    (first, start), (last, end) = points[0], points[-1]
    text = f"{curve.name.capitalize()}: from {start:.3f} at epoch {first} to {end:.3f} at epoch {last}"
    best = dict(points).get(kept_epoch or 0)
    return text + (f", {best:.3f} at the kept epoch, {kept_epoch}." if best is not None else ".")


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
    """All metrics of the splits that were evaluated."""
    return [
        MetricRow(
            metric.heading,
            metric.meaning + ("; lower is better" if metric.better == "lower" else ""),
            [_cell(split, block.metric(metric.key), metric) for split, block in results.splits.items()],
        )
        for metric in metrics.METRICS
    ]


def _cell(split: str, found: Estimate, metric: metrics.Metric) -> MetricCell:
    value = texts.estimate(found, as_percent=metric.as_percent)
    return MetricCell(split, value, texts.interval(found, as_percent=metric.as_percent), found.why)
