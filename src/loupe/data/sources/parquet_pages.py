"""Sizes of the pages of a Parquet file, read from their headers before any page is unpacked.

A page header is a struct in Thrift's compact protocol. The sizes in the footer may be wrong, and do not count a value
of a dictionary as often as it is used.
https://parquet.apache.org/docs/file-format/data-pages/
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from loupe.errors import DataError

MAX_BYTES = 512 * 10**6
"""Largest page of images that is much larger than its compressed form."""

MAX_TEXT_BYTES = 64 * 10**6
"""Largest such page of other columns."""

MAX_ROWS_BYTES = 256 * 10**6
"""Largest rows that are more than `EXPANSION` times as large as their file. Images do not compress."""

EXPANSION = 64
AT_ONCE_BYTES = 64 * 10**6
"""Largest rows that are read at once, if each had the largest value of a dictionary."""

_PAGE_EXPANSION = 4
_HEADER_BYTES = 2**12
_MOST_HEADER_BYTES = 2**24  # with statistics
_MOST_DEPTH = 8


class Page(NamedTuple):
    """Sizes in the header of a page, and the length of the header."""

    header: int
    kind: int
    uncompressed: int
    compressed: int
    values: int


DICTIONARY = 2


def check_pages(file: Path) -> int:
    """Refuse a file with a page that expands beyond the limits, and return the size of its largest dictionary.

    Raises:
        DataError: a page is too large.
        OSError, ArrowException: the file cannot be read.
    """
    status = file.stat()
    return _checked(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=10_000)
def _checked(file: Path, size: int, mtime_ns: int) -> int:
    metadata, largest = pq.read_metadata(file), 0
    with file.open("rb") as source:
        for group in range(metadata.num_row_groups):
            for number in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(number)
                limit = MAX_BYTES if _is_binary(metadata, number) else MAX_TEXT_BYTES
                for page in _read_pages(file, source, chunk):
                    if page.uncompressed > max(limit, _PAGE_EXPANSION * page.compressed):
                        raise DataError(
                            f"{file}: row group {group}, column {chunk.path_in_schema}: {page.compressed:,} bytes "
                            f"unpack to {page.uncompressed / 1e6:,.0f} MB; the limit is {limit / 1e6:,.0f} MB. "
                            "Leave these rows out."
                        )
                    if page.kind == DICTIONARY:
                        largest = max(largest, page.uncompressed)
    return largest


def limited(batches: Iterator[pa.RecordBatch], file: Path) -> Iterator[pa.RecordBatch]:
    """Batches of rows, as long as they are not much larger than the file.

    Raises:
        DataError: they are.
    """
    limit, total = max(MAX_ROWS_BYTES, EXPANSION * file.stat().st_size), 0
    for batch in batches:
        total += batch.nbytes
        if total > limit:
            raise DataError(
                f"{file}: its rows take more than {limit / 1e6:,.0f} MB, and the file has "
                f"{file.stat().st_size:,} bytes. Leave out the values that repeat."
            )
        yield batch


def batch_rows(dictionary: int, most: int) -> int:
    """Number of rows of which each may be the largest value of a dictionary, at most `most`."""
    return max(1, min(most, AT_ONCE_BYTES // max(1, dictionary)))


def _read_pages(file: Path, source: BinaryIO, chunk: pq.ColumnChunkMetaData) -> Iterator[Page]:
    try:
        yield from _pages(source, chunk)
    except ValueError as error:
        raise DataError(
            f"{file}: column {chunk.path_in_schema} cannot be read as Parquet: {error}. It may be truncated; download "
            "it again."
        ) from None


def _is_binary(metadata: pq.FileMetaData, number: int) -> bool:
    column = metadata.schema.column(number)
    return bool(column.physical_type == "BYTE_ARRAY" and column.logical_type.type == "NONE")


def _pages(source: BinaryIO, chunk: pq.ColumnChunkMetaData) -> Iterator[Page]:
    """Pages of a column chunk.

    Raises:
        ValueError: a header is damaged.
    """
    starts = [start for start in (chunk.dictionary_page_offset, chunk.data_page_offset) if start]
    place = min(starts, default=0)
    end, values = place + chunk.total_compressed_size, 0
    while place < end and values < chunk.num_values:
        page = None
        for size in (_HEADER_BYTES, _MOST_HEADER_BYTES):
            source.seek(place)
            if page := _header(source.read(size)):
                break
        if page is None or page.compressed < 0 or page.uncompressed < 0:
            raise ValueError(f"damaged page header at byte {place:,}")
        yield page
        place += page.header + page.compressed
        values += page.values


def _header(data: bytes) -> Page | None:
    """Page header at the start of some bytes; None if there is none."""
    reader = _Compact(data)
    try:
        fields = reader.struct()
    except (IndexError, ValueError):
        return None
    if not {1, 2, 3} <= fields.keys():
        return None
    return Page(reader.place, fields[1], fields[2], fields[3], fields.get(5, 0) + fields.get(8, 0))


class _Compact:
    """Reader of Thrift's compact protocol that keeps the integers of a struct, and the first of those inside it."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def struct(self, depth: int = 0) -> dict[int, int]:
        if depth > _MOST_DEPTH:
            raise ValueError("nested too deeply")
        fields: dict[int, int] = {}
        number = 0
        while (byte := self._byte()) != 0:
            step, kind = byte >> 4, byte & 0x0F
            number = number + step if step else self._integer()
            value = self._value(kind, depth)
            if value is not None:
                fields[number] = value
        return fields

    def _value(self, kind: int, depth: int) -> int | None:
        if kind in (1, 2):  # true and false
            return None
        if kind in (3, 4, 5, 6):
            return self._byte() if kind == 3 else self._integer()
        if kind == 7:
            self.place += 8
        elif kind == 8:
            length = self._varint()
            self.place += length
        elif kind in (9, 10):
            head = self._byte()
            for _ in range(head >> 4 if head >> 4 != 15 else self._varint()):
                self._value(head & 0x0F, depth + 1)
        elif kind == 12:
            return self.struct(depth + 1).get(1)
        else:
            raise ValueError(f"type {kind} is not in a page header")
        return None

    def _byte(self) -> int:
        byte = self.data[self.place]
        self.place += 1
        return byte

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
