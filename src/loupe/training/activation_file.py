"""Writing of activations to one file by the ranks of a machine, as far as an interrupted command has not written them.

Rows are computed in rounds. In each, every rank computes some batches that follow each other and writes them to their
place; then rank 0 reads them for their checksums, and from time to time syncs the file and records the number of rows.
So the file is whole up to a row, whatever ends a rank, and any number of ranks goes on from there. The batches, and so
the bits, do not depend on the number of ranks.
"""

import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from loupe import ranks
from loupe.data import array_file
from loupe.data.array_file import Array, ArrayRecord
from loupe.data.checksums import BLOCK_BYTES, BlockChecksums
from loupe.data.pixels.read_ahead import cut
from loupe.log import logger

# Data or time between two syncs; a process that continues after a kill repeats at most that much.
SYNC_EVERY_BYTES = 64 * 2**20
SYNC_EVERY_SECONDS = 30.0
LEAST_TIMED_SHARE = 0.1  # of the rows; the time of fewer is not extrapolated to all
LEAST_ROUNDS = 4  # so that no rank waits long for the others at the end

NAME = "activations.npy"
Numbers = npt.NDArray[np.int64]
Rows = Callable[[Numbers], Generator[Array, None, None]]
"""Function that computes the rows of some numbers, in batches as `cut` makes them."""


