"""Display of images with their predicted classes and probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loupe.data.class_names import index_of, same_form
from loupe.data.table import ImageTable
from loupe.errors import DataError, counted, unknown_name
from loupe.evaluate.predictions import Predictions
from loupe.notebook.display import Display, display
from loupe.report.embed import source_of_image
from loupe.report.gallery_selection import top_classes
from loupe.report.run_page import STYLES

MOST_IMAGES = 200
COLUMNS = 6
MOST_PX = 1200  # a higher display scrolls


@dataclass(frozen=True)
class Predicted:
    """One image with its predicted class, its true class if known, and the most probable classes."""

    source: str
    path: str
    label: str | None
    predicted: str
    top: Sequence[tuple[str, float]]


def labels_of(given: Sequence[Any], classes: Sequence[str], images: int) -> np.ndarray:
    """Class index of each image, from names, int64 [N]; -1 for None.

    Raises:
        DataError: there is not one label for each image.
        ConfigError: a name is no class of the model.
    """
    if isinstance(given, str) or len(given) != images:
        number = 1 if isinstance(given, str) else len(given)
        raise DataError(
            f"labels: {counted(number, 'label')} for {counted(images, 'image')}. Give a list with one class name for "
            "each image, None where it is not known."
        )
    index = index_of(classes)
    unknown = [name for name in given if name is not None and same_form(str(name)) not in index]
    if unknown:
        raise unknown_name("class", str(unknown[0]), classes)
    return np.array([-1 if name is None else index[same_form(str(name))] for name in given], np.int64)


def show_predictions(
    name: str, table: ImageTable, predictions: Predictions, label_N: np.ndarray, *, calibrated: bool
) -> Display:
    """Display of the images of a table, in its order.

    Args:
        name: heading.
        predictions: one for each image, at the temperature at which they are shown.
        label_N: class index of each image; -1 where it is not known.
        calibrated: the temperature was fitted.
    """
    items = predicted_images(table, predictions, label_N)
    known = [item for item in items if item.label is not None]
    hits = sum(item.label == item.predicted for item in known)
    score = f"{hits} of {counted(len(known), 'labelled image')} correct" if known else ""
    shown = {"name": name, "items": items, "score": score, "calibrated": calibrated}
    lines = [f"{item.path}: {_odds(item)}" + _truth(item) for item in items]
    text = "\n".join([f"{name}{': ' if score else ''}{score}", *lines])
    height_px = 130 + 315 * -(-len(items) // COLUMNS)
    return display("cell_predictions.html", shown, text=text, height_px=min(MOST_PX, height_px), styles=STYLES)


def predicted_images(table: ImageTable, predictions: Predictions, label_N: np.ndarray) -> list[Predicted]:
    """Images of a table with their predictions, in its order."""
    classes, probability_NK = predictions.classes, predictions.probabilities_NK
    return [
        Predicted(
            source_of_image(table, row),
            table.paths[row],
            classes[label] if label >= 0 else None,
            classes[predictions.predicted[row]],
            top_classes(probability_NK[row], label, classes),
        )
        for row, label in enumerate(label_N.tolist())
    ]


def _odds(item: Predicted) -> str:
    return ", ".join(f"{name} {100 * probability:.0f} %" for name, probability in item.top)


def _truth(item: Predicted) -> str:
    return "" if item.label is None else f" (is {item.label})"
