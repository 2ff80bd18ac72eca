"""Tars in the WebDataset layout as a source, on this disk or elsewhere: each image is a range of bytes of a shard."""

import atexit
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from loupe.bulk.plan import PlanRecord, Unit
from loupe.bulk.source import Listed
from loupe.cache import cache_folder
from loupe.data.file_state import State
from loupe.data.remote.address import Address
from loupe.data.remote.objects import listed
from loupe.data.remote.shard_cache import ShardCache
from loupe.data.remote.store import RemoteObject
from loupe.data.shards import LocalShard, OpenShards, ShardFile
from loupe.data.sources.path_patterns import files_of, is_pattern
from loupe.data.sources.remote_shards import RemoteShard, read_ahead
from loupe.data.sources.tar_index import indices
from loupe.data.table import MAX_FILE_BYTES, os_name, text_name
from loupe.errors import ConfigError, DataError, ImageError, counted

SHARDS = "shards"
TAR = ".tar"


class TarSource:
    """Tars by their paths and patterns (`photos-{000..099}.tar`), or by one address. Labels in them are not read.

    Listing reads each tar once, for its index, which the cache keeps.

    Args:
        places: paths and patterns of this disk.
        remote: files of an address, in the place of the paths.
        image: extension of the images, where a sample has several.
    """

    kind = SHARDS
    id_name: str | None = None
    root = ""

    def __init__(self, places: Sequence[str], remote: "RemotePlace | None", image: str | None) -> None:
        self.places = (remote.address.shown,) if remote else tuple(text_name(os.path.abspath(name)) for name in places)  # noqa: PTH100
        self._given = places
        self._remote = remote
        self._image = image
        self._images = self._tars = self._without = 0

    def rows(self, spill: Path) -> Iterator[Listed]:
        """Images in order; as for any source."""
        shards = self._shards()
        if self._remote:
            read_ahead([shard for _, shard in shards])
        for name, shard in shards:
            index = indices([shard], self._image, texts=False)[0]
            self._tars += 1
            self._without += index.without_image + len(index.unread)
            place = _place_of(shard)
            members, starts, sizes = (index.rows[column].to_pylist() for column in ("name", "start", "size"))
            for member, start, size in zip(members, starts, sizes, strict=True):
                self._images += 1
                yield Listed(f"{name}/{member}", place=json.dumps([*place, start, size]))

    def notes(self) -> list[str]:
        """As for any source."""
        notes = [f"{counted(self._images, 'image')} in {counted(self._tars, 'tar')}."]
        if self._without:
            notes.append(f"Skipped {counted(self._without, 'sample')} without an image that can be read.")
        return notes

    def warnings(self) -> list[str]:
        """As for any source."""
        return []

    def _shards(self) -> list[tuple[str, ShardFile]]:
        if self._remote:
            cache = shard_cache(cache_folder())
            return [(remote.shown, RemoteShard(remote, cache)) for remote in self._remote.files()]
        files = [file for name in self._given for file in (files_of(name) if is_pattern(name) else [Path(name)])]
        return [(text_name(file.as_posix()), LocalShard.of(file.absolute())) for file in files]


class RemotePlace:
    """Files at an address; they are listed when they are asked for, once."""

    def __init__(self, text: str) -> None:
        self.address = Address.of(text)

    def files(self) -> tuple[RemoteObject, ...]:
        """Files, sorted by their addresses.

        Raises:
            RemoteError: they cannot be listed.
            ConfigError: their addresses hold credentials, which a plan would keep.
        """
        found = self._listed()
        if secret := next((remote for remote in found if remote.shown != remote.url), None):
            raise ConfigError(
                f"{secret.shown}: its address holds credentials, and the plan of a prediction keeps addresses. Give "
                "them in the environment, or download the images."
            )
        return found

    @lru_cache(maxsize=1)  # noqa: B019 - it lives as long as a command
    def _listed(self) -> tuple[RemoteObject, ...]:
        return listed(self.address)


def tars_in(places: Sequence[str]) -> list[str]:
    """Paths and patterns that name tars."""
    return [name for name in places if name.lower().endswith(TAR) and not os.path.isdir(name)]  # noqa: PTH112


def open_shards(record: PlanRecord, unit: Unit) -> Callable[[int], bytes]:
    """Reader of the images of a unit that lie in shards; those elsewhere are fetched from now on, in their order."""
    places = _places(unit)
    pool = _pool(is_remote=_is_remote(places[0][0]))
    numbers = [pool.number(place[0]) for place in places]
    pool.expect(numbers)

    def encoded(row: int) -> bytes:
        start, size = places[row][1:]
        if size > MAX_FILE_BYTES:
            raise ImageError(unit.rows[row].path, f"{size:,} bytes exceed the limit of {MAX_FILE_BYTES:,}")
        return pool.read(numbers[row], start, size)

    return encoded


