"""Cache of activations: one memory-mapped file for each key, computed once.

    <cache>/frozen/<key>/activations.npy        one row for each image
    <cache>/frozen/<key>/array.json             checksums of its blocks, and the time that computing it took
    <cache>/frozen/.<key>/                      the same while it is written; array.json has the number of synced rows

After a kill, the next process continues from the last array.json. A folder gets its final name only when it is
complete. Checksums are verified whenever an array is opened; a damaged array is computed again. Of two commands that
need the same key, one waits for the other. The ranks of a machine compute a key together, and one of them holds the
lock.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from loupe import ranks
from loupe.data import array_file
from loupe.data.array_file import Array, NoChecksumsError
from loupe.files import sync_folder
from loupe.log import logger
from loupe.training import activation_file
from loupe.training.activation_file import Rows

# Half precision is tried first; activations beyond its range are stored in float32.
DTYPES: tuple[type[np.floating[Any]], ...] = (np.float16, np.float32)


def load_or_compute(
    folder: Path,
    key: str,
    shape: tuple[int, ...],
    dtype: type[np.floating[Any]],
    rows: Rows,
    on_wait: Callable[[], None],
    *,
    batch: int,
    round_batches: int = 1,
) -> Array:
    """Load the rows of a key, memory-mapped and read-only; compute them first if they are not cached.

    Args:
        shape: shape of all rows together, [N, ...].
        rows: function that computes the rows of some numbers, in batches.
        on_wait: called every second while another process computes the same key.
        batch: number of rows in a batch.
        round_batches: most batches that a rank computes before it writes them.

    Raises:
        OSError: the rows cannot be written; a partial file is removed.
        ArithmeticError: raised by `rows` for numbers beyond the range of `dtype`; a partial file is removed.
        RanksDifferError: the ranks of this machine need different keys.
    """
    machine = ranks.on_machine()
    machine.same((key, shape), "networks, images or settings")
    machine.from_main(lambda: folder.mkdir(parents=True, exist_ok=True))
    with _locked(folder / f".{key}.lock", on_wait):
        cached = load(folder / key)
        if cached is not None and cached.shape == shape and cached.dtype == dtype:
            return cached
        try:
            machine.from_main(lambda: shutil.rmtree(folder / key, ignore_errors=True))  # damaged
            activation_file.write(folder / f".{key}", shape, dtype, rows, batch=batch, round_batches=round_batches)
            machine.from_main(lambda: _publish(folder, key))
        except (OSError, ArithmeticError):
            if machine.is_main:
                shutil.rmtree(folder / f".{key}", ignore_errors=True)
            raise
        written = load(folder / key)
    if written is None:
        raise OSError("the file that was just written cannot be read")
    return written


def _publish(folder: Path, key: str) -> None:
    (folder / f".{key}").rename(folder / key)
    sync_folder(folder)


@contextmanager
def _locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock. Its empty file stays: removing it would take it from a process that waits for it."""
    lock = FileLock(path)

    def is_acquired() -> bool:
        with suppress(Timeout):
            lock.acquire(timeout=1)
        return lock.is_locked

    try:
        while not ranks.on_machine().from_main(is_acquired):
            on_wait()
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
        return (folder / f".{key}" / activation_file.NAME).stat().st_size
    except OSError:
        return 0


def load(path: Path) -> Array | None:
    """Activations in a folder, verified, memory-mapped and read-only; None if there are none, or they are damaged.

    Damaged ones are removed.
    """
    return array_file.for_machine(lambda: _verified(path), path / activation_file.NAME)


def _verified(path: Path) -> Array | None:
    try:
        rows, _ = array_file.verified(path / activation_file.NAME)
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
