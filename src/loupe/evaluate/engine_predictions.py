"""Predictions of an engine for images of a pixel store. Nothing here needs PyTorch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from loupe.data.pixels.prepare import Images
from loupe.data.pixels.read_ahead import ahead
from loupe.data.pixels.shared_stream import Round
from loupe.data.pixels.store import EncodedStore, RawStore
from loupe.evaluate.predictions import Predictions
from loupe.evaluate.shared_batches import SharedBatches
from loupe.models.pixel_engine import PixelEngine
from loupe.ranks import Ranks, merge_rows

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
        RanksDifferError: another rank has another engine.
    """
    check_same_engine(engine, ranks)
    batches = SharedBatches(row_N, engine.batch_images, ranks)

    def compute() -> np.ndarray:
        if isinstance(images.store, EncodedStore) and batches.mine:
            images.store.expect(np.concatenate([*batches.mine]))
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
    """Check that all ranks predict with one engine, so that the answers are those of one process.

    Raises:
        RanksDifferError: they do not.
    """
    ranks.same(engine.name, "engines of predictions")


@dataclass(frozen=True)
class Answers:
    """Logits of a batch of images.

    Attributes:
        row_B: int64 rows in the table.
        content: SHA-256 of the bytes of each image file.
        logits_BK: float32.
    """

    row_B: np.ndarray
    content: tuple[str, ...]
    logits_BK: np.ndarray


def predict_round(engine: PixelEngine, batches: Round, classes: int, ranks: Ranks) -> Iterator[Answers]:
    """Predict the batches of a round, each on the rank that has it; every rank gets all, in order.

    Args:
        classes: number of classes.

    Raises:
        LostRankError: another rank has ended.
    """

    def compute() -> np.ndarray:
        answers = engine.run(batch.pixels for batch in batches.mine)
        return np.concatenate([np.empty((0, classes), np.float32), *answers])

    mine_MK = ranks.together(compute)
    content = [iter(of_rank) for of_rank in ranks.gather([batch.content for batch in batches.mine])]
    bounds = np.cumsum([0, *map(len, batches.rows)])
    places = [np.arange(start, stop) for start, stop in pairwise(bounds)]
    place_RM = [
        np.concatenate([bounds[:0], *(place for place, rank in zip(places, batches.rank, strict=True) if rank == one)])
        for one in range(ranks.count)
    ]
    logits_NK = merge_rows(ranks, mine_MK, place_RM, everywhere=True)
    for row_B, rank, place_B in zip(batches.rows, batches.rank, places, strict=True):
        yield Answers(np.array(row_B, np.int64), next(content[rank]), logits_NK[place_B])
