"""Rows of a Parquet file that is too large for memory, in an Arrow file that is mapped: written once, found again.

    <cache>/rows/<key>.arrow

Parquet packs its columns, so that a row cannot be read where it lies; in an Arrow file it can. A file that is being
written has another name, and one that was cut off is never found. https://arrow.apache.org/docs/format/Columnar.html
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

_FORMAT = 2  # of the rows; a change of what is made of a Parquet file takes the next number
SPARE_DISK_BYTES = 256 * 2**20


def mapped(file: Path, how: Any, folder: Path, pieces: Callable[[], Iterable[pa.Table]]) -> pa.Table:
    """The rows of `file`, mapped from the copy in `folder`, which is made of `pieces` where it is not there yet.

    Args:
        how: what else decides the rows; JSON holds it.
        pieces: the rows of the file, a few at a time, all of one schema.

    Raises:
        LoupeError: the copy cannot be written. What `pieces` raises is passed on.
    """
    status = file.stat()
    made = [_FORMAT, str(file.resolve()), status.st_size, status.st_mtime_ns, how]
    place = folder / f"{sha256(json.dumps(made).encode()).hexdigest()[:40]}.arrow"
    rows = _opened(place)
    if rows is not None:
        return rows
    try:
        _write(place, pieces(), status.st_size)
        rows = _opened(place)
        if rows is None:
            raise OSError("what was written cannot be mapped")
    except OSError as error:
        raise DiskError(
            f"{file}: {size_text(status.st_size)} do not fit in memory, and a copy to read them from cannot be "
            f"written under {folder} ({error.strerror or error}). Set LOUPE_CACHE to a folder on a larger disk."
        ) from None
    return rows


def _opened(place: Path) -> pa.Table | None:
    """The rows of a copy, mapped; None where there is none, or a damaged one, which is then made again."""
    try:
        rows = pa.ipc.open_file(pa.memory_map(str(place))).read_all()
    except (OSError, pa.ArrowException):
        return None
    with suppress(OSError):  # a read-only cache is as good
        os.utime(place)  # when it was last used
    return rows


def _write(place: Path, pieces: Iterable[pa.Table], expected_bytes: int) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(place.parent).free < expected_bytes + SPARE_DISK_BYTES:
        raise OSError(f"less than {size_text(expected_bytes + SPARE_DISK_BYTES)} are free")
    rows = iter(pieces)
    first = next(rows)
    with replacing(place) as out, pa.ipc.new_file(out, first.schema) as writer:
        writer.write_table(first)
        for piece in rows:
            writer.write_table(piece)
