"""A Parquet file with the bytes of images as a source: rows of a unit are read when the first of them is decoded."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from loupe.bulk.plan import PlanRecord, Unit
from loupe.bulk.source import Listed
from loupe.data.file_state import State
from loupe.data.shards import LocalShard
from loupe.data.sources.parquet import BATCH_BYTES, BATCH_ROWS, image_rows
from loupe.data.sources.parquet_columns import FileColumns, resolve_files
from loupe.data.sources.parquet_pages import batch_rows, check_pages
from loupe.data.sources.read_options import ReadOptions
from loupe.data.sources.rows import read_pieces
from loupe.data.table import MAX_FILE_BYTES, os_name, text_name
from loupe.errors import DataError, ImageError, counted

ROWS = "rows"
PIECE_ROWS = 16_384


class ParquetSource:
    """Images in the rows of one Parquet file.

    Args:
        file: the file, which has a column of images.
        options: columns that the user chose.
    """

    kind = ROWS

    def __init__(self, file: Path, options: ReadOptions) -> None:
        self._file = file
        self._options = options
        self._columns, found = resolve_files([file], options, labelled=False)
        self._image = found[0].image
        self._rows = 0
        self.places: tuple[str, ...] = (text_name(str(file.absolute())),)
        self.root = text_name(str(file.absolute().parent))

    @property
    def id_name(self) -> str | None:
        """Column of the identifiers; None where the names of the images identify them."""
        return None if self._columns.id in (None, self._columns.path) else self._columns.id

    def rows(self, spill: Path) -> Iterator[Listed]:
        """Images in order; as for any source."""
        state = list(LocalShard.of(self._file).state)
        names = _names(self._file, self._image)
        for name, identifier in zip(names, self._ids(), strict=True):
            place = json.dumps([self._rows, self._image, state])
            yield Listed(name or f"{text_name(self._file.name)}#{self._rows}", identifier, place)
            self._rows += 1
        if not self._rows:
            raise DataError(f"{self._file}: there are no rows in it.")

    def notes(self) -> list[str]:
        """As for any source."""
        return [f"{counted(self._rows, 'image')}.", *self._columns.notes]

    def warnings(self) -> list[str]:
        """As for any source."""
        return []

    def _ids(self) -> Iterator[str | None]:
        if self.id_name is None:
            for _ in range(pq.read_metadata(self._file).num_rows):
                yield None
            return
        for piece in read_pieces(self._file, self._options, PIECE_ROWS, lambda names: [str(self.id_name)]):
            yield from piece.column(self.id_name)


def _names(file: Path, image: str) -> Iterator[str | None]:
    """Name of each image, where the column has names; the bytes are not read."""
    kind = pq.read_schema(file).field(image).type
    has_names = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
    with pq.ParquetFile(file) as source:
        if not has_names:
            yield from (None for _ in range(source.metadata.num_rows))
            return
        for batch in source.iter_batches(PIECE_ROWS, columns=[f"{image}.path"]):
            for row in batch.column(0).to_pylist():
                yield text_name(row["path"]) if row and isinstance(row["path"], str) and row["path"] else None


def file_of_rows(record: PlanRecord, row: Listed) -> Path:
    """The file with the bytes of an image."""
    return Path(os_name(record.asked.places[0]))


def open_rows(record: PlanRecord, unit: Unit) -> Callable[[int], bytes]:
    """Reader of the images of a unit that are rows of a Parquet file."""
    file = file_of_rows(record, unit.rows[0])
    first, image, state = json.loads(unit.rows[0].place or "[]")
    return _Rows(LocalShard(file, State(*state)), image, first, unit).encoded


@dataclass
class _Rows:
    """Images of consecutive rows, read from the file at the first use; they stay as long as their unit is decoded."""

    shard: LocalShard
    image: str
    first: int
    unit: Unit
    _data: list[pa.Array] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def encoded(self, row: int) -> bytes:
        with self._lock:
            if not self._data:
                self._data = [*self._read()]
        at = row
        for chunk in self._data:
            if at < len(chunk):
                return self._checked(chunk[at], row)
            at -= len(chunk)
        raise DataError(f"{self.shard.name}: it has fewer rows than its end says. It is damaged.")

    def _checked(self, data: pa.Scalar, row: int) -> bytes:
        name = self.unit.rows[row].path
        if not data.is_valid:
            raise ImageError(name, "the row has no bytes of an image")
        if data.as_buffer().size > MAX_FILE_BYTES:
            raise ImageError(name, f"{data.as_buffer().size:,} bytes exceed the limit of {MAX_FILE_BYTES:,}")
        return bytes(data.as_py())

    def _read(self) -> Iterator[pa.Array]:
        """Bytes of the rows, of the row groups that hold them."""
        columns = FileColumns(self.image, None, (), None, None, is_text=True, classes=None)
        try:
            with self.shard.open() as opened, pq.ParquetFile(opened) as source:
                sizes = check_pages(self.shard.path)
                at_once = batch_rows(sizes, min(BATCH_ROWS, BATCH_BYTES // max(1, sizes.row)))
                groups, start = _groups(source.metadata, self.first, self.first + len(self.unit))
                for batch in source.iter_batches(at_once, row_groups=groups, columns=[self.image]):
                    low = max(0, self.first - start)
                    high = min(batch.num_rows, self.first + len(self.unit) - start)
                    start += batch.num_rows
                    if low < high:
                        table = pa.Table.from_batches([batch.slice(low, high - low)])
                        yield from _bytes(image_rows(table, columns, self.shard.path))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.shard.name}: cannot be read as Parquet: {error}.") from None


def _groups(metadata: pq.FileMetaData, first: int, stop: int) -> tuple[list[int], int]:
    """Row groups that hold some rows, and the first row of the first of them."""
    groups: list[int] = []
    begin = start = 0
    for number in range(metadata.num_row_groups):
        rows = metadata.row_group(number).num_rows
        if start < stop and start + rows > first:
            begin = begin if groups else start
            groups.append(number)
        start += rows
    return groups, begin


def _bytes(rows: pa.Table) -> list[pa.Array]:
    return [chunk.field("bytes") for chunk in rows["image"].chunks]
