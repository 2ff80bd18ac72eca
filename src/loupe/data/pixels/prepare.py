"""From a table of images to pixels that can be read: hashes, damage, the store, and the statistics of the pixels."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from loupe.config.recipe import RGB, Preprocessing
from loupe.data.hashing import content_hashes
from loupe.data.pixels import decode
from loupe.data.pixels.store import DamagedImages, PixelStore, RawStore, default_budget, open_store
from loupe.data.table import ImageTable
from loupe.errors import DataError, ImageError, LoupeError
from loupe.log import logger

SAMPLED_HEADERS = 101
SAMPLED_IMAGES = 20_000
CHUNK_IMAGES = 512


@dataclass(frozen=True)
class Images:
    """Images that can be read: row i of the table is image i of the store and has the hash `content[i]`."""

    table: ImageTable
    content: tuple[str, ...]
    store: PixelStore
    damaged: int


def load_images(
    table: ImageTable,
    preprocessing: Preprocessing,
    *,
    cache: Path | None,
    skip_damaged: bool = False,
    once: bool = False,
) -> Images:
    """Opens the pixel store over a table, building it where it is not there yet; with `cache` None nothing is kept.

    Of the preprocessing only what decides the stored pixels counts: `load_px`, `resize` and `interpolation`.
    `once` promises that each image is read once; damage may then turn up when images are read, see `store.open_store`.

    Raises:
        DamagedImages: some images cannot be used, and `skip_damaged` is off.
        LoupeError: no image is left.
    """
    content = content_hashes(table)
    opened = partial(
        open_store,
        load_px=preprocessing.load_px,
        resize=preprocessing.resize,
        interpolation=preprocessing.interpolation,
        budget_bytes=default_budget(),
        cache=cache,
        once=once,
        skip_damaged=skip_damaged,
    )
    try:
        return Images(table, content, opened(table, content), damaged=0)
    except DamagedImages as damage:
        if not skip_damaged:
            raise
        kept = np.setdiff1d(np.arange(len(table)), damage.indices)
    if not len(kept):
        raise all_damaged(table)
    dropped = len(table) - len(kept)
    logger.warning(f"{dropped:,} damaged images are left out.")
    table, content = table.select(kept), tuple(content[i] for i in kept)
    return Images(table, content, opened(table, content), damaged=dropped)


def all_damaged(table: ImageTable) -> LoupeError:
    return DataError(f"{table.name}: all {len(table):,} images are damaged. See: loupe check")


def typical_px(table: ImageTable) -> int:
    """The median of the images' shorter sides, from the headers of up to a hundred images spread over the table."""
    sides = []
    for row in np.unique(np.linspace(0, len(table) - 1, min(SAMPLED_HEADERS, len(table)), dtype=np.int64)):
        try:
            sides.append(min(decode.open_header(table.encoded(int(row)), table.paths[row]).size))
        except ImageError:
            continue  # damaged images are reported, all of them, when the store is built
    if not sides:
        raise DataError(
            f"{table.name}: none of {min(SAMPLED_HEADERS, len(table))} sampled images can be read. See: loupe check"
        )
    return int(np.median(sides))


def pixel_statistics(store: PixelStore, rows_N: np.ndarray, *, by_channel: bool) -> tuple[RGB, RGB]:
    """Mean and standard deviation of the pixels scaled to [0, 1], for each channel or over all.

    Sums of integers: the result does not depend on the order of the images. Where pixels are decoded as needed, at most
    20,000 images, evenly spread, stand for all.
    """
    if not isinstance(store, RawStore) and len(rows_N) > SAMPLED_IMAGES:
        rows_N = rows_N[np.linspace(0, len(rows_N) - 1, SAMPLED_IMAGES, dtype=np.int64)]
    total_C, squares_C, pixels = np.zeros(3, np.int64), np.zeros(3, np.int64), 0
    for start in range(0, len(rows_N), CHUNK_IMAGES):
        x_PC = store.read(rows_N[start : start + CHUNK_IMAGES]).reshape(-1, 3)
        for channel in range(3):
            counts = np.bincount(x_PC[:, channel], minlength=256)
            total_C[channel] += counts @ np.arange(256)
            squares_C[channel] += counts @ np.arange(256) ** 2
        pixels += len(x_PC)
    if not by_channel:
        total_C, squares_C, pixels = np.full(3, total_C.sum()), np.full(3, squares_C.sum()), 3 * pixels
    mean_C = total_C / pixels
    std_C = np.sqrt(np.maximum(squares_C / pixels - mean_C**2, 0.0))
    std_C[std_C < 0.5] = 255.0  # a constant channel carries nothing; it must not be divided by nothing
    return _rgb(mean_C / 255), _rgb(std_C / 255)


def _rgb(values_C: np.ndarray) -> RGB:
    red, green, blue = (round(float(value), 6) for value in values_C)
    return red, green, blue
