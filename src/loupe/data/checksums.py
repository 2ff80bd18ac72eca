"""Checksums of blocks of memory-mapped files, fast enough to be verified whenever a file is opened.

A block is a matrix of 64-bit words, a line of 8 KiB in each row. Its checksum is the CRC-32 of the sums of its rows and
of its columns: a word that changed alters both, and changes cancel only if they cancel in every row and every column.
The sums run at the speed of memory, where a CRC or a hash of the bytes takes several times as long
(results/cache_checksums.md). They are against accidents and not against an adversary.
"""

import zlib
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

BLOCK_BYTES = 2**20
_LINE_BYTES = 2**13

Bytes = npt.NDArray[np.uint8]
Checksum = Annotated[int, Field(ge=0, lt=2**32)]


def checksum(block: Bytes) -> int:
    """Checksum of the bytes of one block."""
    whole = len(block) // _LINE_BYTES * _LINE_BYTES
    words = block[:whole].view("<u8").reshape(-1, _LINE_BYTES // 8)
    value = zlib.crc32(block[whole:].data)
    for axis in (0, 1):
        value = zlib.crc32(words.sum(axis=axis, dtype=np.uint64).astype("<u8", copy=False).data, value)
    return value


class BlockChecksums:
    """Checksums of the blocks of a stream of bytes, in order; the last block may be shorter."""

    def __init__(self) -> None:
        self._done: list[int] = []
        self._open = bytearray()

    def add(self, data: Bytes) -> None:
        """Append bytes to the stream."""
        if self._open:
            missing = BLOCK_BYTES - len(self._open)
            self._open += data[:missing].data
            data = data[missing:]
            if len(self._open) == BLOCK_BYTES:
                self._close()
        whole = len(data) // BLOCK_BYTES * BLOCK_BYTES
        self._done += [checksum(block) for block in blocks(data[:whole])]
        self._open += data[whole:].data

    def _close(self) -> None:
        self._done.append(checksum(np.frombuffer(self._open, np.uint8)))
        self._open = bytearray()

    def all(self) -> tuple[int, ...]:
        """Checksums of the stream so far."""
        rest = (checksum(np.frombuffer(bytes(self._open), np.uint8)),) if self._open else ()
        return (*self._done, *rest)


def blocks(data: Bytes) -> Iterator[Bytes]:
    """Blocks of bytes, in order."""
    return (data[start : start + BLOCK_BYTES] for start in range(0, len(data), BLOCK_BYTES))


def first_damaged(data: Bytes, expected: Sequence[int]) -> int | None:
    """Number of the first block whose bytes do not have the expected checksum, from 0; None where all have it."""
    if len(expected) != -(-len(data) // BLOCK_BYTES):
        return 0
    return next((n for n, block in enumerate(blocks(data)) if checksum(block) != expected[n]), None)
