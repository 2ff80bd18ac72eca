"""Predictions of an engine for images of a pixel store. Nothing here needs PyTorch."""

from collections.abc import Callable

import numpy as np

from loupe.data.pixels.prepare import Images
from loupe.data.pixels.read_ahead import ahead
from loupe.data.pixels.store import RawStore
from loupe.errors import ConfigError, enumerated
from loupe.evaluate.predictions import Predictions
from loupe.evaluate.shared_batches import SharedBatches
from loupe.models.pixel_engine import PixelEngine
from loupe.ranks import Ranks

ALONE = Ranks()


def predict_rows(
    engine: PixelEngine,
    images: Images,
    row_N: np.ndarray,
    label_N: np.ndarray,
    classes: tuple[str, ...],
    on_batch: Callable[[int], None] = lambda images: None,
    *,
    ranks: Ranks = ALONE,
) -> Predictions:
    """Predict some rows of opened images; those that are decoded on demand are read ahead.

    Args:
        row_N: rows of the images.
        label_N: label of every row of the table.
        on_batch: called after every batch with its number of images, and those of the other ranks meanwhile.
        ranks: ranks that share the batches; every rank gets all predictions.

    Raises:
        ConfigError: another rank has another engine.
    """
    check_same_engine(engine, ranks)
    batches = SharedBatches(row_N, engine.batch_images, ranks)

    def compute() -> np.ndarray:
        read = (images.store.read(row_B) for row_B in batches.mine)
        made = []
        for number, logits_BK in enumerate(engine.run(read if isinstance(images.store, RawStore) else ahead(read))):
            made.append(logits_BK)
            on_batch(batches.round_images(number))
        return np.concatenate(made) if made else np.empty((0, len(classes)), np.float32)

    return Predictions(
        path=tuple(images.table.paths[row] for row in row_N),
        content=tuple(images.content[row] for row in row_N),
        label=label_N[row_N],
        logits_NK=batches.merged(ranks.together(compute), everywhere=True),
        classes=classes,
    )


def check_same_engine(engine: PixelEngine, ranks: Ranks) -> None:
    """Check that all ranks predict with one engine, whose answers are those of one process.

    Raises:
        ConfigError: they do not.
    """
    names = ranks.gather(engine.name)
    if len(set(names)) > 1:
        raise ConfigError(
            f"the processes predict with different engines: {enumerated(sorted(set(names)))}. Install the same "
            "packages on all machines, or use one machine."
        )
