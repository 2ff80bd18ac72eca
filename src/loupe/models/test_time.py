"""Test-time augmentation: the mean logits of several views of each image. Nothing here needs PyTorch.

`flip` averages an image and its mirror image (Krizhevsky et al. 2012). `flip-shift` also averages both of them moved by
one pixel, up and to the left, and down and to the right, with edges repeated: half of the weight is on the views in
place, as in airbench (Jordan 2024). Views are made of the decoded pixels that the network sees, so that each image is
decoded once and every engine computes them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from loupe.config.recipe import Preprocessing
from loupe.data.pixels.decode import UInt8Array
from loupe.errors import unknown_name
from loupe.models.pixel_engine import Array, PixelEngine


class View(NamedTuple):
    """View of an image: mirrored or not, moved down and to the right by `shift_px`; its share of the mean."""

    mirrored: bool
    shift_px: int
    weight: float

    def of(self, x_BHWC: UInt8Array, preprocessing: Preprocessing) -> UInt8Array:
        """View of each image: of the centre crop, which the network sees; the margin around it is left as it is."""
        if not (self.mirrored or self.shift_px):
            return x_BHWC
        rows, columns = preprocessing.size.centred_in(preprocessing.load_size)
        view_BHWC = x_BHWC.copy()
        crop_BHWC = x_BHWC[:, rows, columns]
        view_BHWC[:, rows, columns] = self._moved(crop_BHWC[:, :, ::-1] if self.mirrored else crop_BHWC)
        return view_BHWC

    def _moved(self, x_BHWC: UInt8Array) -> UInt8Array:
        if not self.shift_px:
            return x_BHWC
        row_H, column_W = (np.clip(np.arange(side) - self.shift_px, 0, side - 1) for side in x_BHWC.shape[1:3])
        return x_BHWC[:, row_H[:, None], column_W]


AUGMENTATIONS: dict[str, tuple[View, ...]] = {
    "flip": (View(False, 0, 1 / 2), View(True, 0, 1 / 2)),
    "flip-shift": tuple(
        View(mirrored, shift_px, 1 / 8 if shift_px else 1 / 4) for shift_px in (0, -1, 1) for mirrored in (False, True)
    ),
}


def check_name(name: str | None) -> None:
    """Check the name of an augmentation; None is without.

    Raises:
        ConfigError: the name is unknown.
    """
    if name is not None and name not in AUGMENTATIONS:
        raise unknown_name("test-time augmentation", name, AUGMENTATIONS)


def averaged(engine: PixelEngine, name: str | None, preprocessing: Preprocessing) -> PixelEngine:
    """The engine itself, or with the name of an augmentation one that gives the mean logits of its views."""
    return engine if name is None else AveragingEngine(engine, name, preprocessing)


class AveragingEngine:
    """Engine that gives the weighted mean of what another engine gives for the views of each image."""

    def __init__(self, engine: PixelEngine, name: str, preprocessing: Preprocessing) -> None:
        self._engine = engine
        self._views = AUGMENTATIONS[name]
        self._preprocessing = preprocessing
        self.name = f"{engine.name}, {name}"
        self.batch_images = engine.batch_images
        self.in_flight = engine.in_flight

    def run(self, pixels: Iterator[UInt8Array]) -> Iterator[Array]:
        views = (view.of(x_BHWC, self._preprocessing) for x_BHWC in pixels for view in self._views)
        outputs = self._engine.run(views)
        for first in outputs:
            mean = first * np.float32(self._views[0].weight)
            for view in self._views[1:]:
                mean += next(outputs) * np.float32(view.weight)
            yield mean
