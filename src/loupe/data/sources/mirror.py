"""Copies of folders of images elsewhere on this disk, for layouts whose files are read one by one.

    <cache>/mirrors/<key>/...

The key has the address, size and version of every file, so a folder that has changed is copied anew, and a copy that
was interrupted goes on.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from loupe import ranks
from loupe.cache import cache_folder
from loupe.data.remote.objects import download
from loupe.data.remote.redaction import identity
from loupe.data.remote.store import RemoteObject
from loupe.errors import ConfigError
from loupe.log import progress_bar, size_text

THREADS = 16


def mirrored(files: Mapping[str, RemoteObject], budget_bytes: int, where: str) -> Path:
    """Folder of this disk with copies of remote files.

    Args:
        files: the files by their relative names, with forward slashes and without `..`.
        budget_bytes: largest size of all together.
        where: address of the folder, for messages.

    Raises:
        ConfigError: they exceed the budget.
        RemoteError: one cannot be fetched.
        DiskError: one cannot be written.
    """
    size = sum(remote.size for remote in files.values())
    if size > budget_bytes:
        raise ConfigError(
            f"{where}: its files take {size_text(size)}, and the cache may hold {size_text(budget_bytes)}. Only shards "
            "(tars, Parquet files) can be larger than it. Write the images into shards, or give the cache more: "
            "LOUPE_SHARD_CACHE=50GB, in bytes with a unit."
        )
    described = sorted(
        f"{name}\n{identity(remote.url)}\n{remote.size}\n{remote.version}" for name, remote in files.items()
    )
    folder = cache_folder() / "mirrors" / sha256("\n".join(described).encode()).hexdigest()[:40]
    here = ranks.on_machine()
    mine = here.share([(folder / name, remote) for name, remote in files.items()])
    absent = [(path, remote) for path, remote in mine if not _is_there(path, remote)]
    here.together(lambda: _fetch(absent))
    return folder


def _is_there(path: Path, remote: RemoteObject) -> bool:
    """True for a copy that is complete; one of a file without a version may be outdated."""
    try:
        return remote.version is not None and path.stat().st_size == remote.size
    except OSError:
        return False


def _fetch(absent: list[tuple[Path, RemoteObject]]) -> None:
    if not absent:
        return
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="loupe-mirror")
    try:
        with progress_bar() as progress:
            bar = progress.add_task("fetching images", total=len(absent), note="")
            for _ in pool.map(lambda entry: download(entry[1], entry[0]), absent):
                progress.advance(bar)
    finally:
        pool.shutdown(cancel_futures=True)
