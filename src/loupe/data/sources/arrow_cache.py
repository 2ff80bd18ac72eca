"""Cache of memory-mapped Arrow files for Parquet files that are too large for memory.

    <cache>/rows/<key>.arrow

Parquet compresses its columns, so rows cannot be mapped; in an Arrow file they can. A file gets its name after it was
written completely. https://arrow.apache.org/docs/format/Columnar.html
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

from loupe.errors import DiskError
from loupe.files import replacing
from loupe.log import size_text

_FORMAT = 3  # format of the rows; increase it with every change of the conversion
SPARE_DISK_BYTES = 256 * 2**20


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
    key = [_FORMAT, str(file.resolve()), status.st_size, status.st_mtime_ns, how]
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
    """Mapped rows of a copy; None if it does not exist or is damaged."""
    try:
        rows = pa.ipc.open_file(pa.memory_map(str(copy))).read_all()
    except (OSError, pa.ArrowException):
        return None
    with suppress(OSError):  # the cache may be read-only
        os.utime(copy)  # time of the last use
    return rows


def _write(copy: Path, pieces: Iterable[pa.Table], expected_bytes: int) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(copy.parent).free < expected_bytes + SPARE_DISK_BYTES:
        raise OSError(f"less than {size_text(expected_bytes + SPARE_DISK_BYTES)} are free")
    rows = iter(pieces)
    first = next(rows)
    with replacing(copy) as out, pa.ipc.new_file(out, first.schema) as writer:
        writer.write_table(first)
        for piece in rows:
            writer.write_table(piece)
