"""Decoding of chunks of images for prediction in bulk, in a thread or another process: hashes and damage are kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Generic, TypeVar, Unpack

from loupe.data.parallel import File
from loupe.data.pixels.decode import DecoderSettings
from loupe.data.pixels.decoding import Damage
from loupe.data.pixels.stream import DecodedImages, decode_and_hash

Images = TypeVar("Images")


@dataclass(frozen=True)
class Decoded(Generic[Images]):
    """Chunk of decoded images of a unit.

    Attributes:
        images: intact images.
        content: SHA-256 of the bytes of each file by its row; None for a file that could not be read.
        damaged: images that could not be read or decoded.
        unread: rows of files that were listed and cannot be read; True for those that are no longer there.
    """

    images: Images
    content: Mapping[int, str | None]
    damaged: Sequence[Damage]
    unread: Mapping[int, bool] = field(default_factory=dict)


def decode_images(files: list[File], **settings: Unpack[DecoderSettings]) -> Decoded[DecodedImages]:
    """Decode and resize a chunk of files. Errors are returned and not raised."""
    images = decode_and_hash(files, **settings)
    return Decoded(images, hashes(files, images.row_B.tolist(), images.content), images.damaged)


def hashes(files: Sequence[File], rows: Sequence[int], content: Sequence[str]) -> dict[int, str | None]:
    """Hash of each file by its row; of the intact `rows` they are known."""
    known = dict(zip(rows, content, strict=True))
    return {file.index: known.get(file.index) or _hash(file) for file in files}


def _hash(file: File) -> str | None:
    return sha256(file.data).hexdigest() if isinstance(file.data, bytes) else None
