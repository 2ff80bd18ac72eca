"""Choice of the order of a training: a full shuffle, or one in windows of shards that lie elsewhere."""

from typing import Literal

from loupe import ranks
from loupe.augment.shard_order import EpochOrder
from loupe.data.pixels.prepare import Images
from loupe.data.pixels.store import RawStore
from loupe.data.table import ImageTable
from loupe.errors import ConfigError, counted
from loupe.log import logger, size_text

FEW_SHARDS = 16
"""Shards in a window below which the price of the window was measured: results/shard_order.md."""


def shuffle_window(images: Images, train: int) -> Literal["all"] | int:
    """Window that `auto` means: all images, or as many as half of the cache holds while it gets the next window.

    Decided by rank 0, once for a run, because it depends on the cache and the memory of a machine.
    """
    return ranks.current().from_main(lambda: _window(images, train))


def _window(images: Images, train: int) -> Literal["all"] | int:
    shards = images.table.shards
    if shards is None or not shards.exceed_cache or isinstance(images.store, RawStore):
        return "all"
    assert shards.cache_bytes is not None
    window = max(1, train * (shards.cache_bytes // 2) // shards.total_bytes)
    held = max(1, len(shards.files) * (shards.cache_bytes // 2) // shards.total_bytes)
    text = (
        f"The shards take {size_text(shards.total_bytes)}, above the cache of {size_text(shards.cache_bytes)}. They "
        f"are fetched in every epoch, and images are shuffled in windows of {window:,} (shuffle_window, about "
        f"{counted(held, 'shard')})."
    )
    logger.info(text)
    if held < FEW_SHARDS:
        logger.warning(
            f"A window has only about {counted(held, 'shard')}. If shards are sorted by class, accuracy suffers: "
            "shuffle the images before they are written into shards, write smaller ones, or allow a larger cache."
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
