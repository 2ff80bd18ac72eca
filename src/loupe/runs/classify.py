"""Labels from predictions: the best classes of each image, and `unclassified` below a threshold."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

from loupe import csv_files
from loupe.errors import ConfigError, DiskError, counted
from loupe.evaluate.predictions import Predictions
from loupe.evaluate.unclassified import UNCLASSIFIED, check_threshold

COLUMNS = ("path", "label", "probability")  # the first ones of the file
PROBABILITY = "probability:"  # before the name of a class


@dataclass(frozen=True)
class Labels:
    """Labels of N images.

    Attributes:
        predictions: logits and paths of the images.
        label: predicted class, or `unclassified` if its probability is below the threshold.
        order_NT: best T classes of each image, best first.
        probability_NK: calibrated probability of each class.
    """

    predictions: Predictions
    label: tuple[str, ...]
    order_NT: np.ndarray
    probability_NK: np.ndarray

    def to_json(self, ids: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Plain data of each image; `ids` are the identifiers of the images of a list by path."""
        probability_NK, classes = self.probability_NK, self.predictions.classes
        for i, (path, label) in enumerate(zip(self.predictions.path, self.label, strict=True)):
            yield {
                **({"id": ids[path]} if ids else {}),
                "path": path,
                "label": label,
                "top": [{"class": classes[k], "probability": float(probability_NK[i, k])} for k in self.order_NT[i]],
            }


@dataclass
class Tally:
    """Counts of the labels that pass through, of as many images as there are.

    Attributes:
        classes: class names.
        as_json: keep each image as a line of JSON, in a temporary file.
        ids: identifier of each image of a list by its path; empty without a list.
        images: number of images that have passed.
    """

    classes: tuple[str, ...]
    as_json: bool = False
    ids: Mapping[str, str] = field(default_factory=dict)
    images: int = 0
    _counts: Counter[str] = field(default_factory=Counter)
    _lines: IO[str] = field(default_factory=partial(TemporaryFile, "w+", encoding="utf-8"))

    def through(self, parts: Iterable[Labels]) -> Iterator[Labels]:
        """The same parts, counted."""
        for part in parts:
            self.images += len(part.label)
            self._counts.update(part.label)
            for image in part.to_json(self.ids) if self.as_json else ():
                self._lines.write(json.dumps(image) + "\n")
            yield part

    def counts(self) -> dict[str, int]:
        """Number of images of each class, in the order of the classes, `unclassified` last."""
        return {name: self._counts[name] for name in (*self.classes, UNCLASSIFIED)}

    def to_json(self) -> Iterator[Any]:
        """Plain data of each image, in order."""
        self._lines.seek(0)
        return map(json.loads, self._lines)


def label(predictions: Predictions, *, top: int = 1, threshold: float = 0.0, temperature: float = 1.0) -> Labels:
    """Label each image with its most probable class, or `unclassified` if its probability is below the threshold.

    Args:
        predictions: logits of the images.
        top: number of classes to list for each image.
        threshold: smallest calibrated probability of a classified image.
        temperature: divisor of the logits.

    Raises:
        ConfigError: `top` is above the number of classes, or a class has the name `unclassified`.
    """
    classes = predictions.classes
    check_top(top, classes)
    check_threshold(threshold, classes)
    order_NT = np.argsort(-predictions.logits_NK, axis=1, kind="stable")[:, :top]
    probability_NK = predictions.calibrated(temperature).probabilities_NK
    confidence_N = np.take_along_axis(probability_NK, predictions.predicted[:, None], axis=1)[:, 0]
    names = tuple(
        classes[k] if probability >= threshold else UNCLASSIFIED
        for k, probability in zip(predictions.predicted, confidence_N, strict=True)
    )
    return Labels(predictions, names, order_NT, probability_NK)


def check_top(top: int, classes: Sequence[str]) -> None:
    """Check the number of classes to list.

    Raises:
        ConfigError: it is above the number of classes.
    """
    if top > len(classes):
        raise ConfigError(f"--top {top}: the model has {counted(len(classes), 'class')}. Give at most that number.")


def check_path(path: Path) -> None:
    """Check, before prediction, that the file can be written and replaces no file of another kind.

    Raises:
        ConfigError: the path is a folder or in a missing folder, a file that `write_csv` did not write, or the
            predictions of a run.
    """
    if path.is_dir():
        raise ConfigError(f"--to {path} is a folder. Give a file, for example {path / 'predictions.csv'}")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--to {path}: its folder does not exist. Create it, or choose another.")
    if path.name == "predictions.csv" and (path.parent / "recipe.yaml").is_file():
        raise ConfigError(f"{path} belongs to a run. Choose another file with --to.")
    if not path.is_file() or not path.stat().st_size:
        return
    header: list[str] = []
    with path.open(encoding="utf-8", errors="replace", newline="") as file, suppress(csv.Error):
        header = next(csv.reader(file), [])
    columns = [tuple(header[start : start + len(COLUMNS)]) for start in (0, 1)]  # identifiers may come first
    if COLUMNS not in columns or not header[-1].startswith(PROBABILITY):
        raise ConfigError(f"{path} exists and was not written by `loupe predict`. Choose another file with --to.")


def write_csv(
    path: Path,
    parts: Iterable[Labels],
    classes: Sequence[str],
    *,
    top: int = 1,
    id_name: str | None = None,
    ids: Mapping[str, str] | None = None,
) -> None:
    """Write the columns path, label, probability, the second to T-th best class with theirs, and all probabilities.

    Rows are written as they come; the file is there once all are.

    Args:
        path: file to write.
        parts: labels of the images.
        classes: classes of the model.
        top: number of classes listed for each image.
        id_name: column of identifiers, which comes first; None without one.
        ids: identifier of each image by path.

    Raises:
        DiskError: the file cannot be written.
    """
    ids = {} if id_name == "path" and all(path == name for path, name in (ids or {}).items()) else ids
    first = [f"list_{id_name}" if id_name in COLUMNS else id_name] if id_name and ids else []
    header = [*first, *COLUMNS]
    header += [name for rank in range(2, top + 1) for name in (f"label_{rank}", f"probability_{rank}")]
    header += [PROBABILITY + name for name in classes]
    try:
        csv_files.write(path, header, (row for part in parts for row in _rows(part, ids if first else None)))
    except OSError as error:
        raise DiskError(f"{path}: cannot be written: {error.strerror}. Choose another file with --to.") from None


def _rows(labels: Labels, ids: Mapping[str, str] | None) -> Iterator[list[object]]:
    predictions = labels.predictions
    for i, (name, row_K) in enumerate(zip(labels.label, labels.probability_NK, strict=True)):
        others = [(predictions.classes[k], f"{row_K[k]:.6f}") for k in labels.order_NT[i, 1:]]
        cells = [predictions.path[i], name, f"{row_K.max():.6f}", *(cell for pair in others for cell in pair)]
        first = [ids[predictions.path[i]]] if ids else []
        yield [*first, *cells, *(f"{value:.6f}" for value in row_K)]
