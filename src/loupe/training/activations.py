"""Activations of many images in one memory-mapped file, computed once and found again under the key of their making.

    <cache>/frozen/<key>/activations.npy        one row for each image
    <cache>/frozen/<key>/array.json             checksums of its blocks, and what computing it took
    <cache>/frozen/.<key>/                      the same while it is written; array.json has the rows that are safe

A process that is killed loses what it wrote since the last array.json; the next one goes on from there. Only what is
whole has the name under which it is looked for. Checksums are verified whenever an array is opened, and what is damaged
is computed again. Two processes that want the same wait for each other.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from loupe.data import array_file
from loupe.data.array_file import ArrayRecord, NoChecksumsError
from loupe.data.checksums import BlockChecksums
from loupe.files import sync_folder
from loupe.log import logger

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
    """Seconds that computing them took; None where that is not known, as after a process that was killed."""
    record = array_file.record_of(place)
    return None if record is None else record.seconds


def begun_bytes(folder: Path, key: str) -> int:
    """How much of what is asked for was written before, by a process that did not come to its end."""
    try:
        return (folder / f".{key}" / "activations.npy").stat().st_size
    except OSError:
        return 0


def opened(place: Path) -> Array | None:
    """Map what is kept there, verified; None where nothing is. What is damaged is removed, and logged."""
    try:
        rows, _ = array_file.verified(place / "activations.npy")
        if rows.ndim < 2 or rows.dtype not in DTYPES:
            raise ValueError(f"it holds {rows.dtype} {list(rows.shape)}")
    except NoChecksumsError:
        logger.info(f"the activations in {place} have no checksums (an earlier version): they are computed again.")
    except OSError:
        return None
    except ValueError as error:
        logger.warning(f"the activations in {place} are damaged ({error}): they are computed again.")
    else:
        with suppress(OSError):  # a read-only cache is as good
            os.utime(place)  # when it was last used
        return rows
    shutil.rmtree(place, ignore_errors=True)
    return None


def _write(
    place: Path, shape: tuple[int, ...], dtype: type[np.floating[Any]], rows: Callable[[int], Iterator[Array]]
) -> None:
    """Writes the rows that are missing, and records every so often how many are safe on the disk."""
    place.mkdir(exist_ok=True)
    file = place / "activations.npy"
    done, start, sums = _safe_rows(place, shape, dtype)
    if not done:
        with file.open("wb") as out:
            array_file.write_header(out, shape, dtype)
            start = out.tell()
    with file.open("r+b") as out:
        out.seek(start)
        out.truncate()
        began, before = time.perf_counter(), done
        unsafe_bytes, marked = 0, time.monotonic()
        record = ArrayRecord(shape=shape, dtype=np.dtype(dtype).str, rows=done, checksums=sums.all())
        try:
            for part in rows(done):
                data = array_file.bytes_of(np.ascontiguousarray(part, dtype=dtype))
                out.write(data.data)
                sums.add(data)
                done += len(part)
                unsafe_bytes += len(data)
                if unsafe_bytes >= SAFE_EVERY_BYTES or time.monotonic() - marked >= SAFE_EVERY_SECONDS:
                    _mark(place, out, record, done, sums)
                    unsafe_bytes, marked = 0, time.monotonic()
        finally:  # also when it is asked to stop
            _mark(place, out, record, done, sums)
    if done != shape[0]:
        raise OSError(f"{done} rows were made in place of {shape[0]}")
    made = shape[0] - before
    if made >= FEWEST_TIMED * shape[0]:  # as long for the rows of a process that was killed as for those of this one
        seconds = (time.perf_counter() - began) * shape[0] / made
        whole = {"rows": done, "checksums": sums.all(), "seconds": round(seconds, 3)}
        record.model_copy(update=whole).write(place / array_file.RECORD)


def _mark(place: Path, out: BinaryIO, record: ArrayRecord, rows: int, sums: BlockChecksums) -> None:
    out.flush()
    os.fsync(out.fileno())
    record.model_copy(update={"rows": rows, "checksums": sums.all()}).write(place / array_file.RECORD)


def _safe_rows(place: Path, shape: tuple[int, ...], dtype: type[np.floating[Any]]) -> tuple[int, int, BlockChecksums]:
    """Rows that an unfinished process has left, the byte at which they end, and their checksums; 0 if not usable."""
    none = 0, 0, BlockChecksums()
    record, file = array_file.record_of(place), place / "activations.npy"
    if (
        record is None
        or (record.shape, record.dtype) != (shape, np.dtype(dtype).str)
        or not 0 < record.rows <= shape[0]
    ):
        return none
    size = record.rows * int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
    sums = BlockChecksums()
    try:
        with file.open("rb") as begun:
            array_file.write_header(header := BytesIO(), shape, dtype)
            if begun.read(len(header.getvalue())) != header.getvalue():
                raise ValueError("its header is another")
        data = np.memmap(file, np.uint8, "r", begin := len(header.getvalue()), size)
        array_file.check(data, record)
    except (OSError, ValueError) as error:
        logger.warning(f"the activations begun in {place} are damaged ({error}): they are computed again.")
        return none
    sums.add(data)
    return record.rows, begin + size, sums
