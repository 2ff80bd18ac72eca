"""Preparation of a table of images for reading: hashes, damage, pixel store and pixel statistics."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from loupe import ranks
from loupe.config.base import RGB, Levels
from loupe.config.recipe import Preprocessing
from loupe.data.dataset import Dataset
from loupe.data.parallel import File, in_parallel
from loupe.data.pixels import decode
from loupe.data.pixels.decoding import EncodedImages
from loupe.data.pixels.store import DamagedImages, EncodedStore, PixelStore, RawStore, default_budget, open_store
from loupe.data.processes import worker_count
from loupe.data.table import ImageTable
from loupe.errors import DataError, ImageError, LoupeError, counted, enumerated
from loupe.log import logger

SAMPLED_HEADERS = 101
SAMPLED_IMAGES = 20_000
CHUNK_IMAGES = 512


@dataclass(frozen=True)
class Images:
    """Readable images: row i of the table is image i of the store and has the hash `content[i]`.

    `damaged` is the number of damaged images that were left out.
    """

    table: ImageTable
    content: tuple[str, ...]
    store: PixelStore
    damaged: int


def load_images(
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    cache: Path | None,
    skip_damaged: bool = False,
) -> Images:
    """Open the pixel store of a table, and build it if it does not exist.

    Args:
        table: images.
        preprocessing: settings, of which `load_px`, `resize`, `interpolation`, `range`, `channels` and
            `pixel_definition` decide the stored pixels.
        cache: cache folder; None for no cache.
        skip_damaged: leave damaged images out instead of raising.

    Raises:
        DamagedImages: images are damaged, and `skip_damaged` is off.
        LoupeError: no image is left.
    """
    table, content = dataset.table, dataset.hashes

    budget = min(ranks.current().gather(default_budget()))
    opened = partial(open_store, budget_bytes=budget, cache=cache)
    try:
        return Images(table, content, opened(encoded(table, preprocessing), content), damaged=0)
    except DamagedImages as damage:
        if not skip_damaged:
            raise
        kept = np.setdiff1d(np.arange(len(table)), damage.indices)
    if not len(kept):
        raise all_damaged(table)
    dropped = len(table) - len(kept)
    logger.warning(f"{counted(dropped, 'damaged image')} left out.")
    table, content = table.select(kept), tuple(content[i] for i in kept)
    return Images(table, content, opened(encoded(table, preprocessing), content), damaged=dropped)


def undecoded_images(dataset: Dataset, preprocessing: Preprocessing) -> Images:
    """Images that are decoded whenever they are read, so that those that are never read cost nothing.

    Damage is found by the reading: it raises the ImageError of the image.
    """
    return Images(dataset.table, dataset.hashes, EncodedStore(encoded(dataset.table, preprocessing), worker_count()), 0)


def keep_pixels(images: Images, rows_N: np.ndarray) -> Images:
    """Images of which some keep their pixels, where their shards would be fetched whenever they are read.

    The images are the same; nothing is kept where it would take more than a quarter of the free memory.
    """
    store, shards = images.store, images.table.shards
    if shards is None or not shards.exceed_cache or not isinstance(store, EncodedStore) or not len(rows_N):
        return images
    if len(rows_N) * store.images.image_bytes > default_budget() // 2:
        return images
    return replace(images, store=store.keeping(rows_N))


def encoded(table: ImageTable, preprocessing: Preprocessing) -> EncodedImages:
    """Images of a table with the settings for their decoding."""
    return EncodedImages(
        table,
        preprocessing.load_px,
        preprocessing.resize,
        preprocessing.interpolation,
        preprocessing.range,
        preprocessing.channels,
        preprocessing.pixel_definition,
    )


def all_damaged(table: ImageTable) -> LoupeError:
    """Error for a table without an intact image."""
    return DataError(f"{table.name}: all {counted(len(table), 'image')} are damaged. For the reasons: loupe check")


def typical_px(table: ImageTable) -> int:
    """Median of the images' shorter sides, from the headers of about a hundred images spread over the table.

    Raises:
        DataError: none of the sampled images can be read.
    """
    return int(np.median([min(size) for size in sampled_sizes(table)]))


def sampled_sizes(table: ImageTable) -> list[tuple[int, int]]:
    """Widths and heights of about a hundred images spread over the table, from their headers.

    Raises:
        DataError: none of the sampled images can be read.
    """
    sizes = []
    rows = np.unique(np.linspace(0, len(table) - 1, min(SAMPLED_HEADERS, len(table)), dtype=np.int64))
    if table.shards is not None:
        rows = table.shards.sample(np.arange(len(table)), SAMPLED_HEADERS)
    for row in rows:
        try:
            sizes.append(decode.open_header(table.encoded(int(row)), table.paths[row]).size)
        except ImageError:
            continue  # all damaged images are reported when the store is built
    if not sizes:
        raise DataError(
            f"{table.name}: none of {counted(min(SAMPLED_HEADERS, len(table)), 'sampled image')} can be read. "
            "For the reasons: loupe check"
        )
    return sizes


def used_levels(table: ImageTable, rows_N: np.ndarray) -> Levels:
    """Lowest and highest stored pixel value of the training images `rows_N`, without damaged ones.

    Raises:
        DataError: images have different bits, or all of their pixels have one value.
    """
    everyone = ranks.current()
    chosen = table.select(everyone.share(rows_N))
    parts = in_parallel(chosen, _stored_levels, chunk=CHUNK_IMAGES, description="reading pixel values")
    own = everyone.together(lambda: [*chain.from_iterable(parts)])
    found = [*chain.from_iterable(everyone.gather(own))]
    bits = Counter(bits for _, bits in found)
    if len(bits) > 1:
        kinds = enumerated([f"{count:,} of {number} bits" for number, count in sorted(bits.items())])
        raise DataError(
            f"{table.name}: input.range used needs training images of one depth; there are {kinds}. Convert them, or "
            "name the range: --set input.range=[0,255]"
        )
    low, high = min(low for (low, _), _ in found), max(high for (_, high), _ in found)
    if low == high:
        raise DataError(f"{table.name}: all pixels of the training images have the value {low}. See loupe check.")
    logger.info(f"pixel values {low:,} to {high:,} of the training images become 0 to 255 (input.range used)")
    return low, high


def _stored_levels(files: Sequence[File]) -> list[tuple[Levels, int]]:
    return [decode.stored_levels(file.data, file.path) for file in files if isinstance(file.data, bytes)]


def pixel_statistics(store: PixelStore, rows_N: np.ndarray, *, by_channel: bool) -> tuple[RGB, RGB]:
    """Mean and standard deviation of the pixels scaled to [0, 1], for each channel or over all channels.

    The sums are integers, so the result does not depend on the order of the images, which the ranks share out. If
    pixels are decoded on demand, at most 20,000 evenly spread images are used.
    """
    everyone = ranks.current()
    if everyone.any(not isinstance(store, RawStore)) and len(rows_N) > SAMPLED_IMAGES:
        rows_N = rows_N[np.linspace(0, len(rows_N) - 1, SAMPLED_IMAGES, dtype=np.int64)]
    own = everyone.together(lambda: _sums(store, everyone.share(rows_N)))
    sums = np.sum(everyone.gather(own), axis=0)
    total_C, squares_C, pixels = sums[:3], sums[3:6], int(sums[6])
    if not by_channel:
        total_C, squares_C, pixels = np.full(3, total_C.sum()), np.full(3, squares_C.sum()), 3 * pixels
    mean_C = total_C / pixels
    std_C = np.sqrt(np.maximum(squares_C / pixels - mean_C**2, 0.0))
    std_C[std_C < 0.5] = 255.0  # against division by zero for a constant channel
    return _rgb(mean_C / 255), _rgb(std_C / 255)


def _sums(store: PixelStore, rows_N: np.ndarray) -> np.ndarray:
    """Sums of the pixels of each channel, of their squares, and the number of pixels, int64 [3 + 3 + 1]."""
    if isinstance(store, EncodedStore):
        store.expect(rows_N)
    total_C, squares_C, pixels = np.zeros(3, np.int64), np.zeros(3, np.int64), 0
    for start in range(0, len(rows_N), CHUNK_IMAGES):
        x_BHWC = store.read(rows_N[start : start + CHUNK_IMAGES])
        x_PC = np.broadcast_to(x_BHWC, (*x_BHWC.shape[:3], 3)).reshape(-1, 3)
        for channel in range(3):
            counts = np.bincount(x_PC[:, channel], minlength=256)
            total_C[channel] += counts @ np.arange(256)
            squares_C[channel] += counts @ np.arange(256) ** 2
        pixels += len(x_PC)
    return np.array([*total_C, *squares_C, pixels], np.int64)


def _rgb(values_C: np.ndarray) -> RGB:
    red, green, blue = (round(float(value), 6) for value in values_C)
    return red, green, blue
