"""Shards that lie elsewhere, as files of the cache of shards: tars as they are, and the images of Parquet files."""

import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loupe.cache import cache_folder
from loupe.data.remote.objects import read_range
from loupe.data.remote.shard_cache import ShardCache, shard_key
from loupe.data.remote.store import RemoteObject
from loupe.data.shards import ShardFile
from loupe.data.sources.parquet_pages import batch_rows, check_pages, limited
from loupe.errors import DataError

BATCH_ROWS = 1024
BATCH_BYTES = 256 * 2**20


@dataclass(frozen=True, eq=False)
class RemoteShard:
    """Shard elsewhere that is read as it is; while it is open, it stays in the cache."""

    remote: RemoteObject
    cache: ShardCache

    @property
    def name(self) -> str:
        return self.remote.shown

    @property
    def key(self) -> tuple[str | int, ...]:
        return (shard_key(self.remote),)

    @property
    def size(self) -> int:
        return self.remote.size

    @property
    def is_settled(self) -> bool:
        return self.remote.version is not None

    def read_part(self, start: int, stop: int) -> bytes | None:
        """Bytes of a range, by a request of their own.

        Raises:
            RemoteError: they cannot be read, or the shard has changed.
        """
        return read_range(self.remote, start, stop)

    def open(self) -> BinaryIO:
        """Open the shard, which is fetched if the cache does not have it.

        Raises:
            RemoteError: it cannot be fetched, or has changed.
            DiskError: the cache cannot be written.
        """
        with ExitStack() as stack:
            path = stack.enter_context(self.cache.local(self.remote))
            return cast(BinaryIO, _Pinned(path, stack.pop_all()))


class _Pinned(io.BufferedReader):
    """File that stays in the cache until it is closed."""

    def __init__(self, path: Path, pin: ExitStack) -> None:
        self._pin = pin
        try:
            super().__init__(io.FileIO(path))
        except BaseException:
            pin.close()
            raise

    def close(self) -> None:
        """Close the file, and let the cache evict it."""
        super().close()
        self._pin.close()


@dataclass(frozen=True, eq=False)
class ParquetImages:
    """Images of a Parquet file elsewhere, one after the other, unpacked to a file without a name while it is open."""

    shard: RemoteShard
    column: str

    @property
    def name(self) -> str:
        return self.shard.name

    @property
    def key(self) -> tuple[str | int, ...]:
        return (*self.shard.key, self.column)

    @property
    def size(self) -> int:
        return self.shard.size

    @property
    def is_settled(self) -> bool:
        return self.shard.is_settled

    def read_part(self, start: int, stop: int) -> bytes | None:
        """None: the images are compressed together."""
        return None

    def open(self) -> BinaryIO:
        """Unpack the images.

        Raises:
            RemoteError: the file cannot be fetched, or has changed.
            DataError: it is damaged.
            DiskError, OSError: the cache cannot be written.
        """
        folder = cache_folder() / "rows"  # the folder of shards counts every file in it
        folder.mkdir(parents=True, exist_ok=True)
        unpacked = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - the caller closes it
        try:
            with self.shard.cache.local(self.shard.remote) as path:
                for chunk in column_batches(path, [self.column], self.name):
                    for data in image_bytes(chunk.column(0)):
                        unpacked.write(data.as_buffer() if data.is_valid else b"")
        except BaseException:
            unpacked.close()
            raise
        return cast(BinaryIO, unpacked)


def column_batches(path: Path, columns: Sequence[str] | None, name: str) -> Iterator[pa.RecordBatch]:
    """Rows of a Parquet file, a bounded number of bytes at a time.

    Raises:
        DataError: it is damaged, or has pages that expand beyond the limits.
    """
    try:
        with pq.ParquetFile(path) as source:
            sizes = check_pages(path)
            rows = batch_rows(sizes, min(BATCH_ROWS, BATCH_BYTES // max(1, sizes.row)))
            yield from limited(source.iter_batches(rows, columns=columns), path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: cannot be read as Parquet: {error}. Upload it again.") from None


def image_bytes(column: pa.Array) -> pa.Array:
    """Bytes of the images of a column in the Hugging Face layout, null where a row has none."""
    if not pa.types.is_struct(column.type):
        return column.cast(pa.binary())
    if column.type.get_field_index("bytes") < 0:
        return pa.nulls(len(column), pa.binary())
    return pc.struct_field(column, "bytes").cast(pa.binary())


def read_ahead(shards: Sequence[ShardFile]) -> None:
    """Fetch shards in the background, in this order, as far as their cache has room."""
    remote = [shard.shard if isinstance(shard, ParquetImages) else shard for shard in shards]
    found = [shard for shard in remote if isinstance(shard, RemoteShard)]
    if found:
        found[0].cache.read_ahead(shard.remote for shard in found)
