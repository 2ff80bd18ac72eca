"""Stream of the decoded images of a table, read once: in order, decoded ahead in parallel, in constant memory."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Unpack

import numpy as np
import numpy.typing as npt

from loupe.data.parallel import File, in_parallel
from loupe.data.pixels.decode import DecoderSettings, UInt8Array
from loupe.data.pixels.decoding import Damage, EncodedImages, decode_files


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """Consecutive intact images.

    Attributes:
        row_B: int64 rows in the table.
        content: SHA-256 of the bytes of each image file.
        pixels: uint8 [B, H, W, channels].
        damaged: damaged images between them and after them.
    """

    row_B: npt.NDArray[np.int64]
    content: tuple[str, ...]
    pixels: UInt8Array
    damaged: tuple[Damage, ...] = ()

    def __len__(self) -> int:
        return len(self.row_B)

    def part(self, start: int, stop: int) -> "DecodedImages":
        """Some of the images, without the damaged ones."""
        return DecodedImages(self.row_B[start:stop], self.content[start:stop], self.pixels[start:stop])


def stream(images: EncodedImages, description: str) -> Generator[DecodedImages, None, None]:
    """Decode all images once, in chunks, some of them ahead. Close the generator to stop early."""
    return in_parallel(images.table, images.task(decode_and_hash), chunk=images.chunk_images, description=description)


def decode_and_hash(files: Sequence[File], **settings: Unpack[DecoderSettings]) -> DecodedImages:
    """Decode and hash a chunk of files. It may run in another process, and returns errors instead of raising them."""
    decoded = decode_files(files, **settings)
    damaged = {damage.index for damage in decoded.damaged}
    intact = [file for file in files if file.index not in damaged]
    return DecodedImages(
        row_B=np.array([file.index for file in intact], np.int64),
        content=tuple(sha256(file.data).hexdigest() for file in intact if isinstance(file.data, bytes)),
        pixels=decoded.pixels,
        damaged=tuple(decoded.damaged),
    )


def in_batches(chunks: Iterable[DecodedImages], batch_images: int) -> Iterator[DecodedImages]:
    """The images of all chunks in batches as `read_ahead.cut` makes them: a last image joins the batch before."""
    held: list[DecodedImages] = []
    for chunk in chunks:
        held.append(chunk)
        while sum(map(len, held)) >= batch_images + spare_images(batch_images):
            whole = _joined(held)
            yield whole.part(0, batch_images)
            held = [whole.part(batch_images, len(whole))]
    if sum(map(len, held)):
        yield _joined(held)


def spare_images(batch_images: int) -> int:
    """Number of images that have to follow a batch, so that it is not the last but one: a last image would join it."""
    return 2 if batch_images > 1 else 1


def _joined(pieces: Sequence[DecodedImages]) -> DecodedImages:
    if len(pieces) == 1:
        return pieces[0]
    return DecodedImages(
        np.concatenate([piece.row_B for piece in pieces]),
        tuple(digest for piece in pieces for digest in piece.content),
        np.concatenate([piece.pixels for piece in pieces]),
    )