class UnfinishedFile:
    """File of rows that is written from its first row on; rank 0 alone has one.

    Attributes:
        start: byte at which the rows begin.
        done: number of rows that are written and have checksums.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: Any) -> None:
        """Begin the file, or continue it after the last synced row; any other content is overwritten."""
        folder.mkdir(exist_ok=True)
        self._folder, self._file = folder, folder / NAME
        self._row_bytes = row_bytes(shape, dtype)
        array_file.write_header(header := BytesIO(), shape, dtype)
        self.start = len(header.getvalue())
        self.done, self._sums = _synced_rows(folder, shape, dtype, header.getvalue())
        if not self.done:
            self._file.write_bytes(header.getvalue())
        os.truncate(self._file, self.start + self.done * self._row_bytes)
        self._record = ArrayRecord(shape=shape, dtype=np.dtype(dtype).str, rows=self.done, checksums=self._sums.all())
        self._unsynced_bytes, self._synced = 0, time.monotonic()

    def add(self, rows: int) -> None:
        """Count the rows up to this number, which are now in the file, and sync it if it is time to."""
        missing = (rows - self.done) * self._row_bytes
        with self._file.open("rb") as file:
            file.seek(self.start + self.done * self._row_bytes)
            while missing:
                data = file.read(min(missing, BLOCK_BYTES))
                if not data:
                    raise OSError(f"{self._file} is shorter than what was written to it")
                self._sums.add(np.frombuffer(data, np.uint8))
                missing -= len(data)
                self._unsynced_bytes += len(data)
        self.done = rows
        if self._unsynced_bytes >= SYNC_EVERY_BYTES or time.monotonic() - self._synced >= SYNC_EVERY_SECONDS:
            self.sync()

    def sync(self, seconds: float | None = None) -> None:
        """Sync the rows, then record their number, and the time of computing all of them where it is known."""
        with self._file.open("r+b") as file:
            os.fsync(file.fileno())
        now = {"rows": self.done, "checksums": self._sums.all(), "seconds": seconds}
        self._record.model_copy(update=now).write(self._folder / array_file.RECORD)
        self._unsynced_bytes, self._synced = 0, time.monotonic()


def write(
    folder: Path, shape: tuple[int, ...], dtype: type[np.floating[Any]], rows: Rows, *, batch: int, round_batches: int
) -> None:
    """Write the missing rows; sync and record their number every SYNC_EVERY_BYTES or SYNC_EVERY_SECONDS.

    Args:
        rows: function that computes rows.
        batch: number of rows in a batch.
        round_batches: most batches of a rank in a round; one, where there is one rank.

    Raises:
        OSError: a rank cannot write, or computes another number of rows than it is asked for.
    """
    machine, size = ranks.on_machine(), row_bytes(shape, dtype)
    kept = list[UnfinishedFile]()

    def begin() -> tuple[int, int]:
        kept.append(file := UnfinishedFile(folder, shape, dtype))
        return file.start, file.done

    def add(parts: list[Numbers]) -> None:
        for file in kept:
            file.add(max(int(part[-1]) + 1 for part in parts if len(part)))

    start, done = machine.from_main(begin)
    most = min(round_batches, SYNC_EVERY_BYTES // max(1, batch * size * machine.count))
    rounds = _rounds(np.arange(done, shape[0]), batch, most, machine.count)
    mine = [parts[machine.rank] for parts in rounds]
    began = time.perf_counter()
    with machine.together(lambda: (folder / NAME).open("r+b")) as out, closing(rows(_joined(mine))) as computed:
        try:
            for parts in rounds:
                machine.together(partial(_write_part, out, start, size, parts[machine.rank], computed, dtype))
                machine.from_main(partial(add, parts))
        finally:  # also on a request to stop
            for file in kept:
                file.sync()
    if (missing := shape[0] - done) >= LEAST_TIMED_SHARE * shape[0]:  # rows of a killed process count as those of this
        seconds = (time.perf_counter() - began) * shape[0] / max(1, missing)
        machine.from_main(lambda: kept[0].sync(round(seconds, 3)))


def row_bytes(shape: tuple[int, ...], dtype: Any) -> int:
    """Bytes of one row."""
    return int(np.prod(shape[1:], dtype=np.int64) * np.dtype(dtype).itemsize)


def _rounds(numbers: Numbers, batch: int, most: int, count: int) -> list[list[Numbers]]:
    """Numbers of the rows that each rank computes in each round: consecutive batches."""
    batches = cut(numbers, batch)
    each = 1 if count == 1 else max(1, min(most, len(batches) // (LEAST_ROUNDS * count)))
    rounds = [batches[first : first + each * count] for first in range(0, len(batches), each * count)]
    return [
        [_joined(some[len(some) * rank // count : len(some) * (rank + 1) // count]) for rank in range(count)]
        for some in rounds
    ]


def _joined(parts: list[Numbers]) -> Numbers:
    return np.concatenate([np.empty(0, np.int64), *parts])


def _write_part(
    out: BinaryIO, start: int, size: int, part: Numbers, computed: Generator[Array, None, None], dtype: Any
) -> None:
    """Write the next rows that are computed to their place."""
    written = 0
    out.seek(start + (int(part[0]) if len(part) else 0) * size)
    while written < len(part):
        batch = next(computed, None)
        if batch is None:
            break
        out.write(array_file.bytes_of(np.ascontiguousarray(batch, dtype=dtype)).data)
        written += len(batch)
    if written != len(part):
        raise OSError(f"{written} rows were computed in place of {len(part)}")
    out.flush()


def _synced_rows(folder: Path, shape: tuple[int, ...], dtype: Any, header: bytes) -> tuple[int, BlockChecksums]:
    """Number of rows that an interrupted process has synced, and their checksums.

    0 rows if they are damaged, or have another shape or type.
    """
    none = 0, BlockChecksums()
    record, file = array_file.record_of(folder), folder / NAME
    if (
        record is None
        or (record.shape, record.dtype) != (shape, np.dtype(dtype).str)
        or not 0 < record.rows <= shape[0]
    ):
        return none
    sums = BlockChecksums()
    try:
        with file.open("rb") as partial_file:
            if partial_file.read(len(header)) != header:
                raise ValueError("its header is another")
        data = np.memmap(file, np.uint8, "r", len(header), record.rows * row_bytes(shape, dtype))
        array_file.check(data, record)
    except (OSError, ValueError) as error:
        logger.warning(f"the unfinished activations in {folder} are damaged ({error}): they are computed again.")
        return none
    sums.add(data)
    return record.rows, sums
