"""Sizes of the pages of a Parquet file, read from their headers before any page is unpacked.

The sizes in the footer may be wrong, and do not count a value of a dictionary as often as it is used.
https://parquet.apache.org/docs/file-format/data-pages/
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from loupe.data.sources.parquet_dictionary import MOST_VALUES, longest_value
from loupe.data.sources.parquet_footer import Chunk, read_row_groups
from loupe.data.sources.thrift_compact import CompactReader
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
_HEADER_BYTES = (2**12, 2**16, 2**20, 2**24)  # tried in turn: some have statistics


class Page(NamedTuple):
    """Place, length of the header, and the sizes in the header of a page; `entries` are those of a dictionary."""

    place: int
    header: int
    kind: int
    uncompressed: int
    compressed: int
    values: int
    entries: int


DICTIONARY = 2


class Sizes(NamedTuple):
    """Bytes of the largest value of the dictionaries of a file, and of a row in its heaviest row group."""

    value: int
    row: int


def check_pages(file: Path) -> Sizes:
    """Sizes of a file. A damaged one is refused, and one with a page that expands beyond the limits.

    Raises:
        DataError: its footer or a page header is damaged, or a page is too large.
        OSError: the file cannot be read.
    """
    status = file.stat()
    return _checked(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=10_000)
def _checked(file: Path, size: int, mtime_ns: int) -> Sizes:
    largest = row = 0
    left = MOST_VALUES
    try:
        with file.open("rb") as source:
            for group, row_group in enumerate(read_row_groups(source)):
                row = max(row, row_group.size // row_group.rows if row_group.rows else 0)
                for chunk in row_group.chunks:
                    limit = MAX_BYTES if chunk.is_binary else MAX_TEXT_BYTES
                    for page in pages(source, chunk):
                        if page.uncompressed > max(limit, _PAGE_EXPANSION * page.compressed):
                            raise DataError(
                                f"{file}: row group {group}, column {chunk.column}: {page.compressed:,} bytes unpack "
                                f"to {page.uncompressed / 1e6:,.0f} MB; the limit is {limit / 1e6:,.0f} MB. "
                                "Leave these rows out."
                            )
                        if page.kind == DICTIONARY:
                            left -= page.entries
                            value = _largest_value(source, chunk, page) if left >= 0 else page.uncompressed
                            largest = max(largest, value)
    except DataError:
        raise
    except ValueError as error:
        raise DataError(
            f"{file}: cannot be read as Parquet: {error}. It may be truncated; download it again."
        ) from None
    return Sizes(largest, row)


def limited(batches: Iterator[pa.RecordBatch], file: Path) -> Iterator[pa.RecordBatch]:
    """Batches of rows, as long as they are not much larger than the file.

    Raises:
        DataError: they are.
        ArrowException: the offsets of a damaged column lead out of it.
    """
    limit, total = max(MAX_ROWS_BYTES, EXPANSION * file.stat().st_size), 0
    for batch in batches:
        batch.validate()
        total += batch.nbytes
        if total > limit:
            raise DataError(
                f"{file}: its rows take more than {limit / 1e6:,.0f} MB, and the file has "
                f"{file.stat().st_size:,} bytes. Leave out the values that repeat."
            )
        yield batch


def batch_rows(sizes: Sizes, most: int) -> int:
    """Number of rows of which each may be the largest value of a dictionary, at most `most`."""
    return max(1, min(most, AT_ONCE_BYTES // max(1, sizes.value)))


def _largest_value(source: BinaryIO, chunk: Chunk, page: Page) -> int:
    """Size of the largest value of a dictionary."""
    if not chunk.has_lengths:
        return page.uncompressed // max(1, page.entries)
    source.seek(page.place + page.header)
    return longest_value(source.read(page.compressed), chunk.codec, page.uncompressed, page.entries)


def pages(source: BinaryIO, chunk: Chunk) -> Iterator[Page]:
    """Pages of a column chunk.

    Raises:
        ValueError: a header is damaged.
    """
    place, end, values = chunk.start, chunk.start + chunk.size, 0
    while place < end and values < chunk.values:
        page = None
        for size in _HEADER_BYTES:
            source.seek(place)
            if page := _header(place, source.read(size)):
                break
        if page is None or min(page.compressed, page.uncompressed, page.values, page.entries) < 0:
            raise ValueError(f"column {chunk.column}: damaged page header at byte {place:,}")
        yield page
        place += page.header + page.compressed
        values += page.values


def _header(place: int, data: bytes) -> Page | None:
    """Page header at the start of the bytes from `place`; None if there is none."""
    reader = CompactReader(data)
    try:
        fields = reader.struct()
        values = fields.struct(5).integer(1, 0) + fields.struct(8).integer(1, 0)
        entries = fields.struct(7).integer(1, 0)
        return Page(place, reader.place, fields.integer(1), fields.integer(2), fields.integer(3), values, entries)
    except ValueError:
        return None
