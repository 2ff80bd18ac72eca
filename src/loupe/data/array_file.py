"""Memory-mapped NumPy arrays in folders of the cache, each with a record of its checksums, verified when it is opened.

    <folder>/NAME.npy       the array
    <folder>/array.json     checksums of its blocks, and what computing it took

A damaged array raises ValueError, whatever the damage.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import numpy.typing as npt

from loupe import ranks
from loupe.data import checksums
from loupe.data.checksums import BLOCK_BYTES, Bytes, Checksum
from loupe.records import CheckedRecord, RecordError, Seconds, Whole

RECORD = "array.json"
Array = npt.NDArray[Any]


class ArrayRecord(CheckedRecord):
    """Content of array.json.

    Attributes:
        shape, dtype: of the whole array.
        rows: rows that are safely on the disk, from the first on.
        block_bytes: size of a block; the last one may be smaller.
        checksums: of each block of these rows, in order.
        seconds: time of computing the array; None where it is not known.
    """

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "The array is computed again."

    shape: tuple[Whole, ...]
    dtype: str
    rows: Whole
    block_bytes: Whole = BLOCK_BYTES
    checksums: tuple[Checksum, ...]
    seconds: Seconds | None = None


class NoChecksumsError(ValueError):
    """An array without a record that can be read and has its own checksum, as earlier versions wrote it."""


def verified(file: Path) -> tuple[Array, ArrayRecord]:
    """Map the array in a .npy file, read-only, and verify it against its record.

    Raises:
        FileNotFoundError: the file does not exist.
        NoChecksumsError: it has no record.
        ValueError: the file is damaged, or holds something else.
    """
    array = mapped(file)
    record = record_of(file.parent)
    if record is None:
        raise NoChecksumsError("it has no checksums")
    if (array.shape, array.dtype.str, len(array)) != (record.shape, record.dtype, record.rows):
        raise ValueError(f"it holds {array.dtype} {list(array.shape)}, not {record.dtype} {list(record.shape)}")
    check(bytes_of(array), record)
    return array, record


def for_machine(load: Callable[[], Array | None], file: Path) -> Array | None:
    """Array of a file for all ranks of this machine: one of them loads and verifies it, the others only map it.

    Args:
        load: function that returns the verified array, or None; the errors of `Ranks.from_main` reach every rank.

    Returns:
        The array; None on all ranks where one of them has none.
    """
    machine, found = ranks.on_machine(), list[Array]()

    def is_loaded() -> bool:
        loaded = load()
        found.extend(() if loaded is None else (loaded,))
        return loaded is not None

    if machine.from_main(is_loaded) and not machine.is_main:
        with suppress(OSError, ValueError):  # another process may have removed it
            found.append(mapped(file))
    return None if machine.any(not found) else found[0]


def check(data: Bytes, record: ArrayRecord) -> None:
    """Verify the checksums of the bytes of an array; ValueError names the first block that is damaged."""
    if record.block_bytes != BLOCK_BYTES:
        raise ValueError(f"its checksums are of blocks of {record.block_bytes:,} bytes")
    damaged = checksums.first_damaged(data, record.checksums)
    if damaged is not None:
        raise ValueError(f"block {damaged + 1:,} of {len(record.checksums):,} has another checksum")


def bytes_of(array: Array) -> Bytes:
    """Bytes of a contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8)


def record_of(folder: Path) -> ArrayRecord | None:
    """Record of the array in a folder; None where there is none that can be read."""
    try:
        return ArrayRecord.read(folder / RECORD)
    except RecordError:
        return None


def mapped(path: Path) -> Array:
    """Map the array in a .npy file, read-only, without verifying it.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, or holds something else.
    """
    try:
        array = np.load(path, mmap_mode="r")
        if not isinstance(array, np.ndarray) or not array.ndim or not array.flags.c_contiguous:
            raise ValueError("it holds something else than one array in rows")
        return array.view(np.ndarray)
    except FileNotFoundError:
        raise
    except Exception as error:  # the header is Python, and a damaged one raises whatever Python's parser raises
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from None


def write_header(file: BinaryIO, shape: Sequence[int], dtype: Any) -> None:
    """Write the header of a .npy file of an array in rows."""
    description = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(file, description)
