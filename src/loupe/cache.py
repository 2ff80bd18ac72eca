"""Cache shared by runs: its contents (pixels, activations, downloads, hashes, choices), their sizes, and their removal.

Everything in it can be recreated. Folders that are being written begin with a dot and are not removed for a day.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from loupe.errors import DiskError, unknown_name

KINDS = {
    "pixels": "decoded images",
    "rows": "memory-mapped copies of Parquet files",
    "frozen": "activations of frozen blocks",
    "features": "features of single images",
    "datasets": "downloaded data sets",
    "shards": "parts of remote data sets",
    "content": "content hashes of images",
    "indices": "indices of shards",
    "mirrors": "copies of folders of images elsewhere",
    "runtimes": "downloaded runtimes of exported pages",
    "models": "names of timm's networks, and converted trunks",
    "near": "near duplicates of sets of images",
    "settled": "choices measured for this machine",
}
DAY_SECONDS = 24 * 3600


def cache_folder() -> Path:
    """Folder of the cache: `$LOUPE_CACHE`, else the user's cache folder."""
    configured = os.environ.get("LOUPE_CACHE")
    return Path(configured).expanduser() if configured else Path(platformdirs.user_cache_dir("loupe", appauthor=False))


@dataclass(frozen=True)
class CacheEntry:
    """Entry of the cache: kind, path, size in bytes, and time of the last use in seconds since 1970."""

    kind: str
    path: Path
    size: int
    used: float


def entries(folder: Path) -> list[CacheEntry]:
    """Entries of the cache folder, least recently used first."""
    return sorted(_entries(folder), key=lambda entry: entry.used)


def _entries(folder: Path) -> Iterator[CacheEntry]:
    for kind in KINDS:
        for path in (folder / kind).glob("*") if (folder / kind).is_dir() else ():
            if path.suffix == ".lock":  # empty, and another process may be waiting for it
                continue
            with suppress(FileNotFoundError):  # another process may be writing it
                files = [file for file in [path, *path.rglob("*")] if file.is_file()]
                size = sum(file.stat().st_size for file in files)
                used = max(file.stat().st_mtime for file in [path, *files])
                yield CacheEntry(kind, path, size, used)


def remove(folder: Path, kind: str, unused_days: float) -> list[CacheEntry]:
    """Remove entries of one kind (or `all`) that were not used for `unused_days` days, and return them.

    Raises:
        ConfigError: the kind is unknown.
        DiskError: an entry cannot be removed.
    """
    if kind not in KINDS and kind != "all":
        raise unknown_name("kind", kind, [*KINDS, "all"])
    now = time.time()
    removed = []
    for entry in entries(folder):
        days = max(unused_days, 1.0) if entry.path.name.startswith(".") else unused_days
        if kind in {entry.kind, "all"} and now - entry.used >= days * DAY_SECONDS:
            _delete(entry.path)
            removed.append(entry)
    return removed


def _delete(path: Path) -> None:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise DiskError(f"{path} cannot be removed: {error.strerror or error}. Is a run using it?") from None
