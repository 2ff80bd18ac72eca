"""Activations of many images in one memory-mapped file, computed once and found again under the key of their making.

    <cache>/frozen/<key>/activations.npy        one row for each image
    <cache>/frozen/.<key>/                      the same while it is written, with `done`, the rows that are safe

A process that is killed loses what it wrote since `done`; the next one goes on from there. Only what is whole has the
name under which it is looked for. Two processes that want the same wait for each other.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from loupe.ledger import sync_folder, write_atomic

# What is written between two marks of progress; a killed process repeats no more than that.
SAFE_EVERY_BYTES = 64 * 2**20

Array = np.ndarray[Any, np.dtype[Any]]


def kept(
    folder: Path,
    key: str,
    shape: tuple[int, ...],
    dtype: type[np.floating[Any]],
    rows: Callable[[int], Iterator[Array]],
) -> Array:
    """The rows under the key, computed now where they are not there: [N, ...], mapped, not to be written to.

    Args:
        shape: of the whole; rows: gives arrays of rows, in order, from the row that it is called with.

    Raises:
        OSError: they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / f"{key}.lock"
    try:
        with FileLock(lock):
            found = opened(folder / key)
            if found is None:
                _write(folder / f".{key}", shape, dtype, rows)
                (folder / f".{key}").rename(folder / key)
                sync_folder(folder)
                found = opened(folder / key)
    finally:
        with suppress(OSError):  # another process may be waiting for it
            lock.unlink()
    if found is None:
        raise OSError("the file that was written cannot be read again")
    return found


def forget(folder: Path, key: str) -> None:
    """Removes what was written so far under a key that will not be made whole."""
    shutil.rmtree(folder / f".{key}", ignore_errors=True)


def opened(place: Path) -> Array | None:
    """What is kept there, as copy-on-write memory, which PyTorch takes without a warning; None where nothing is."""
    try:
        rows: Array = np.load(place / "activations.npy", mmap_mode="c")
    except (OSError, ValueError, EOFError):
        return None
    with suppress(OSError):  # a read-only cache is as good
        os.utime(place)  # when it was last used
    return rows.view(np.ndarray)


def _write(
    place: Path, shape: tuple[int, ...], dtype: type[np.floating[Any]], rows: Callable[[int], Iterator[Array]]
) -> None:
    """Writes the rows that are missing, and marks every so often how many are safe on the disk."""
    place.mkdir(exist_ok=True)
    file, done = place / "activations.npy", _safe_rows(place)
    if not done:
        with file.open("wb") as out:
            header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(out, header)
    row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
    with file.open("r+b") as out:
        np.lib.format.read_magic(out)
        np.lib.format.read_array_header_1_0(out)
        out.seek(done * row_bytes, os.SEEK_CUR)
        out.truncate()
        unsafe_bytes = 0
        for part in rows(done):
            out.write(np.ascontiguousarray(part, dtype=dtype).data)
            done += len(part)
            unsafe_bytes += part.nbytes
            if unsafe_bytes >= SAFE_EVERY_BYTES or done == shape[0]:
                out.flush()
                os.fsync(out.fileno())
                write_atomic(place / "done", str(done))
                unsafe_bytes = 0
    if done != shape[0]:
        raise OSError(f"{done} rows were made in place of {shape[0]}")
    (place / "done").unlink()


def _safe_rows(place: Path) -> int:
    try:
        done = int((place / "done").read_text(encoding="ascii"))
        return done if (place / "activations.npy").exists() else 0
    except (OSError, ValueError):
        return 0
