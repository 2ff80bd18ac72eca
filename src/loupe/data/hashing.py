"""Content hashes: SHA-256 of the bytes of each image file, the identity of an image in splits, stores and predictions.

Digests of files are cached by (path, size, modification time), in one Arrow file for each data folder. The file is
replaced atomically: concurrent processes can at worst lose each other's additions, and no lock can be left behind or
fail on a network drive (as with SQLite). A file modified less than two seconds before hashing is not cached, because
another change might keep its modification time.
"""

import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather

from loupe.cache import cache_folder
from loupe.data.parallel import in_chunks, worker_count
from loupe.data.table import ImageTable
from loupe.errors import ImageError
from loupe.log import logger

_CHUNK_IMAGES = 64
_SETTLED_NS = 2_000_000_000
_COLUMNS = pa.schema([("path", pa.string()), ("size", pa.int64()), ("mtime_ns", pa.int64()), ("sha256", pa.binary(32))])


@dataclass(frozen=True)
class _Known:
    """Digest, with the size and the modification time of the file before it was read."""

    size: int
    mtime_ns: int
    digest: bytes


def content_hashes(table: ImageTable, *, cache: Path | None = None) -> tuple[str, ...]:
    """Hexadecimal SHA-256 of the bytes of every image, in the order of the table.

    An unreadable image gets a unique digest of its name; the store and the check report its damage.
    """
    files = [_file(table, i) for i in range(len(table))]
    memory = _memory_path(table.root, files, cache or cache_folder())
    known = recalled_hashes(memory) if memory else {}
    news: dict[str, _Known] = {}

    def hash_range(part: range) -> list[str]:
        return [_hash(table, i, files[i], known, news).hex() for i in part]

    # Hashing bytes in memory takes less time than waking a thread.
    workers = 1 if memory is None else max(4, worker_count())
    parts = in_chunks(hash_range, len(table), chunk=_CHUNK_IMAGES, workers=workers, description="reading images")
    digests = tuple(digest for part in parts for digest in part)
    if memory and news:
        _remember(memory, {**known, **news})
    return digests


def _file(table: ImageTable, i: int) -> Path | None:
    """Path of an image; None if the table holds its bytes, or if there is no image."""
    try:
        return table.file(i)
    except ImageError:
        return None


def _hash(table: ImageTable, i: int, file: Path | None, known: Mapping[str, _Known], news: dict[str, _Known]) -> bytes:
    try:
        if file is None:
            return sha256(table.encoded(i)).digest()
        key, status = os.path.abspath(file), file.stat()  # noqa: PTH100 - resolve() would ask the disk for every folder
        old = known.get(key)
        if old and (old.size, old.mtime_ns) == (status.st_size, status.st_mtime_ns):
            return old.digest
        digest = sha256(table.encoded(i)).digest()
    except (OSError, ValueError):  # an ImageError is a ValueError; so is a null character in a path
        return sha256(b"unreadable image\0" + table.paths[i].encode("utf-8", "surrogateescape")).digest()
    if time.time_ns() - status.st_mtime_ns > _SETTLED_NS:
        news[key] = _Known(status.st_size, status.st_mtime_ns, digest)
    return digest


def _memory_path(root: Path | None, files: list[Path | None], cache: Path) -> Path | None:
    """Arrow file for the folder with all the files; None if the table itself holds every image."""
    folders = {os.path.abspath(file.parent) for file in files if file is not None}  # noqa: PTH100
    if not folders:
        return None
    try:
        owner = os.path.commonpath(folders) if root is None else os.path.abspath(root)  # noqa: PTH100
    except ValueError:  # several drives
        owner = ""
    return cache / "content" / f"{sha256(os.fsencode(owner)).hexdigest()[:32]}.arrow"


def recalled_hashes(memory: Path) -> dict[str, _Known]:
    try:
        table = feather.read_table(memory, memory_map=False)
        if not table.schema.equals(_COLUMNS) or any(column.null_count for column in table.columns):
            return {}
        table.validate(full=True)
        columns = [table[name].to_pylist() for name in _COLUMNS.names]
    except (OSError, ValueError, KeyError, pa.ArrowException):  # absent or damaged: the files are hashed again
        return {}
    with suppress(OSError):  # the cache may be read-only
        os.utime(memory)  # time of the last use
    return {path: _Known(size, mtime_ns, digest) for path, size, mtime_ns, digest in zip(*columns, strict=True)}


def _remember(memory: Path, known: Mapping[str, _Known]) -> None:
    entries = {path: entry for path, entry in known.items() if _is_text(path)}
    columns = [
        list(entries),
        [entry.size for entry in entries.values()],
        [entry.mtime_ns for entry in entries.values()],
        [entry.digest for entry in entries.values()],
    ]
    table = pa.Table.from_arrays(
        [pa.array(column, kind.type) for column, kind in zip(columns, _COLUMNS, strict=True)], schema=_COLUMNS
    )
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=memory.parent, prefix=".writing-", suffix=".arrow")
        try:
            with os.fdopen(handle, "wb") as file:
                feather.write_feather(table, file, compression="lz4")
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
