"""Test-time augmentation: the mean logits of several views of each image.

`flip` averages an image and its mirror image (Krizhevsky et al. 2012). `flip-shift` also averages both of them moved by
one pixel, up and to the left, and down and to the right, with edges repeated: half of the weight is on the views in
place, as in airbench (Jordan 2024). Views are made of the preprocessed images, so that each is decoded once.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from loupe.errors import unknown_name
from loupe.models.engine import Engine

Outputs = np.ndarray[Any, np.dtype[Any]]


class View(NamedTuple):
    """View of an image: mirrored or not, moved down and to the right by `shift_px`; its share of the mean."""

    mirrored: bool
    shift_px: int
    weight: float

    def of(self, x_BCHW: Tensor) -> Tensor:
        """The view of each preprocessed image, [B, C, H, W] in the memory layout of the images."""
        x_BCHW = x_BCHW.flip(3) if self.mirrored else x_BCHW
        if not self.shift_px:
            return x_BCHW
        height_px, width_px = x_BCHW.shape[2:]
        first = 1 - self.shift_px
        return F.pad(x_BCHW, (1, 1, 1, 1), mode="replicate")[:, :, first : first + height_px, first : first + width_px]


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


def averaged(engine: Engine, name: str | None) -> Engine:
    """The engine itself, or with the name of an augmentation one that gives the mean logits of its views."""
    return engine if name is None else AveragingEngine(engine, name)


class AveragingEngine:
    """Engine that gives the weighted mean of what another engine gives for the views of each image."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._views = AUGMENTATIONS[name]
        self.name = f"{engine.name}, {name}"

    def run(self, inputs: Iterator[Tensor]) -> Iterator[Outputs]:
        outputs = self._engine.run(view.of(x_BCHW) for x_BCHW in inputs for view in self._views)
        for first in outputs:
            mean = first * np.float32(self._views[0].weight)
            for view in self._views[1:]:
                mean += next(outputs) * np.float32(view.weight)
            yield mean
