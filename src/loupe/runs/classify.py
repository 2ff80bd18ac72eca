"""Labels from predictions: the best classes of each image, and `unclassified` below a threshold."""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loupe import csv_files
from loupe.errors import ConfigError, DiskError, counted
from loupe.evaluate import calibration
from loupe.evaluate.predictions import Predictions

UNCLASSIFIED = "unclassified"
COLUMNS = ("path", "label", "probability")  # the first ones of the file
PROBABILITY = "probability:"  # before the name of a class


@dataclass(frozen=True)
class Labels:
    """Labels of N images.

    Attributes:
        predictions: logits and paths of the images.
        label: predicted class, or `unclassified` if its probability is below `threshold`.
        order_NT: best T classes of each image, best first.
        probability_NK: probability of each class, calibrated by `temperature`.
    """

    predictions: Predictions
    label: tuple[str, ...]
    order_NT: np.ndarray
    probability_NK: np.ndarray
    temperature: float
    threshold: float

    def counts(self) -> dict[str, int]:
        """Number of images of each class, in the order of the classes, `unclassified` last."""
        counts = Counter(self.label)
        return {name: counts[name] for name in (*self.predictions.classes, UNCLASSIFIED)}

    def to_json(self, ids: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Plain data; `ids` are the identifiers of the images of a list by path."""
        probability_NK, classes = self.probability_NK, self.predictions.classes
        images = [
            {
                **({"id": ids[path]} if ids else {}),
                "path": path,
                "label": label,
                "top": [{"class": classes[k], "probability": float(probability_NK[i, k])} for k in self.order_NT[i]],
            }
            for i, (path, label) in enumerate(zip(self.predictions.path, self.label, strict=True))
        ]
        settings = {"temperature": self.temperature, "threshold": self.threshold}
        return {**settings, "images": images, "counts": self.counts()}


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
    names = tuple(
        classes[k] if probability >= threshold else UNCLASSIFIED
        for k, probability in zip(predictions.predicted, calibration.confidence(predictions, temperature), strict=True)
    )
    probability_NK = calibration.probabilities(predictions, temperature)
    return Labels(predictions, names, order_NT, probability_NK, temperature, threshold)


def check_top(top: int, classes: Sequence[str]) -> None:
    """Check the number of classes to list.

    Raises:
        ConfigError: it is above the number of classes.
    """
    if top > len(classes):
        raise ConfigError(f"--top {top}: the model has {counted(len(classes), 'class')}. Give at most that number.")


def check_threshold(threshold: float, classes: Sequence[str]) -> None:
    """Check that no class has the name of images below the threshold.

    Raises:
        ConfigError: a class has it, and there is a threshold.
    """
    if threshold > 0 and UNCLASSIFIED in classes:
        raise ConfigError(
            f"a class of this model has the name {UNCLASSIFIED!r}, which images below the threshold get. Rename that "
            "class and train again, or predict without a threshold."
        )


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


def write_csv(path: Path, labels: Labels, id_name: str | None = None, ids: Mapping[str, str] | None = None) -> None:
    """Write the columns path, label, probability, the second to T-th best class with theirs, and all probabilities.

    Args:
        path: file to write.
        labels: predictions.
        id_name: column of identifiers, which comes first; None without one.
        ids: identifier of each image by path.

    Raises:
        DiskError: the file cannot be written.
    """
    predictions, extra = labels.predictions, range(2, labels.order_NT.shape[1] + 1)
    ids = {} if id_name == "path" and all(path == name for path, name in (ids or {}).items()) else ids
    first = [f"list_{id_name}" if id_name in COLUMNS else id_name] if id_name and ids else []
    header = [*first, *COLUMNS]
    header += [name for rank in extra for name in (f"label_{rank}", f"probability_{rank}")]
    try:
        csv_files.write(
            path,
            [*header, *(PROBABILITY + name for name in predictions.classes)],
            _rows(labels, ids if first else None),
        )
    except OSError as error:
        raise DiskError(f"{path}: cannot be written: {error.strerror}. Choose another file with --to.") from None


def _rows(labels: Labels, ids: Mapping[str, str] | None) -> Iterator[list[object]]:
    predictions = labels.predictions
    for i, (name, row_K) in enumerate(zip(labels.label, labels.probability_NK, strict=True)):
        others = [(predictions.classes[k], f"{row_K[k]:.6f}") for k in labels.order_NT[i, 1:]]
        cells = [predictions.path[i], name, f"{row_K.max():.6f}", *(cell for pair in others for cell in pair)]
        first = [ids[predictions.path[i]]] if ids else []
        yield [*first, *cells, *(f"{value:.6f}" for value in row_K)]
