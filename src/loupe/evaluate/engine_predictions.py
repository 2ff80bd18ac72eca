"""Predictions of an engine for images of a pixel store. Nothing here needs PyTorch."""

from collections.abc import Callable

import numpy as np

from loupe.data.pixels.prepare import Images
from loupe.data.pixels.read_ahead import ahead, cut
from loupe.data.pixels.store import RawStore
from loupe.evaluate.predictions import Predictions
from loupe.models.pixel_engine import PixelEngine


def predict_rows(
    engine: PixelEngine,
    images: Images,
    row_N: np.ndarray,
    label_N: np.ndarray,
    classes: tuple[str, ...],
    on_batch: Callable[[int], None] = lambda images: None,
) -> Predictions:
    """Predict some rows of opened images; those that are decoded on demand are read ahead.

    Args:
        row_N: rows of the images.
        label_N: label of every row of the table.
        on_batch: called with the number of images after every batch.
    """
    read = (images.store.read(row_B) for row_B in cut(row_N, engine.batch_images))
    made = []
    for logits_BK in engine.run(read if isinstance(images.store, RawStore) else ahead(read)):
        made.append(logits_BK)
        on_batch(len(logits_BK))
    return Predictions(
        path=tuple(images.table.paths[row] for row in row_N),
        content=tuple(images.content[row] for row in row_N),
        label=label_N[row_N],
        logits_NK=np.concatenate(made) if made else np.empty((0, len(classes)), np.float32),
        classes=classes,
    )
