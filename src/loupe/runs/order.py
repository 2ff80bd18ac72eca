"""Choice of the order of a training: a full shuffle, or one in windows of shards that lie elsewhere."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from loupe import ranks
from loupe.augment.shard_order import EpochOrder
from loupe.data.pixels.prepare import Images
from loupe.data.pixels.store import RawStore
from loupe.data.table import ImageTable
from loupe.errors import ConfigError, counted
from loupe.log import logger, size_text

WINDOW_PART = 3  # of the cache that holds a window
SKEWED = 0.1
"""Total variation distance between the classes of a window and those of the training images that is told.

Beyond that of shuffled images, which has its cause in the size of the window. results/shard_order.md has its cost.
"""


def shuffle_window(images: Images, train: int) -> Literal["all"] | int:
    """Window that `auto` means: all images, or as many as a third of the cache holds.

    The other parts are for the next window, and for windows that are larger than others by a shard.

    Decided by rank 0, once for a run, because it depends on the cache and the memory of a machine.
    """
    return ranks.current().from_main(lambda: _window(images, train))


def _window(images: Images, train: int) -> Literal["all"] | int:
    shards = images.table.shards
    if shards is None or not shards.exceed_cache or isinstance(images.store, RawStore):
        return "all"
    window = max(1, int(train * shards.held_part / WINDOW_PART))
    held = max(1, int(len(shards.files) * shards.held_part / WINDOW_PART))
    logger.info(
        f"The shards ({counted(len(shards.files), 'file')}, {size_text(shards.total_bytes)}) cannot be held at once by "
        f"the cache ({size_text(shards.cache_bytes or 0)}). They are fetched in every epoch, and images shuffled in "
        f"windows of {window:,} (shuffle_window, about {counted(held, 'shard')})."
    )
    return window


def epoch_order(table: ImageTable, window: str | int) -> EpochOrder:
    """Order of the epochs of a training.

    Raises:
        ConfigError: there is a window, and the images do not lie in shards.
    """
    if not isinstance(window, int):
        return EpochOrder()
    if table.shard_N is None:
        raise ConfigError(
            f"{table.name}: shuffle_window {window:,} needs images in shards (tars or Parquet files). For a full "
            "shuffle: --set shuffle_window=all"
        )
    return EpochOrder(table.shard_N, window)


def warn_of_skewed_windows(order: EpochOrder, table: ImageTable, train_N: np.ndarray, seed: int) -> None:
    """Warn where windows have other classes than the set, as with shards that are sorted by class.

    Batches then follow one class for long, and the network forgets the others.
    """
    if order.window_images is None:
        return
    windows = [table.labels[rows_N] for rows_N in order.windows(seed, 0, train_N)]
    skew, shuffled = skew_of(windows, len(table.classes)), skew_of_shuffled(windows, len(table.classes))
    if skew > shuffled + SKEWED:
        logger.warning(
            f"The images seem to be sorted by class: in a window of shards, {100 * skew:.0f} % of the images have "
            "other classes than the training images as a whole. Accuracy will suffer (results/shard_order.md). "
            "Shuffle the images before they are written into shards, or allow a larger cache with LOUPE_SHARD_CACHE."
        )


def skew_of(windows: Sequence[np.ndarray], classes: int) -> float:
    """Mean total variation distance, over images, between the labels of their window and all labels: 0 to 1."""
    counts_WK = _counts(windows, classes)
    size_W = counts_WK.sum(axis=1)
    share_K = counts_WK.sum(axis=0) / size_W.sum()
    distance_W = np.abs(counts_WK / size_W[:, None] - share_K).sum(axis=1) / 2
    return float(np.average(distance_W, weights=size_W))


def skew_of_shuffled(windows: Sequence[np.ndarray], classes: int) -> float:
    """Expected `skew_of` windows of these sizes if the images were shuffled: the mean deviation of a binomial share.

    The mean absolute deviation of a normal variable is sqrt(2 / pi) of its standard deviation.
    """
    counts_WK = _counts(windows, classes)
    size_W = counts_WK.sum(axis=1)
    share_K = counts_WK.sum(axis=0) / size_W.sum()
    deviation_WK = np.sqrt(2 / np.pi * share_K * (1 - share_K) / size_W[:, None])
    return float(np.average(deviation_WK.sum(axis=1) / 2, weights=size_W))


def _counts(windows: Sequence[np.ndarray], classes: int) -> np.ndarray:
    return np.array([np.bincount(labels, minlength=classes) for labels in windows], float)
