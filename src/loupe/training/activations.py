"""Activations of many images in one memory-mapped file, computed once and found again under the key of their making.

    <cache>/frozen/<key>/activations.npy        one row for each image
    <cache>/frozen/<key>/seconds                what computing them took
    <cache>/frozen/.<key>/                      the same while it is written, with `done`, the rows that are safe

A process that is killed loses what it wrote since `done`; the next one goes on from there. Only what is whole has the
name under which it is looked for. Two processes that want the same wait for each other.
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from loupe.data import array_file
from loupe.files import sync_folder, write_atomic

# What is written between two marks of progress; a killed process repeats no more than that.
SAFE_EVERY_BYTES = 64 * 2**20
SAFE_EVERY_SECONDS = 30.0
FEWEST_TIMED = 0.1  # of the rows; from fewer nothing is said of the time of all

# Half precision is tried first; what does not fit it is kept whole.
DTYPES: tuple[type[np.floating[Any]], ...] = (np.float16, np.float32)

Array = np.ndarray[Any, np.dtype[Any]]


def kept(
    folder: Path,
    key: str,
    shape: tuple[int, ...],
    dtype: type[np.floating[Any]],
    rows: Callable[[int], Iterator[Array]],
    waiting: Callable[[], None],
) -> Array:
    """The rows under the key, computed now where they are not there: [N, ...], mapped, not to be written to.

    Args:
        shape: of the whole; rows: gives arrays of rows, in order, from the row that it is called with.
        waiting: called every second while another process computes the same.

    Raises:
        OSError: they cannot be written; nothing of them is left.
        ArithmeticError: raised by `rows` for numbers that do not fit; nothing of them is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / f".{key}.lock", waiting):
        found = opened(folder / key)
        if found is not None and found.shape == shape and found.dtype == dtype:
            return found
        shutil.rmtree(folder / key, ignore_errors=True)  # there, but damaged
        try:
            _write(folder / f".{key}", shape, dtype, rows)
            (folder / f".{key}").rename(folder / key)
            sync_folder(folder)
        except (OSError, ArithmeticError):
            shutil.rmtree(folder / f".{key}", ignore_errors=True)
            raise
        found = opened(folder / key)
    if found is None:
        raise OSError("the file that was written cannot be read again")
    return found


@contextmanager
def _locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds the lock. Its empty file stays: to remove it is to take it from whoever waits for it."""
    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=1)
            break
        except Timeout:
            waiting()
    try:
        yield
    finally:
        lock.release()


def seconds_of(place: Path) -> float | None:
    """What computing them took; None where that is not known: an older Loupe, or one that was killed, noted no time."""
    try:
        seconds = float((place / "seconds").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return seconds if 0 <= seconds < math.inf else None


def begun_bytes(folder: Path, key: str) -> int:
    """How much of what is asked for was written before, by a process that did not come to its end."""
    try:
        return (folder / f".{key}" / "activations.npy").stat().st_size
    except OSError:
        return 0


def opened(place: Path) -> Array | None:
    """What is kept there, mapped for reading; None where nothing is."""
    try:
        rows: Array = array_file.mapped(place / "activations.npy")
    except (OSError, ValueError):
        return None
    if rows.ndim < 2 or rows.dtype not in DTYPES:
        return None
    with suppress(OSError):  # a read-only cache is as good
        os.utime(place)  # when it was last used
    return rows


def _write(
    place: Path, shape: tuple[int, ...], dtype: type[np.floating[Any]], rows: Callable[[int], Iterator[Array]]
) -> None:
    """Writes the rows that are missing, and marks every so often how many are safe on the disk."""
    place.mkdir(exist_ok=True)
    file, done = place / "activations.npy", _safe_rows(place, shape, dtype)
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
        began, before = time.perf_counter(), done
        unsafe_bytes, marked = 0, time.monotonic()
        try:
            for part in rows(done):
                out.write(np.ascontiguousarray(part, dtype=dtype).data)
                done += len(part)
                unsafe_bytes += part.nbytes
                if unsafe_bytes >= SAFE_EVERY_BYTES or time.monotonic() - marked >= SAFE_EVERY_SECONDS:
                    _mark(place, out, done)
                    unsafe_bytes, marked = 0, time.monotonic()
        finally:  # also when it is asked to stop
            _mark(place, out, done)
    if done != shape[0]:
        raise OSError(f"{done} rows were made in place of {shape[0]}")
    made = shape[0] - before
    if made >= FEWEST_TIMED * shape[0]:  # as long for the rows of a process that was killed as for those of this one
        write_atomic(place / "seconds", f"{(time.perf_counter() - began) * shape[0] / made:.3f}")
    (place / "done").unlink()


def _mark(place: Path, out: BinaryIO, done: int) -> None:
    out.flush()
    os.fsync(out.fileno())
    write_atomic(place / "done", str(done))


def _safe_rows(place: Path, shape: tuple[int, ...], dtype: type[np.floating[Any]]) -> int:
    """The rows that a process that did not come to its end has left; 0 where they are not of this shape."""
    try:
        done = int((place / "done").read_text(encoding="ascii"))
        found = array_file.header(place / "activations.npy")
    except (OSError, ValueError):
        return 0
    return done if 0 < done <= shape[0] and found == (shape, np.dtype(dtype)) else 0
