"""Footer of a Parquet file: the place and the size of each column chunk, checked against the file.

pyarrow's own metadata of column chunks is not read: an exception in it, of a damaged footer, ends the process.
https://parquet.apache.org/docs/file-format/metadata/
"""

import os
from typing import BinaryIO, NamedTuple

from loupe.data.sources.thrift_compact import CompactReader, Struct

_MAGIC = b"PAR1"
_BYTE_ARRAY = 6
_PATH = 3  # number of a field with a list of names


class Chunk(NamedTuple):
    """Column of a row group; `size` is in the file.

    `has_lengths` if its values differ in length, `is_binary` if they are bytes of no other type. `codec` is the number
    of its compression.
    """

    column: str
    has_lengths: bool
    is_binary: bool
    codec: int
    start: int
    size: int
    values: int


class RowGroup(NamedTuple):
    """Rows, and their size in memory, by column."""

    rows: int
    size: int
    chunks: tuple[Chunk, ...]


def read_row_groups(source: BinaryIO) -> tuple[RowGroup, ...]:
    """Row groups in the footer of an open file.

    Raises:
        ValueError: the footer is damaged.
    """
    end = source.seek(0, os.SEEK_END) - 8
    source.seek(max(0, end))
    tail = source.read(8)
    length = int.from_bytes(tail[:4], "little")
    if end < len(_MAGIC) or tail[4:] != _MAGIC or length > end - len(_MAGIC):
        raise ValueError("it does not end in a footer")
    source.seek(end - length)
    footer = CompactReader(source.read(length)).struct()
    leaves = [field for field in footer.structs(2) if 1 in field and not field.integer(5, 0)]
    groups = tuple(_group(group, leaves, end - length) for group in footer.structs(4))
    if footer.integer(3) != sum(group.rows for group in groups):
        raise ValueError("its row groups have another number of rows than its footer")
    return groups


def _group(group: Struct, leaves: list[Struct], end: int) -> RowGroup:
    columns, rows, size = group.structs(1), group.integer(3), group.integer(2)
    if len(columns) != len(leaves) or rows < 0:
        raise ValueError(f"a row group has {rows:,} rows of {len(columns):,} columns, and the schema {len(leaves):,}")
    pairs = zip(columns, leaves, strict=True)
    return RowGroup(rows, size, tuple(_chunk(column.struct(3), leaf, end) for column, leaf in pairs))


def _chunk(data: Struct, leaf: Struct, end: int) -> Chunk:
    """Column chunk that lies before `end`."""
    path = data.get(_PATH)
    parts = [name for name in path if isinstance(name, bytes)] if isinstance(path, list) else []
    name = ".".join(part.decode("utf-8", "backslashreplace") for part in parts)
    starts = [start for start in (data.integer(9), data.integer(11, 0)) if start]
    chunk = Chunk(
        column=name,
        has_lengths=leaf.integer(1) == _BYTE_ARRAY,
        is_binary=leaf.integer(1) == _BYTE_ARRAY and 6 not in leaf and 10 not in leaf,
        codec=data.integer(4),
        start=min(starts, default=0),
        size=data.integer(7),
        values=data.integer(5),
    )
    if chunk.start < 0 or chunk.size < 0 or chunk.values < 0 or chunk.start + chunk.size > end:
        raise ValueError(
            f"column {name}: {chunk.values:,} values in {chunk.size:,} bytes from byte {chunk.start:,} on, and the "
            f"footer is at byte {end:,}"
        )
    return chunk
