"""Predictions as labels for people: the best classes of each image, and `unclassified` below a threshold."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loupe import csv_files
from loupe.errors import ConfigError, DiskError
from loupe.evaluate import calibration
from loupe.evaluate.predictions import Predictions

UNCLASSIFIED = "unclassified"
COLUMNS = ("path", "label", "probability")  # the first ones of the file
PROBABILITY = "probability:"  # before the name of a class


@dataclass(frozen=True)
class Labels:
    """Labels of N images. `order_NT` holds the best T classes of each image, `label` its class or `unclassified`.

    `probability_NK` are calibrated by `temperature`; below `threshold` an image is `unclassified`.
    """

    predictions: Predictions
    label: tuple[str, ...]
    order_NT: np.ndarray
    probability_NK: np.ndarray
    temperature: float
    threshold: float

    def counts(self) -> dict[str, int]:
        """How many images fell into each class, in the order of the classes, `unclassified` last."""
        counted = Counter(self.label)
        return {name: counted[name] for name in (*self.predictions.classes, UNCLASSIFIED)}

    def to_json(self) -> dict[str, Any]:
        probability_NK, classes = self.probability_NK, self.predictions.classes
        images = [
            {
                "path": path,
                "label": label,
                "top": [{"class": classes[k], "probability": float(probability_NK[i, k])} for k in self.order_NT[i]],
            }
            for i, (path, label) in enumerate(zip(self.predictions.path, self.label, strict=True))
        ]
        how = {"temperature": self.temperature, "threshold": self.threshold}
        return {**how, "images": images, "counts": self.counts()}


def label(predictions: Predictions, *, top: int = 1, threshold: float = 0.0, temperature: float = 1.0) -> Labels:
    """Labels each image with its most probable class, or `unclassified` where that is less probable than the threshold.

    Probabilities are calibrated by the temperature.

    Raises:
        LoupeError: `top` is more than the number of classes, or a class is itself called `unclassified`.
    """
    classes = predictions.classes
    check_top(top, classes)
    check_threshold(threshold, classes)
    order_NT = np.argsort(-predictions.logits_NK, axis=1, kind="stable")[:, :top]
    names = tuple(
        classes[k] if probability >= threshold else UNCLASSIFIED
        for k, probability in zip(predictions.predicted, calibration.confidence(predictions, temperature), strict=True)
    )
    probability_NK = calibration.probabilities(predictions, temperature)
    return Labels(predictions, names, order_NT, probability_NK, temperature, threshold)


def check_top(top: int, classes: Sequence[str]) -> None:
    """LoupeError where there are fewer classes than are to be named."""
    if top > len(classes):
        raise ConfigError(f"--top {top}: the model knows {len(classes)} classes.")


def check_threshold(threshold: float, classes: Sequence[str]) -> None:
    """LoupeError where images below the threshold could not be told from those of a class."""
    if threshold > 0 and UNCLASSIFIED in classes:
        raise ConfigError(
            f"a class of this model is called {UNCLASSIFIED!r}, as are images below the threshold. Train with that "
            "class's folder or label renamed, or predict without a threshold: the file has every probability."
        )


def check_place(path: Path) -> None:
    """Finds out, before anything is predicted, that nothing can be written there, or that another file would be lost.

    Raises:
        LoupeError: it is a folder, or in none; the file is there and `write_csv` did not write it; or a run keeps
            predictions of its own there.
    """
    if path.is_dir():
        raise ConfigError(f"--to {path} is a folder. Name the file to write, as {path / 'predictions.csv'}.")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--to {path}: there is no such folder. Make it, or choose another.")
    if path.name == "predictions.csv" and (path.parent / "recipe.yaml").is_file():
        raise ConfigError(f"{path}: that is where a run keeps its own predictions. Choose another file with --to.")
    if not path.is_file() or not path.stat().st_size:
        return
    header: list[str] = []
    with path.open(encoding="utf-8", errors="replace", newline="") as file, suppress(csv.Error):
        header = next(csv.reader(file), [])
    if tuple(header[: len(COLUMNS)]) != COLUMNS or not header[-1].startswith(PROBABILITY):
        raise ConfigError(f"{path} is there, and is no list that `loupe predict` wrote. Choose another file with --to.")


def write_csv(path: Path, labels: Labels) -> None:
    """Columns: path, label, probability, the second to T-th best with theirs, then the probability of every class."""
    predictions, extra = labels.predictions, range(2, labels.order_NT.shape[1] + 1)
    header = [*COLUMNS]
    header += [name for place in extra for name in (f"label_{place}", f"probability_{place}")]
    try:
        csv_files.write(path, [*header, *(PROBABILITY + name for name in predictions.classes)], _rows(labels))
    except OSError as error:
        raise DiskError(f"{path}: cannot be written: {error.strerror}. Choose another file with --to.") from None


def _rows(labels: Labels) -> Iterator[list[object]]:
    predictions = labels.predictions
    for i, (name, row_K) in enumerate(zip(labels.label, labels.probability_NK, strict=True)):
        others = [(predictions.classes[k], f"{row_K[k]:.6f}") for k in labels.order_NT[i, 1:]]
        cells = [predictions.path[i], name, f"{row_K.max():.6f}", *(cell for pair in others for cell in pair)]
        yield [*cells, *(f"{value:.6f}" for value in row_K)]