def image_sizes(unit: Unit) -> list[int]:
    """Size of each image in bytes."""
    return [size for _, _, size in _places(unit)]


def readers_of(unit: Unit, chunk_images: int, most: int) -> int:
    """Number of chunks that may be read at a time, so that the shards of all of them stay open."""
    places = _places(unit)
    if not _is_remote(places[0][0]):
        return most
    most_bytes = _pool(is_remote=True).most_bytes or 0
    sizes = {url: size for (url, size, *_), _, _ in places}
    chunks = [{place[0][0] for place in places[k : k + chunk_images]} for k in range(0, len(places), chunk_images)]
    for readers in range(most, 1, -1):
        at_once = (set[str]().union(*chunks[k : k + readers]) for k in range(len(chunks)))
        if all(sum(map(sizes.__getitem__, shards)) <= most_bytes for shards in at_once):
            return readers
    return 1


class _Pool:
    """Shards that the units of a prediction have open, together within the budget of the cache of shards.

    Each shard that lies elsewhere is fetched once, unless units far apart have images of it.
    """

    def __init__(self, most_bytes: int | None) -> None:
        self.most_bytes = most_bytes
        self._files: list[ShardFile] = []
        self._numbers: dict[str, int] = {}
        self._opened = OpenShards(self._files, most_bytes)
        self._upcoming: dict[int, None] = {}  # expected and not yet opened, in their order
        self._lock = threading.Lock()

    def number(self, place: list[Any]) -> int:
        """Number of the shard at a place."""
        key = json.dumps(place)
        with self._lock:
            if key not in self._numbers:
                self._files.append(_shard_at(place))
                self._numbers[key] = len(self._files) - 1
            return self._numbers[key]

    def expect(self, numbers: Sequence[int]) -> None:
        """Fetch the shards of images that will be read, after those that were expected before."""
        self._opened.expect(Counter(numbers))
        with self._lock:
            self._upcoming |= dict.fromkeys(numbers)
            read_ahead([self._files[number] for number in self._upcoming])

    def read(self, number: int, start: int, size: int) -> bytes:
        """Range of a shard.

        Raises:
            LoupeError: it cannot be fetched, or has changed.
            OSError: it cannot be read.
        """
        data = self._opened.read(number, start, size)
        with self._lock:
            self._upcoming.pop(number, None)
        if len(data) < size:
            raise DataError(f"{self._files[number].name}: it has changed while it was read. Start again.")
        return data


_pools: WeakValueDictionary[tuple[Path, bool], _Pool] = WeakValueDictionary()
_pools_lock = threading.Lock()


def _pool(*, is_remote: bool) -> _Pool:
    """Open shards of this process, for as long as a unit uses them."""
    key = cache_folder(), is_remote
    with _pools_lock:
        pool = _pools.get(key)
        if pool is None:  # half of the cache is for shards that are read ahead
            pool = _pools[key] = _Pool(shard_cache(key[0]).budget_bytes // 2 if is_remote else None)
        return pool


def _places(unit: Unit) -> list[tuple[list[Any], int, int]]:
    """Shard, first byte and size of each image."""
    return [(shard, start, size) for *shard, start, size in (json.loads(row.place or "[]") for row in unit.rows)]


def _is_remote(place: list[Any]) -> bool:
    return not isinstance(place[1], list)


def tar_here(record: PlanRecord, row: Listed) -> Path | None:
    """Tar of an image; None where it lies elsewhere."""
    *place, _, _ = json.loads(row.place or "[]")
    shard = _shard_at(place)
    return shard.path if isinstance(shard, LocalShard) else None


def _place_of(shard: ShardFile) -> list[Any]:
    """Place of a shard as JSON can hold it."""
    if isinstance(shard, LocalShard):
        return [text_name(str(shard.path)), list(shard.state)]
    assert isinstance(shard, RemoteShard)
    return object_place(shard.remote)


def _shard_at(place: list[Any]) -> ShardFile:
    if not _is_remote(place):
        return LocalShard(Path(os_name(place[0])), State(*place[1]))
    return RemoteShard(object_at(place), shard_cache(cache_folder()))


def object_place(remote: RemoteObject) -> list[Any]:
    """Remote file as JSON can hold it."""
    return [remote.url, remote.size, remote.version, remote.checksum]


def object_at(place: list[Any]) -> RemoteObject:
    """Remote file of a place in a plan."""
    return RemoteObject(*place)


@lru_cache(maxsize=1)
def shard_cache(folder: Path) -> ShardCache:
    """Cache of shards of this process, in the folder of Loupe's cache; its pins are given up at the end."""
    cache = ShardCache(folder / "shards")
    atexit.register(cache.close)
    return cache
