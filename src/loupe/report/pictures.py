"""Pictures of a page: read from the gallery, and grouped by the cells of the confusion matrix."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from loupe.errors import RunStateError
from loupe.evaluate.results import Evaluation
from loupe.report.embed import data_uri

ROLES = ("sample", "original", "augmented", "missed", "hit")
ALWAYS = ("path", "label", "predicted", "probability", "split")

Gallery = Mapping[str, Sequence["Picture"]]


@dataclass(frozen=True)
class Picture:
    """An image of the gallery. `source` is a data URI; texts are those of the data, and hostile until escaped.

    probability: of the predicted class. loss: −log of the probability of the true class; None in galleries
    of versions that stored none. top: the most probable classes and their probabilities, the true class among them.
    """

    source: str
    path: str
    label: str | None
    predicted: str | None
    probability: float | None
    split: str | None
    loss: float | None
    top: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Pile:
    """One cell of the confusion matrix with its pictures, highest loss first.

    truth, guess: indices into the classes. count: the images of the cell, of which the pictures are some or all.
    """

    truth: int
    guess: int
    count: int
    pictures: Sequence[Picture]

    @property
    def hit(self) -> bool:
        return self.truth == self.guess

    @property
    def anchor(self) -> str:
        """Id of the pictures in the page, made of numbers because class names can contain any character."""
        return f"cell-{self.truth}-{self.guess}"


Piles = Mapping[tuple[int, int], Pile]


def read_gallery(path: Path) -> dict[str, list[Picture]]:
    """Pictures of gallery.parquet by role; none without a file. LoupeError if it cannot be read."""
    roles: dict[str, list[Picture]] = {role: [] for role in ROLES}
    if not path.is_file():
        return roles
    try:
        with pq.ParquetFile(path) as file:
            for row in file.read().to_pylist():
                roles[row["role"]].append(_picture(row))
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise RunStateError(f"{path}: cannot be read as the gallery of a run: {error}.") from None
    for role in ("missed", "hit"):
        roles[role].sort(key=_hardest_first)
    return roles


def _picture(row: Mapping[str, Any]) -> Picture:
    fields = {name: row[name] for name in ALWAYS}
    top = [(item["label"], item["probability"]) for item in row.get("top") or []]
    if not top and row["predicted"] is not None:
        top = [(row["predicted"], row["probability"])]
    return Picture(source=data_uri(row["image"]["bytes"]), loss=row.get("loss"), top=top, **fields)


def _hardest_first(picture: Picture) -> float:
    return -(picture.loss if picture.loss is not None else -math.inf)


def piles(gallery: Gallery, block: Evaluation, classes: Sequence[str]) -> dict[tuple[int, int], Pile]:
    """Cells with pictures, by (true, predicted) class; `block` has the confusion matrix."""
    index = {name: number for number, name in enumerate(classes)}
    found: dict[tuple[int, int], list[Picture]] = defaultdict(list)
    for picture in (*gallery["missed"], *gallery["hit"]):
        if picture.label in index and picture.predicted in index:
            found[index[picture.label], index[picture.predicted]].append(picture)
    counts = block.confusion_matrix
    return {cell: Pile(*cell, max(counts[cell[0]][cell[1]], len(mine)), mine) for cell, mine in found.items()}


def in_reading_order(piles: Piles) -> Iterator[Pile]:
    """Errors, the most frequent confusion first; then correct cells in the order of the classes."""
    yield from sorted(piles.values(), key=lambda pile: (pile.hit, pile.truth if pile.hit else -pile.count))
