"""Engines that predict from decoded pixels, and their speed. Nothing here needs PyTorch."""

import statistics
import time
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from loupe.config.recipe import Preprocessing
from loupe.data.pixels.decode import UInt8Array

Array = np.ndarray[Any, np.dtype[Any]]
SPEED_BATCH = 32


class PixelEngine(Protocol):
    """Engine that computes logits from decoded pixels.

    Attributes:
        name: its library and its precision.
        batch_images: number of images in a batch.
        in_flight: number of batches that are computed at a time.
    """

    name: str
    batch_images: int
    in_flight: int

    def run(self, pixels: Iterator[UInt8Array]) -> Iterator[Array]:
        """Logits, float32 [B, K], for each batch of pixels [B, H, W, channels] of `load_px`, in order."""


def images_per_second(engine: PixelEngine, preprocessing: Preprocessing, repeats: int = 3) -> float:
    """Inference speed from decoded pixels, in images per second: median of `repeats` batches, answers included."""
    images = min(SPEED_BATCH, engine.batch_images)
    x_BHWC = np.zeros((images, *preprocessing.load_size, preprocessing.channels), np.uint8)
    seconds = []
    for _ in range(1 + repeats):  # the first pass compiles and fills caches
        began = time.perf_counter()
        list(engine.run(iter([x_BHWC])))
        seconds.append(time.perf_counter() - began)
    return images / statistics.median(seconds[1:])
