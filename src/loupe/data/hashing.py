"""Content hashes: SHA-256 of the bytes of each image file, the identity of an image in splits, stores and predictions.

Digests of files are remembered by path, size, times of modification and of change, inode and device, in one Parquet
file with checksums for each data folder. The file is replaced atomically: concurrent processes can at worst lose each
other's additions, and no lock can be left behind or fail on a network drive (as with SQLite). A file that was modified
or changed less than two seconds before hashing is not remembered, because another change might keep its times.

The ranks of one machine share out its files, and digests by path; those of another machine may read another copy, which
they hash themselves, so that a difference is seen. Bytes in memory are hashed by each rank: no other is known to hold
the same.
"""

import os
import tempfile
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import accumulate, chain, repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loupe import ranks
from loupe.cache import cache_folder
from loupe.data.file_state import State
from loupe.data.parallel import in_chunks
from loupe.data.processes import worker_count
from loupe.data.table import MAX_FILE_BYTES, ImageTable
from loupe.errors import ImageError
from loupe.log import logger

_CHUNK_FILES = 64
_CHUNK_ROWS = 1024
_SETTLED_NS = 2_000_000_000
_COLUMNS = pa.schema(
    [
        ("path", pa.string()),
        *((name, pa.int64()) for name in ("size", "mtime_ns", "ctime_ns", "inode", "device")),
        ("sha256", pa.binary(32)),
    ]
)


class _Known(NamedTuple):
    """Digest, and the state of the file before it was read."""

    state: State
    digest: bytes


def content_hashes(table: ImageTable, *, cache: Path | None = None, verify: bool = False) -> tuple[str, ...]:
    """Hexadecimal SHA-256 of the bytes of every image, in the order of the table.

    With `verify` every image is read, and no remembered digest is used. An unreadable image gets a unique digest of its
    name; the store and the check report its damage.
    """
    names = table.file_names
    first = dict(zip(reversed(names), range(len(names) - 1, -1, -1), strict=True))  # a file is read once
    digests: list[str | None]
    if table.shards is not None:
        digests = _read(table) if verify else [*table.shards.digests]
    else:
        digests = _held(table) if None in first else [None] * len(names)
    files = {name: _file(table, i) for name, i in first.items() if name is not None}
    if files:
        memory = _memory_path(table.root, [*files.values()], cache or cache_folder())
        found = _of_files(table, files, first, memory, verify=verify)
        digests = [digest if name is None else found[name] for name, digest in zip(names, digests, strict=True)]
    return tuple(_of_unreadable(table.paths[i]) if digest is None else digest for i, digest in enumerate(digests))


def _read(table: ImageTable) -> list[str | None]:
    """Digests of images in shards, each read anew; None for one that cannot be read."""
    machine = ranks.on_machine()
    rows = machine.share(range(len(table)))
    if table.shards is not None:
        table.shards.expect(rows)

    def hash_range(part: range) -> list[str | None]:
        return [_hash_of_image(table, i) for i in rows[part.start : part.stop]]

    parts = in_chunks(hash_range, len(rows), chunk=_CHUNK_FILES, workers=worker_count(), description="reading images")
    own = machine.together(lambda: [*chain.from_iterable(parts)])
    machine.same(_of_paths(table), "images")
    return ranks.in_order(machine.gather(own))


def _of_paths(table: ImageTable) -> str:
    return sha256("\0".join(table.paths).encode("utf-8", "surrogateescape")).hexdigest()


def _hash_of_image(table: ImageTable, i: int) -> str | None:
    try:
        return sha256(table.encoded(i)).hexdigest()
    except ImageError:
        return None


def _held(table: ImageTable) -> list[str | None]:
    """Digests of images whose bytes the table holds; None for others, and for those that are too large to be read."""
    chunks = [pc.struct_field(chunk, "bytes") for chunk in table.rows["image"].chunks]
    starts = [*accumulate(map(len, chunks), initial=0)]
    # Hashing bytes in memory takes less time than waking a thread.
    parts = in_chunks(
        lambda part: [_hash_of(data) for data in _views(chunks, starts, part)],
        len(table),
        chunk=_CHUNK_ROWS,
        workers=1,
        description="reading images",
    )
    return [*chain.from_iterable(parts)]


def _hash_of(data: memoryview | None) -> str | None:
    return None if data is None or len(data) > MAX_FILE_BYTES else sha256(data).hexdigest()


def _views(chunks: Sequence[pa.BinaryArray], starts: Sequence[int], part: range) -> Iterator[memoryview | None]:
    """Bytes of each row of a part, without copies; None for null. `starts` are the first rows of the chunks."""
    row = part.start
    while row < part.stop:
        k = bisect_right(starts, row) - 1
        values = chunks[k].slice(row - starts[k], part.stop - row)
        row += len(values)
        if values.null_count == len(values):
            yield from repeat(None, len(values))
            continue
        _, offsets, data = values.buffers()
        ends = np.frombuffer(offsets, np.int32, len(values) + 1, 4 * values.offset).tolist()
        whole = memoryview(data or b"")
        for start, stop, is_there in zip(ends[:-1], ends[1:], values.is_valid().to_pylist(), strict=True):
            yield whole[start:stop] if is_there else None


