"""Parallel decoding of the images of a table, with a list of the damaged ones."""

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from math import prod
from typing import TypeVar, Unpack

import numpy as np
import PIL

from loupe import deadline
from loupe.config.base import Channels, Levels
from loupe.config.recipe import Interpolation, PixelDefinition, Resize
from loupe.config.size import Size, SizePx
from loupe.data.memory import can_allocate
from loupe.data.parallel import File, in_parallel
from loupe.data.pixels.decode import DECODER_VERSION, DecoderSettings, UInt8Array, load
from loupe.data.pixels.limits import MAX_BYTES
from loupe.data.table import ImageTable
from loupe.errors import DataError, ImageError, counted

T = TypeVar("T")

CHUNK_BYTES = 4 * 2**20
CHUNK_IMAGES = 256
SHOWN_ERRORS = 20


class DamagedImages(DataError):  # noqa: N818 - named after the images
    """Damaged images of a data set: ascending `indices` into its table, and one ImageError for each."""

    def __init__(self, errors: Sequence[ImageError], indices: Sequence[int]) -> None:
        listed = "".join(f"\n  {error}" for error in errors[:SHOWN_ERRORS])
        rest = f"\n  ... and {len(errors) - SHOWN_ERRORS:,} more" if len(errors) > SHOWN_ERRORS else ""
        them = "it" if len(errors) == 1 else "them"
        super().__init__(
            f"{counted(len(errors), 'damaged image')}:{listed}{rest}\nRepair or remove {them}, or leave {them} out "
            "with --skip-damaged."
        )
        self.errors = list(errors)
        self.indices = np.asarray(indices, dtype=np.int64)

    def __reduce__(self) -> tuple[type["DamagedImages"], tuple[list[ImageError], list[int]]]:
        return type(self), (self.errors, self.indices.tolist())


@dataclass(frozen=True)
class EncodedImages:
    """Image files of a table with the settings for their decoding."""

    table: ImageTable
    load_px: SizePx
    resize: Resize
    interpolation: Interpolation
    levels: Levels | None = None
    channels: Channels = 3
    definition: PixelDefinition = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the pixels of one image, [H, W, channels]."""
        return *Size.of(self.load_px), self.channels

    @property
    def _settings(self) -> DecoderSettings:
        return DecoderSettings(
            load_px=self.load_px,
            resize=self.resize,
            interpolation=self.interpolation,
            levels=self.levels,
            channels=self.channels,
            definition=self.definition,
        )

    @property
    def total_bytes(self) -> int:
        return len(self.table) * self.image_bytes

    @property
    def image_bytes(self) -> int:
        return prod(self.shape)

    def pixels(self, i: int) -> UInt8Array:
        """Pixels of image `i`, uint8 [H, W, channels].

        Raises:
            ImageError: the image is damaged.
        """
        path = self.table.paths[i]
        data = self.table.encoded(i)
        return load(data, path, **self._settings)

    def decode_all(self, rows: Sequence[int] | None = None) -> Generator["DecodedChunk", None, None]:
        """Decode all images, or those of some rows, in order and in parallel, in chunks.

        Raises:
            StoppedError: a condition of `deadline.stopping_when` holds.
        """
        task, most = self.task(decode_files), self.chunk_images
        with closing(in_parallel(self.table, task, chunk=most, description="decoding images", rows=rows)) as chunks:
            for chunk in chunks:
                deadline.check()
                yield chunk

    @property
    def chunk_images(self) -> int:
        """Number of images that are decoded by one task."""
        return chunk_images(self.image_bytes)

    def task(self, work: Callable[..., T]) -> Callable[[list[File]], T]:
        """Work on files with the settings of the decoder, to be done in another thread or process."""
        return partial(work, **self._settings)

    def key(self, content: Sequence[str]) -> str:
        """Cache key: digest of the decoder's settings and versions and of the content digests of the images."""
        settings = [DECODER_VERSION, PIL.__version__, *self._settings.values()]
        if self.definition == 1:
            settings.pop()  # as before there was another
        return sha256(json.dumps([settings, list(content)]).encode()).hexdigest()[:40]


def chunk_images(image_bytes: int) -> int:
    """Number of images that are decoded by one task, by the bytes of their pixels."""
    return min(CHUNK_IMAGES, max(1, CHUNK_BYTES // image_bytes))


@dataclass(frozen=True)
class Damage:
    """Damaged image; `permanent` damage is in the bytes of the file, and not for example a lack of memory."""

    index: int
    error: ImageError
    permanent: bool


@dataclass(frozen=True)
class DecodedChunk:
    """Pixels of the intact images of a chunk, uint8 [n, H, W, channels] in order, and the damaged images."""

    pixels: UInt8Array
    damaged: list[Damage]


def decode_files(files: Sequence[File], **settings: Unpack[DecoderSettings]) -> DecodedChunk:
    """Decode a chunk of files. It may run in another process, and returns errors instead of raising them."""
    pixels = np.empty((len(files), *Size.of(settings["load_px"]), settings["channels"]), dtype=np.uint8)
    done = 0
    damaged = []
    for file in files:
        if isinstance(file.data, ImageError):
            damaged.append(Damage(file.index, file.data, permanent=False))
            continue
        try:
            pixels[done] = load(file.data, file.path, **settings)
            done += 1
        except ImageError as error:
            damaged.append(Damage(file.index, error, is_permanent(error)))
    return DecodedChunk(pixels[:done], damaged)


def is_permanent(error: ImageError) -> bool:
    """True if the error of a decoder is of the bytes; many decoders report a lack of memory as damage."""
    return not isinstance(error.__cause__, MemoryError) and can_allocate(MAX_BYTES)


def damaged_images(table: ImageTable, damaged: Sequence[Damage]) -> DamagedImages:
    """Error for damaged images of a table."""
    errors = [table.located(damage.index, damage.error) for damage in damaged]
    return DamagedImages(errors, [damage.index for damage in damaged])
