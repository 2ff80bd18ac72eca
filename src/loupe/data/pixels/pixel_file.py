"""Decoding of all images of a table by the ranks of a machine, and the file of their pixels.

The ranks take chunks in turn. Each chunk is written to its place in the file as if no image were damaged; the gaps that
damaged images leave are closed at the end. The bytes are the same for any number of ranks.
"""

import os
from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path

import numpy as np

from loupe import ranks
from loupe.data import array_file
from loupe.data.array_file import ArrayRecord
from loupe.data.checksums import blocks, checksum
from loupe.data.pixels.decoding import Damage, DecodedChunk, EncodedImages


def write(file: Path, images: EncodedImages) -> list[Damage]:
    """Write the pixels of all intact images in order, synced to the disk, and their record; return the damaged ones.

    Raises:
        OSError: the file cannot be written.
    """
    machine, each = ranks.on_machine(), images.image_bytes
    start = machine.from_main(lambda: _begin(file, shape_of(images)))
    shares = machine.gather(machine.together(lambda: _write_share(file, start, images)))
    intact, damaged = ranks.in_order([kept for kept, _ in shares]), _in_order([found for _, found in shares])
    shape = shape_of(images, len(damaged))
    if damaged:
        firsts = [start + rows.start * each for rows in _chunks(images)]
        places = [(first, number * each) for first, number in zip(firsts, intact, strict=True)]
        machine.from_main(lambda: _close_gaps(file, shape, places))
    sums = ranks.in_order(machine.gather(_checksums_of_share(file, start, shape[0] * each)))
    record = ArrayRecord(shape=shape, dtype="|u1", rows=shape[0], checksums=tuple(sums))
    machine.from_main(lambda: record.write(file.with_name(array_file.RECORD)))
    return damaged


def damaged_of(images: EncodedImages) -> list[Damage]:
    """Damaged images; all are decoded, and no pixels are kept."""
    found = [damage for _, chunk in _decoded_share(images) for damage in chunk.damaged]
    return _in_order(ranks.on_machine().gather(found))


def shape_of(images: EncodedImages, damaged: int = 0) -> tuple[int, int, int, int]:
    """Shape of the pixels of all images but the damaged ones, [N, H, W, channels]."""
    return len(images.table) - damaged, *images.shape


def _chunks(images: EncodedImages) -> list[range]:
    size, count = images.chunk_images, len(images.table)
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _decoded_share(images: EncodedImages) -> Generator[tuple[range, DecodedChunk], None, None]:
    """Chunks that this rank decodes, with their rows."""
    share = ranks.on_machine().share(_chunks(images))
    with closing(images.decode_all([*chain.from_iterable(share)])) as decoded:
        yield from zip(share, decoded, strict=True)


def _begin(file: Path, shape: Sequence[int]) -> int:
    """Write the header; return the byte at which the pixels begin."""
    with file.open("wb") as out:
        array_file.write_header(out, shape, np.uint8)
        return out.tell()


def _write_share(file: Path, start: int, images: EncodedImages) -> tuple[list[int], list[Damage]]:
    """Decode and write the chunks of this rank; return their numbers of intact images, and the damaged ones."""
    intact, damaged = list[int](), list[Damage]()
    with file.open("r+b") as out, closing(_decoded_share(images)) as decoded:
        for rows, chunk in decoded:
            # Not written through a memory map, where a full disk ends the process by a signal.
            out.seek(start + rows.start * images.image_bytes)
            out.write(chunk.pixels.data)
            intact.append(len(chunk.pixels))
            damaged += chunk.damaged
        out.flush()
        os.fsync(out.fileno())
    return intact, damaged


def _close_gaps(file: Path, shape: Sequence[int], places: Sequence[tuple[int, int]]) -> None:
    """Move the pixels of each chunk to the end of those before; `places` are their first bytes and sizes."""
    with file.open("r+b") as out:
        array_file.write_header(out, shape, np.uint8)
        assert out.tell() == places[0][0], "NumPy pads headers so that they can grow in place"
        for place, size in places:
            end = out.tell()
            out.seek(place)
            pixels = out.read(size)
            out.seek(end)
            out.write(pixels)
        out.truncate()
        out.flush()
        os.fsync(out.fileno())


def _checksums_of_share(file: Path, start: int, size: int) -> list[int]:
    """Checksums of the blocks of this rank."""
    pixels = np.memmap(file, np.uint8, "r", start, size) if size else np.empty(0, np.uint8)
    return [checksum(block) for block in ranks.on_machine().share([*blocks(pixels)])]


def _in_order(shares: Sequence[Sequence[Damage]]) -> list[Damage]:
    return sorted(chain.from_iterable(shares), key=lambda damage: damage.index)
