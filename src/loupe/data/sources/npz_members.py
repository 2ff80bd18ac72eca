"""Check of the arrays in a `.npz` file by their headers, before any of them is unpacked.

A deflated array may be a thousand times as large as its file, and a header may claim any shape.
"""

import io
import zipfile
from collections.abc import Collection
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

USUAL_BYTES = 512 * 10**6
"""Size of an array that may be packed as tightly as deflate can."""

MOST_RATIO = 100
"""Largest ratio of unpacked to packed size of a larger array; images of one colour have more, photographs 1 to 5."""

_MOST_DIRECTORY_BYTES = 2**20
_MOST_HEADER_BYTES = 10_000  # as numpy.load has it


def member_names(path: Path) -> list[str]:
    """Names of the arrays of a file.

    Raises:
        ValueError: its directory is too long.
        OSError, zipfile.BadZipFile: the file cannot be read.
    """
    _check_directory(path)
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def check_members(path: Path, wanted: Collection[str]) -> None:
    """Refuse a file with an array that claims more than its file holds, or that unpacks to far more.

    Args:
        path: `.npz` file.
        wanted: names of the arrays that will be read.

    Raises:
        ValueError: an array is refused; the message names it.
        OSError, zipfile.BadZipFile, EOFError: the file cannot be read.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name not in wanted:
                continue
            ratio = member.file_size / max(1, member.compress_size)
            if member.file_size > USUAL_BYTES and ratio > MOST_RATIO:
                raise ValueError(
                    f"array {name!r} unpacks to {member.file_size / 1e6:,.0f} MB, {ratio:,.0f} times its size; the "
                    f"limit is {USUAL_BYTES / 1e6:,.0f} MB, or {MOST_RATIO} times. Write it with numpy.savez"
                )
            with archive.open(member) as file:
                _check_header(file, member.file_size, name)


def _check_directory(path: Path) -> None:
    """Refuse a directory of so many members that reading it takes long."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 2**16 - 128))
        tail = file.read()
        end, large = tail.rfind(b"PK\5\6"), tail.rfind(b"PK\6\7")
        claimed = int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0
        if large >= 0:  # of more than 4 GB, which has an end of its own
            file.seek(min(size, int.from_bytes(tail[large + 8 : large + 16], "little") + 40))
            claimed = int.from_bytes(file.read(8), "little")
    if _MOST_DIRECTORY_BYTES < claimed < size:
        raise ValueError(f"it has {claimed:,} bytes of names; the limit is {_MOST_DIRECTORY_BYTES:,}")


def _check_header(file: IO[bytes], size: int, name: str) -> None:
    """Refuse a header that is too long, or whose shape is not that of the data."""
    version = np.lib.format.read_magic(file)
    length_bytes = 2 if version == (1, 0) else 4
    length = int.from_bytes(file.read(length_bytes), "little")
    if length > _MOST_HEADER_BYTES:
        raise ValueError(f"array {name!r} has a header of {length:,} bytes; the limit is {_MOST_HEADER_BYTES:,}")
    file.seek(0)
    header = io.BytesIO(file.read(_MOST_HEADER_BYTES + 16))
    np.lib.format.read_magic(header)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(header)
    needed = prod(shape) * dtype.itemsize
    if not dtype.hasobject and needed != size - header.tell():  # numpy.load has an error for objects
        raise ValueError(
            f"array {name!r} of shape {list(shape)} needs {needed:,} bytes; it has {size - header.tell():,}"
        )