def _of_files(
    table: ImageTable,
    files: Mapping[str, Path | None],
    rows: Mapping[str | None, int],
    memory: Path | None,
    *,
    verify: bool,
) -> dict[str, str | None]:
    """Digest of each file by its name; `rows` is a row of each name."""
    known = recalled_hashes(memory) if memory and not verify else {}
    news: dict[str, _Known] = {}
    paths = {
        name: None if file is None else os.path.abspath(file)  # noqa: PTH100 - resolve() would ask for every folder
        for name, file in files.items()
    }

    def hashed(names: Sequence[str]) -> dict[str | None, str | None]:
        def hash_range(part: range) -> list[str | None]:
            return [_hash(table, rows[name], paths[name], known, news) for name in names[part.start : part.stop]]

        workers = max(4, worker_count())
        parts = in_chunks(hash_range, len(names), chunk=_CHUNK_FILES, workers=workers, description="reading images")
        return dict(zip((paths[name] for name in names), chain.from_iterable(parts), strict=True))

    machine = ranks.on_machine()
    shares = machine.gather((hashed(machine.share([*files])), news))
    found = {path: digest for share, _ in shares for path, digest in share.items()}
    if missing := [name for name, path in paths.items() if path not in found]:  # only this rank has found these files
        found |= hashed(missing)
    added = {path: entry for _, new in shares for path, entry in new.items()}
    if machine.is_main and memory and added:
        _remember(memory, {**known, **added})
    return {name: found[path] for name, path in paths.items()}


def _file(table: ImageTable, i: int) -> Path | None:
    """Path of an image; None if the table holds its bytes, or if there is no image."""
    try:
        return table.file(i)
    except ImageError:
        return None


def _hash(
    table: ImageTable, i: int, path: str | None, known: Mapping[str, _Known], news: dict[str, _Known]
) -> str | None:
    """Digest of an image in the file of that absolute path; None if it cannot be read."""
    if path is None:
        return None
    try:
        state = State.of(os.stat(path))  # noqa: PTH116
        old = known.get(path)
        if old and old.state == state:
            return old.digest.hex()
        digest = sha256(table.encoded(i)).digest()
    except (OSError, ValueError):  # an ImageError is a ValueError; so is a null character in a path
        return None
    if time.time_ns() - state.last_change_ns > _SETTLED_NS:
        news[path] = _Known(state, digest)
    return digest.hex()


def _of_unreadable(path: str) -> str:
    return sha256(b"unreadable image\0" + path.encode("utf-8", "surrogateescape")).hexdigest()


def _memory_path(root: Path | None, files: list[Path | None], cache: Path) -> Path | None:
    """Parquet file for the folder with all the files; None if the table itself holds every image."""
    folders = {os.path.abspath(file.parent) for file in files if file is not None}  # noqa: PTH100
    if not folders:
        return None
    try:
        owner = os.path.commonpath(folders) if root is None else os.path.abspath(root)  # noqa: PTH100
    except ValueError:  # several drives
        owner = ""
    return cache / "content" / f"{sha256(os.fsencode(owner)).hexdigest()[:32]}.parquet"


def recalled_hashes(memory: Path) -> dict[str, _Known]:
    """Remembered digests by absolute path; none where the file is absent or damaged."""
    try:
        with pq.ParquetFile(memory, page_checksum_verification=True) as file:  # read_table loads pyarrow.dataset
            table = file.read()
        if not table.schema.equals(_COLUMNS) or any(column.null_count for column in table.columns):
            return {}
        table.validate(full=True)
        columns = [table[name].to_pylist() for name in _COLUMNS.names]
    except (OSError, ValueError, KeyError, pa.ArrowException):  # absent or damaged: the files are hashed again
        return {}
    with suppress(OSError):  # the cache may be read-only
        os.utime(memory)  # time of the last use
    rows = zip(*columns, strict=True)
    return {path: _Known(State(*state), digest) for path, *state, digest in rows}


def _remember(memory: Path, known: Mapping[str, _Known]) -> None:
    rows = [(path, *entry.state, entry.digest) for path, entry in known.items() if _is_text(path)]
    columns = zip(*rows, strict=True) if rows else [[] for _ in _COLUMNS]
    arrays = [pa.array(column, kind.type) for column, kind in zip(columns, _COLUMNS, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=_COLUMNS)
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=memory.parent, prefix=".writing-", suffix=".parquet")
        try:
            with os.fdopen(handle, "wb") as file:
                pq.write_table(table, file, compression="lz4", write_page_checksum=True)
            Path(name).replace(memory)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except (OSError, pa.ArrowException) as error:
        logger.info(f"The content hashes cannot be cached, so the next run reads every image again: {error}")


def _is_text(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:  # a file name that is not UTF-8 is hashed every time
        return False
    return True
