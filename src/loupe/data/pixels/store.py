"""read(indices) -> uint8 pixels: decoded once and kept while they fit a byte budget, decoded as needed beyond it.

Kept pixels lie in memory where the set is small, else in a memory-mapped file under the cache folder
(`pixel_file.py`).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from loupe.config.recipe import Interpolation, Resize
from loupe.data.memory import default_budget
from loupe.data.parallel import worker_count
from loupe.data.pixels import pixel_cache
from loupe.data.pixels.decode import UInt8Array
from loupe.data.pixels.decoding import Damage, DamagedImages, Images, damaged_images
from loupe.data.table import ImageTable
from loupe.errors import ImageError
from loupe.log import logger, size_text

__all__ = ["DamagedImages", "EncodedStore", "PixelStore", "RawStore", "StreamedStore", "default_budget", "open_store"]

Indices = npt.NDArray[np.int64]

SMALL_BYTES = 4 * 2**20
"""Sets below this are decoded anew each time: a fraction of a second, and it leaves nothing behind."""


class PixelStore(Protocol):
    """Pixels of N images, square, `side_px` on a side."""

    def __len__(self) -> int: ...

    @property
    def side_px(self) -> int: ...

    def read(self, indices: Indices) -> UInt8Array:
        """uint8 [B, S, S, 3], C-contiguous, in the order of `indices`; IndexError where there is no such image."""


@dataclass(frozen=True)
class RawStore:
    """Pixels decoded once: uint8 [N, S, S, 3], in memory or as a read-only memory map of a file."""

    pixels: UInt8Array

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def side_px(self) -> int:
        return int(self.pixels.shape[1])

    def read(self, indices: Indices) -> UInt8Array:
        return np.take(self.pixels, _checked(indices, len(self)), axis=0)


@dataclass(frozen=True)
class EncodedStore:
    """Image files, decoded by a pool of threads whenever they are read. A damaged one raises its ImageError then."""

    images: Images
    workers: int

    def __len__(self) -> int:
        return len(self.images.table)

    @property
    def side_px(self) -> int:
        return self.images.load_px

    def read(self, indices: Indices) -> UInt8Array:
        chosen = _checked(indices, len(self))
        pixels = np.empty((len(chosen), self.side_px, self.side_px, 3), dtype=np.uint8)

        def fill(part: Indices) -> None:
            for position in part:
                pixels[position] = self._pixels(int(chosen[position]))

        parts = np.array_split(np.arange(len(chosen)), min(2 * self.workers, len(chosen)) or 1)
        list(self._pool.map(fill, parts))
        return pixels

    def _pixels(self, i: int) -> UInt8Array:
        return self.images.pixels(i)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.workers, thread_name_prefix="loupe-data")


@dataclass(frozen=True)
class StreamedStore(EncodedStore):
    """Image files that are decoded when they are read, once, and that nobody has looked at for damage before.

    A read raises DamagedImages with all that it found; with `skip_damaged` what is damaged is black, and in `damaged`.
    """

    skip_damaged: bool = False
    damaged: list[Damage] = field(default_factory=list)

    def read(self, indices: Indices) -> UInt8Array:
        pixels = super().read(indices)
        if self.damaged and not self.skip_damaged:
            raise damaged_images(sorted(self.damaged, key=lambda damage: damage.index))
        return pixels

    def _pixels(self, i: int) -> UInt8Array:
        try:
            return self.images.pixels(i)
        except ImageError as error:
            self.damaged.append(Damage(i, error, lasts=False))
            return np.zeros((self.side_px, self.side_px, 3), dtype=np.uint8)


def open_store(
    table: ImageTable,
    content: Sequence[str],
    *,
    load_px: int,
    resize: Resize,
    interpolation: Interpolation,
    budget_bytes: int,
    cache: Path | None,
    once: bool = False,
    skip_damaged: bool = False,
) -> PixelStore:
    """The pixels of all images of a table, whose digests are `content`.

    A RawStore while N * load_px**2 * 3 bytes are within `budget_bytes`, else an EncodedStore, for which every image
    is decoded once to find damage. Raises DamagedImages with all that is damaged. `cache` None leaves nothing behind.
    `once` promises that each image is read once: beyond the budget it is then a StreamedStore, for which nothing is
    decoded before, and to which `skip_damaged` is handed on.
    """
    if len(content) != len(table):
        raise ValueError(f"{len(content)} digests for {len(table)} images")
    images = Images(table, load_px, resize, interpolation)
    if once and images.total_bytes > budget_bytes:
        return StreamedStore(images, worker_count(), skip_damaged)
    if images.total_bytes > budget_bytes:
        logger.info(
            f"The pixels of {len(table):,} images take {size_text(images.total_bytes)} at {load_px} px, above the "
            f"budget of {size_text(budget_bytes)}: the images are decoded anew in every epoch."
        )
        pixel_cache.verify(images, content, cache / "pixels" if cache else None)
        return EncodedStore(images, worker_count())
    if images.total_bytes < SMALL_BYTES or cache is None:
        return _in_memory(images)
    folder = cache / "pixels"
    kept = pixel_cache.reopen(folder / images.key(content), images)
    if kept is not None:
        return RawStore(kept)
    try:
        return RawStore(pixel_cache.build(images, content, folder))
    except OSError as error:
        logger.info(
            f"Pixels cannot be kept under {folder} ({error.strerror or error}): they stay in memory for this run."
        )
    return _in_memory(images)


def _in_memory(images: Images) -> RawStore:
    pixels = np.empty((len(images.table), images.load_px, images.load_px, 3), dtype=np.uint8)
    damaged: list[Damage] = []
    done = 0
    with closing(images.decode_all()) as parts:
        for part in parts:
            pixels[done : done + len(part.pixels)] = part.pixels
            done += len(part.pixels)
            damaged += part.damaged
    if damaged:
        raise damaged_images(damaged)
    return RawStore(pixels)


def _checked(indices: Indices, images: int) -> Indices:
    chosen = np.asarray(indices, dtype=np.int64)
    if len(chosen) and (chosen.min() < 0 or chosen.max() >= images):
        raise IndexError(f"images are numbered 0 to {images - 1}; got {chosen.min()} to {chosen.max()}")
    return chosen
