"""Index of a tar in the WebDataset layout: place, digest and texts of each sample, in one pass over its bytes.

    <cache>/indices/<key>.parquet

The key has the place and the version of the shard, so a shard is read once, whatever its size, and never again for its
hashes. Where several processes work on the same images, each reads its share of the shards.
"""

import json
import os
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from loupe import ranks
from loupe.cache import cache_folder
from loupe.data.parallel import in_chunks
from loupe.data.processes import worker_count
from loupe.data.shards import ReadAhead, ShardFile
from loupe.data.sources.tar_members import TEXTS, Sample, Skipped, image_of, samples
from loupe.data.table import MAX_FILE_BYTES, text_name
from loupe.errors import DataError, LoupeError
from loupe.files import replacing
from loupe.log import logger

_FORMAT = 2  # of the index; increase it with every change of what is read
_BATCH_ROWS = 4096
_COLUMNS = pa.schema(
    [
        ("name", pa.string()),
        ("start", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.binary(32)),
        *((name, pa.string()) for name in TEXTS),
    ]
)


_Row = tuple[str, int, int, bytes, dict[str, str]]  # of the columns; the texts by their extensions


@dataclass(frozen=True)
class TarIndex:
    """Samples of a shard.

    Attributes:
        rows: table with the name, place and digest of each image, and the texts of its sample.
        skipped: number of members that are no part of a sample, by kind.
        without_image: number of samples without an image.
        unread: name and format of each image that cannot be decoded here.
    """

    rows: pa.Table
    skipped: dict[str, int]
    without_image: int
    unread: list[tuple[str, str]]


def indices(
    shards: Sequence[ShardFile], image: str | None, read_ahead: ReadAhead | None = None, *, texts: bool = True
) -> list[TarIndex]:
    """Index of each shard, from the cache or by reading the shard.

    Args:
        shards: tars in the WebDataset layout.
        image: extension of the images, where a sample has several.
        read_ahead: function that fetches shards in the background; None for shards on this disk.
        texts: read the texts of the samples, which labels need.

    Raises:
        DataError: a shard is damaged or truncated, or is not in the layout.
        LoupeError: a shard cannot be fetched.
    """
    folder, here = cache_folder() / "indices", ranks.current()
    keys = [_key(shard, image, texts) for shard in shards]
    known = [
        _recalled(folder / f"{key}.parquet") if shard.is_settled else None
        for shard, key in zip(shards, keys, strict=True)
    ]
    absent = {k for own in here.gather([k for k, index in enumerate(known) if index is None]) for k in own}
    mine = here.share(sorted(absent))
    if read_ahead is not None:
        read_ahead([shards[k] for k in mine if known[k] is None])

    def of_range(part: range) -> list[tuple[int, TarIndex | LoupeError]]:
        numbers = [mine[i] for i in part]
        return [(k, known[k] or _indexed(shards[k], image, texts, folder / f"{keys[k]}.parquet")) for k in numbers]

    chunks = in_chunks(of_range, len(mine), chunk=1, workers=worker_count(), description="reading shards")
    for share in here.gather([entry for chunk in chunks for entry in chunk] if mine else []):
        for k, index in share:
            if isinstance(index, LoupeError):
                raise index
            known[k] = index
    return [index for index in known if index is not None]


def read_index(file: BinaryIO, name: str, image: str | None, texts: bool = True) -> TarIndex:
    """Index of an open tar; without texts, if they are not wanted.

    Raises:
        DataError: it is compressed, damaged or truncated, or a sample has several images.
        OSError: it cannot be read.
    """
    skipped, without = Skipped(), 0
    rows: list[_Row] = []
    unread: list[tuple[str, str]] = []
    batches: list[pa.RecordBatch] = []
    waiting = deque(_joined(samples(file, name, skipped, texts=texts)))
    while waiting:
        sample = waiting.popleft()  # which frees its texts, once they are in a batch
        extension = image_of(sample, image, name)
        if extension is None:
            unread += [(text_name(f"{sample.key}.{ext}"), kind) for ext, kind in sample.unread.items()]
            without += not sample.unread
            continue
        start, size = sample.images[extension]
        rows.append((text_name(f"{sample.key}.{extension}"), start, size, _digest(file, start, size), sample.texts))
        if len(rows) == _BATCH_ROWS:
            batches.append(_batch(rows))
            rows = []
    table = pa.Table.from_batches([*batches, _batch(rows)], schema=_COLUMNS)
    return TarIndex(table, dict(skipped.kinds), without, unread)


def _batch(rows: list[_Row]) -> pa.RecordBatch:
    columns = [pa.array([row[k] for row in rows], _COLUMNS.field(k).type) for k in range(4)]
    columns += [pa.array([row[4].get(text) for row in rows], pa.string()) for text in TEXTS]
    return pa.RecordBatch.from_arrays(columns, schema=_COLUMNS)


def _joined(found: Iterable[Sample]) -> list[Sample]:
    """Samples of a tar; parts of one that do not stand next to each other are joined.

    A later sample with an extension that the key has already is another one, as in tars that were appended.
    """
    joined: list[Sample] = []
    by_key: dict[str, Sample] = {}
    for sample in found:
        known = by_key.get(sample.key)
        if known is None or known.extensions & sample.extensions:
            by_key[sample.key] = sample
            joined.append(sample)
            continue
        known.images |= sample.images
        known.texts |= sample.texts
        known.unread |= sample.unread
    return joined


def _digest(file: BinaryIO, start: int, size: int) -> bytes:
    """SHA-256 of a range; zeros for an image that is too large to be read."""
    if size > MAX_FILE_BYTES:
        return bytes(32)
    file.seek(start)
    return sha256(file.read(size)).digest()


def _indexed(shard: ShardFile, image: str | None, texts: bool, cached: Path) -> TarIndex | LoupeError:
    """Index of a shard, kept in the cache; or the error that reading it raised."""
    try:
        with shard.open() as file:
            index = read_index(file, shard.name, image, texts)
    except LoupeError as error:
        return error
    except OSError as error:
        return DataError(f"{shard.name}: cannot be read: {error.strerror or error}.")
    if shard.is_settled:
        _remember(index, cached)
    return index


def _key(shard: ShardFile, image: str | None, texts: bool) -> str:
    return sha256(json.dumps([_FORMAT, *shard.key, image, texts]).encode()).hexdigest()[:40]


def _recalled(cached: Path) -> TarIndex | None:
    """Index from the cache; None where it is absent or damaged."""
    try:
        with pq.ParquetFile(cached, page_checksum_verification=True) as file:
            rows = file.read()
        rest = json.loads(rows.schema.metadata[b"loupe"])
        index = TarIndex(
            rows.replace_schema_metadata(None), rest["skipped"], rest["without_image"], [*map(tuple, rest["unread"])]
        )
        if not index.rows.schema.equals(_COLUMNS):
            return None
        index.rows.validate(full=True)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):  # absent or damaged: it is read again
        return None
    with suppress(OSError):  # the cache may be read-only
        os.utime(cached)  # time of the last use
    return index


def _remember(index: TarIndex, cached: Path) -> None:
    rest = {"skipped": index.skipped, "without_image": index.without_image, "unread": index.unread}
    rows = index.rows.replace_schema_metadata({"loupe": json.dumps(rest)})
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with replacing(cached) as file:
            pq.write_table(rows, file, compression="lz4", write_page_checksum=True)
    except (OSError, pa.ArrowException) as error:
        logger.info(f"The index of a shard cannot be cached, so the next run reads the shard again: {error}")
