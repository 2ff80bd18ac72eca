"""Display of the images of each predicted class, and of those that stay unclassified."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from loupe.data.table import ImageTable
from loupe.errors import ConfigError, counted
from loupe.evaluate.predictions import UNKNOWN, Predictions
from loupe.evaluate.unclassified import UNCLASSIFIED, check_threshold
from loupe.notebook.display import Display, SelfDisplaying, display
from loupe.notebook.predictions import Predicted, predicted_images
from loupe.report import texts
from loupe.report.run_page import STYLES

MOST_CLASSES = 100  # in the table: those with the most images
COLUMNS = 6
MOST_PX = 1200  # a higher display scrolls


def least_certain(predictions: Predictions, count: int) -> np.ndarray:
    """Positions of the images whose best class is the least probable, the least certain one first."""
    return np.argsort(predictions.probabilities_NK.max(axis=1), kind="stable")[:count]


class ClassCounts(SelfDisplaying, dict[str, int]):
    """Number of images of each predicted class, in the order of the classes, `unclassified` last.

    Args:
        name: heading.
        predictions: of all images, at the temperature at which they are shown.
        threshold: probability below which an image is unclassified.
        doubtful: predictions of the images to show.
        table: those images, in the same order.
        calibrated: the temperature was fitted.

    Attributes:
        threshold: as above.
        classified, labelled, correct: images that are classified; those of them with a known label; those of these that
            are classified correctly.
    """

    def __init__(
        self,
        name: str,
        predictions: Predictions,
        threshold: float,
        doubtful: Predictions,
        table: ImageTable,
        *,
        calibrated: bool,
    ) -> None:
        kept_N = predictions.probabilities_NK.max(axis=1) >= threshold
        counts_K = np.bincount(predictions.predicted[kept_N], minlength=len(predictions.classes))
        super().__init__(zip(predictions.classes, counts_K.tolist(), strict=True))
        self[UNCLASSIFIED] = int((~kept_N).sum())
        self.name = name
        self.threshold = threshold
        self.calibrated = calibrated
        self.images = len(predictions)
        self.classified = int(kept_N.sum())
        known_N = kept_N & (predictions.label != UNKNOWN)
        self.labelled = int(known_N.sum())
        self.correct = int((predictions.predicted == predictions.label)[known_N].sum())
        self._doubtful, self._table = doubtful, table

    @property
    def score(self) -> str:
        """Sentence about the images with labels; empty without any."""
        if not self.labelled:
            return ""
        share = texts.percent(self.correct / self.labelled)
        return f"{self.correct:,} of {counted(self.labelled, 'classified image')} with a label are correct ({share})."

    def text(self) -> str:
        lines = [f"{name}: {count:,}" for name, count in self.items() if count or len(self) <= MOST_CLASSES]
        return "\n".join([f"{self.name}: {self._summary}", *lines, *([self.score] if self.score else [])])

    @property
    def _summary(self) -> str:
        share = texts.percent(self.classified / self.images) if self.images else texts.UNDEFINED
        return f"{self.classified:,} of {counted(self.images, 'image')} classified ({share})"

    def display(self) -> Display:
        rows, items = self._rows(), self._items()
        shown = {
            "name": self.name,
            "summary": self._summary,
            "score": self.score,
            "threshold": self.threshold,
            "calibrated": self.calibrated,
            "unclassified": UNCLASSIFIED,
            "rows": rows,
            "most": max(1, *(count for _, count in rows)),
            "more": len(self) - len(rows),
            "items": items,
        }
        height_px = 170 + 28 * len(rows) + (70 + 315 * -(-len(items) // COLUMNS) if items else 0)
        return display("cell_counts.html", shown, text=self.text(), height_px=min(MOST_PX, height_px), styles=STYLES)

    def _rows(self) -> list[tuple[str, int]]:
        """Classes with their images: those with the most, in the order of the classes; `unclassified` last."""
        *classes, last = self.items()
        frequent = {name for name, _ in sorted(classes, key=lambda row: -row[1])[:MOST_CLASSES]}
        return [*(row for row in classes if row[0] in frequent), *([last] if self.threshold > 0 else [])]

    def _items(self) -> Sequence[Predicted]:
        """Least certain images; those below the threshold have no predicted class."""
        confidence_N = self._doubtful.probabilities_NK.max(axis=1)
        items = predicted_images(self._table, self._doubtful, self._doubtful.label)
        return [
            item if confidence >= self.threshold else replace(item, label=None, predicted=UNCLASSIFIED)
            for item, confidence in zip(items, confidence_N, strict=True)
        ]


def check_usable(threshold: float, classes: Sequence[str]) -> None:
    """Check that a threshold is a probability, and that no class has the name of images below it.

    Raises:
        ConfigError: it is not, or one has.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float | np.number) or not 0 <= threshold <= 1:
        raise ConfigError(
            f"threshold must be a probability from 0 to 1; got {threshold!r}. Of run.threshold_for, give the value."
        )
    check_threshold(float(threshold), classes)
