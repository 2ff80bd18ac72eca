"""Probe of mirrored training images: are the mirror images of the classes recognised as well as the images?

A support vector machine learns small pixels of some training images and predicts the images of the other folds, as they
are and mirrored. Classes of photographs are about as often seen from the left as from the right, so that both are
recognised alike. Letters, and the hand of one signer, are not, and training on their mirror images teaches what never
occurs (results/mirrored.md, on six sets of images).
"""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from loupe.config.recipe import PIXEL_DEFINITION, Preprocessing
from loupe.data.pixels.prepare import encoded
from loupe.data.splits.stratify import units
from loupe.data.table import ImageTable
from loupe.errors import ImageError

SIDE_PX = 16
MOST_IMAGES = 500
FOLDS = 5
HARMFUL = 1 / 3  # share of the recognised images whose mirror images are not, from which on mirroring is left out
PENALTY = 10.0  # C of the support vector machine
NORMAL_95 = 1.96

Ints = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Orientation:
    """Accuracy on mirrored images beside that on the images as they are, both predicted out of fold.

    Attributes:
        accuracy: on the images as they are.
        learned: True if this is above the share of the most common class, by more than chance.
        difference, low, high: mirrored minus as they are, with its 95 % interval (normal, of paired images).
        images: number of images.
    """

    accuracy: float
    learned: bool
    difference: float
    low: float
    high: float
    images: int

    @property
    def tells_classes(self) -> bool | None:
        """True if classes are told apart by their orientation, so that mirroring harms; None if it cannot be told."""
        most = -HARMFUL * self.accuracy
        if self.learned and self.high < most:
            return True
        return False if self.learned and self.low > most else None

    @property
    def words(self) -> str:
        """Measured accuracies, as part of a sentence."""
        mirrored = self.accuracy + self.difference
        return (
            f"from small pixels, {100 * self.accuracy:.0f} % of {self.images} training images are recognised, and "
            f"{100 * mirrored:.0f} % of their mirror images ({100 * self.difference:+.1f} points, "
            f"{100 * self.low:+.1f} to {100 * self.high:+.1f})"
        )


def orientation(table: ImageTable, content: Sequence[str], rows_N: Ints) -> Orientation | None:
    """Probe at most `MOST_IMAGES` of these images; None with too few images or classes to tell anything.

    Args:
        content: hash of each image of the table.
        rows_N: rows of training images in it.
    """
    rows_N = rows_N[table.labels[rows_N] >= 0]
    if table.shards is not None:
        rows_N = table.shards.sample(rows_N, MOST_IMAGES)
    else:
        rows_N = rows_N[np.linspace(0, len(rows_N) - 1, min(MOST_IMAGES, len(rows_N)), dtype=np.int64)]
    if len(np.unique(table.labels[rows_N])) < 2:
        return None
    pixels_NHWC, read_N = _pixels(table, rows_N)
    rows_N = rows_N[read_N]
    unit_N = units([content[row] for row in rows_N], [table.groups[row] for row in rows_N])
    labels, groups = tuple(table.labels[rows_N].tolist()), tuple(unit_N.tolist())
    return _probed(pixels_NHWC.tobytes(), pixels_NHWC.shape, labels, groups)


def _pixels(table: ImageTable, rows_N: Ints) -> tuple[Pixels, Ints]:
    """Pixels of the images that can be read, [M, SIDE_PX, SIDE_PX, 3], and their positions in `rows_N`."""
    small = Preprocessing(size_px=SIDE_PX, load_px=SIDE_PX, pixel_definition=PIXEL_DEFINITION)
    images = encoded(table, small)
    found, positions = list[Pixels](), list[int]()
    for position, row in enumerate(rows_N.tolist()):
        with suppress(ImageError):  # all damaged images are reported when the pixels are prepared
            found.append(images.pixels(row))
            positions.append(position)
    return np.stack(found) if found else np.zeros((0, SIDE_PX, SIDE_PX, 3), np.uint8), np.array(positions, np.int64)


@lru_cache(maxsize=4)
def _probed(pixels: bytes, shape: Sequence[int], labels: tuple[int, ...], unit: tuple[int, ...]) -> Orientation | None:
    """Probe of some pixels, once: a comparison trains many recipes on the same images."""
    from scipy.stats import binomtest
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    x_NHWC, label_N = np.frombuffer(pixels, np.uint8).reshape(*shape) / np.float32(255), np.array(labels, np.int64)
    if len(np.unique(unit)) < 2 * FOLDS or len(np.unique(label_N)) < 2:
        return None
    views = {"plain": x_NHWC.reshape(len(label_N), -1), "mirrored": x_NHWC[:, :, ::-1].reshape(len(label_N), -1)}
    hits = {name: np.zeros(len(label_N), bool) for name in views}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that some class has fewer images than there are folds
        folds = [*StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(label_N, label_N, groups=unit)]
    for learn, rest in folds:
        if not len(rest) or len(np.unique(label_N[learn])) < 2:
            continue
        machine = make_pipeline(StandardScaler(), SVC(C=PENALTY)).fit(views["plain"][learn], label_N[learn])
        for name, x_ND in views.items():
            hits[name][rest] = machine.predict(x_ND[rest]) == label_N[rest]
    images, right = len(label_N), int(hits["plain"].sum())
    least = binomtest(right, images).proportion_ci(method="wilson").low
    change_N = hits["mirrored"].astype(np.float64) - hits["plain"]
    change, margin = float(change_N.mean()), float(NORMAL_95 * change_N.std() / np.sqrt(images))
    learned = bool(least > np.bincount(label_N).max() / images)
    return Orientation(right / images, learned, change, change - margin, change + margin, images)
