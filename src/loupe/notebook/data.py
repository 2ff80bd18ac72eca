"""Display of images and labels: a sample of them, the images of each class, sizes and splits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loupe.data.dataset import open_dataset
from loupe.data.pixels.prepare import sampled_sizes
from loupe.data.sources.read_options import ColumnNames, ReadOptions
from loupe.data.table import ImageTable, describe
from loupe.errors import ConfigError, DataError, ImageError, unknown_name
from loupe.log import printable
from loupe.notebook.display import Display, display
from loupe.report.embed import source_of_image
from loupe.report.sampling import in_turn

SPLITS = {"train": ("training", "first"), "val": ("validation", "second"), "test": ("test", "third")}
MOST_IMAGES = 400
MOST_CLASSES = 100  # in the table of classes
COLUMNS = 10


@dataclass(frozen=True)
class Sample:
    """One image of the grid; `source` is None if it cannot be read."""

    label: str
    source: str | None


@dataclass(frozen=True)
class Bar:
    """Images of one class in one split: their number, their share of the largest class in percent, and their colour."""

    split: str
    count: int
    percent: float
    color: str


def show(
    data: Any,
    *,
    split: str | None = None,
    count: int = 30,
    seed: int = 0,
    columns: ColumnNames | None = None,
    images: str | Path | None = None,
    follow_links: bool = False,
) -> Display:
    """Show images with their labels, and the number of images in each class and split.

    Args:
        data, columns, images, follow_links: images, as for `loupe.train`.
        split: train, val or test, where the data has splits; None for all images.
        count: number of images to show, from 1 to 400. The classes take turns.
        seed: random seed for the images to show.

    Returns:
        Display for a notebook.

    Raises:
        DataError: the images cannot be used, or none is in the split.
        ConfigError: `split`, `count` or `seed` is not as above.
    """
    check_whole("count", count, 1, MOST_IMAGES)
    check_whole("seed", seed, 0, 2**63 - 1)
    if split is not None and split not in tuple(SPLITS):
        raise unknown_name("split", str(split), SPLITS)
    whole = open_dataset(data, ReadOptions.of(columns, images, follow_links)).table
    table = whole if split is None else _of_split(whole, split)
    chosen = in_turn(table.labels, table.classes, seed, count)
    samples = [_sample(table, int(row)) for row in chosen]
    facts, (names, rows) = _facts(table), _counts(table)
    shown = {
        "name": printable(table.name),
        "split": split and SPLITS[split][0],
        "facts": facts,
        "samples": samples,
        "splits": names,
        "rows": rows,
        "classes": len(table.classes),
        "warnings": whole.warnings,
    }
    lines = -(-len(samples) // COLUMNS)
    height_px = 240 + 120 * lines + min(90 + 28 * len(rows), 700) + 60 * len(whole.warnings)
    return display("cell_data.html", shown, text=_text(table, split, facts), height_px=height_px)


def check_whole(name: str, value: Any, low: int, high: int) -> None:
    """Check a whole number that a user gave.

    Raises:
        ConfigError: it is something else, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        upper = "2**63 - 1" if high == 2**63 - 1 else f"{high:,}"
        raise ConfigError(f"{name} must be a whole number from {low} to {upper}; got {value!r}.")


def _of_split(table: ImageTable, split: str) -> ImageTable:
    rows = [row for row, name in enumerate(table.splits) if name == split]
    if rows:
        return table.select(rows)
    given = sorted({name for name in table.splits if name})
    has = f"It has the splits {', '.join(given)}." if given else "It has no splits: they are made when a run begins."
    raise DataError(f"{table.name}: no image is in the split {split}. {has} Leave split out to show all images.")


def _sample(table: ImageTable, row: int) -> Sample:
    label = int(table.labels[row])
    try:
        source = source_of_image(table, row)
    except ImageError:
        source = None
    return Sample(table.classes[label] if label >= 0 else "no label", source)


def _facts(table: ImageTable) -> Mapping[str, str]:
    """Numbers of images and classes, and sizes."""
    counts = sorted(table.class_counts.values())
    facts = {"Images": f"{len(table):,}", "Classes": f"{len(table.classes):,}"}
    if counts:
        few, many = counts[0], counts[-1]
        facts["Images of a class"] = f"{few:,}" if few == many else f"{few:,} to {many:,}"
    if unlabelled := int((table.labels < 0).sum()):
        facts["Without a label"] = f"{unlabelled:,}"
    return facts | {"Size": _size(table)}


def _size(table: ImageTable) -> str:
    """Size of the images, or the range of their sides, from the headers of some."""
    try:
        sizes = sampled_sizes(table)
    except DataError:
        return "unknown: damaged"
    widths, heights = zip(*sizes, strict=True)
    sides = (_range(widths), _range(heights))
    return f"{sides[0]} × {sides[1]} px"


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _counts(table: ImageTable) -> tuple[list[tuple[str, str]], list[tuple[str, int, list[Bar]]]]:
    """Splits with their colours, and for each class its name, its images, and a bar for each split."""
    given = np.array([name or "" for name in table.splits])
    names = [*SPLITS, ""] if any(given) else [""]
    groups = []
    for name in names:
        labels = table.labels[(given == name) & (table.labels >= 0)]
        if len(labels):
            title, color = SPLITS.get(
                name, ("in no split" if any(given) else "images", "rest" if any(given) else "first")
            )
            groups.append((title, color, np.bincount(labels, minlength=len(table.classes))))
    total_K = sum((counts for _, _, counts in groups), np.zeros(len(table.classes), np.int64))
    most = max(1, int(total_K.max(initial=0)))
    rows = [
        (
            name,
            int(total),
            [Bar(title, int(n[k]), round(100 * int(n[k]) / most, 2), color) for title, color, n in groups],
        )
        for k, (name, total) in enumerate(zip(table.classes[:MOST_CLASSES], total_K, strict=False))
    ]
    return [(title, color) for title, color, _ in groups], rows


def _text(table: ImageTable, split: str | None, facts: Mapping[str, str]) -> str:
    part = f", split {split}" if split else ""
    return printable(
        f"{table.name}{part}: {describe(table.rows, table.classes)} Size {facts['Size']}, as far as sampled."
    )
