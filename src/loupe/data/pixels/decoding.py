"""The images of a table as pixels, decoded in parallel, and the list of those that cannot be."""

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

import numpy as np
import PIL

from loupe.config.recipe import Interpolation, Resize
from loupe.data.parallel import File, in_parallel
from loupe.data.pixels.decode import DECODER_VERSION, UInt8Array, load
from loupe.data.table import ImageTable
from loupe.errors import DataError, ImageError

CHUNK_BYTES = 4 * 2**20
CHUNK_IMAGES = 256
SHOWN_ERRORS = 20


class DamagedImages(DataError):  # noqa: N818 - it names the images
    """Images of a set that cannot be used: `indices` into its table, ascending, and one ImageError for each."""

    def __init__(self, errors: Sequence[ImageError], indices: Sequence[int]) -> None:
        shown = "".join(f"\n  {error}" for error in errors[:SHOWN_ERRORS])
        rest = f"\n  ... and {len(errors) - SHOWN_ERRORS:,} more" if len(errors) > SHOWN_ERRORS else ""
        count = "1 image is" if len(errors) == 1 else f"{len(errors):,} images are"
        super().__init__(
            f"{count} damaged:{shown}{rest}\nRepair or remove them, or leave them out with --skip-damaged."
        )
        self.errors = list(errors)
        self.indices = np.asarray(indices, dtype=np.int64)

    def __reduce__(self) -> tuple[type["DamagedImages"], tuple[list[ImageError], list[int]]]:
        return type(self), (self.errors, self.indices.tolist())


@dataclass(frozen=True)
class Images:
    """Image files, and how they are to become pixels."""

    table: ImageTable
    load_px: int
    resize: Resize
    interpolation: Interpolation

    @property
    def total_bytes(self) -> int:
        return len(self.table) * self.image_bytes

    @property
    def image_bytes(self) -> int:
        return 3 * self.load_px**2

    def pixels(self, i: int) -> UInt8Array:
        """uint8 [S, S, 3]; ImageError where the image is damaged."""
        path = self.table.paths[i]
        data = self.table.encoded(i)
        return load(data, path, load_px=self.load_px, resize=self.resize, interpolation=self.interpolation)

    def decode_all(self) -> Generator["Decoded", None, None]:
        """All images in order, a few at a time, in parallel."""
        chunk = min(CHUNK_IMAGES, max(1, CHUNK_BYTES // self.image_bytes))
        work = partial(decode_files, load_px=self.load_px, resize=self.resize, interpolation=self.interpolation)
        return in_parallel(self.table, work, chunk=chunk, description="decoding images")

    def key(self, content: Sequence[str]) -> str:
        """A digest of all that decides the pixels of the images with these digests of their content."""
        how = [DECODER_VERSION, PIL.__version__, self.load_px, self.resize, self.interpolation]
        return sha256(json.dumps([how, list(content)]).encode()).hexdigest()[:40]


@dataclass(frozen=True)
class Damage:
    """`lasts`: it lies in the bytes of the file, so that it need not be looked for again while these are the same."""

    index: int
    error: ImageError
    lasts: bool


@dataclass(frozen=True)
class Decoded:
    """What could be decoded of some images, uint8 [n, S, S, 3] in order, and what is wrong with the others."""

    pixels: UInt8Array
    damaged: list[Damage]


def decode_files(files: Sequence[File], *, load_px: int, resize: Resize, interpolation: Interpolation) -> Decoded:
    """Raises nothing: it runs in other processes too."""
    pixels = np.empty((len(files), load_px, load_px, 3), dtype=np.uint8)
    done = 0
    damaged = []
    for file in files:
        if isinstance(file.data, ImageError):
            damaged.append(Damage(file.index, file.data, lasts=False))
            continue
        try:
            pixels[done] = load(file.data, file.path, load_px=load_px, resize=resize, interpolation=interpolation)
            done += 1
        except ImageError as error:
            lasts = not isinstance(error.__cause__, MemoryError)
            damaged.append(Damage(file.index, error, lasts))
    return Decoded(pixels[:done], damaged)


def damaged_images(damaged: list[Damage]) -> DamagedImages:
    return DamagedImages([damage.error for damage in damaged], [damage.index for damage in damaged])
