"""Cache of activations: one memory-mapped file for each key, computed once.

    <cache>/frozen/<key>/activations.npy        one row for each image
    <cache>/frozen/<key>/array.json             checksums of its blocks, and the time that computing it took
    <cache>/frozen/.<key>/                      the same while it is written; array.json has the number of synced rows

After a kill, the next process continues from the last array.json. A folder gets its final name only when it is
complete. Checksums are verified whenever an array is opened; a damaged array is computed again. Of two processes that
need the same key, one waits for the other.
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

# Data or time between two syncs; a process that continues after a kill repeats at most that much.
SYNC_EVERY_BYTES = 64 * 2**20
SYNC_EVERY_SECONDS = 30.0
LEAST_TIMED_SHARE = 0.1  # of the rows; the time of fewer is not extrapolated to all

# Half precision is tried first; activations beyond its range are stored in float32.
DTYPES: tuple[type[np.floating[Any]], ...] = (np.float16, np.float32)

Array = np.ndarray[Any, np.dtype[Any]]


def load_or_compute(
    folder: Path,
    key: str,
    shape: tuple[int, ...],
    dtype: type[np.floating[Any]],
    rows: Callable[[int], Iterator[Array]],
    on_wait: Callable[[], None],
) -> Array:
    """Load the rows of a key, memory-mapped and read-only; compute them first if they are not cached.

    Args:
        shape: shape of all rows together, [N, ...].
        rows: function that computes the rows from a given row on, as arrays in order.
        on_wait: called every second while another process computes the same key.

    Raises:
        OSError: the rows cannot be written; a partial file is removed.
        ArithmeticError: raised by `rows` for numbers beyond the range of `dtype`; a partial file is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / f".{key}.lock", on_wait):
        cached = load(folder / key)
        if cached is not None and cached.shape == shape and cached.dtype == dtype:
            return cached
        shutil.rmtree(folder / key, ignore_errors=True)  # damaged
        try:
            _write(folder / f".{key}", shape, dtype, rows)
            (folder / f".{key}").rename(folder / key)
            sync_folder(folder)
        except (OSError, ArithmeticError):
            shutil.rmtree(folder / f".{key}", ignore_errors=True)
            raise
        written = load(folder / key)
    if written is None:
        raise OSError("the file that was just written cannot be read")
    return written


@contextmanager
def _locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock. Its empty file stays: removing it would take it from a process that waits for it."""
    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=1)
            break
        except Timeout:
            on_wait()
    try:
        yield
    finally:
        lock.release()


def seconds_of(path: Path) -> float | None:
    """Time that computing the activations took; None if unknown, as after a kill."""
    record = array_file.record_of(path)
    return None if record is None else record.seconds


def partial_bytes(folder: Path, key: str) -> int:
    """Bytes of a key that an interrupted process has left."""
    try:
        return (folder / f".{key}" / "activations.npy").stat().st_size
    except OSError:
        return 0


def load(path: Path) -> Array | None:
    """Activations in a folder, verified, memory-mapped and read-only; None if there are none, or they are damaged.

    Damaged ones are removed.
    """
    try:
        rows, _ = array_file.verified(path / "activations.npy")
        if rows.ndim < 2 or rows.dtype not in DTYPES:
            raise ValueError(f"it holds {rows.dtype} {list(rows.shape)}")
    except NoChecksumsError:
        logger.info(
            f"the activations in {path} have no valid checksums (as of an earlier version): they are computed again."
        )
    except OSError:
        return None
    except ValueError as error:
        logger.warning(f"the activations in {path} are damaged ({error}): they are computed again.")
    else:
        with suppress(OSError):  # a read-only cache works too
            os.utime(path)  # time of the last use
        return rows
    shutil.rmtree(path, ignore_errors=True)
    return None


def _write(
    folder: Path, shape: tuple[int, ...], dtype: type[np.floating[Any]], rows: Callable[[int], Iterator[Array]]
) -> None:
    """Write the missing rows; sync and record their number every SYNC_EVERY_BYTES or SYNC_EVERY_SECONDS."""
    folder.mkdir(exist_ok=True)
    file = folder / "activations.npy"
    done, start, sums = _synced_rows(folder, shape, dtype)
    if not done:
        with file.open("wb") as out:
            array_file.write_header(out, shape, dtype)
            start = out.tell()
    with file.open("r+b") as out:
        out.seek(start)
        out.truncate()
        began, before = time.perf_counter(), done
        unsynced_bytes, synced = 0, time.monotonic()
        record = ArrayRecord(shape=shape, dtype=np.dtype(dtype).str, rows=done, checksums=sums.all())
        try:
            for batch in rows(done):
                data = array_file.bytes_of(np.ascontiguousarray(batch, dtype=dtype))
                out.write(data.data)
                sums.add(data)
                done += len(batch)
                unsynced_bytes += len(data)
                if unsynced_bytes >= SYNC_EVERY_BYTES or time.monotonic() - synced >= SYNC_EVERY_SECONDS:
                    _sync(folder, out, record, done, sums)
                    unsynced_bytes, synced = 0, time.monotonic()
        finally:  # also on a request to stop
            _sync(folder, out, record, done, sums)
    if done != shape[0]:
        raise OSError(f"{done} rows were computed in place of {shape[0]}")
    computed = shape[0] - before
    if computed >= LEAST_TIMED_SHARE * shape[0]:  # rows of a killed process count as those of this one
        seconds = (time.perf_counter() - began) * shape[0] / computed
        whole = {"rows": done, "checksums": sums.all(), "seconds": round(seconds, 3)}
        record.model_copy(update=whole).write(folder / array_file.RECORD)


def _sync(folder: Path, out: BinaryIO, record: ArrayRecord, rows: int, sums: BlockChecksums) -> None:
    """Sync the rows, then record their number."""
    out.flush()
    os.fsync(out.fileno())
    record.model_copy(update={"rows": rows, "checksums": sums.all()}).write(folder / array_file.RECORD)


def _synced_rows(
    folder: Path, shape: tuple[int, ...], dtype: type[np.floating[Any]]
) -> tuple[int, int, BlockChecksums]:
    """Number of rows that an interrupted process has synced, the byte at which they end, and their checksums.

    0 rows if they are damaged, or have another shape or type.
    """
    none = 0, 0, BlockChecksums()
    record, file = array_file.record_of(folder), folder / "activations.npy"
    if (
        record is None
        or (record.shape, record.dtype) != (shape, np.dtype(dtype).str)
        or not 0 < record.rows <= shape[0]
    ):
        return none
    size = record.rows * int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
    sums = BlockChecksums()
    try:
        with file.open("rb") as partial:
            array_file.write_header(header := BytesIO(), shape, dtype)
            if partial.read(len(header.getvalue())) != header.getvalue():
                raise ValueError("its header is another")
        data = np.memmap(file, np.uint8, "r", start := len(header.getvalue()), size)
        array_file.check(data, record)
    except (OSError, ValueError) as error:
        logger.warning(f"the unfinished activations in {folder} are damaged ({error}): they are computed again.")
        return none
    sums.add(data)
    return record.rows, start + size, sums
