"""Cache of memory-mapped Arrow files for Parquet files that are too large for memory.

    <cache>/rows/<key>.arrow
    <cache>/rows/<key>.json      checksums of its blocks, which are verified whenever it is opened

Parquet compresses its columns, so rows cannot be mapped; in an Arrow file they can. A file gets its name after it was
written completely. The key has the state of the Parquet file: size, times, inode and device. https://arrow.apache.org/docs/format/Columnar.html
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import pyarrow as pa

from loupe.data import checksums
from loupe.data.checksums import BLOCK_BYTES, BlockChecksums, Checksum
from loupe.data.file_state import State
from loupe.errors import DiskError
from loupe.files import replacing
from loupe.log import logger, size_text
from loupe.records import Record, Whole

_FORMAT = 4  # format of the rows; increase it with every change of the conversion
SPARE_DISK_BYTES = 256 * 2**20


class CopyRecord(Record):
    """Checksums of a copy: of each block of the whole file, in order; the last block may be smaller."""

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "The copy is written again."

    size: Whole
    block_bytes: Whole = BLOCK_BYTES
    checksums: tuple[Checksum, ...]


def mapped(file: Path, how: Any, folder: Path, pieces: Callable[[], Iterable[pa.Table]]) -> pa.Table:
    """Map the rows of a file from its copy in the cache, which is written if it does not exist.

    Args:
        file: Parquet file.
        how: other settings that decide the rows, as JSON values.
        folder: folder of the copies.
        pieces: rows of the file in chunks of one schema. Its exceptions are passed on.

    Raises:
        DiskError: the copy cannot be written.
    """
    status = file.stat()
    key = [_FORMAT, str(file.resolve()), *State.of(status), how]
    copy = folder / f"{sha256(json.dumps(key).encode()).hexdigest()[:40]}.arrow"
    rows = _opened(copy)
    if rows is not None:
        return rows
    try:
        _write(copy, pieces(), status.st_size)
        rows = _opened(copy)
        if rows is None:
            raise OSError("the copy cannot be mapped")
    except OSError as error:
        raise DiskError(
            f"{file}: {size_text(status.st_size)} do not fit in memory, and a mapped copy cannot be written under "
            f"{folder} ({error.strerror or error}). Set LOUPE_CACHE to a folder on a larger disk."
        ) from None
    return rows


def _opened(copy: Path) -> pa.Table | None:
    """Mapped rows of a copy, verified; None if it does not exist or is damaged."""
    if not copy.exists():
        return None
    try:
        record = CopyRecord.read(_record_file(copy))
        source = pa.memory_map(str(copy))
        if (source.size(), BLOCK_BYTES) != (record.size, record.block_bytes):
            raise ValueError(f"it has {source.size():,} bytes, not {record.size:,}")
        data = np.frombuffer(source.read_buffer(), np.uint8)
        damaged = checksums.first_damaged(data, record.checksums)
        if damaged is not None:
            raise ValueError(f"block {damaged + 1:,} of {len(record.checksums):,} has another checksum")
        source.seek(0)
        rows = pa.ipc.open_file(source).read_all()
    except (OSError, ValueError, pa.ArrowException) as error:  # a RecordError is a ValueError
        logger.warning(f"The copy of a Parquet file in {copy} is damaged ({error}). It is written again.")
        return None
    with suppress(OSError):  # the cache may be read-only
        os.utime(copy)  # time of the last use
    return rows


def _record_file(copy: Path) -> Path:
    return copy.with_suffix(".json")


class _Summed:
    """File to write to, with the checksums of what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.sums = BlockChecksums()
        self.size = 0
        self.closed = False
        self._file = file

    def write(self, data: pa.Buffer) -> int:
        """Write bytes as pyarrow hands them over."""
        written = np.frombuffer(data, np.uint8)
        self._file.write(written.data)
        self.sums.add(written)
        self.size += len(written)
        return len(written)

    def tell(self) -> int:
        """Number of bytes written."""
        return self.size

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()

    def close(self) -> None:
        """Mark the end; the file stays open."""
        self.closed = True


def _write(copy: Path, pieces: Iterable[pa.Table], expected_bytes: int) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(copy.parent).free < expected_bytes + SPARE_DISK_BYTES:
        raise OSError(f"less than {size_text(expected_bytes + SPARE_DISK_BYTES)} are free")
    rows = iter(pieces)
    first = next(rows)
    with replacing(copy) as out:
        summed = _Summed(out)
        with pa.ipc.new_file(pa.PythonFile(summed, mode="w"), first.schema) as writer:
            writer.write_table(first)
            for piece in rows:
                writer.write_table(piece)
        CopyRecord(size=summed.size, checksums=summed.sums.all()).write(_record_file(copy))
