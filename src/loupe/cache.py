"""What is kept between runs, how much it takes, and how it is removed: pixels, activations, downloads, hashes.

All of it can be made again. A folder in which a process is writing begins with a dot, and is left alone for a day.
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
    "pixels": "images decoded once",
    "rows": "Parquet files, copied to be mapped",
    "frozen": "activations of frozen networks",
    "datasets": "data sets that were downloaded",
    "content": "what identifies the images of a data set",
}
DAY_SECONDS = 24 * 3600


def cache_folder() -> Path:
    """Where downloads and decoded pixels are kept: `$LOUPE_CACHE`, else the user's cache folder."""
    given = os.environ.get("LOUPE_CACHE")
    return Path(given).expanduser() if given else Path(platformdirs.user_cache_dir("loupe", appauthor=False))


@dataclass(frozen=True)
class CacheEntry:
    """One thing that is kept; `used` is when it was last made or used, in seconds since 1970."""

    kind: str
    path: Path
    size: int
    used: float


def entries(folder: Path) -> list[CacheEntry]:
    """Everything that is kept under the cache folder, what was used longest ago first."""
    return sorted(_entries(folder), key=lambda entry: entry.used)


def _entries(folder: Path) -> Iterator[CacheEntry]:
    for kind in KINDS:
        for path in (folder / kind).glob("*") if (folder / kind).is_dir() else ():
            if path.suffix == ".lock":  # empty, and removing one takes it from whoever waits for it
                continue
            with suppress(FileNotFoundError):  # a run is just writing it
                files = [file for file in [path, *path.rglob("*")] if file.is_file()]
                size = sum(file.stat().st_size for file in files)
                used = max(file.stat().st_mtime for file in [path, *files])
                yield CacheEntry(kind, path, size, used)


def remove(folder: Path, kind: str, unused_days: float) -> list[CacheEntry]:
    """Removes what of one kind (or `all`) has not been used for so many days, and returns it."""
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
