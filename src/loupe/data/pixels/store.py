"""Pixel stores: `read(indices)` gives uint8 pixels, decoded once within a byte budget and on demand beyond it.

Decoded pixels are kept in memory for a small data set, else in a memory-mapped file of the cache (`pixel_cache`).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from loupe import ranks
from loupe.config.size import Size
from loupe.data.memory import default_budget
from loupe.data.pixels import pixel_cache
from loupe.data.pixels.decode import UInt8Array
from loupe.data.pixels.decoding import Damage, DamagedImages, EncodedImages, damaged_images
from loupe.data.processes import worker_count
from loupe.errors import counted
from loupe.log import logger, size_text

__all__ = ["DamagedImages", "EncodedStore", "PixelStore", "RawStore", "default_budget", "open_store"]

Indices = npt.NDArray[np.int64]

KEPT_AT_ONCE = 512  # images
SMALL_BYTES = 4 * 2**20
"""Data sets below this are decoded every time, in a fraction of a second, and not cached."""


class PixelStore(Protocol):
    """Store of the pixels of N images of one size."""

    def __len__(self) -> int: ...

    def read(self, indices: Indices) -> UInt8Array:
        """Pixels uint8 [B, H, W, channels], C-contiguous, in the order of `indices`.

        Raises:
            IndexError: an index is out of range.
        """


@dataclass(frozen=True)
class RawStore:
    """Store of decoded pixels, uint8 [N, H, W, channels], in memory or in a read-only memory map."""

    pixels: UInt8Array

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: Indices) -> UInt8Array:
        return np.take(self.pixels, _checked(indices, len(self)), axis=0)


@dataclass(frozen=True)
class EncodedStore:
    """Store of image files, decoded by a thread pool on every read; a damaged image raises its ImageError.

    Attributes:
        kept: pixels of some images, which are not decoded again.
        place_N: place of each image among the kept ones, -1 for others.
    """

    images: EncodedImages
    workers: int
    kept: UInt8Array | None = None
    place_N: Indices | None = None

    def __len__(self) -> int:
        return len(self.images.table)

    def expect(self, rows: Indices) -> None:
        """Fetch what lies elsewhere of images that will be read, in their order."""
        if self.images.table.shards is not None:
            self.images.table.shards.expect(rows if self.place_N is None else rows[self.place_N[rows] < 0])

    def keeping(self, rows: Indices) -> "EncodedStore":
        """Store that keeps the pixels of these images, decoded now."""
        place_N = np.full(len(self), -1, np.int64)
        place_N[rows] = np.arange(len(rows))
        kept = np.empty((len(rows), *self.images.shape), np.uint8)
        self.expect(rows)
        for start in range(0, len(rows), KEPT_AT_ONCE):
            chosen = rows[start : start + KEPT_AT_ONCE]
            kept[start : start + len(chosen)] = self.read(chosen)
        return replace(self, kept=kept, place_N=place_N)

    def read(self, indices: Indices) -> UInt8Array:
        chosen = _checked(indices, len(self))
        pixels = np.empty((len(chosen), *self.images.shape), dtype=np.uint8)
        missing = np.arange(len(chosen))
        if self.kept is not None and self.place_N is not None:
            place_B = self.place_N[chosen]
            pixels[place_B >= 0] = self.kept[place_B[place_B >= 0]]
            missing = np.flatnonzero(place_B < 0)

        def fill(positions: Indices) -> None:
            for position in positions:
                pixels[position] = self.images.pixels(int(chosen[position]))

        slices = np.array_split(missing, min(2 * self.workers, len(missing)) or 1)
        list(self._pool.map(fill, slices))
        return pixels

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.workers, thread_name_prefix="loupe-data")


def open_store(
    images: EncodedImages,
    content: Sequence[str],
    *,
    budget_bytes: int,
    cache: Path | None,
) -> PixelStore:
    """Open the pixel store of images.

    Args:
        images: images, with the size and the way in which they are decoded.
        content: digest of each image.
        budget_bytes: largest size of decoded pixels, N * height * width * channels bytes. Within it the store is a
            RawStore, else an EncodedStore, after every image was decoded once to find damage.
        cache: cache folder; None for no cache.

    The ranks of a machine decode a share of the images each. Damage that one of them finds is raised by all ranks.

    Raises:
        DamagedImages: images are damaged.
    """
    count = len(images.table)
    if len(content) != count:
        raise ValueError(f"{len(content)} digests for {count} images")
    return ranks.current().together(lambda: _opened(images, content, budget_bytes, cache))


def _opened(images: EncodedImages, content: Sequence[str], budget_bytes: int, cache: Path | None) -> PixelStore:
    if images.total_bytes > budget_bytes:
        size, count = Size.of(images.load_px), len(images.table)
        logger.info(
            f"The pixels of {counted(count, 'image')} take {size_text(images.total_bytes)} at {size} px, "
            f"above the budget of {size_text(budget_bytes)}. The images are decoded in every epoch."
        )
        pixel_cache.verify(images, content, cache / "pixels" if cache else None)
        return EncodedStore(images, worker_count())
    if images.total_bytes < SMALL_BYTES:
        return _in_memory(images)
    fits = images.total_bytes * ranks.on_machine().count <= budget_bytes  # each rank has its own copy
    if cache is not None:
        folder = cache / "pixels"
        kept = pixel_cache.reopen(folder / images.key(content), images)
        if kept is not None:
            return RawStore(kept)
        try:
            return RawStore(pixel_cache.build(images, content, folder))
        except OSError as error:
            logger.info(
                f"Pixels cannot be cached under {folder} ({error.strerror or error}). "
                + ("They stay in memory for this run." if fits else "The images are decoded in every epoch.")
            )
    if fits:
        return _in_memory(images)
    pixel_cache.verify(images, content, None)
    return EncodedStore(images, worker_count())


def _in_memory(images: EncodedImages) -> RawStore:
    pixels = np.empty((len(images.table), *images.shape), dtype=np.uint8)
    damaged: list[Damage] = []
    done = 0
    with closing(images.decode_all()) as chunks:
        for chunk in chunks:
            pixels[done : done + len(chunk.pixels)] = chunk.pixels
            done += len(chunk.pixels)
            damaged += chunk.damaged
    if damaged:
        raise damaged_images(images.table, damaged)
    return RawStore(pixels)


def _checked(indices: Indices, images: int) -> Indices:
    chosen = np.asarray(indices, dtype=np.int64)
    if len(chosen) and (chosen.min() < 0 or chosen.max() >= images):
        raise IndexError(f"image indices must be 0 to {images - 1}; got {chosen.min()} to {chosen.max()}")
    return chosen
